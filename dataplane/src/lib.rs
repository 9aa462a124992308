//! The process that moves packets (crate doc to be completed).
pub mod classify;
pub mod flow;
pub mod handoff;
pub mod io;
pub mod overlay;
pub mod packet;
pub mod parse;
pub mod punt;
pub mod rewrite;
pub mod segment;
pub mod worker;
