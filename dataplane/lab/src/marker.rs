//! Tells when a state of objects is in force: a service that stands in the same file, without backends, at an address that
//! belongs to the state alone. It is refused, where any other address of the range is dropped. Must not wait.

use serde_json::{Value, json};
use std::net::Ipv4Addr;

pub const PORT: u16 = 80;

/// Of state `number`, in the upper half of a /16 range of services.
pub fn address(range: Ipv4Addr, number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.to_bits() | 0x8000 | u32::from(number))
}

pub fn object(address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "marker", "namespace": "marker"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ports": [{"protocol": "TCP", "port": PORT}],
        },
    })
}

/// Many objects as the text of one file, which is read as one change.
pub fn documents<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    objects.into_iter().map(|object| format!("---\n{object}\n")).collect()
}
