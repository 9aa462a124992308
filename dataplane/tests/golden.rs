//! Golden packets: a node with its tables, a packet in, and what must come of it. What comes out is read by etherparse,
//! which also computes every checksum anew. Real workers over interfaces of memory; nothing inside is looked at.

mod support;

#[path = "golden/affinity.rs"]
mod affinity;
#[path = "golden/answers.rs"]
mod answers;
#[path = "golden/audit.rs"]
mod audit;
#[path = "golden/cut.rs"]
mod cut;
#[path = "golden/direct.rs"]
mod direct;
#[path = "golden/direct_refused.rs"]
mod direct_refused;
#[path = "golden/errors.rs"]
mod errors;
#[path = "golden/external.rs"]
mod external;
#[path = "golden/fragments.rs"]
mod fragments;
#[path = "golden/fragments_refused.rs"]
mod fragments_refused;
#[path = "golden/frames.rs"]
mod frames;
#[path = "golden/guards.rs"]
mod guards;
#[path = "golden/handed.rs"]
mod handed;
#[path = "golden/host.rs"]
mod host;
#[path = "golden/icmp_errors.rs"]
mod icmp_errors;
#[path = "golden/jumbo.rs"]
mod jumbo;
#[path = "golden/lifetime.rs"]
mod lifetime;
#[path = "golden/neighbours.rs"]
mod neighbours;
#[path = "golden/others.rs"]
mod others;
#[path = "golden/outside.rs"]
mod outside;
#[path = "golden/plain.rs"]
mod plain;
#[path = "golden/pods.rs"]
mod pods;
#[path = "golden/policy.rs"]
mod policy;
#[path = "golden/sctp.rs"]
mod sctp;
#[path = "golden/services.rs"]
mod services;
#[path = "golden/source_ports.rs"]
mod source_ports;
#[path = "golden/tunnels.rs"]
mod tunnels;
#[path = "golden/v6.rs"]
mod v6;
#[path = "golden/vlan.rs"]
mod vlan;
#[path = "golden/workers.rs"]
mod workers;

fn node() -> support::Node {
    support::Node::new(support::Shape::default())
}
