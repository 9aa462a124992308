//! One run: a sink thread and a sender thread, each in its interface's namespace until its socket is gone.
//! The sink stands before the first packet leaves, and stays until all came or nothing came for a while.

use crate::{
    account::Ledger,
    error::{Error, Result},
    netns::{self, Netns},
    packet::{Addresses, Template, Udp},
    payload::{Judged, RunId, Stamp, judge},
    rate::{Pacer, Rate},
    report::{Received, Report, Sent},
    xsk::{Sender, Sink},
};
use nix::time::{ClockId, clock_gettime};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Where an end of the run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub interface: String,
    pub netns: Netns,
    /// CPU to pin the thread to.
    pub cpu: Option<usize>,
}

/// A run that was checked: `plan` is the only way to make one.
#[derive(Debug, Clone)]
pub struct Plan {
    pub from: End,
    pub to: End,
    pub addresses: Addresses,
    pub rate: Rate,
    pub duration: Duration,
    pub size: usize,
    pub flows: u16,
    pub tx_queue: u32,
    pub sink_queues: Option<u32>,
    pub force_copy: bool,
    pub spin: bool,
    pub drain: Duration,
}

/// Packets that one run can number; 4 bits below u32 so that no sum of them overflows.
pub const PACKETS_MAX: u64 = 1 << 28;
/// Links of real NICs take seconds to return after a program was attached.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter sleeps are not kept by the kernel's timers (50 us slack) and only burn the CPU that the receiver needs.
const SLEEP_MIN: Duration = Duration::from_micros(50);
/// How long the kernel may take for what was handed over when the schedule has ended.
const FLUSH_TIMEOUT_NS: u64 = 500_000_000;
const SEND_LEN_MAX: u64 = 64;
const NEVER: u64 = u64::MAX;

/// What the two threads tell one another.
struct Shared<'a> {
    stop: &'a AtomicBool,
    /// Packets sent in all; `NEVER` until the sender is done.
    sent_in_all: AtomicU64,
}

impl Plan {
    pub fn packets(&self) -> Result<u32> {
        let packets = self.rate.packets_in(self.duration).max(1);
        if packets > u128::from(PACKETS_MAX) {
            return Err(Error::TooManyPackets { packets, max: PACKETS_MAX });
        }
        Ok(packets as u32)
    }

    /// Sends, receives and reports. `stop` ends it early, with a report as honest as any.
    pub fn run(&self, stop: &AtomicBool) -> Result<Report> {
        if self.from.interface == self.to.interface && self.from.netns == self.to.netns {
            return Err(Error::SameInterface(self.from.interface.clone()));
        }
        let packets = self.packets()?;
        let template = Template::new(&self.addresses, self.size, self.flows)?;
        let run = RunId::random();
        let shared = Shared { stop, sent_in_all: AtomicU64::new(NEVER) };
        let (ready, sink_ready) = mpsc::channel();
        thread::scope(|scope| {
            let sink = scope.spawn(|| self.sink_thread(run, packets, &shared, ready));
            // A sink that failed has dropped `ready` and its thread holds the reason.
            let sender =
                sink_ready.recv().ok().map(|()| scope.spawn(|| self.sender_thread(run, packets, &template, &shared)));
            let sent = sender.map(|sender| sender.join().unwrap_or(Err(Error::Panicked("sender"))));
            let received = sink.join().unwrap_or(Err(Error::Panicked("sink")))?;
            let sent = sent.unwrap_or(Err(Error::Panicked("sink")))?;
            Ok(Report::new(self, sent, received, stop.load(Ordering::Relaxed)))
        })
    }

    fn sender_thread(&self, run: RunId, packets: u32, template: &Template, shared: &Shared) -> Result<Sent> {
        let sent = self.send_all(run, packets, template, shared);
        // Also after an error: the sink waits for this word.
        shared.sent_in_all.store(sent.as_ref().map_or(0, |sent| sent.packets), Ordering::Release);
        sent
    }

    fn send_all(&self, run: RunId, packets: u32, template: &Template, shared: &Shared) -> Result<Sent> {
        self.from.settle()?;
        let interface = &self.from.interface;
        let mut sender = Sender::open(interface, self.tx_queue, self.force_copy, template.frame())?;
        netns::wait_running(interface, LINK_TIMEOUT)?;
        let failed = |source| Error::Send { interface: interface.clone(), source };
        let start_ns = monotonic_ns();
        let mut pacer = Pacer::new(self.rate, u64::from(packets), start_ns);
        self.send_on_schedule(&mut sender, &mut pacer, run, template, shared).map_err(failed)?;
        let elapsed_ns = monotonic_ns() - start_ns;
        flush(&mut sender, &pacer).map_err(failed)?;
        let packets = sender.sent();
        // What the kernel never took from the ring was not sent either.
        let forgone = pacer.forgone() + pacer.sent_so_far() - packets;
        Ok(Sent { packets, forgone, elapsed_ns, mode: sender.mode() })
    }

