//! What can be asked of a bundle, without a node: `explain` and `replay`, for the command line of control's crate, which
//! runs this process for them. The same classify and the same workers as on the node; nothing here decides anything.

pub mod replay;

use crate::explain::explain;
use crate::io::mem::pcap;
use anyhow::{Context, Result};
use clap::Subcommand;
use replay::Engine;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tables::Reader;
use tables::bundle::Bundle;
use tables::message::{ExplainQuery, Explained};
use tables::scope::ScopeCounters;

#[derive(Clone, Debug, Subcommand)]
pub enum Offline {
    /// Answers a question, JSON on standard input, by a bundle's tables: `fairway explain --from BUNDLE` asks this.
    #[command(hide = true)]
    Explain { bundle: PathBuf },
    /// Runs a capture through the workers as they stood in a bundle, a line of JSON for each packet: `fairway replay` prints
    /// them for people.
    #[command(hide = true)]
    Replay {
        bundle: PathBuf,
        capture: PathBuf,
        /// Id of the interface that all packets come in by; else each comes in by its sender's.
        #[arg(long)]
        interface: Option<u32>,
    },
}

impl Offline {
    pub fn run(&self) -> Result<()> {
        match self {
            Offline::Explain { bundle } => {
                let query = serde_json::from_reader(std::io::stdin().lock()).context("cannot read the question")?;
                let explained = explained(&Bundle::open(bundle)?, &query)?;
                serde_json::to_writer(std::io::stdout().lock(), &explained).context("cannot print the answer")
            }
            Offline::Replay { bundle, capture, interface } => replayed(&Bundle::open(bundle)?, capture, *interface),
        }
    }
}

/// A reader of the tables as they were.
fn reader(bundle: &Bundle) -> Result<Reader> {
    Ok(Reader::attach(Arc::new(bundle.tables()?))?)
}

fn explained(bundle: &Bundle, query: &ExplainQuery) -> Result<Explained> {
    let mut reader = reader(bundle)?;
    reader.pin(&AtomicU64::new(0), &mut ScopeCounters::default());
    Ok(explain(reader.view(), query))
}

fn replayed(bundle: &Bundle, capture: &Path, interface: Option<u32>) -> Result<()> {
    let named = || format!("cannot read capture {}", capture.display());
    let packets = pcap::read(BufReader::new(File::open(capture).with_context(named)?)).with_context(named)?;
    let mut engine = Engine::of(bundle)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (packet, number) in packets.into_iter().zip(1..) {
        serde_json::to_writer(&mut out, &engine.pass(number, packet, interface)?)?;
        out.write_all(b"\n")?;
    }
    out.flush().context("cannot print what became of the packets")
}
