//! The small programs that the lab runs inside its namespaces: sub-commands of `fairway-demo`.
//!
//! They are ordinary sockets programs and know nothing of Fairway.

pub mod converse;
pub mod datagrams;
pub mod doors;
pub mod init;
pub mod load;
pub mod noop;
pub mod question;
mod raw_sctp;
pub mod sctp;
pub mod serve;
pub mod transport;
pub mod witness;

use std::io::BufRead;

/// Calls back with each line of standard input and once, with `None`, at its end.
fn on_stdin(mut hear: impl FnMut(Option<&str>) + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            hear(Some(line.trim()));
        }
        hear(None);
    });
}
