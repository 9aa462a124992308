//! `fairway`: asks the control process and prints what it says, with kubectl's habits. Exit 0, 1 if something failed, 2 for
//! a usage error. It must not know more than the listings.

mod doctor;
mod many;
mod policies;
mod runtime;
mod setup;
mod source;
mod table;

use crate::api::{Question, Request};
use crate::listing::*;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use source::{Source, SourceError};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use table::Row;

/// How often `-w` looks.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Shows what Fairway does on this node.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway", version)]
pub struct Cli {
    /// Directory of the control process's socket.
    #[arg(long, global = true, env = "FAIRWAY_RUN_DIR", default_value = "/run/fairway")]
    pub run_dir: PathBuf,
    /// Ask this bundle (see `fairway bundle`) and not the node. `explain` also takes the endpoint here by which the packet
    /// comes in: `uplink`, `host` or `namespace/pod`; the source's own otherwise.
    #[arg(long, global = true, value_name = "FILE|ENDPOINT")]
    pub from: Vec<String>,
    #[command(flatten)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Output format.
    #[arg(short, long, global = true, value_enum)]
    pub output: Option<Format>,
    /// Only this namespace.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// All namespaces (which is what is shown unless -n is given).
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Go on and print what changes.
    #[arg(short, long, global = true)]
    pub watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Wide,
    Json,
    Yaml,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Both processes, the workers, how full tables are, and what is wrong.
    Status(Status),
    /// Uplink, host and pods as the dataplane serves them, with counters.
    #[command(visible_aliases = ["interface", "if"])]
    Interfaces,
    /// The pods attached to this node.
    #[command(visible_aliases = ["endpoint", "ep"])]
    Endpoints,
    /// Service ports and their backends.
    #[command(visible_aliases = ["service", "svc"])]
    Services,
    /// Addresses of load balancers and external ones, and which node of the link announces each.
    #[command(visible_aliases = ["address", "addr"])]
    Addresses,
    /// Policies, what they let in and what they kept away.
    #[command(visible_aliases = ["policy", "networkpolicies", "networkpolicy", "netpol"])]
    Policies(policies::Policies),
    /// Where destinations lie.
    #[command(visible_aliases = ["route"])]
    Routes,
    /// Flows of all workers.
    #[command(visible_aliases = ["flow"])]
    Flows,
    /// Packets that went no further, by reason.
    #[command(visible_aliases = ["drop"])]
    Drops,
    /// What would become of a packet: the worker's own decision on the tables in force.
    Explain(Explain),
    /// Writes tables, flows, counters and all listings to a file, which `--from` can ask anywhere.
    Bundle(BundleFile),
    /// What would keep Fairway from working on this node, or slow it down, and what to do about it.
    Doctor(Box<doctor::Doctor>),
    /// Runs a capture through the engine as it stood in a bundle (--from FILE), and prints each packet's way.
    Replay(Replay),
    /// Puts the CNI plugin, and then the configuration that names it, where the container runtime looks.
    InstallCni(setup::InstallCni),
    /// Leaves the node as it was before Fairway; both processes have to be stopped.
    Uninstall(setup::Uninstall),
    /// Removes kube-proxy's rules, sets and devices of all its modes, once it does not run here any more.
    KubeProxyCleanup(setup::KubeProxyCleanup),
}

#[derive(Clone, Debug, Args)]
pub struct BundleFile {
    /// Where to write it.
    pub file: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// A pcap file of Ethernet frames, as of `tcpdump -w` on a pod's interface, fairway0 or the uplink.
    pub capture: PathBuf,
    /// The endpoint by which all packets come in: `uplink`, `host` or `namespace/pod`; else each by its sender's.
    #[arg(long = "in", value_name = "ENDPOINT")]
    pub at: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Status {
    /// What the workers do with their time: load, burst sizes, the cost of each stage.
    #[arg(long)]
    pub runtime: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// `namespace/pod`, or an address.
    #[arg(required_unless_present = "file")]
    pub source: Option<String>,
    /// ADDRESS:PORT/PROTOCOL, where the address may be `namespace/pod` or `namespace/service`; ADDRESS/icmp.
    #[arg(value_parser = parse_destination, required_unless_present = "file")]
    pub destination: Option<Destination>,
    /// Many at once: a file (`-`: standard input) with a SOURCE and a DESTINATION on each line.
    #[arg(short, long, conflicts_with = "source")]
    pub file: Option<PathBuf>,
    /// Source port.
    #[arg(long, default_value_t = 33333)]
    pub source_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub addr: String,
    pub port: u16,
    pub protocol: String,
}

fn parse_destination(text: &str) -> Result<Destination, String> {
    let parse = || {
        let (rest, protocol) = text.rsplit_once('/')?;
        let protocol = protocol.to_ascii_lowercase();
        protocol.parse::<tables::Protocol>().ok()?;
        if protocol.starts_with("icmp") {
            return Some(Destination { addr: rest.to_owned(), port: 0, protocol });
        }
        let (addr, port) = rest.rsplit_once(':')?;
        let addr = addr.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Destination { addr, port: port.parse().ok()?, protocol })
    };
    parse().ok_or_else(|| "ADDRESS:PORT/PROTOCOL is expected, as in 10.96.0.10:80/tcp or demo/web:80/tcp".to_owned())
}

