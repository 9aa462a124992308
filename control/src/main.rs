//! Thin: arguments, the lock that says there is one of us, sockets, signals, the loop.

use anyhow::{Context, Result, bail};
use clap::Parser;
use control::args::Args;
use control::supervise::Supervisor;
use control::{api, http, lock, log, serve, sys};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

fn main() -> std::process::ExitCode {
    match start() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            log(format_args!("{error:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    sys::keep_heap_dense();
    let args = Args::parse_from(tables::arguments::expand(std::env::args_os())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the event loop")?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("it changes the node's network and has to run as root: use sudo");
    }
    args.check()?;
    for directory in [&args.run_dir, &args.state_dir] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut stop = Box::pin(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    });
    let _lock = if args.stand_by {
        tokio::select! {
            lock = lock::take_over(&args.run_dir) => lock?,
            () = &mut stop => return Ok(()),
        }
    } else {
        lock::take(&args.run_dir)?
    };
    let http = TcpListener::bind(args.http).await;
    let http = http.with_context(|| format!("cannot serve metrics on {}: give another --http", args.http))?;
    let socket = api::socket_path(&args.run_dir);
    let supervisor = Supervisor::start(args).await?;
    let listener = serve::listen(&socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    let (requests, receiver) = mpsc::channel(64);
    tokio::spawn(serve::run(listener, requests.clone()));
    tokio::spawn(http::run(http, requests));
    log(format_args!("serving {}", socket.display()));
    let outcome = supervisor.run(receiver, stop).await;
    let _ = std::fs::remove_file(&socket);
    outcome
}
