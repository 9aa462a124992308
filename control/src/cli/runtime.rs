//! `fairway status --runtime` as text: load, burst sizes and the cost of each stage, worker by worker.

use super::table;
use crate::listing::{RuntimeView, WorkerRuntime};
use std::io::{self, Write};

const STAGE_HEADER: [&str; 6] = ["STAGE", "PACKETS", "PER-BURST", "NS/PACKET", "TICKS/PACKET", "SHARE"];

pub fn print(runtime: &RuntimeView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Node:      {}", runtime.node)?;
    writeln!(out, "Polling:   {}", runtime.polling)?;
    runtime.workers.iter().try_for_each(|worker| print_worker(worker, out))
}

fn print_worker(worker: &WorkerRuntime, out: &mut dyn Write) -> io::Result<()> {
    let state = if worker.asleep { "asleep" } else { "awake" };
    let shares = if worker.shares_core { ", shares its core" } else { "" };
    let percent = |ratio: f64| format!("{:.1}%", ratio * 100.0);
    writeln!(out, "\nWorker {}:  {state}{shares}", worker.id)?;
    writeln!(out, "Busy:      {} (last second), {} (last 10 s)", percent(worker.busy_1s), percent(worker.busy_10s))?;
    writeln!(out, "Packets:   {}, {:.0} a second lately", worker.packets, worker.packets_per_s)?;
    writeln!(out, "Handoffs:  {} out, {} in", worker.handoffs_out, worker.handoffs_in)?;
    writeln!(
        out,
        "Rounds:    {} with packets, {} without, {} sleeps",
        worker.rounds, worker.empty_rounds, worker.sleeps
    )?;
    writeln!(out, "Bursts:    {:.1} packets on average; {}", worker.burst_mean, burst_sizes(worker))?;
    writeln!(
        out,
        "Sampled:   {} rounds, {} more left out as preempted; {:.3} GHz ticks",
        worker.sampled_rounds,
        worker.preempted_rounds,
        worker.tick_hz as f64 / 1e9
    )?;
    table::print(out, Some(STAGE_HEADER.to_vec()), &stages(worker))
}

/// How many of a hundred bursts had so many packets.
fn burst_sizes(worker: &WorkerRuntime) -> String {
    let all: u64 = worker.bursts.iter().map(|burst| burst.bursts).sum();
    let share = |bursts: u64| if all == 0 { 0.0 } else { bursts as f64 / all as f64 * 100.0 };
    let sizes = worker.bursts.iter().map(|burst| format!("{}: {:.0}%", burst.size, share(burst.bursts)));
    sizes.collect::<Vec<_>>().join("  ")
}

fn stages(worker: &WorkerRuntime) -> Vec<Vec<String>> {
    let cost = |cost: Option<f64>| cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.1}"));
    let mut rows: Vec<Vec<String>> = worker
        .stages
        .iter()
        .map(|stage| {
            let (ns, ticks) = (cost(stage.ns_per_packet), cost(stage.ticks_per_packet));
            let (burst, share) = (format!("{:.1}", stage.burst_mean), format!("{:.1}%", stage.share * 100.0));
            vec![stage.stage.clone(), stage.packets.to_string(), burst, ns, ticks, share]
        })
        .collect();
    let (ns, ticks) = (cost(worker.ns_per_packet), cost(worker.ticks_per_packet));
    rows.push(vec![
        "all".to_owned(),
        worker.packets.to_string(),
        format!("{:.1}", worker.burst_mean),
        ns,
        ticks,
        String::new(),
    ]);
    rows
}
