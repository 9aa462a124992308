//! What was typed, and what it means. Every check of the command line and of hardware profiles is here; the rest of the
//! process can trust a [`Config`].

use crate::flow::timeouts::{TimeoutError, Timeouts};
use crate::offline::Offline;
use crate::worker::Polling;
use clap::Parser;
use serde::Deserialize;
use std::path::PathBuf;
use tables::flow::FLOWS_MAX;
use tables::limits::WORKERS_MAX;
use tables::owner::SnatPorts;

/// Moves packets between pods, the host and the NIC. Started before or after fairway-control, which tells it everything
/// else over the socket.
#[derive(Parser, Debug)]
#[command(name = "fairway-dataplane", version)]
pub struct Args {
    /// Unix socket on which to wait for fairway-control.
    #[arg(long, default_value = "/run/fairway/dataplane.sock")]
    pub socket: PathBuf,
    /// Poll-mode threads, each with queues, pods and flows of its own.
    #[arg(long, default_value_t = 1)]
    pub workers: u16,
    /// Cores to pin the workers to, one each, as in 2,3; by default the process's first ones.
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Hardware profile of the uplink's NIC (hw-profiles/*.toml).
    #[arg(long)]
    pub profile: Option<PathBuf>,
    /// When a worker without packets may sleep.
    #[arg(long, value_enum, default_value = "adaptive")]
    pub polling: Polling,
    /// Packet frames of 4 KiB, all workers together.
    #[arg(long, default_value_t = 32_768)]
    pub frames: u32,
    /// Flows of each worker.
    #[arg(long, default_value_t = 262_144)]
    pub flows_max: usize,
    /// Source ports for translation, FIRST-LAST; disjoint from the NodePort range.
    #[arg(long, default_value = "40000-60999")]
    pub snat_ports: String,
    /// How long a silent flow is kept, STATE=DURATION as in tcp-established=6h or udp-unanswered=30s; may be given for
    /// each state.
    #[arg(long, value_name = "STATE=DURATION")]
    pub timeout: Vec<String>,
    /// While another dataplane listens there, wait to take its place instead of refusing to start: for pods that replace
    /// each other.
    #[arg(long)]
    pub stand_by: bool,
    #[command(subcommand)]
    pub offline: Option<Offline>,
}

/// A command line that was checked.
#[derive(Debug)]
pub struct Config {
    pub socket: PathBuf,
    pub workers: u16,
    pub cpus: Vec<usize>,
    pub profile: Profile,
    pub polling: Polling,
    pub frames: u32,
    pub flows_max: usize,
    pub snat: SnatPorts,
    pub timeouts: Timeouts,
    pub stand_by: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--workers {0}: between 1 and {WORKERS_MAX} workers are possible")]
    Workers(u16),
    #[error("--cpus names {given} cores for {workers} workers: give one for each")]
    Cpus { given: usize, workers: u16 },
    #[error("--cpus {0}: this process may not run on that core (see `taskset -p $$`)")]
    NoCpu(usize),
    #[error("--snat-ports {0:?} is not a range of ports as in 40000-60999")]
    PortRange(String),
    #[error(transparent)]
    Snat(#[from] tables::owner::SnatPortsError),
    #[error(transparent)]
    Timeout(#[from] TimeoutError),
    #[error("--flows-max {0}: between 1024 and {FLOWS_MAX} flows are possible")]
    Flows(usize),
    #[error(
        "--frames {given}: {workers} workers with this profile need at least {needed} (rings, bursts and hand-off)"
    )]
    Frames { given: u32, workers: u16, needed: u32 },
    #[error("cannot read hardware profile {path}: {source}")]
    ReadProfile { path: PathBuf, source: std::io::Error },
    #[error("hardware profile {path}: {source}")]
    ParseProfile { path: PathBuf, source: toml::de::Error },
    #[error("hardware profile {path}: {source}")]
    CheckProfile { path: PathBuf, source: ProfileError },
}

impl Config {
    pub fn check(args: Args) -> Result<Config, ConfigError> {
        if args.workers == 0 || args.workers as usize > WORKERS_MAX {
            return Err(ConfigError::Workers(args.workers));
        }
        if !(1024..=FLOWS_MAX).contains(&args.flows_max) {
            return Err(ConfigError::Flows(args.flows_max));
        }
        let profile = args.profile.as_ref().map_or(Ok(Profile::default()), Profile::load)?;
        let needed = profile.frames_per_queue() * args.workers as u32 + args.workers as u32 * FRAMES_OF_A_WORKER;
        if args.frames < needed {
            return Err(ConfigError::Frames { given: args.frames, workers: args.workers, needed });
        }
        Ok(Config {
            cpus: cpus(&args)?,
            snat: snat(&args.snat_ports, args.workers)?,
            timeouts: timeouts(&args.timeout)?,
            socket: args.socket,
            workers: args.workers,
            profile,
            polling: args.polling,
            frames: args.frames,
            flows_max: args.flows_max,
            stand_by: args.stand_by,
        })
    }
}

/// A worker's bursts, super-frames being cut, and packets on their way through hand-off rings.
pub const FRAMES_OF_A_WORKER: u32 = 2048;

fn cpus(args: &Args) -> Result<Vec<usize>, ConfigError> {
    let available: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if args.cpus.is_empty() {
        // More workers than cores share them in turn.
        return Ok(available.iter().copied().cycle().take(args.workers as usize).collect());
    }
    if args.cpus.len() != args.workers as usize {
        return Err(ConfigError::Cpus { given: args.cpus.len(), workers: args.workers });
    }
    match args.cpus.iter().find(|cpu| !available.contains(cpu)) {
        Some(&missing) => Err(ConfigError::NoCpu(missing)),
        None => Ok(args.cpus.clone()),
    }
}

