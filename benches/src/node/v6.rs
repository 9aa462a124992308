//! The packets of pods that speak IPv6: as those of IPv4, of the same size, between the addresses that stand for theirs.

use super::{FIRST_PORT, OUTER, PACKET_BYTES, in_tunnel, put, udp};
use crate::cluster::{self, BACKEND_PORT, GATEWAY_MAC, POD_ADDR, POD_MAC, SERVICE_PORT, v6};
use crate::device::Patch;
use tables::Addr;

/// Behind Ethernet, IPv6 and UDP.
const PAYLOAD: [u8; PACKET_BYTES - 62] = [0; PACKET_BYTES - 62];

/// From a pod to a ClusterIP.
pub fn asking(services: u32) -> (Vec<u8>, Patch) {
    let frame = udp(POD_MAC, v6(POD_ADDR), v6(cluster::service(0)), (1, SERVICE_PORT), &PAYLOAD);
    let patch = move |bytes: &mut [u8], i: u32| {
        put_addr(bytes, 38, cluster::service(i % services));
        put(bytes, 54, FIRST_PORT + i / services);
    };
    (frame, Box::new(patch))
}

/// By remote backends.
pub fn answering(services: u32) -> (Vec<u8>, Patch) {
    let answer = udp(GATEWAY_MAC, v6(cluster::backend(0)), v6(POD_ADDR), (BACKEND_PORT, 1), &PAYLOAD);
    let patch = move |bytes: &mut [u8], i: u32| {
        put_addr(bytes, OUTER + 22, cluster::backend(i % services));
        put(bytes, OUTER + 56, FIRST_PORT + i / services);
    };
    (in_tunnel(&answer), Box::new(patch))
}

pub fn between_pods() -> (Vec<u8>, Patch) {
    let frame = udp(POD_MAC, v6(POD_ADDR), v6(cluster::OTHER_POD_ADDR), (1, 80), &PAYLOAD);
    let patch = |bytes: &mut [u8], i: u32| {
        put(bytes, 54, FIRST_PORT + i % 60_000);
        put(bytes, 56, 80 + i / 60_000);
    };
    (frame, Box::new(patch))
}

/// Writes the address that stands for this one of IPv4.
fn put_addr(bytes: &mut [u8], at: usize, addr: Addr) {
    bytes[at..at + 16].copy_from_slice(&v6(addr).v6_octets());
}
