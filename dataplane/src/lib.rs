//! The process that moves packets (crate doc to be completed).
pub mod io;
pub mod packet;
