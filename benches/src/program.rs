//! The bench program: what was asked, then measure, print and write.

use crate::case::Group;
use crate::conditions::Conditions;
use crate::report::{Chapter, Report};
use crate::{change, check, cores, engine, handoffs, huge, idle, lookups, new_flows, peers, run, table};
use anyhow::{Result, ensure};
use clap::Parser;
use std::path::PathBuf;

/// Measures what a packet and a table change cost, with peers beside it.
#[derive(Parser)]
struct Arguments {
    /// Measures all sizes, and more rounds; FULL=1 says the same.
    #[arg(long)]
    full: bool,
    /// Measures only groups that have this in their title, or in a case's name or size.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How often each case runs.
    #[arg(long)]
    rounds: Option<usize>,
    /// Where report.json and report.html go [default: target/bench].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Measures a few cases only and compares them with this file's baseline of this kind of CPU.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Measures these few cases and writes them as the baseline of this kind of CPU.
    #[arg(long, value_name = "FILE")]
    write_baseline: Option<PathBuf>,
    /// Draws the page again from a report.json.
    #[arg(long, value_name = "FILE", hide = true)]
    page: Option<PathBuf>,
    /// What `cargo bench` says to every program.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Every group, in the order of the report.
fn groups(full: bool) -> Vec<Group> {
    let mut groups = engine::groups(full);
    groups.push(handoffs::group());
    groups.extend(new_flows::groups());
    groups.extend(lookups::groups());
    groups.extend(peers::groups(full));
    groups.extend(change::groups(full));
    groups.extend(idle::groups());
    groups.push(engine::empty_round());
    groups
}

pub fn main() -> Result<()> {
    // As the control process does, whose work is measured here, too.
    control::sys::keep_heap_dense();
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.page {
        let report: Report = serde_json::from_slice(&std::fs::read(file)?)?;
        return report.write(&arguments.out.unwrap_or_else(out));
    }
    if let Some(status) = huge::around_self()? {
        std::process::exit(status.code().unwrap_or(1));
    }
    let full = arguments.full || is_set("FULL");
    let rounds = arguments.rounds.unwrap_or(if full { 31 } else { 11 });
    let core = cores::pin_to_last();
    if arguments.check.is_some() || arguments.write_baseline.is_some() {
        return check(&arguments, rounds, core);
    }
    let groups = only(groups(full), arguments.only.as_deref());
    ensure!(!groups.is_empty(), "no case has {:?} in its name", arguments.only.unwrap_or_default());
    let mut chapters: Vec<Chapter> = groups.iter().map(chapter).collect();
    chapters.dedup();
    let mut conditions = Conditions::now(rounds, core);
    let rows = run::all(groups, rounds);
    conditions.pages = huge::found();
    let report = Report { conditions, chapters, rows };
    println!("{}\n{}\n{}", report.conditions.text(), table::table(&report.rows), report.summary());
    let folder = arguments.out.unwrap_or_else(out);
    report.write(&folder)?;
    println!("also in {}: report.json, report.html", folder.display());
    ensure!(!report.is_broken(), "some of our own cases failed, see ERROR above");
    Ok(())
}

fn check(arguments: &Arguments, rounds: usize, core: Option<usize>) -> Result<()> {
    let cpu = Conditions::now(rounds, core).cpu;
    let measure = || {
        let mut conditions = Conditions::now(rounds, core);
        let rows = run::all(vec![check::group(groups(false))], rounds);
        conditions.pages = huge::found();
        println!("{}\n{}", conditions.text(), table::table(&rows));
        check::measured(&rows)
    };
    if let Some(file) = &arguments.write_baseline {
        check::write(file, &cpu, check::baseline(measure)?)?;
        println!("the baseline of {cpu} is in {}: commit it", file.display());
    }
    arguments.check.as_ref().map_or(Ok(()), |file| check::judge(file, &cpu, measure))
}

fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| !value.is_empty() && value != "0")
}

fn chapter(group: &Group) -> Chapter {
    Chapter { title: group.title.to_owned(), about: group.about.to_owned() }
}

/// Whole groups: a case may need another one of its group.
fn only(groups: Vec<Group>, text: Option<&str>) -> Vec<Group> {
    let Some(text) = text else { return groups };
    let has = |group: &Group| {
        group.title.contains(text)
            || group.cases.iter().any(|case| case.what.contains(text) || case.size.contains(text))
    };
    groups.into_iter().filter(has).collect()
}

/// Beside what cargo builds, wherever this was started.
pub fn out() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(|package| PathBuf::from(package).join("../target"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.or(package).unwrap_or("target".into()).join("bench")
}
