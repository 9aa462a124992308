//! How long things may take, and how much is asked for at once. Tests have shorter ones.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Objects of a page.
    pub page_max: u32,
    /// For a page, and for the begin of a watch.
    pub answer: Duration,
    /// A watch is ended by the server after this, or up to half as much more, so that many nodes' do not end at once.
    pub watch: Duration,
    /// A watch that says nothing for so long, not even by a bookmark (servers send one a minute), is begun anew.
    pub silence: Duration,
    /// Between attempts: first, and at most.
    pub retry: Duration,
    pub retry_max: Duration,
    /// After failing for so long from the start on, the last state is taken.
    pub recall: Duration,
    /// How long the lease of what is per cluster lasts without being renewed; whole seconds.
    pub lease: Duration,
    /// How often a kind that the server does not have is looked for.
    pub look_again: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            page_max: 500,
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(240),
            silence: Duration::from_secs(100),
            retry: Duration::from_millis(250),
            retry_max: Duration::from_secs(15),
            recall: Duration::from_secs(3),
            lease: Duration::from_secs(15),
            look_again: Duration::from_secs(60),
        }
    }
}