    fn send_on_schedule(
        &self,
        sender: &mut Sender,
        pacer: &mut Pacer,
        run: RunId,
        template: &Template,
        shared: &Shared,
    ) -> std::io::Result<()> {
        let end_ns = monotonic_ns() + self.duration.as_nanos() as u64;
        let mut number = 0;
        while !pacer.finished() && !shared.stop.load(Ordering::Relaxed) {
            let now_ns = monotonic_ns();
            let due = pacer.due(now_ns).min(SEND_LEN_MAX);
            let sent = sender.send(due as usize, |frame| {
                template.stamp(frame, number, &Stamp { number, sent_ns: monotonic_ns() }.encode(run));
                number += 1;
            })?;
            number = pacer.handed_over(sent as u64) as u32;
            if sent == 0 && due > 0 && now_ns > end_ns {
                pacer.give_up(); // the interface takes nothing any more and the time is over
            }
            if due < SEND_LEN_MAX || sent == 0 {
                self.pause(pacer, now_ns);
            }
        }
        Ok(())
    }

    fn pause(&self, pacer: &Pacer, now_ns: u64) {
        let until_next = pacer.next_ns().map_or(0, |next_ns| next_ns.saturating_sub(now_ns));
        if self.spin {
            std::hint::spin_loop();
        } else {
            thread::sleep(Duration::from_nanos(until_next).max(SLEEP_MIN));
        }
    }

    fn sink_thread(&self, run: RunId, packets: u32, shared: &Shared, ready: mpsc::Sender<()>) -> Result<Received> {
        self.to.settle()?;
        let interface = &self.to.interface;
        let mut sink = Sink::open(interface, self.sink_queues, self.force_copy)?;
        netns::wait_running(interface, LINK_TIMEOUT)?;
        let mut ledger = Ledger::new(packets, self.flows);
        let failed = |source| Error::Receive { interface: interface.clone(), source };
        // The receiver of `ready` lives as long as this thread.
        let _ = ready.send(());
        self.receive_all(&mut sink, &mut ledger, run, shared).map_err(failed)?;
        let dropped_at_sink = sink.dropped().map_err(failed)?;
        Ok(Received { ledger, dropped_at_sink, hook: sink.hook(), mode: sink.mode(), queues: sink.queues() })
    }

    fn receive_all(&self, sink: &mut Sink, ledger: &mut Ledger, run: RunId, shared: &Shared) -> std::io::Result<()> {
        let drain_ns = self.drain.as_nanos() as u64;
        let mut last_ns = None;
        loop {
            let frames = receive_burst(sink, ledger, run);
            if frames > 0 {
                last_ns = None;
                continue;
            }
            let sent = shared.sent_in_all.load(Ordering::Acquire);
            if sent != NEVER {
                let quiet_since = *last_ns.get_or_insert_with(monotonic_ns);
                if ledger.counts().received >= sent || monotonic_ns() - quiet_since >= drain_ns {
                    return Ok(());
                }
            }
            if self.spin { std::hint::spin_loop() } else { sink.wait(1)? }
        }
    }
}

impl End {
    /// Puts the calling thread where this end is.
    fn settle(&self) -> Result<()> {
        if let Some(id) = self.cpu {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        self.netns.enter()
    }
}

fn flush(sender: &mut Sender, pacer: &Pacer) -> std::io::Result<()> {
    let deadline_ns = monotonic_ns() + FLUSH_TIMEOUT_NS;
    while sender.sent() < pacer.sent_so_far() && monotonic_ns() < deadline_ns {
        sender.kick()?;
        thread::sleep(SLEEP_MIN);
    }
    Ok(())
}

fn receive_burst(sink: &mut Sink, ledger: &mut Ledger, run: RunId) -> usize {
    let mut now_ns = 0;
    sink.receive(|frame| {
        if now_ns == 0 {
            now_ns = monotonic_ns(); // after the burst was taken, so never before a packet of it was sent
        }
        book(frame, run, now_ns, ledger);
    })
}

/// Enters one frame into the books.
fn book(frame: &[u8], run: RunId, now_ns: u64, ledger: &mut Ledger) {
    let Some(udp) = Udp::find(frame) else { return ledger.other() };
    match judge(run, udp.payload()) {
        Judged::Foreign => ledger.other(),
        Judged::Corrupted => ledger.corrupted(),
        Judged::Intact(stamp) => {
            ledger.arrived(stamp.number, now_ns.saturating_sub(stamp.sent_ns));
            if !udp.checksums_are_right() {
                ledger.bad_checksum();
            }
        }
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Counts;

    fn frame(run: RunId, number: u32) -> (Vec<u8>, usize) {
        let (src_ip, dst_ip) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let addresses = Addresses { src_mac: [2; 6], dst_mac: [4; 6], src_ip, dst_ip, src_port: 1, dst_port: 2 };
        let template = Template::new(&addresses, 100, 1).unwrap();
        let mut frame = template.frame().to_vec();
        template.stamp(&mut frame, number, &Stamp { number, sent_ns: 5 }.encode(run));
        (frame, 42)
    }

    #[test]
    fn every_frame_is_booked_exactly_once() {
        let run = RunId(9);
        let mut ledger = Ledger::new(10, 1);
        let (good, payload_at) = frame(run, 3);
        let mut damaged = good.clone();
        damaged[payload_at + 30] ^= 1;
        let mut nat_mistake = frame(run, 4).0;
        nat_mistake[30] ^= 1; // destination address changed, checksums not
        for frame in [&good, &good, &damaged, &nat_mistake, &frame(RunId(8), 3).0, &vec![0; 60]] {
            book(frame, run, 6, &mut ledger);
        }
        let expected = Counts { received: 2, duplicated: 1, corrupted: 1, bad_checksum: 1, other: 2, reordered: 0 };
        assert_eq!(ledger.counts(), expected);
    }
}
