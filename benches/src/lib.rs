//! The bench program's parts: what can be measured ([`case`]) and by which clock ([`clock`]); the measured node in memory
//! ([`node`]), its tables ([`cluster`]) and a device that makes packets as a NIC would deliver them ([`device`]).

pub mod case;
pub mod clock;
pub mod cluster;
pub mod device;
pub mod node;
