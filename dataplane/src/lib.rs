//! The process that moves packets.
//!
//! **The path of a packet.** A [`worker`] polls its interfaces. [`io`] fills a burst of [`packet`]s, each a head frame
//! with all headers and a chain of further frames. [`parse`] turns bytes into `Meta` or a drop reason, strips a
//! tunnel's outer headers, and names the flow's tuple by its local end; what has no ports, being a later fragment,
//! learns them from the first one ([`fragments`]). If another worker owns that end, [`handoff`] carries the packet
//! there. [`flow`] finds the record of the tuple; if there is none, or what it depends on has changed, [`classify`]
//! looks up service, policy, route and egress translation in the pinned tables, once, and the record keeps the answer;
//! among a service's backends [`balance`] chooses.
//! [`rewrite`] translates addresses and ports by checksum differences, counts the hop, and encapsulates ([`overlay`]);
//! [`segment`] cuts super-frames where a wire follows, and [`cut`] makes fragments of what is too large for it. The
//! packet is sent by [`io`], or judged once more for the half of the flow that belongs to a local receiver. What the
//! node itself answers is [`punt`].
//!
//! Around it: [`config`] (what was typed), [`start`] (from descriptors to threads without privileges), [`server`] (the
//! connection with control), [`explain`] (what would become of a packet), [`offline`] (the same, and captures, by a
//! bundle).
//!
//! Nothing on the path blocks, allocates, logs or returns `Result`. `unsafe` is in [`io`] alone.

pub mod balance;
pub mod classify;
pub mod config;
pub mod cut;
pub mod explain;
pub mod flow;
pub mod fragments;
pub mod handoff;
pub mod io;
pub mod offline;
pub mod overlay;
pub mod packet;
pub mod parcels;
pub mod parse;
pub mod punt;
pub mod rewrite;
pub mod segment;
pub mod server;
pub mod signals;
pub mod start;
pub mod worker;
