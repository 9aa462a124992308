//! The contract between the process that knows the cluster (`control`) and the process that moves packets (`dataplane`).
//!
//! **The path of an update.** `control` turns objects into rows and writes them with a [`publish::Publisher`] into the
//! idle copy of a [`region::Region`] (sealed shared memory), names the [`scope`]s it touched, and flips one word. Each
//! worker *pins* the new copy at a burst boundary ([`publish::Reader`]), bumps the touched scopes, and acknowledges in
//! the [`status`] region, which only the dataplane writes. When every live worker has acknowledged, the old copy is
//! brought up to date and becomes the idle one.
//!
//! What a row means is said once, here: [`endpoint`], [`route`], [`service`], [`policy`] and [`rules`], [`neighbour`], [`node`], [`taken`];
//! which worker keeps a flow is [`owner`]; the records of flows that outlive a process are [`flow`], and of clients'
//! backends [`affinity`]; what the two processes tell each other is [`message`], and [`channel`] carries it with its
//! file descriptors.
//!
//! [`bundle`] keeps all of it in a file that both can be asked about elsewhere. Both also take their [`arguments`] alike.
//!
//! This crate must not do I/O beyond mapping memory, that one socket, bundles and files of arguments, and must not know Kubernetes objects or packets' bytes.

pub mod addr;
pub mod affinity;
pub mod arguments;
pub mod bundle;
pub mod channel;
pub mod checksum;
pub mod counters;
pub mod cpu;
pub mod endpoint;
pub mod flow;
pub mod hash;
pub mod image;
pub mod judge;
pub mod judged;
mod keyed;
pub mod layout;
pub mod limits;
pub mod lock;
pub mod lpm;
pub mod maglev;
pub mod message;
pub mod neighbour;
pub mod node;
pub mod owner;
pub mod policy;
pub mod publish;
pub mod region;
pub mod route;
pub mod rules;
pub mod scope;
pub mod service;
pub mod status;
pub mod taken;
pub mod view;
pub mod word;

pub use addr::{Addr, Mac, Prefix, Protocol};
pub use publish::{Publisher, Reader};
pub use region::Region;
pub use view::View;
