//! What a run says when it is over: the same numbers as a table for people and as JSON for programs.

use crate::{
    account::Ledger,
    run::Plan,
    xsk::{Hook, Mode},
};
use serde::Serialize;
use std::fmt;

/// What the sender knows.
pub struct Sent {
    pub packets: u64,
    pub forgone: u64,
    pub elapsed_ns: u64,
    pub mode: Mode,
}

/// What the sink knows.
pub struct Received {
    pub ledger: Ledger,
    pub dropped_at_sink: u64,
    pub hook: Hook,
    pub mode: Mode,
    pub queues: usize,
}

/// `sent == received + lost` always. Field names are the JSON contract; units stand last.
#[derive(Debug, Serialize)]
pub struct Report {
    pub iface: String,
    pub sink: String,
    pub frame_size: usize,
    pub flows: u16,
    /// Packets that the kernel took from the sender's ring.
    pub sent: u64,
    /// Distinct numbers that arrived intact.
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    /// Overtaken by a later packet of the same flow.
    pub reordered: u64,
    pub corrupted: u64,
    pub bad_checksum: u64,
    /// Frames at the sink that are not of this run.
    pub other: u64,
    /// Frames of any kind that the sink's own socket had no room for: they make pktgen the bottleneck.
    pub dropped_at_sink: u64,
    /// Packets never sent: the sender fell behind its schedule, or the interface took none.
    pub forgone: u64,
    pub rate_asked_pps: u64,
    pub rate_achieved_pps: u64,
    pub elapsed_ms: u64,
    pub interrupted: bool,
    /// `None` if nothing was received.
    pub latency: Option<Latency>,
    pub iface_mode: Mode,
    pub sink_mode: Mode,
    pub sink_hook: Hook,
    pub sink_queues: usize,
}

/// From just before a packet was handed to the kernel until the sink took its burst; relative error 0.1 %.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub min_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

impl Report {
    pub fn new(plan: &Plan, sent: Sent, received: Received, interrupted: bool) -> Self {
        let counts = received.ledger.counts();
        Report {
            iface: plan.from.interface.clone(),
            sink: plan.to.interface.clone(),
            frame_size: plan.size,
            flows: plan.flows,
            sent: sent.packets,
            received: counts.received,
            lost: sent.packets.saturating_sub(counts.received),
            duplicated: counts.duplicated,
            reordered: counts.reordered,
            corrupted: counts.corrupted,
            bad_checksum: counts.bad_checksum,
            other: counts.other,
            dropped_at_sink: received.dropped_at_sink,
            forgone: sent.forgone,
            rate_asked_pps: plan.rate.packets_per_second(),
            rate_achieved_pps: rate(sent.packets, sent.elapsed_ns),
            elapsed_ms: sent.elapsed_ns / 1_000_000,
            interrupted,
            latency: Latency::of(&received.ledger),
            iface_mode: sent.mode,
            sink_mode: received.mode,
            sink_hook: received.hook,
            sink_queues: received.queues,
        }
    }
}

impl Latency {
    fn of(ledger: &Ledger) -> Option<Self> {
        let histogram = ledger.latency();
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        (!histogram.is_empty()).then(|| Latency {
            min_ns: histogram.min(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: histogram.max(),
        })
    }
}

fn rate(packets: u64, elapsed_ns: u64) -> u64 {
    (u128::from(packets) * 1_000_000_000 / u128::from(elapsed_ns.max(1))) as u64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{} -> {}  {} bytes, {} flow(s), {} ms",
            self.iface, self.sink, self.frame_size, self.flows, self.elapsed_ms
        )?;
        writeln!(
            f,
            "AF_XDP     sender {}, sink {} ({} XDP, {} queue(s))",
            self.iface_mode, self.sink_mode, self.sink_hook, self.sink_queues
        )?;
        writeln!(f, "rate       {} packets/s of {} asked", self.rate_achieved_pps, self.rate_asked_pps)?;
        for (name, count) in self.counts() {
            writeln!(f, "{name:<10} {count}")?;
        }
        match &self.latency {
            Some(latency) => writeln!(f, "latency    {latency}")?,
            None => writeln!(f, "latency    nothing was received")?,
        }
        self.remarks(f)
    }
}

impl Report {
    fn counts(&self) -> [(&'static str, u64); 8] {
        [
            ("sent", self.sent),
            ("received", self.received),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("corrupted", self.corrupted),
            ("badsum", self.bad_checksum),
            ("other", self.other),
        ]
    }

    fn remarks(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "note: interrupted; the numbers cover what was sent until then")?;
        }
        if self.dropped_at_sink > 0 {
            writeln!(
                f,
                "note: the sink's socket had no room for {} frames, so pktgen itself lost them; lower --rate",
                self.dropped_at_sink
            )?;
        }
        if self.forgone > 0 {
            writeln!(
                f,
                "note: {} packets were not sent, for the sender fell behind or the interface took none; they count nowhere else",
                self.forgone
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(f, "min {:.1}  p50 {:.1}  p90 {:.1}  ", us(self.min_ns), us(self.p50_ns), us(self.p90_ns))?;
        write!(f, "p99 {:.1}  p99.9 {:.1}  max {:.1} us", us(self.p99_ns), us(self.p999_ns), us(self.max_ns))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Mode::ZeroCopy => "zero-copy",
            Mode::Copy => "copy mode",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Hook::Native => "native",
            Hook::Generic => "generic",
        })
    }
}
