//! `fairway-demo`: shows what Fairway does on two nodes, on this machine, and removes it again.
//!
//! Its other sub-commands are the small programs that run inside the lab's namespaces.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use lab::agent::{converse, datagrams, doors, load, noop, question, sctp, serve, witness};
use lab::process::Process;
use lab::report::{Report, Verdict};
use lab::sections::{self, Section};
use lab::shell::Cmd;
use lab::stage::Stage;
use lab::transcript::Transcript;
use lab::{Lab, Nics, Options, guard};

/// The kept lab's name, so that the commands to try are known beforehand.
const DEMO_ID: &str = "demo";

#[derive(Parser)]
#[command(version, about = "Two Kubernetes-style nodes in network namespaces, with Fairway between their pods")]
struct Cli {
    #[command(flatten)]
    demo: Demo,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Demo {
    /// Leave the lab up at the end
    #[arg(long)]
    keep: bool,
    /// Only these sections, such as 1,6; 8 and above are played only if they stand here
    #[arg(long, value_delimiter = ',')]
    only: Vec<u32>,
    /// Joined NICs of this machine instead of veth pairs, one pair a node: UPLINK:PORT,UPLINK:PORT
    #[arg(long, value_delimiter = ',', value_parser = parse_nics)]
    nics: Vec<Nics>,
    /// Begin again until this many seconds are over
    #[arg(long, value_name = "SECONDS")]
    repeat_for: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    /// Remove a lab that was left up, or all of them
    Clean {
        /// Its name, such as demo
        id: Option<String>,
    },
    /// Wire a lab without Fairway and hold it for a minute
    #[command(hide = true)]
    Hold,
    /// Answer HTTP with this name and the address seen; echo TCP and UDP
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        name: String,
    },
    /// HTTP on many ports; `open PORT` and `close PORT` on standard input
    #[command(hide = true)]
    Doors {
        #[arg(long)]
        name: String,
        #[arg(long)]
        first: u16,
        #[arg(long)]
        count: u16,
    },
    /// Requests on new connections until standard input closes
    #[command(hide = true)]
    Load(load::Load),
    /// One long connection; `pause` and `go` on standard input
    #[command(hide = true)]
    Converse(converse::Converse),
    /// A CNI plugin that only notes its calls in a file
    #[command(hide = true)]
    Noop {
        #[arg(long)]
        calls: PathBuf,
    },
    /// UDP datagrams
    #[command(hide = true)]
    Send(datagrams::Send),
    /// Answer and echo SCTP with this name and the address seen
    #[command(hide = true)]
    SctpServe {
        #[arg(long)]
        name: String,
    },
    /// Talk to such a server
    #[command(hide = true)]
    SctpAsk {
        #[arg(long)]
        to: std::net::SocketAddr,
    },
    /// Answer on many addresses and ports who was spoken to, and by whom
    #[command(hide = true)]
    Witness(witness::Witness),
    /// Questions to such servers, as JSON on standard input
    #[command(hide = true)]
    Question,
    /// Count UDP datagrams
    #[command(hide = true)]
    Sink {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        count: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.map_or_else(|| demo(&cli.demo), run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fairway-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Clean { id } => clean(id.as_deref())?,
        Command::Hold => hold()?,
        Command::Serve { name } => serve::run(&name)?,
        Command::Doors { name, first, count } => doors::run(&name, first, count)?,
        Command::Load(arguments) => load::run(&arguments)?,
        Command::Converse(arguments) => converse::run(&arguments)?,
        Command::Send(arguments) => datagrams::send(&arguments)?,
        Command::Noop { calls } => noop::run(&calls)?,
        Command::SctpServe { name } => sctp::serve(&name)?,
        Command::SctpAsk { to } => sctp::ask(to)?,
        Command::Witness(arguments) => witness::run(&arguments)?,
        Command::Question => question::run()?,
        Command::Sink { port, count } => datagrams::sink(port, count)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn clean(id: Option<&str>) -> Result<()> {
    let removed = guard::remove(id)?;
    match removed.as_slice() {
        [] => println!("there is no lab to remove"),
        ids => println!("removed: {}", ids.join(", ")),
    }
    Ok(())
}

/// For the test that kills it.
fn hold() -> Result<()> {
    let lab = Lab::wire(&Options::default())?;
    let sleep = Cmd::line("sleep 600").netns(lab.client());
    let _sleeper = Process::spawn("sleeper", &sleep, lab.directory())?;
    println!("watcher={} directory={}", lab.guard().watcher_pid(), lab.directory().display());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn demo(demo: &Demo) -> Result<ExitCode> {
    let show = Transcript::default();
    introduce(&show, demo);
    let (mut reports, kept) = play_once(demo, &show)?;
    while demo.repeat_for.is_some_and(|seconds| show.elapsed().as_secs() < seconds) && all_passed(&reports) {
        reports = play_once(demo, &show)?.0;
    }
    show.summary(&reports);
    farewell(&show, kept.as_deref());
    Ok(if all_passed(&reports) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all_passed(reports: &[Report]) -> bool {
    reports.iter().all(|report| report.verdict() == Verdict::Passed)
}

fn introduce(show: &Transcript, demo: &Demo) {
    show.heading("Fairway: two nodes, real pods");
    show.progress("Two Kubernetes-style nodes are brought up in network namespaces of this machine, each with a");
    show.progress("fairway-control and a fairway-dataplane; fairway-cni attaches six pods. Then curl, ping and iperf3");
    show.progress("send real traffic between them. No packet leaves the namespaces. It takes about a minute.");
    if !demo.keep {
        show.progress("Everything is removed at the end, and also after Ctrl-C.");
    }
}

/// The reports, and the name of the lab if it was left up.
fn play_once(demo: &Demo, show: &Transcript) -> Result<(Vec<Report>, Option<String>)> {
    let wanted = |number: u32| demo.only.is_empty() || demo.only.contains(&number);
    let shared: Vec<Section> = sections::SHARED.into_iter().filter(|section| wanted(section.number)).collect();
    let (mut reports, mut kept) = (Vec::new(), None);
    if !shared.is_empty() || demo.keep {
        (reports, kept) = play_shared(demo, show, &shared)?;
    }
    if wanted(sections::WORKERS.0) {
        reports.push(sections::workers::play(show));
    }
    if demo.only.contains(&sections::INTEROP.0) {
        reports.push(sections::interop::play(show));
    }
    if demo.only.contains(&sections::BONDS.0) {
        reports.push(sections::bonds::play(&demo.nics, show));
    }
    if demo.only.contains(&sections::DOCTOR.0) {
        reports.push(sections::doctor::play(&demo.nics, show));
    }
    Ok((reports, kept))
}

fn play_shared(demo: &Demo, show: &Transcript, shared: &[Section]) -> Result<(Vec<Report>, Option<String>)> {
    let id = demo.keep.then(|| DEMO_ID.to_string());
    let options = Options { id, nics: demo.nics.clone(), ..Options::default() };
    let mut lab = match sections::stage_lab(&options, show) {
        Ok(lab) => lab,
        Err(error) => return Ok((shared.iter().map(|section| not_played(section, &error)).collect(), None)),
    };
    let mut stage = Stage { lab: &mut lab, show };
    let reports = shared.iter().map(|section| stage.play(section.title, section.play)).collect();
    Ok((reports, if demo.keep { Some(keep(lab)?) } else { None }))
}

/// Without a lab no section can be played, each for the same reason.
fn not_played(section: &Section, error: &anyhow::Error) -> Report {
    let mut report = Report::new(section.title);
    report.stopped_by(error);
    println!("\n== {}\n   {}", section.title, report.checks[0]);
    report
}

fn keep(lab: Lab) -> Result<String> {
    let id = lab.guard().id().to_string();
    lab.keep().context("cannot leave the lab up")?;
    Ok(id)
}

fn farewell(show: &Transcript, kept: Option<&str>) {
    let beside = |name: &str| {
        let path = std::env::current_exe().ok().and_then(|path| path.parent().map(|dir| dir.join(name)));
        path.map_or(name.to_string(), |path| path.display().to_string())
    };
    match kept {
        Some(id) => {
            show.heading(&format!("The lab `{id}` stays up; `make clean-lab` removes it. Three commands to try"))
        }
        None => show.heading("Three commands to try after `make demo KEEP=1`"),
    }
    let id = kept.unwrap_or(DEMO_ID);
    let fairway = format!("sudo {} --run-dir /run/fwlab-{id}/node-1/run", beside("fairway"));
    show.typed(&format!("sudo nsenter --net=/run/netns/fwlab-{id}-alice curl http://{}/", sections::web_service()));
    show.typed(&format!("{fairway} status"));
    show.typed(&format!("{fairway} explain demo/mallory {}:80/tcp", sections::web_service()));
}

fn parse_nics(text: &str) -> Result<Nics, String> {
    let (uplink, port) = text.split_once(':').ok_or("write it like nic0:nic1")?;
    Ok(Nics { uplink: uplink.to_string(), port: port.to_string() })
}
