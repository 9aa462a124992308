//! The command: parse, run until done or interrupted, print.
//! Exit status: 0 a run took place (whatever was lost), 1 it could not, 2 usage.

use anyhow::Context;
use clap::Parser;
use fairway_pktgen::{
    args::{Cli, Command, Output},
    xsk,
};
use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

fn main() -> ExitCode {
    xsk::settle_libraries();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not returned from main: one sentence is wanted, whatever RUST_BACKTRACE says.
            eprintln!("pktgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let Command::Run(args) = Cli::parse().command;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal kills: a run that hangs can still be ended.
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone()).context("cannot handle signals")?;
        signal_hook::flag::register(signal, stop.clone()).context("cannot handle signals")?;
    }
    let report = args.plan()?.run(&stop)?;
    match args.output {
        Output::Table => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}
