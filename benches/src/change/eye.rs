//! What sees a change arrive: a pod that sends one packet of one flow each round, and an uplink that says where these
//! packets went last, and since when. Must not change what happens to them.

use crate::cluster::{self, OTHER_POD, OTHER_POD_ADDR, SERVICE_PORT};
use crate::device::of_memory;
use crate::node::OUTER;
use dataplane::io::Interface;
use dataplane::io::pool::FramePool;
use dataplane::packet::{Burst, Packet};
use etherparse::PacketBuilder;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tables::Addr;

/// What was seen of the flow, for another thread.
pub struct Eye {
    start: Instant,
    /// The IPv4 address that its packets go to; 0: none went since `forget`.
    backend: AtomicU64,
    /// When the first went there.
    since_ns: AtomicU64,
}

impl Eye {
    pub fn new() -> Arc<Eye> {
        Arc::new(Eye { start: Instant::now(), backend: AtomicU64::new(0), since_ns: AtomicU64::new(0) })
    }

    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub fn forget(&self) {
        self.backend.store(0, Ordering::Release);
    }

    /// Where its packets go.
    pub fn backend(&self) -> Option<Addr> {
        let bits = self.backend.load(Ordering::Acquire) as u32;
        (bits != 0).then(|| Addr::v4(bits.to_be_bytes()))
    }

    /// When they began to go where they go now.
    pub fn since_ns(&self) -> u64 {
        self.since_ns.load(Ordering::Acquire)
    }

    fn look(&self, frame: &[u8]) {
        let addr = |at: usize| frame.get(OUTER + at..OUTER + at + 4);
        if addr(26) != Some(&OTHER_POD_ADDR.v4_octets()) {
            return;
        }
        let backend = addr(30).map_or(0, |octets| u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]));
        if self.backend.load(Ordering::Relaxed) != backend as u64 {
            self.since_ns.store(self.now_ns(), Ordering::Relaxed);
            self.backend.store(backend as u64, Ordering::Release);
        }
    }
}

/// An uplink that receives nothing and looks at what is sent.
pub struct WatchedUplink(pub Arc<Eye>);

impl Interface for WatchedUplink {
    fn rx(&mut self, _: &mut FramePool, _: &mut Burst) {}

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        burst.iter().for_each(|packet| self.0.look(pool.memory().head(packet)));
        burst.drain().for_each(|packet| pool.put_packet(packet));
    }

    of_memory!();

    fn close(&mut self, _: &mut FramePool) {}
}

/// The other pod, which sends one packet to a service whenever it is asked.
pub struct Prober {
    frame: Vec<u8>,
}

impl Prober {
    /// Asks service number so many.
    pub fn new(service: u32) -> Prober {
        let (from, to) = (OTHER_POD_ADDR.v4_octets(), cluster::service(service).v4_octets());
        let builder =
            PacketBuilder::ethernet2(super::world::OTHER_POD_MAC.0, cluster::GATEWAY_MAC.0).ipv4(from, to, 64);
        let mut frame = Vec::new();
        builder.udp(1024, SERVICE_PORT).write(&mut frame, &[0; 22]).expect("a vector takes all bytes");
        Prober { frame }
    }

    fn packet(&self, pool: &mut FramePool) -> Option<Packet> {
        let mut packet = pool.copy_in(&self.frame)?;
        packet.interface = OTHER_POD;
        Some(packet)
    }
}

impl Interface for Prober {
    fn rx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        if let Some(packet) = self.packet(pool) {
            let _ = burst.push(packet).map_err(|packet| pool.put_packet(packet));
        }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Burst) {
        burst.drain().for_each(|packet| pool.put_packet(packet));
    }

    of_memory!();

    fn close(&mut self, _: &mut FramePool) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flow_in_question_is_looked_at() {
        let eye = Eye::new();
        let mut frame = vec![0; OUTER + 64];
        frame[OUTER + 30..OUTER + 34].copy_from_slice(&[10, 64, 0, 1]);
        eye.look(&frame);
        assert_eq!(eye.backend(), None);
        frame[OUTER + 26..OUTER + 30].copy_from_slice(&OTHER_POD_ADDR.v4_octets());
        eye.look(&frame);
        assert_eq!(eye.backend(), Some(Addr::v4([10, 64, 0, 1])));
        let since = eye.since_ns();
        eye.look(&frame);
        assert_eq!(eye.since_ns(), since, "only the first packet counts");
    }
}
