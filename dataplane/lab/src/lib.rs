//! Two Kubernetes-style nodes in network namespaces, their pods, and one client outside.
//!
//! The demo (`fairway-demo`) and the integration tests run the same sections on the same lab.
//! A *node* is a namespace with an uplink into the fabric's bridge, its own `fairway-control`
//! and its own `fairway-dataplane`; it forwards nothing in its kernel. A *pod* is a namespace
//! attached by running `fairway-cni` as a container runtime does. Kubernetes objects are YAML
//! files in one directory that both nodes watch.
//!
//! The way through a run: `Lab::start` -> a `sections` module sends traffic with real programs
//! and returns a `Report` -> the demo prints it, a test asserts it -> the guard removes all.
//!
//! The lab must never send a packet outside the namespaces that it made, nor leave anything
//! behind: see `guard`.

pub mod addressing;
pub mod agent;
pub mod binaries;
pub mod bond;
pub mod chain;
pub mod cni;
pub mod exchange;
pub mod fabric;
pub mod fairway;
pub mod flannel;
pub mod guard;
pub mod iperf;
pub mod manifests;
pub mod marker;
pub mod netns;
pub mod node;
pub mod objects;
pub mod ovs;
pub mod peer;
pub mod pod;
pub mod process;
pub mod report;
pub mod sections;
pub mod shared;
pub mod shell;
pub mod stage;
pub mod traffic;
pub mod transcript;
pub mod wait;

mod lab;

pub use addressing::Families;
pub use lab::{Lab, Nics, Options, one_at_a_time};
