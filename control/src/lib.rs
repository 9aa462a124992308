//! The process that knows the cluster: it turns objects into lookup tables for the dataplane of its node.
//!
//! **The path of an update.** A [`source`], a directory ([`file`]) or the API server ([`kube`]), brings Kubernetes objects,
//! parsed at the edge ([`object`]); [`state`] keeps what should be, together with what [`watch`] hears from the kernel and [`attachment`] knows of pods; [`compile`] turns
//! what changed into rows and touched scopes, writing them into the idle copy of the shared tables; [`supervise`], the
//! loop, flips the copies as soon as every worker acknowledged the last flip, and what arrived meanwhile is the next batch.
//!
//! **The path of a pod.** [`cni`] (in `fairway-cni`) asks over [`api`]; [`ipam`] gives an address, [`pod`] makes the TAP
//! inside the pod's namespace (and limits its [`bandwidth`]), [`link`] passes its descriptor to the dataplane, and the answer waits for the tables.
//!
//! **The node** keeps its NIC: [`claim`] is the XDP program that takes only what is ours from the [`uplink`], [`node`] what
//! is put on the host so that it reaches pods and services, [`reserve`] the ports that are ours; all undone at exit. What
//! services take of the node besides comes in the compiler's report; [`health`] answers load balancers.
//! Their addresses are given out of [`pool`]s, and the nodes of a link [`announce`] each by one of them.
//!
//! **Coming and going.** [`install`] puts the plugin where the runtime looks, [`uninstall`] leaves a node as it was before, and
//! [`kube_proxy`] is what its predecessor left.

pub mod alloc;
pub mod announce;
pub mod api;
pub mod args;
pub mod attachment;
pub mod bandwidth;
pub mod claim;
pub mod cli;
pub mod cni;
pub mod compile;
pub mod disk;
pub mod doctor;
pub mod encapsulation;
pub mod explain;
pub mod file;
pub mod flows;
pub mod health;
pub mod http;
pub mod identity;
pub mod install;
pub mod ipam;
pub mod kube;
pub mod kube_proxy;
pub mod link;
pub mod lint;
pub mod listing;
pub mod lock;
pub mod netlink;
pub mod node;
pub mod object;
pub mod offload;
pub mod pod;
pub mod pool;
#[doc(hidden)]
pub mod reference;
pub mod rendezvous;
pub mod reserve;
pub mod serve;
pub mod slices;
pub mod source;
pub mod state;
pub mod supervise;
pub mod sys;
pub mod sysctl;
pub mod tap;
pub mod topology;
pub mod trial;
pub mod uninstall;
pub mod uplink;
pub mod watch;

/// One line an event on standard error.
pub fn log(line: std::fmt::Arguments<'_>) {
    eprintln!("fairway-control: {line}");
}
