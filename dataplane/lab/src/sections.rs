//! What the demo shows and the integration tests assert: one module a section.
//!
//! A section sends traffic with real programs, measures, and reports; it leaves the lab as it
//! found it, so that sections run in any order.

pub mod bonds;
pub mod counters;
pub mod doctor;
pub mod edges;
pub mod interop;
pub mod pods;
pub mod policy;
pub mod restarts;
pub mod services;
pub mod workers;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use crate::lab::{Lab, Options};
use crate::manifests;
use crate::report::Report;
use crate::stage::Stage;
use crate::transcript::Transcript;

/// What a section does on a stage.
pub type Play = fn(&mut Stage, &mut Report) -> Result<()>;

/// A section that plays on the lab with the usual cast.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub number: u32,
    pub title: &'static str,
    pub play: Play,
}

/// The sections that share one lab, in the order of the demo.
pub const SHARED: [Section; 6] = [
    Section { number: 1, title: "1. Pods talk on one node, and across nodes over VXLAN", play: pods::play },
    Section { number: 2, title: "2. A service spreads requests over its pods", play: services::play },
    Section { number: 3, title: "3. The node itself, and the world outside", play: edges::play },
    Section { number: 4, title: "4. A NetworkPolicy cuts what it should, and nothing else", play: policy::play },
    Section { number: 5, title: "5. Control dies, then the dataplane dies; both return", play: restarts::play },
    Section { number: 6, title: "6. Counters match the packets sent", play: counters::play },
];

/// The section that brings up labs of its own.
pub const WORKERS: (u32, &str) = (7, "7. Two workers: every path with equal and with different owners");

/// The section that needs a kernel with more than most have; it is played only when it is asked for.
pub const INTEROP: (u32, &str) = (8, "8. Tunnels of another make, SCTP, and a VLAN");

/// The sections that need bonds, and NICs to be looked at: the same.
pub const BONDS: (u32, &str) = (9, "9. Uplinks that are bonds");
pub const DOCTOR: (u32, &str) = (10, "10. `fairway doctor nic` finds what is made wrong, mends it, and undoes that");

/// Service `web` (pods labelled `app: web`) and service `mirror` (only web-1).
pub fn web_service() -> IpAddr {
    Ipv4Addr::new(10, 96, 0, 10).into()
}

pub fn mirror_service() -> IpAddr {
    Ipv4Addr::new(10, 96, 0, 11).into()
}

/// Service `far`: only web-2, on the other node.
pub fn far_service() -> IpAddr {
    Ipv4Addr::new(10, 96, 0, 12).into()
}

/// The pods behind the service `web`.
pub const WEB: [&str; 3] = ["web-1", "web-2", "web-3"];

/// Name, node, labels. Friends may reach the web pods once a policy says so; mallory may not.
type Role = (&'static str, usize, &'static [(&'static str, &'static str)]);
const CAST: [Role; 6] = [
    ("web-1", 0, &[("app", "web")]),
    ("alice", 0, &[("role", "friend")]),
    ("mallory", 0, &[("role", "stranger")]),
    ("web-2", 1, &[("app", "web")]),
    ("web-3", 1, &[("app", "web")]),
    ("bob", 1, &[("role", "friend")]),
];

/// A lab with the usual cast: six pods, three services, servers on the nodes and on the client.
pub fn stage_lab(options: &Options, show: &Transcript) -> Result<Lab> {
    show.progress("two nodes, a fabric between them, a client outside ...");
    let mut lab = Lab::start(options)?;
    show.progress("six pods, each attached by fairway-cni ...");
    for (name, node, labels) in CAST {
        lab.add_pod(name, node, labels)?;
    }
    let objects = lab.objects();
    objects.apply("service-web", &manifests::service("web", &[web_service()], ("app", "web")))?;
    objects.apply("service-mirror", &manifests::service("mirror", &[mirror_service()], ("name", "web-1")))?;
    objects.apply("service-far", &manifests::service("far", &[far_service()], ("name", "web-2")))?;
    for (name, netns) in [("node-1", lab.nodes[0].netns().clone()), ("client", lab.client().clone())] {
        lab.serve(name, &netns)?;
    }
    lab.settle()?;
    Ok(lab)
}
