//! Arguments, then configuration, then descriptors from control, then workers; and wait.

use anyhow::{Context, Result};
use clap::Parser;
use dataplane::config::{Args, Config};
use dataplane::server::Server;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use tables::channel::{Channel, ChannelError, Listener};

/// From one look to the next at whether the predecessor is gone: 10 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

fn main() -> ExitCode {
    let args = match tables::arguments::expand(std::env::args_os()) {
        Ok(typed) => Args::parse_from(typed),
        Err(error) => return ended(Err(error.into())),
    };
    if let Some(offline) = &args.offline {
        return ended(offline.run());
    }
    match Config::check(args) {
        Err(error) => {
            eprintln!("fairway-dataplane: {error}");
            ExitCode::from(2)
        }
        Ok(config) => ended(run(config)),
    }
}

fn ended(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairway-dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<()> {
    let path = config.socket.clone();
    let stop = dataplane::signals::stop_fd().context("cannot listen for signals")?;
    let Some(listener) = listen(&config, &stop)? else { return Ok(()) };
    let mut server = Server::new(config)?;
    eprintln!("waiting for control at {}", path.display());
    let mut channel: Option<Channel> = None;
    loop {
        let obituaries = server.obituaries();
        let mut fds = vec![
            PollFd::new(&stop, PollFlags::IN),
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&obituaries, PollFlags::IN),
        ];
        fds.extend(channel.as_ref().map(|channel| PollFd::new(channel, PollFlags::IN)));
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("cannot wait for control")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            break;
        }
        if ready[2] && server.pass_on_obituary(channel.as_ref()).is_err() {
            channel = None;
        }
        if ready.get(3) == Some(&true) {
            channel = serve(&mut server, channel);
        }
        if ready[1] {
            channel = accept(&listener, &server)?.or(channel);
        }
    }
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    server.stop();
    Ok(())
}

/// None: asked to stop while standing by.
fn listen(config: &Config, stop: &OwnedFd) -> Result<Option<Listener>> {
    let mut is_first = true;
    loop {
        match Listener::bind(&config.socket) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && config.stand_by => {
                if std::mem::take(&mut is_first) {
                    eprintln!(
                        "another dataplane listens at {}: standing by to take its place",
                        config.socket.display()
                    );
                }
            }
            other => {
                return other.map(Some).with_context(|| format!("cannot listen at {}", config.socket.display()));
            }
        }
        let mut fds = [PollFd::new(stop, PollFlags::IN)];
        if poll(&mut fds, Some(&LOOK)) == Ok(1) {
            return Ok(None);
        }
    }
}

/// Serves one request; a connection that is broken or talks nonsense is closed.
fn serve(server: &mut Server, channel: Option<Channel>) -> Option<Channel> {
    let channel = channel?;
    match server.serve(&channel) {
        Ok(()) => Some(channel),
        Err(error) => {
            match error.downcast_ref::<ChannelError>() {
                Some(ChannelError::Closed) if server.is_running() => {
                    eprintln!("control is gone; packets keep flowing by the last tables")
                }
                Some(ChannelError::Closed) => eprintln!("control went away before the start; waiting for it"),
                _ => eprintln!("closed the connection with control: {error:#}"),
            }
            None
        }
    }
}

/// A new control process takes the place of an old one.
fn accept(listener: &Listener, server: &Server) -> Result<Option<Channel>> {
    let channel = match listener.accept() {
        Ok(channel) => channel,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error).context("cannot accept a connection"),
    };
    match server.greet(&channel) {
        Ok(()) => {
            eprintln!("control has connected");
            Ok(Some(channel))
        }
        Err(error) => {
            eprintln!("control went away while connecting: {error:#}");
            Ok(None)
        }
    }
}
