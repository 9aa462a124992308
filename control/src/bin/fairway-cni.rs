//! The CNI plugin: see `control::cni`.

use control::cni;
use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut stdin = String::new();
    let environment = std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let outcome = match std::io::stdin().read_to_string(&mut stdin) {
        Ok(_) => cni::run(&environment, &stdin, cni::ask),
        Err(error) => cni::unreadable(&error),
    };
    print!("{}", outcome.stdout);
    ExitCode::from(outcome.code)
}
