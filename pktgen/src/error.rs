//! What can go wrong before or during a run, each as one sentence that says what to do. Packet loss is not an error.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open network namespace {path}: {source}; `ip netns list` shows the named ones")]
    NetnsOpen { path: String, source: io::Error },
    #[error("cannot enter network namespace {path}: {source}; run as root (CAP_SYS_ADMIN)")]
    NetnsEnter { path: String, source: io::Error },
    #[error("no interface {name} in {netns}; `ip -br link` there shows what exists")]
    NoInterface { name: String, netns: String },
    #[error("interface {name} has no MAC address, so it carries no Ethernet frames; give another interface")]
    NoMac { name: String },
    #[error("cannot list interfaces: {0}")]
    Interfaces(io::Error),
    #[error("interface {name} is not running after {waited_ms} ms; bring it and its peer up (`ip link set {name} up`)")]
    NotRunning { name: String, waited_ms: u64 },
    #[error("source {src} and destination {dst} are not of one IP family; give both --src-ip and --dst-ip")]
    MixedFamilies { src: std::net::IpAddr, dst: std::net::IpAddr },
    #[error("--size {size} is outside {min}..={max} bytes for these addresses (Ethernet frame without FCS)")]
    Size { size: usize, min: usize, max: usize },
    #[error("{packets} packets are more than one run can number ({max}); lower --rate or --duration")]
    TooManyPackets { packets: u128, max: u64 },
    #[error("--flows {flows} from source port {src_port} up passes port 65535; lower one of them")]
    Flows { flows: u16, src_port: u16 },
    #[error(
        "--iface and --sink are the same interface {0}; one AF_XDP socket per queue: use a veth pair or two interfaces"
    )]
    SameInterface(String),
    #[error("AF_XDP on {interface} queue {queue}: {what}: {cause}{hint}")]
    Xsk { interface: String, queue: u32, what: &'static str, cause: String, hint: &'static str },
    #[error("sending on {interface} failed: {source}{}", send_hint(source))]
    Send { interface: String, source: io::Error },
    #[error("receiving on {interface} failed: {source}")]
    Receive { interface: String, source: io::Error },
    #[error("a {0} thread panicked; this is a bug in pktgen")]
    Panicked(&'static str),
}

fn send_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // igb's wakeup, for one: it sends in zero-copy mode only under an XDP program, and a sender loads none.
        Some(libc::EINVAL) => "; its driver may want an XDP program for that, try --copy",
        Some(libc::EMSGSIZE) => "; --size is larger than its MTU allows",
        Some(libc::ENXIO) => "; it was removed",
        _ => "",
    }
}

pub type Result<T> = std::result::Result<T, Error>;
