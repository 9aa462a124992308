//! Network namespaces and what an interface there is called by: its MAC and IP addresses. A thread that enters stays in.

use crate::error::{Error, Result};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
    sched::{CloneFlags, setns},
};
use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

/// A namespace to enter: the caller's own, one of `ip netns list`, or a path such as `/proc/1234/ns/net`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Netns {
    #[default]
    Own,
    Path(PathBuf),
}

impl FromStr for Netns {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "" => Err("a network namespace is given by name or path".into()),
            path if path.contains('/') => Ok(Netns::Path(path.into())),
            name => Ok(Netns::Path(PathBuf::from("/run/netns").join(name))),
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Netns::Own => f.write_str("the current network namespace"),
            Netns::Path(path) => path.display().fmt(f),
        }
    }
}

impl Netns {
    /// Moves the calling thread, for good: call it on a thread made for the purpose.
    pub fn enter(&self) -> Result<()> {
        let Netns::Path(path) = self else { return Ok(()) };
        let shown = || path.display().to_string();
        let file = fs::File::open(path).map_err(|source| Error::NetnsOpen { path: shown(), source })?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::NetnsEnter { path: shown(), source: errno.into() })
    }

    /// Runs `work` inside, on a thread of its own, so that the caller stays where it is.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().and_then(|()| work()));
            inside.join().unwrap_or(Err(Error::Panicked("namespace")))
        })
    }
}

/// What the defaults of a run are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceFacts {
    pub mac: [u8; 6],
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

impl InterfaceFacts {
    pub fn read(name: &str, netns: &Netns) -> Result<Self> {
        let entries = netns.within(|| entries(name))?;
        if entries.is_empty() {
            return Err(Error::NoInterface { name: name.into(), netns: netns.to_string() });
        }
        let mac = entries.iter().find_map(mac_of).ok_or_else(|| Error::NoMac { name: name.into() })?;
        let addresses = || entries.iter().filter_map(ip_of);
        let ipv4 = addresses().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let ipv6 = addresses().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        // A global address is routable, a link-local one still does on a shared link.
        let ipv6 = ipv6.min_by_key(Ipv6Addr::is_unicast_link_local);
        Ok(InterfaceFacts { mac, ipv4, ipv6 })
    }

    pub fn ip(&self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 { self.ipv6.map(IpAddr::V6) } else { self.ipv4.map(IpAddr::V4) }
    }
}

/// Waits until the interface carries packets; attaching an XDP program resets the link of many NICs. In the thread's namespace.
pub fn wait_running(name: &str, timeout: Duration) -> Result<()> {
    let needed = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let deadline = Instant::now() + timeout;
    loop {
        if entries(name)?.iter().any(|entry| entry.flags.contains(needed)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::NotRunning { name: name.into(), waited_ms: timeout.as_millis() as u64 });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn entries(name: &str) -> Result<Vec<InterfaceAddress>> {
    let all = getifaddrs().map_err(|errno| Error::Interfaces(io::Error::from(errno)))?;
    Ok(all.filter(|entry| entry.interface_name == name).collect())
}

fn mac_of(entry: &InterfaceAddress) -> Option<[u8; 6]> {
    entry.address.as_ref()?.as_link_addr()?.addr()
}

fn ip_of(entry: &InterfaceAddress) -> Option<IpAddr> {
    let address = entry.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_below_run_netns_and_paths_for_themselves() {
        assert_eq!("blue".parse(), Ok(Netns::Path("/run/netns/blue".into())));
        assert_eq!("/proc/1/ns/net".parse(), Ok(Netns::Path("/proc/1/ns/net".into())));
        assert!("".parse::<Netns>().is_err());
    }

    #[test]
    fn a_missing_namespace_or_interface_is_named() {
        let netns: Netns = "fwpg-never-made".parse().unwrap();
        let error = InterfaceFacts::read("lo", &netns).unwrap_err().to_string();
        assert!(error.contains("/run/netns/fwpg-never-made"), "{error}");
        let error = InterfaceFacts::read("fwpg-none0", &Netns::Own).unwrap_err().to_string();
        assert!(error.contains("fwpg-none0"), "{error}");
    }
}
