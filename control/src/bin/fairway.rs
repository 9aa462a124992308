//! The command line for people: see `control::cli`.

use clap::Parser;
use control::cli::{Cli, run};

fn main() -> std::process::ExitCode {
    run(&Cli::parse(), &mut std::io::stdout().lock())
}
