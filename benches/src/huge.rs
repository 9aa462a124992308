//! Huge pages for both sides or for neither. A first process reserves them, starts the program again as a child, which
//! measures, and gives them back whatever becomes of the child. Must not measure.

use crate::conditions::{field, read};
use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};

/// "1": both sides have huge pages; "0": neither has. Peers read it; one that sets it by hand reserves nothing.
pub const VARIABLE: &str = "FAIRWAY_BENCH_HUGE";
/// The same for Fairway's own memory.
const OURS: &str = "FAIRWAY_HUGE";
/// Why there are none.
const REASON: &str = "FAIRWAY_BENCH_HUGE_REASON";
const COUNT_FILE: &str = "/proc/sys/vm/nr_hugepages";
const PAGE_KIB: u64 = 2048;
/// The largest group with its peers takes less.
const RESERVED_MAX_KIB: u64 = 10 << 20;

/// Runs this program again with huge pages around it. None: this is that second run.
pub fn around_self() -> Result<Option<ExitStatus>> {
    if std::env::var_os(VARIABLE).is_some() {
        return Ok(None);
    }
    let _alone = alone()?;
    let reserved = reserve();
    let mut again = Command::new(std::env::current_exe().context("cannot find this program again")?);
    again.args(std::env::args_os().skip(1));
    let value = if reserved.is_ok() { "1" } else { "0" };
    again.env(VARIABLE, value).env(OURS, value);
    if let Err(reason) = &reserved {
        again.env(REASON, reason.to_string());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    let mut child = again.spawn().context("cannot start this program again")?;
    let handle = signals.handle();
    let pid = pid(&child)?;
    let forwarding = std::thread::spawn(move || {
        for signal in signals.forever() {
            let signal = if signal == SIGINT { Signal::INT } else { Signal::TERM };
            let _ = kill_process(pid, signal);
        }
    });
    let status = child.wait().context("cannot wait for the measuring process")?;
    handle.close();
    let _ = forwarding.join();
    Ok(Some(status))
}

/// Waits until no other run measures: two would disturb each other, and give back each other's pages. Holds while it lives.
fn alone() -> Result<File> {
    let file = File::open(COUNT_FILE).with_context(|| format!("cannot open {COUNT_FILE}"))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!("another run of this program is measuring; waiting until it has ended");
        flock(&file, FlockOperation::LockExclusive).context("cannot wait for the other run")?;
    }
    Ok(file)
}

fn pid(child: &Child) -> Result<Pid> {
    Pid::from_raw(child.id() as i32).context("a child without a process id")
}

/// Pages that are given back when this goes.
struct Reserved {
    before: u64,
}

fn reserve() -> Result<Reserved> {
    let asked = std::env::var("HUGE").unwrap_or_default();
    ensure!(asked != "0", "HUGE=0 was asked for");
    let before = count().with_context(|| format!("cannot read {COUNT_FILE}"))?;
    ensure!(
        field("/proc/meminfo", "Hugepagesize").is_some_and(|size| size == "2048 kB"),
        "huge pages are not of 2 MiB here"
    );
    let available = field("/proc/meminfo", "MemAvailable").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let available = available.context("cannot read how much memory is available")?;
    let wanted = before + (available / 2).min(RESERVED_MAX_KIB) / PAGE_KIB;
    std::fs::write(COUNT_FILE, wanted.to_string()).map_err(|error| anyhow!("{COUNT_FILE}: {error}; start as root"))?;
    // From here on they go back, also if there are too few of them.
    let reserved = Reserved { before };
    let got = count().unwrap_or(0);
    ensure!(got > before && got >= wanted / 2, "the kernel found only {got} of {wanted} huge pages");
    Ok(reserved)
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(COUNT_FILE, self.before.to_string()) {
            eprintln!("could not give huge pages back: {error}; do: echo {} > {COUNT_FILE}", self.before);
        }
    }
}

fn count() -> Option<u64> {
    read(COUNT_FILE)?.parse().ok()
}

static MOST_USED: AtomicU64 = AtomicU64::new(0);

/// Remembers how many are in use, for the conditions.
pub fn look() {
    let pages = |name| field("/proc/meminfo", name)?.parse::<u64>().ok();
    if let (Some(total), Some(free)) = (pages("HugePages_Total"), pages("HugePages_Free")) {
        MOST_USED.fetch_max(total.saturating_sub(free), Ordering::Relaxed);
    }
}

/// What was had, after the run.
pub fn found() -> String {
    let transparent = read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or("unknown".to_owned());
    let transparent = format!("transparent ones: {transparent}");
    if std::env::var(VARIABLE).is_ok_and(|value| value == "0") {
        let reason = std::env::var(REASON).unwrap_or("as was asked".to_owned());
        return format!("for neither side: {reason}; {transparent}");
    }
    let (total, used) = (count().unwrap_or(0), MOST_USED.load(Ordering::Relaxed));
    let enough = if used < total { "" } else { ", TOO FEW: somebody may have had none" };
    format!("for both sides, {total} of 2 MiB reserved, at most {used} in use at once{enough}; {transparent}")
}
