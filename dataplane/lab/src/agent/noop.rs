//! A CNI plugin that does nothing: ADD passes on what the plugins before it made. Each call is noted in a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

pub fn run(calls: &Path) -> Result<()> {
    let verb = std::env::var("CNI_COMMAND").context("CNI_COMMAND is missing")?;
    let stdin: Value = serde_json::from_reader(std::io::stdin().lock())?;
    writeln!(OpenOptions::new().create(true).append(true).open(calls)?, "{verb}")?;
    match verb.as_str() {
        "ADD" => println!("{}", stdin["prevResult"]),
        "VERSION" => println!(
            "{}",
            json!({"cniVersion": stdin["cniVersion"], "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
        ),
        _ => {}
    }
    Ok(())
}
