//! Services: (address, port, protocol) -> [`ServiceRecord`], and the backends that it may choose.
//!
//! A row with port 0 and protocol 0 says that the address belongs to a service at all, so that an undefined port of it
//! is rejected and not dropped.

use crate::{Addr, Protocol};
use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    pub addr: Addr,
    pub port: u16,
    pub protocol: Protocol,
    pub reserved: [u8; 5],
}

impl ServiceKey {
    pub fn new(addr: Addr, port: u16, protocol: Protocol) -> ServiceKey {
        ServiceKey { addr, port, protocol, reserved: [0; 5] }
    }

    /// The row that only says "this address is a service's".
    pub fn address(addr: Addr) -> ServiceKey {
        ServiceKey::new(addr, 0, Protocol(0))
    }
}

/// The source becomes the `snat` address whatever it was.
pub const FLAG_MASQUERADE_ALL: u16 = 1;
/// An address row: nothing but the address is defined.
pub const FLAG_ADDRESS_ONLY: u16 = 2;

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceRecord {
    /// Stable while the service port exists; for scopes and listings.
    pub id: u32,
    /// First row in the backend table.
    pub backends_first: u32,
    /// Rows there; 0 means reject.
    pub backends_count: u32,
    /// Seconds of client affinity, 0 for none.
    pub affinity_s: u32,
    pub flags: u16,
    pub reserved: [u8; 6],
}

#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BackendRecord {
    pub addr: Addr,
    pub port: u16,
    pub flags: u16,
    /// Stable while the backend serves; for counters.
    pub id: u32,
}
