//! What the benches measure with: a node in memory ([`node`]), its tables ([`cluster`]) and a device that makes packets as
//! a NIC would deliver them ([`device`]). The benches themselves are in `benches/`; `src/main.rs` prints their results.

pub mod cluster;
pub mod device;
pub mod node;
