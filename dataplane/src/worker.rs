//! The poll loop of one core.
pub mod forward;
pub mod held;
mod icmp;
pub mod interfaces;
mod open;
mod uplink;