fn snat(range: &str, workers: u16) -> Result<SnatPorts, ConfigError> {
    let bad = || ConfigError::PortRange(range.to_owned());
    let (first, last) = range.split_once('-').ok_or_else(bad)?;
    let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    Ok(SnatPorts::new(first, last, workers)?)
}

fn timeouts(typed: &[String]) -> Result<Timeouts, TimeoutError> {
    let mut timeouts = Timeouts::default();
    typed.iter().try_for_each(|typed| timeouts.set(typed))?;
    Ok(timeouts)
}

/// What is assumed about a NIC; `hw-profiles/README.md` explains each field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Driver as `ethtool -i` names it.
    pub driver: String,
    /// Expected to bind zero-copy; the kernel falls back by itself.
    pub zero_copy: bool,
    /// UMEM chunk in bytes: 2048 or 4096.
    pub frame_size: u32,
    /// Descriptors of the NIC per queue and direction: 0..=8192; that many frames sit there in zero-copy mode.
    pub nic_ring_len: u32,
    /// Rings per queue: powers of two, 64..=32768.
    pub fill_ring_len: u32,
    pub rx_ring_len: u32,
    pub tx_ring_len: u32,
    /// At least `tx_ring_len`.
    pub completion_ring_len: u32,
    /// Set SO_PREFER_BUSY_POLL.
    pub busy_poll: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} is not {allowed}")]
pub struct ProfileError {
    pub field: &'static str,
    pub value: String,
    pub allowed: &'static str,
}

impl Default for Profile {
    /// What works with any NIC in copy mode.
    fn default() -> Profile {
        toml::from_str(include_str!("../../hw-profiles/veth.toml")).expect("the profile is part of the tests")
    }
}

impl Profile {
    fn load(path: &PathBuf) -> Result<Profile, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::ReadProfile { path: path.clone(), source })?;
        let profile: Profile =
            toml::from_str(&text).map_err(|source| ConfigError::ParseProfile { path: path.clone(), source })?;
        profile.check().map_err(|source| ConfigError::CheckProfile { path: path.clone(), source })?;
        Ok(profile)
    }

    pub fn check(&self) -> Result<(), ProfileError> {
        const RING: &str = "a power of two in 64..=32768";
        let ring = |len: u32| len.is_power_of_two() && (64..=32768).contains(&len);
        require(!self.driver.is_empty(), "driver", &self.driver, "a driver's name")?;
        require(matches!(self.frame_size, 2048 | 4096), "frame_size", self.frame_size, "2048 or 4096")?;
        require(self.nic_ring_len <= 8192, "nic_ring_len", self.nic_ring_len, "in 0..=8192")?;
        require(ring(self.fill_ring_len), "fill_ring_len", self.fill_ring_len, RING)?;
        require(ring(self.rx_ring_len), "rx_ring_len", self.rx_ring_len, RING)?;
        require(ring(self.tx_ring_len), "tx_ring_len", self.tx_ring_len, RING)?;
        let completion = ring(self.completion_ring_len) && self.completion_ring_len >= self.tx_ring_len;
        let allowed = "a power of two, tx_ring_len..=32768";
        require(completion, "completion_ring_len", self.completion_ring_len, allowed)
    }

    /// Frames that one queue can hold at once, whoever has them.
    pub fn frames_per_queue(&self) -> u32 {
        let in_nic = if self.zero_copy { 2 * self.nic_ring_len } else { 0 };
        self.fill_ring_len + self.rx_ring_len + self.tx_ring_len + self.completion_ring_len + in_nic
    }
}

fn require(holds: bool, field: &'static str, value: impl ToString, allowed: &'static str) -> Result<(), ProfileError> {
    if holds { Ok(()) } else { Err(ProfileError { field, value: value.to_string(), allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> Args {
        Args::parse_from(std::iter::once("fairway-dataplane").chain(line.iter().copied()))
    }

    #[test]
    fn every_shipped_profile_is_good() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../hw-profiles");
        let profiles = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let loaded = profiles.filter(|path| path.extension().is_some_and(|e| e == "toml")).map(|path| {
            Profile::load(&path).unwrap_or_else(|error| panic!("{error}"));
        });
        assert!(loaded.count() >= 5);
    }

    #[test]
    fn a_bad_profile_names_its_field() {
        let bad = Profile { frame_size: 1024, ..Profile::default() };
        assert_eq!(bad.check().unwrap_err().to_string(), "frame_size = 1024 is not 2048 or 4096");
        assert!(toml::from_str::<Profile>("driver = \"x\"\nsurprise = 1").is_err());
    }

    #[test]
    fn a_good_line_is_taken_and_each_bad_one_says_what_to_do() {
        let config = Config::check(args(&["--workers", "2"])).unwrap();
        assert_eq!((config.workers, config.cpus.len()), (2, 2));
        for (line, word) in [
            (&["--workers", "0"][..], "workers"),
            (&["--workers", "65"], "workers"),
            (&["--workers", "2", "--cpus", "0"], "one for each"),
            (&["--cpus", "99999"], "core"),
            (&["--snat-ports", "7"], "range"),
            (&["--snat-ports", "40000-40010"], "at least 64"),
            (&["--flows-max", "1"], "flows"),
            (&["--timeout", "udp-answered=1m", "--timeout", "tcp-opening=forever"], "as in 30s"),
            (&["--frames", "1000"], "need at least"),
        ] {
            let error = Config::check(args(line)).unwrap_err().to_string();
            assert!(error.contains(word), "{line:?}: {error}");
        }
    }
}
