//! The SNAT ports are Fairway's: the kernel must not give one of them out. Reserved here, given back at exit; the value to
//! restore is kept on disk, so that a crash loses nothing. Sockets that have one already keep it: a node at work always has
//! some, its kubelet's to the API server before all.

use crate::disk::{self, DiskError};
use crate::sysctl;
use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const KEY: &str = "ipv4/ip_local_reserved_ports";

#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    #[error("cannot change net.ipv4.ip_local_reserved_ports: {0}; it needs root and a writable /proc/sys")]
    Sysctl(io::Error),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The ports are reserved while this is kept; `release` gives them back.
#[derive(Debug)]
pub struct Reservation {
    before: String,
    record: PathBuf,
}

fn record(state_dir: &Path) -> PathBuf {
    state_dir.join("reserved-ports.json")
}

/// Reserves the range.
pub fn reserve(range: &RangeInclusive<u16>, state_dir: &Path) -> Result<Reservation, ReserveError> {
    let record = record(state_dir);
    let now = sysctl::read(KEY).map_err(ReserveError::Sysctl)?;
    // Left by a run that was killed; after a reboot it says nothing any more.
    let before = disk::read(&record)?.filter(|_| covers(&now, range)).unwrap_or(now);
    disk::write(&record, &before)?;
    let ours = format!("{}-{}", range.start(), range.end());
    let all = if before.is_empty() { ours } else { format!("{before},{ours}") };
    sysctl::write(KEY, &all).map_err(ReserveError::Sysctl)?;
    Ok(Reservation { before, record })
}

/// Whether the kernel's list (`8080,9000-9100`) holds the whole range.
fn covers(list: &str, range: &RangeInclusive<u16>) -> bool {
    let bounds = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    };
    list.split(',').filter_map(bounds).any(|(first, last)| first <= *range.start() && *range.end() <= last)
}

impl Reservation {
    /// Gives back what a run that ended without doing so reserved; says the setting.
    pub fn left(state_dir: &Path) -> Result<Option<String>, ReserveError> {
        let record = record(state_dir);
        let Some(before) = disk::read::<String>(&record)? else { return Ok(None) };
        let sentence = format!("net.ipv4.ip_local_reserved_ports is {before:?}");
        Reservation { before, record }.release()?;
        Ok(Some(sentence))
    }

    pub fn release(self) -> Result<(), ReserveError> {
        sysctl::write(KEY, &self.before).map_err(ReserveError::Sysctl)?;
        Ok(disk::remove(&self.record)?)
    }
}

/// With fewer ports of its own a node runs out of connections sooner or later.
const OWN_MIN: usize = 1_000;
const RANGE_KEY: &str = "ipv4/ip_local_port_range";

/// Too few of the ports that the kernel gives the node's own sockets are left beside Fairway's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "of the ports that this node's own connections get ({local}, net.ipv4.ip_local_port_range) the SNAT ports ({snat}) leave {left}"
)]
pub struct Shortage {
    local: String,
    snat: String,
    left: usize,
}

impl Shortage {
    pub const ADVICE: &str =
        "widen it, as in sysctl net.ipv4.ip_local_port_range='32768 60999', or give both processes other --snat-ports";

    pub fn check(snat: &RangeInclusive<u16>) -> Result<(), Shortage> {
        let now = sysctl::read(RANGE_KEY).unwrap_or_default();
        let mut bounds = now.split_whitespace().filter_map(|word| word.parse().ok());
        let (Some(first), Some(last)) = (bounds.next(), bounds.next()) else { return Ok(()) };
        Shortage::between(first..=last, snat)
    }

    fn between(local: RangeInclusive<u16>, snat: &RangeInclusive<u16>) -> Result<(), Shortage> {
        let left = local.clone().filter(|port| !snat.contains(port)).count();
        let text = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
        if left >= OWN_MIN { Ok(()) } else { Err(Shortage { local: text(&local), snat: text(snat), left }) }
    }
}

const SOCKETS: [&str; 4] = ["tcp", "tcp6", "udp", "udp6"];

/// The ports of a range that sockets of this namespace have, other than on the loopback.
pub fn taken(range: &RangeInclusive<u16>) -> BTreeSet<u16> {
    // Without IPv6 its files are not there.
    let tables =
        SOCKETS.iter().filter_map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok());
    let ports = |table: String| table.lines().skip(1).filter_map(local_port).collect::<Vec<_>>();
    tables.flat_map(ports).filter(|port| range.contains(port)).collect()
}

/// TIME_WAIT of TCP: nobody reads there any more.
const STATE_TIME_WAIT: &str = "06";

/// A line of /proc/net/tcp and its like: `sl local:port remote:port state ...`, addresses as words in host byte order.
fn local_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (addr, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let loopback = match addr.len() {
        8 => addr.ends_with("7F"),
        _ => {
            addr == "00000000000000000000000001000000"
                || addr.starts_with("0000000000000000FFFF0000") && addr.ends_with("7F")
        }
    };
    if loopback || state == STATE_TIME_WAIT { None } else { u16::from_str_radix(port, 16).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_but_not_of_the_loopback_or_of_what_is_over() {
        let line =
            |addr: &str, state: &str| format!("  0: {addr}:C350 00000000:0000 {state} 00000000:00000000 00:0 0 0");
        assert_eq!(local_port(&line("00000000", "0A")), Some(50000));
        assert_eq!(local_port(&line("00000000000000000000000000000000", "07")), Some(50000));
        assert_eq!(local_port(&line("0100007F", "0A")), None);
        assert_eq!(local_port(&line("0000000000000000FFFF00000100007F", "0A")), None);
        assert_eq!(local_port(&line("0100A8C0", "06")), None);
    }

    #[test]
    fn ports_of_the_node_itself_run_short_where_ours_cover_them() {
        let snat = 40000..=60999;
        assert_eq!(Shortage::between(32768..=60999, &snat), Ok(()));
        let shortage = Shortage::between(39990..=50000, &snat).unwrap_err();
        assert_eq!(shortage, Shortage { local: "39990-50000".into(), snat: "40000-60999".into(), left: 10 });
        assert!(Shortage::between(45000..=50000, &snat).unwrap_err().to_string().ends_with("leave 0"));
    }

    #[test]
    fn a_reservation_is_recognized_in_the_kernels_list() {
        assert!(covers("8080,39999-60999", &(40000..=60999)) && covers("7", &(7..=7)));
        assert!(!covers("", &(7..=7)) && !covers("40000-50000,50002-60999", &(40000..=60999)));
    }

    #[test]
    fn a_socket_in_the_range_is_found_and_none_elsewhere() {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(taken(&(port..=port)), [port].into());
        drop(socket);
        assert!(taken(&(port..=port)).is_empty());
    }
}
