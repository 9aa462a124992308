//! Settings under /proc/sys/net, which belong to the network namespace of whoever touches them.

use std::io;
use std::path::PathBuf;

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

/// `key` as a path, such as `ipv4/ip_local_reserved_ports`.
pub fn read(key: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(key))?.trim().to_owned())
}

pub fn write(key: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(key), format!("{value}\n"))
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