/// Runs one command and says how it went.
pub fn run(cli: &Cli, out: &mut dyn Write) -> ExitCode {
    match dispatch(cli, out) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough.
        Err(Failed::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairway: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("-w goes on as the node does; a bundle is of one moment")]
    WatchBundle,
    #[error(transparent)]
    File(#[from] many::FileError),
    #[error(transparent)]
    Setup(#[from] setup::SetupError),
    #[error(transparent)]
    Doctor(#[from] doctor::DoctorError),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    #[error("cannot write YAML: {0}")]
    Yaml(String),
}

fn dispatch(cli: &Cli, out: &mut dyn Write) -> Result<(), Failed> {
    let may_name_endpoint = matches!(cli.command, Command::Explain(_));
    let (source, endpoint) = Source::of(&cli.run_dir, &cli.from, may_name_endpoint)?;
    if cli.output.watch && source.is_bundle() {
        return Err(Failed::WatchBundle);
    }
    let source = &source;
    let wide = cli.output.output == Some(Format::Wide);
    match &cli.command {
        Command::Status(Status { runtime: true }) => show(cli, out, asks(source, Request::Runtime), runtime::print),
        Command::Status(Status { runtime: false }) => show(cli, out, asks(source, Request::Status), print_status),
        Command::Interfaces => list::<InterfaceView>(cli, out, asks(source, Request::Interfaces)),
        Command::Endpoints => list::<EndpointView>(cli, out, asks(source, Request::Endpoints)),
        Command::Services if wide => list::<ServiceView>(cli, out, asks(source, Request::ServicesWide)),
        Command::Services => list::<ServiceView>(cli, out, asks(source, Request::Services)),
        Command::Addresses => list::<AddressView>(cli, out, asks(source, Request::Addresses)),
        Command::Policies(command) => policies::run(cli, source, command, out),
        Command::Routes => list::<RouteView>(cli, out, asks(source, Request::Routes)),
        Command::Flows => list::<FlowView>(cli, out, asks(source, Request::Flows)),
        Command::Drops => list::<DropView>(cli, out, asks(source, Request::Drops)),
        Command::Explain(explain) => dispatch_explain(cli, source, explain, endpoint, out),
        Command::Bundle(BundleFile { file }) => {
            let request = Request::Bundle { file: absolute(file)? };
            show(cli, out, asks(source, request), print_bundle)
        }
        Command::Doctor(asked) => doctor::run(cli, asked, out),
        Command::Replay(Replay { capture, at }) => {
            list::<ReplayView>(cli, out, || source.replay(capture, at.as_deref()))
        }
        Command::InstallCni(install) => Ok(install.run(&cli.run_dir, out)?),
        Command::Uninstall(uninstall) => Ok(uninstall.run(&cli.run_dir, out)?),
        Command::KubeProxyCleanup(cleanup) => Ok(cleanup.run(out)?),
    }
}

fn dispatch_explain(
    cli: &Cli,
    source: &Source,
    explain: &Explain,
    from: Option<String>,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    if let Some(file) = &explain.file {
        let questions = many::read(file, explain.source_port, from.as_deref())?;
        return list::<many::ExplainRow>(cli, out, || many::explain(source, &questions));
    }
    // Without a file both are there, as the arguments are declared.
    let (Some(src), Some(to)) = (&explain.source, &explain.destination) else { return Ok(()) };
    let question = question(explain, src, to, from);
    show(cli, out, || source.explain(&question), print_explained)
}

/// What a listing asks, each time anew.
fn asks<T: DeserializeOwned>(source: &Source, request: Request) -> impl Fn() -> Result<T, SourceError> {
    move || source.ask(&request)
}

/// Control has another working directory.
fn absolute(file: &Path) -> io::Result<PathBuf> {
    std::path::absolute(file)
}

fn question(explain: &Explain, src: &str, to: &Destination, from: Option<String>) -> Question {
    Question {
        src: src.to_owned(),
        dst: to.addr.clone(),
        port: to.port,
        protocol: to.protocol.clone(),
        src_port: explain.source_port,
        from,
    }
}

/// One object.
fn show<T: Serialize + PartialEq>(
    cli: &Cli,
    out: &mut dyn Write,
    ask: impl Fn() -> Result<T, SourceError>,
    print: fn(&T, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Failed> {
    let mut last = None;
    loop {
        let object = ask()?;
        if last.as_ref() != Some(&object) {
            match cli.output.output {
                Some(format @ (Format::Json | Format::Yaml)) => print_as(format, &object, out)?,
                _ => print(&object, out)?,
            }
            out.flush()?;
        }
        if !cli.output.watch {
            return Ok(());
        }
        last = Some(object);
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Rows; with `-w` those that are new or changed since.
fn list<T: Row + Serialize>(
    cli: &Cli,
    out: &mut dyn Write,
    ask: impl Fn() -> Result<Vec<T>, SourceError>,
) -> Result<(), Failed> {
    let wide = cli.output.output == Some(Format::Wide);
    let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
    let mut first = true;
    loop {
        let mut rows = ask()?;
        rows.retain(|row| {
            cli.output.namespace.as_deref().is_none_or(|wanted| row.namespace().is_none_or(|ns| ns == wanted))
        });
        match cli.output.output {
            Some(format @ (Format::Json | Format::Yaml)) => print_as(format, &rows, out)?,
            _ => {
                let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(wide)).collect();
                let new: Vec<_> = cells.iter().filter(|cells| !seen.contains(*cells)).cloned().collect();
                table::print(out, if first { Some(T::header(wide)) } else { None }, &new)?;
                seen = cells.into_iter().collect();
            }
        }
        out.flush()?;
        if !cli.output.watch {
            return Ok(());
        }
        first = false;
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn print_as<T: Serialize>(format: Format, value: &T, out: &mut dyn Write) -> Result<(), Failed> {
    match format {
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|error| Failed::Yaml(error.to_string()))?;
            out.write_all(text.as_bytes())?;
        }
        _ => writeln!(out, "{:#}", serde_json::to_value(value).map_err(io::Error::other)?)?,
    }
    Ok(())
}

fn print_status(status: &StatusView, out: &mut dyn Write) -> io::Result<()> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let uplink = &status.uplink;
    writeln!(out, "Node:        {}", status.node)?;
    writeln!(out, "Dataplane:   {} (polling {})", status.dataplane, or_none(&status.polling))?;
    let source = &status.source;
    writeln!(out, "Source:      {} ({} for {} s)", source.name, source.state, source.since_s)?;
    writeln!(out, "Tables:      generation {}, acknowledged {}", status.generation, status.acknowledged)?;
    writeln!(
        out,
        "Uplink:      {} {} mtu {}, {} queues, AF_XDP {}, XDP {}",
        uplink.name,
        uplink.mac,
        uplink.mtu,
        uplink.queues,
        or_none(&uplink.mode),
        or_none(&uplink.xdp)
    )?;
    if let Some(bond) = &uplink.bond {
        writeln!(out, "             {bond}")?;
    }
    writeln!(out, "Pods:        {} attached, range {}", status.pods, status.pod_ranges.join(", "))?;
    let objects: Vec<String> = status.objects.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    writeln!(out, "Objects:     {}", objects.join(", "))?;
    writeln!(out)?;
    let workers: Vec<_> = status.workers.iter().map(|worker| worker.cells(false)).collect();
    table::print(out, Some(WorkerView::header(false)), &workers)?;
    let fill: Vec<_> = status.tables.iter().map(|fill| fill.cells(false)).collect();
    writeln!(out)?;
    table::print(out, Some(FillView::header(false)), &fill)?;
    if !status.problems.is_empty() {
        writeln!(out, "\nProblems:")?;
    }
    status.problems.iter().try_for_each(|problem| writeln!(out, "- {problem}"))
}

fn print_explained(explained: &ExplainView, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |name: &str, value: &str| writeln!(out, "{:<12} {value}", format!("{name}:"));
    let verdict = match &explained.reason {
        Some(reason) => format!("{} ({reason})", explained.verdict),
        None => explained.verdict.clone(),
    };
    line("Verdict", &verdict)?;
    for (name, value) in [
        ("Policy", &explained.policy),
        ("Rule", &explained.rule),
        ("Service", &explained.service),
        ("Inside", &explained.inside),
        ("Outside", &explained.outside),
    ] {
        value.as_ref().map_or(Ok(()), |value| line(name, value))?;
    }
    if !explained.backends.is_empty() {
        line("Backends", &explained.backends.join(", "))?;
    }
    if explained.masquerade {
        line("Source", "becomes an address of the node")?;
    }
    if let Some(node) = &explained.direct {
        line("Source", &format!("stays as it is: direct server return through node {node}"))?;
    }
    line("Generation", &explained.generation.to_string())?;
    explained.steps.iter().try_for_each(|(what, result)| writeln!(out, "  {what}: {result}"))
}

fn print_bundle(bundle: &BundleView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{} ({} KiB): ask it with --from", bundle.file.display(), bundle.bytes.div_ceil(1024))
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
