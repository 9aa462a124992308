//! The CNI plugin: see `control::cni`.

use control::cni;
use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut stdin = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut stdin) {
        eprintln!("fairway-cni: cannot read the configuration from standard input: {error}");
        return ExitCode::FAILURE;
    }
    let environment = std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let outcome = cni::run(&environment, &stdin, cni::ask);
    print!("{}", outcome.stdout);
    ExitCode::from(outcome.code)
}
