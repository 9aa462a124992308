//! The CNI plugin, and by another name the plugin `loopback`: see `control::cni`.

use control::cni::{self, loopback};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut stdin = String::new();
    let environment = std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let outcome = match std::io::stdin().read_to_string(&mut stdin) {
        Ok(_) if is_loopback() => loopback::run(&environment, &stdin),
        Ok(_) => cni::run(&environment, &stdin, cni::ask),
        Err(error) => cni::unreadable(&error),
    };
    print!("{}", outcome.stdout);
    ExitCode::from(outcome.code)
}

fn is_loopback() -> bool {
    std::env::args_os().next().is_some_and(|program| Path::new(&program).file_name() == Some(loopback::NAME.as_ref()))
}
