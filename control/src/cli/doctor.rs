//! `fairway doctor`: arguments, and how what was found is printed. It asks nobody that runs: it is for nodes where nothing does.

use super::{Cli, Failed, Format, print_as};
use crate::args::parse_ports;
use crate::doctor::fix::{self, Fix};
use crate::doctor::{Diagnosis, Patient, Severity, examine, nic};
use crate::encapsulation::Encapsulation;
use crate::file::{Directory, DirectoryError};
use crate::kube::{ConnectError, Server};
use crate::netlink::Netlink;
use crate::object::{Node, Object, ObjectChange};
use clap::{Args, Subcommand};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use tables::Prefix;
use tokio::signal::unix::{SignalKind, signal};

/// As of fairway-control, which these are to be the same for.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    #[command(subcommand)]
    pub of: Option<Of>,
    /// Name of this node's Node object.
    #[arg(long)]
    pub node: Option<String>,
    /// Directory of Kubernetes objects.
    #[arg(long, conflicts_with_all = ["kubernetes", "kubeconfig"])]
    pub objects: Option<PathBuf>,
    /// Ask the API server as a pod of the cluster.
    #[arg(long, conflicts_with = "kubeconfig")]
    pub kubernetes: bool,
    /// Ask the API server that this file names.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server is.
    #[arg(long, value_name = "URL")]
    pub api_server: Option<http::Uri>,
    /// The NIC to share with the kernel.
    #[arg(long, value_name = "IFNAME")]
    pub uplink: Option<String>,
    /// Range of service addresses.
    #[arg(long = "service-cidr", value_name = "CIDR")]
    pub service_cidrs: Vec<Prefix>,
    /// Range that holds all pod ranges.
    #[arg(long = "cluster-cidr", value_name = "CIDR")]
    pub cluster_cidrs: Vec<Prefix>,
    /// How packets reach other nodes' pods.
    #[arg(long, value_enum, default_value_t)]
    pub encapsulation: Encapsulation,
    /// UDP port of the tunnel.
    #[arg(long)]
    pub tunnel_port: Option<u16>,
    /// Ports of the node that Fairway translates to.
    #[arg(long, default_value = "40000-60999", value_name = "FIRST-LAST", value_parser = parse_ports)]
    pub snat_ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Of {
    /// One NIC: driver, zero-copy, queues, MTU, spreading, and the commands that make it better.
    Nic(Nic),
}

#[derive(Clone, Debug, Args)]
pub struct Nic {
    pub device: String,
    /// Cores that workers are to run on, as of fairway-dataplane.
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Run the commands, and undo them at Ctrl-C or SIGTERM.
    #[arg(long)]
    pub apply: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Fix(#[from] fix::FixError),
    #[error("cannot start the event loop: {0}")]
    Runtime(io::Error),
    #[error("{0} of what was looked at is wrong")]
    Unwell(usize),
}

pub(super) fn run(cli: &Cli, doctor: &Doctor, out: &mut dyn Write) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DoctorError::Runtime)?;
    runtime.block_on(async {
        match &doctor.of {
            None => {
                let diagnosis = examine(patient(doctor).await?).await;
                print(cli, &diagnosis, out)?;
                end(&diagnosis)
            }
            Some(Of::Nic(nic)) => run_nic(cli, doctor, nic, out).await,
        }
    })
}

fn end(diagnosis: &Diagnosis) -> Result<(), Failed> {
    let wrong = diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Wrong).count();
    if diagnosis.is_well() { Ok(()) } else { Err(DoctorError::Unwell(wrong).into()) }
}

async fn run_nic(cli: &Cli, doctor: &Doctor, wanted: &Nic, out: &mut dyn Write) -> Result<(), Failed> {
    let netlink = Netlink::connect().map_err(DoctorError::Runtime)?;
    let patient = Patient { cpus: wanted.cpus.clone(), encapsulation: doctor.encapsulation, ..Patient::default() };
    let look = async || {
        let mut diagnosis = Diagnosis::default();
        nic::check(&netlink, &wanted.device, &patient, &mut diagnosis).await;
        diagnosis
    };
    let before = look().await;
    print(cli, &before, out)?;
    if !wanted.apply || before.fixes.is_empty() {
        return end(&before);
    }
    let stop = stop().map_err(DoctorError::Runtime)?;
    let applied = fix::apply(&before.fixes).map_err(DoctorError::from)?;
    writeln!(out, "\nThis is done until Ctrl-C. What is left:")?;
    print(cli, &look().await, out)?;
    out.flush()?;
    stop.await;
    applied.undo().map_err(DoctorError::from)?;
    Ok(())
}

/// Heard of from now on.
fn stop() -> io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

async fn patient(doctor: &Doctor) -> Result<Patient, DoctorError> {
    let at = doctor.api_server.clone();
    let server = match &doctor.kubeconfig {
        Some(path) => Some(Server::of_kubeconfig(path, at).await?),
        None if doctor.kubernetes => Some(Server::of_pod(at)?),
        None => None,
    };
    Ok(Patient {
        node: doctor.node.clone(),
        server,
        nodes: nodes(doctor).await?,
        uplink: doctor.uplink.clone(),
        cpus: Vec::new(),
        encapsulation: doctor.encapsulation,
        tunnel_port: doctor.tunnel_port.unwrap_or(doctor.encapsulation.default_port()),
        cluster_cidrs: doctor.cluster_cidrs.clone(),
        service_cidrs: doctor.service_cidrs.clone(),
        snat_ports: Some(doctor.snat_ports.clone()),
    })
}

async fn nodes(doctor: &Doctor) -> Result<Vec<Node>, DirectoryError> {
    let Some(path) = &doctor.objects else { return Ok(Vec::new()) };
    let update = Directory::open(path)?.next().await;
    let node = |change| if let ObjectChange::Put(Object::Node(node)) = change { Some(node) } else { None };
    Ok(update.changes.into_iter().filter_map(node).collect())
}

fn print(cli: &Cli, diagnosis: &Diagnosis, out: &mut dyn Write) -> Result<(), Failed> {
    if let Some(format @ (Format::Json | Format::Yaml)) = cli.output.output {
        return print_as(format, diagnosis, out);
    }
    for fact in &diagnosis.facts {
        writeln!(out, "ok     {}: {}", fact.check, fact.what)?;
    }
    for finding in &diagnosis.findings {
        let severity = if finding.severity == Severity::Wrong { "WRONG" } else { "slow " };
        writeln!(out, "{severity}  {}: {}\n       -> {}", finding.check, finding.what, finding.advice)?;
    }
    if !diagnosis.fixes.is_empty() {
        writeln!(out, "\nCommands (--apply runs them and undoes them when it ends):")?;
    }
    for Fix { command, undo } in &diagnosis.fixes {
        writeln!(out, "  {}    # undone by: {}", command.join(" "), undo.join(" "))?;
    }
    Ok(())
}
