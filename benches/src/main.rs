//! Prints what criterion measured as one table, with the conditions under which it did. Reads `estimates.json` files and
//! /proc; measures nothing.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One bench.
struct Measured {
    ns: f64,
    /// Median absolute deviation, of the median.
    spread: f64,
}

fn main() -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let folder = target.join("criterion");
    let measured =
        read_all(&folder).with_context(|| format!("no results in {}: run `make bench`", folder.display()))?;
    let ghz = clock_ghz();
    println!("{}\n", conditions());
    println!("{:<55} {:>10} {:>7} {:>9} {:>14}", "what (each)", "median ns", "spread", "ticks", "less harness");
    let mut rows: Vec<(&String, &Measured)> = measured.iter().collect();
    let group = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    rows.sort_by(|(a, one), (b, other)| group(a).cmp(&group(b)).then(one.ns.total_cmp(&other.ns)));
    for (name, one) in rows {
        let ticks = ghz.map_or("-".into(), |ghz| format!("{:.0}", one.ns * ghz));
        let spread = format!("{:.1} %", one.spread * 100.0);
        println!("{name:<55} {:>10.1} {spread:>7} {ticks:>9} {:>14}", one.ns, less_harness(name, one, &measured));
    }
    Ok(())
}

/// A full path without what the bench itself takes to make and swallow the packet.
fn less_harness(name: &str, one: &Measured, all: &BTreeMap<String, Measured>) -> String {
    let kind = name.strip_prefix("full path ").or(name.strip_prefix("new flow/")).and_then(|n| n.split('/').next());
    let harness = kind.and_then(|kind| all.get(&format!("harness/{kind}")));
    harness.map_or("".into(), |harness| format!("{:.1}", one.ns - harness.ns))
}

fn read_all(folder: &Path) -> Result<BTreeMap<String, Measured>> {
    let mut all = BTreeMap::new();
    for group in fs::read_dir(folder)? {
        for bench in fs::read_dir(group?.path()).into_iter().flatten() {
            let new = bench?.path().join("new");
            if let Some((name, one)) = read(&new) {
                all.insert(name, one);
            }
        }
    }
    Ok(all)
}

fn read(folder: &Path) -> Option<(String, Measured)> {
    let json = |file: &str| -> Option<Value> { serde_json::from_slice(&fs::read(folder.join(file)).ok()?).ok() };
    let (estimates, bench) = (json("estimates.json")?, json("benchmark.json")?);
    let median = estimates["median"]["point_estimate"].as_f64()?;
    let deviation = estimates["median_abs_dev"]["point_estimate"].as_f64()?;
    let elements = bench["throughput"]["Elements"].as_f64().unwrap_or(1.0);
    let name = bench["full_id"].as_str()?.to_owned();
    Some((name, Measured { ns: median / elements, spread: deviation / median }))
}

/// The first value of a field in a file of "name : value" lines.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The TSC's rate, as far as the kernel names it.
fn clock_ghz() -> Option<f64> {
    Some(field("/proc/cpuinfo", "cpu MHz")?.parse::<f64>().ok()? / 1000.0)
}

fn conditions() -> String {
    let unknown = || "unknown".to_owned();
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    let mhz = field("/proc/cpuinfo", "cpu MHz").unwrap_or_else(unknown);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown());
    let huge = field("/proc/meminfo", "HugePages_Total").is_some_and(|count| count != "0");
    let huge = if huge { "reserved" } else { "none" };
    let shmem = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_else(|_| unknown());
    let kernel = kernel.trim();
    let shmem = shmem.trim();
    let day =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs() / 86_400);
    let (year, month, day) = date(day as i64);
    format!("{cpu}, {mhz} MHz; kernel {kernel}; huge pages: {huge}, shared memory: {shmem}; {year}-{month:02}-{day:02}")
}

/// Days since 1970 as a date (H. Hinnant, chrono-compatible low-level date algorithms, civil_from_days).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let civil_month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + (civil_month <= 2) as i64, civil_month, day_of_year - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_day_has_its_date() {
        assert_eq!(super::date(0), (1970, 1, 1));
        assert_eq!(super::date(20_148), (2025, 3, 1));
        assert_eq!(super::date(11_016), (2000, 2, 29));
    }
}
