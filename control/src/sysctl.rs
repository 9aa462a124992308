//! Settings under /proc/sys/net, which belong to the network namespace of whoever touches them.

use std::io;
use std::path::PathBuf;

const HERE: &str = "/proc/sys/net";
/// The same directory of the host's, where a container that may not write its own has that mounted.
const HOST: &str = "/host/proc/sys/net";

fn path(root: &str, key: &str) -> PathBuf {
    PathBuf::from(root).join(key)
}

/// `key` as a path, such as `ipv4/ip_local_reserved_ports`.
pub fn read(key: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(HERE, key))?.trim().to_owned())
}

pub fn write(key: &str, value: &str) -> io::Result<()> {
    let line = format!("{value}\n");
    match std::fs::write(path(HERE, key), &line) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => match std::fs::write(path(HOST, key), &line)
        {
            // Nobody mounted it: what is wrong is the first.
            Err(other) if other.kind() == io::ErrorKind::NotFound => Err(error),
            done => done,
        },
        other => other,
    }
}

/// Keeps the kernel from speaking IPv6 of its own accord on a device; altogether, if no IPv6 address will be given to it.
/// A kernel without IPv6 has nothing to be kept from.
pub fn quiet_ipv6(device: &str, used: bool) {
    let settings: &[(&str, &str)] = match used {
        true => &[("accept_ra", "0"), ("accept_dad", "0"), ("addr_gen_mode", "1"), ("disable_ipv6", "0")],
        false => &[("disable_ipv6", "1")],
    };
    for (name, value) in settings {
        let _ = write(&format!("ipv6/conf/{device}/{name}"), value);
    }
}
