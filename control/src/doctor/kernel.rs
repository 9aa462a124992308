//! What the kernel has to offer: XDP programs with the maps of ours, AF_XDP sockets, TAPs, huge pages.

use super::Diagnosis;
use crate::claim::Claim;
use crate::uplink;
use std::fs;

const CHECK: &str = "kernel";

pub fn check(diagnosis: &mut Diagnosis) {
    if !rustix::process::geteuid().is_root() {
        return diagnosis.wrong(CHECK, "this is not run as root, so the kernel refuses to say what it can", "use sudo");
    }
    let mut has = Vec::new();
    match Claim::load(1500) {
        Ok(_) => has.push("XDP"),
        Err(error) => diagnosis.wrong(CHECK, error, "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS"),
    }
    match uplink::socket() {
        Ok(_) => has.push("AF_XDP"),
        Err(error) => diagnosis.wrong(CHECK, error, "boot a kernel with CONFIG_XDP_SOCKETS"),
    }
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => has.push("TUN"),
        Err(error) => diagnosis.wrong(
            CHECK,
            format!("/dev/net/tun cannot be opened: {error}"),
            "modprobe tun, and in a container mount the device",
        ),
    }
    diagnosis.fact(CHECK, format!("has {}", has.join(", ")));
    check_pages(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), diagnosis);
}

/// Frames and flows lie in huge pages, where there are any.
fn check_pages(meminfo: &str, diagnosis: &mut Diagnosis) {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (free, size_kib) = (field("HugePages_Free").unwrap_or(0), field("Hugepagesize").unwrap_or(0));
    match free {
        0 => diagnosis.slow(
            "huge-pages",
            "no huge page is free, so frames and flows lie in small ones, which costs up to a quarter of the speed",
            "reserve some before the dataplane starts: sysctl vm.nr_hugepages=512",
        ),
        _ => diagnosis.fact("huge-pages", format!("{free} of {size_kib} KiB are free")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_missed_only_where_none_is_free() {
        let found = |text: &str| {
            let mut diagnosis = Diagnosis::default();
            check_pages(text, &mut diagnosis);
            diagnosis.findings.len()
        };
        assert_eq!(found("HugePages_Total:     64\nHugePages_Free:      3\nHugepagesize:    2048 kB\n"), 0);
        assert_eq!(found("HugePages_Total:     64\nHugePages_Free:      0\nHugepagesize:    2048 kB\n"), 1);
        assert_eq!(found(""), 1);
    }
}
