//! Packets of clients outside that ask a load balancer's addresses, and the answers to them. Each flow has a client's address
//! and port of its own, so that it is told apart also where the service no longer tells it.

use super::{FIRST_PORT, OUTER, in_tunnel, put, put_addr, udp};
use crate::cluster::{self, BACKEND_PORT, GATEWAY_MAC, POD_ADDR, POD_MAC, SERVICE_PORT};
use crate::device::Patch;
use tables::Addr;

/// Clients; each has as many ports as it needs.
const CLIENTS: u32 = 4096;

pub fn asking(payload: &[u8], services: u32) -> (Vec<u8>, Patch) {
    let frame = udp(GATEWAY_MAC, cluster::client(0), cluster::balancer(0), (1, SERVICE_PORT), payload);
    let patch = move |bytes: &mut [u8], i: u32| {
        put_addr(bytes, 26, cluster::client(i % CLIENTS));
        put_addr(bytes, 30, cluster::balancer(i % services));
        put(bytes, 34, FIRST_PORT + i / CLIENTS);
    };
    (frame, Box::new(patch))
}

/// By the pod.
pub fn answered_here(payload: &[u8]) -> (Vec<u8>, Patch) {
    let frame = udp(POD_MAC, POD_ADDR, cluster::client(0), (BACKEND_PORT, 1), payload);
    let patch = |bytes: &mut [u8], i: u32| {
        put_addr(bytes, 30, cluster::client(i % CLIENTS));
        put(bytes, 36, FIRST_PORT + i / CLIENTS);
    };
    (frame, Box::new(patch))
}

/// By remote backends, to the address that clients were masqueraded by.
pub fn answered_there(payload: &[u8]) -> Vec<u8> {
    in_tunnel(&udp(GATEWAY_MAC, cluster::backend(0), cluster::SNAT, (BACKEND_PORT, 1), payload))
}

/// To these ports, from these backends.
pub fn answers(to: Vec<(u16, Addr)>) -> Patch {
    Box::new(move |bytes, i| {
        let (port, backend) = to[i as usize % to.len()];
        put_addr(bytes, OUTER + 26, backend);
        put(bytes, OUTER + 36, port as u32);
    })
}
