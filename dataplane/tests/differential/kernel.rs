//! The same node made of the kernel: routing, nftables, vxlan in a network namespace of the calling thread, a TAP for each
//! interface. What is written to a TAP is nearly always forwarded before the write returns. All of it ends with the
//! thread.

use super::frame::Headers;
use crate::support::packets::echo;
use crate::support::*;
use nix::sched::{CloneFlags, unshare};
use smoltcp::phy::{Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::Instant;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use tables::{Prefix, Protocol};

/// A service port and its only backend.
pub type Service = ((Addr, u16, Protocol), (Addr, u16));

/// What pods' TAPs take: what fits is said by the other ways.
const POD_MTU: u16 = 9000;
const TAPS: [(u32, &str, Mac, u16); 3] = [
    (UPLINK, "uplink", uplink_mac(1), UPLINK_MTU),
    (POD_A, "pod4", GATEWAY_MAC, POD_MTU),
    (POD_B, "pod5", GATEWAY_MAC, POD_MTU),
];

/// Settings, below /proc/sys/net. Those that a kernel need not have end in a question mark.
const SETTINGS: [(&str, &str); 19] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/auto_flowlabels", "0"),
    // As many errors as there are causes.
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec?", "100000"),
    ("ipv4/icmp_msgs_burst?", "100000"),
    ("ipv6/icmp/ratelimit", "0"),
    // Wrong checksums stay wrong, and no segment is refused for its numbers.
    ("netfilter/nf_conntrack_checksum", "0"),
    ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
    ("netfilter/nf_conntrack_tcp_loose", "1"),
    ("netfilter/nf_conntrack_tcp_ignore_invalid_rst?", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/ip_local_reserved_ports", "40000-40999"),
];

const SETTLE_TRIES: usize = 5000;
const OVER_V6: &str = "udp6zerocsumtx udp6zerocsumrx";

pub struct Kernel {
    taps: BTreeMap<u32, TunTapInterface>,
}

impl Kernel {
    /// Moves this thread into a namespace of its own and makes the node there.
    pub fn new(shape: &Shape, services: &[Service]) -> Kernel {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this test needs root (CAP_SYS_ADMIN)");
        let making = TAPS.map(|(_, name, mac, mtu)| {
            format!("tuntap add dev {name} mode tap\nlink set dev {name} mtu {mtu} address {mac} addrgenmode none\n")
        });
        ip(&making.concat());
        for (name, value) in SETTINGS {
            set(name, value);
        }
        let open =
            |name| TunTapInterface::new(name, Medium::Ethernet).unwrap_or_else(|error| panic!("{name}: {error}"));
        let taps = TAPS.map(|(id, name, ..)| (id, open(name))).into();
        ip(&TAPS.map(|(_, name, ..)| format!("link set dev {name} up\n")).concat());
        for (own, router) in [(NODE, ROUTER), (v6::NODE, v6::ROUTER)] {
            ip(&uplink(own, router));
        }
        ip(&tunnel(shape));
        run(
            "bridge",
            &["-batch", "-"],
            &format!("fdb add {} dev vxlan0 dst {}\n", shape.inner_mac(2), shape.outer(1, 2).dst),
        );
        for family in [0, 1] {
            ip(&pods(shape, family));
            nft(&translations(family, services));
        }
        let mut kernel = Kernel { taps };
        for ends in FAMILIES {
            kernel.settle(UPLINK, echo(ends.client, ends.node, 1).macs(ROUTER_MAC, uplink_mac(1)));
            kernel.settle(POD_A, echo(ends.a, ends.gateway, 1).macs(pod_mac(1, 4), GATEWAY_MAC));
            kernel.settle(POD_B, echo(ends.b, ends.gateway, 1).macs(pod_mac(1, 5), GATEWAY_MAC));
        }
        kernel
    }

    /// Waits until an address answers: the kernel puts those of IPv6 into force a little later.
    fn settle(&mut self, interface: u32, asked: Spec) {
        let answers = |sent: &Vec<(u32, Vec<u8>)>| sent.iter().any(|(_, frame)| frame[..6] == asked.src_mac.0);
        let answered = (0..SETTLE_TRIES).any(|_| {
            let sent = self.pass(interface, &[asked.bytes()]);
            let is_error = sent.iter().any(|(_, frame)| Headers::of(frame).is_error(frame));
            answers(&sent) && !is_error || {
                sleep(Duration::from_millis(1));
                false
            }
        });
        assert!(answered, "the kernel's node does not answer {asked:?}");
        self.sent();
    }

    /// Puts frames in at an interface and tells what came out, in order, of each interface.
    pub fn pass(&mut self, interface: u32, frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
        let tap = self.taps.get_mut(&interface).unwrap();
        for frame in frames {
            let token = tap.transmit(Instant::ZERO).unwrap();
            token.consume(frame.len(), |buffer| buffer.copy_from_slice(frame));
        }
        self.sent()
    }

    /// What came out since the last look.
    pub fn sent(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut sent = Vec::new();
        for (&id, tap) in &mut self.taps {
            while let Some((token, _)) = tap.receive(Instant::ZERO) {
                sent.push((id, token.consume(<[u8]>::to_vec)));
            }
        }
        sent
    }
}

fn tunnel(shape: &Shape) -> String {
    let (mtu, over) =
        if shape.underlay == 0 { (UPLINK_MTU - 50, "df set noudpcsum") } else { (UPLINK_MTU - 70, OVER_V6) };
    format!(
        "link set dev lo up\n\
         link add vxlan0 address {} mtu {mtu} type vxlan id {VNI} dstport {TUNNEL_PORT} local {} dev uplink nolearning \
         ttl 64 tos inherit {over}\n\
         link set dev vxlan0 addrgenmode none\n\
         link set dev vxlan0 up\n",
        shape.inner_mac(1),
        shape.outer(1, 2).src,
    )
}

fn uplink(own: Addr, router: Addr) -> String {
    let (length, all, nodad) = if own.is_v4() { (24, "0.0.0.0/0", "") } else { (64, "::/0", "nodad") };
    format!(
        "addr add {own}/{length} dev uplink {nodad}\n\
         neigh add {router} lladdr {ROUTER_MAC} dev uplink nud permanent\n\
         neigh add {} lladdr {} dev uplink nud permanent\n\
         route add {all} via {router} dev uplink src {own}\n",
        if own.is_v4() { node_addr(2) } else { node_addr_v6(2) },
        uplink_mac(2),
    )
}

/// This node's pods, each behind its TAP with the gateway's address, and the other node's behind the tunnel.
fn pods(shape: &Shape, family: usize) -> String {
    let (host, range, nodad) = if family == 0 { (32, 24, "") } else { (128, 64, "nodad") };
    let (gateway, far) = (pod_in(family, 1, 1), pod_in(family, 2, 1));
    let near = [4u8, 5].map(|octet| {
        let addr = pod_in(family, 1, octet);
        format!(
            "addr add {gateway}/{host} dev pod{octet} {nodad}\n\
             route add {addr}/{host} dev pod{octet} src {gateway}\n\
             neigh add {addr} lladdr {} dev pod{octet} nud permanent\n",
            pod_mac(1, octet)
        )
    });
    let far_range = Prefix::new(pod_in(family, 2, 0), range).unwrap();
    let far = format!(
        "neigh add {far} lladdr {mac} dev vxlan0 nud permanent\n\
         route add {far_range} via {far} dev vxlan0 onlink src {gateway}\n",
        mac = shape.inner_mac(2),
    );
    near.concat() + &far
}

/// DNAT of services, masquerade of pods to the world outside, and of pod B to itself.
fn translations(family: usize, services: &[Service]) -> String {
    let (ip, icmp, range) = [("ip", "icmp", "10.1.1.0/24"), ("ip6", "icmpv6", "2001:db8:1::/64")][family];
    let snat = if family == 0 { format!("{SNAT}") } else { format!("[{}]", v6::SNAT) };
    let in_family = services.iter().filter(|((addr, ..), _)| addr.is_v4() == (family == 0));
    let dnat = in_family.map(|&((addr, port, protocol), (backend, backend_port))| {
        let backend = if family == 0 { backend.to_string() } else { format!("[{backend}]") };
        format!("{ip} daddr {addr} {protocol} dport {port} dnat to {backend}:{backend_port}\n").to_lowercase()
    });
    let dnat: String = dnat.collect();
    format!(
        "table {ip} fairway {{
            chain before {{
                type nat hook prerouting priority -100
                {dnat}
            }}
            chain after {{
                type nat hook postrouting priority 100
                oifname uplink {ip} saddr {range} meta l4proto {{ tcp, udp }} masquerade to :{SNAT_FIRST}-{SNAT_LAST}
                oifname uplink {ip} saddr {range} meta l4proto {icmp} masquerade
                iifname pod5 oifname pod5 meta l4proto {{ tcp, udp }} snat to {snat}:{SNAT_FIRST}-{SNAT_LAST}
            }}
        }}"
    )
}

fn set(name: &str, value: &str) {
    let (name, may_lack) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
    let path = format!("/proc/sys/net/{name}");
    if let Err(error) = std::fs::write(&path, value) {
        assert!(may_lack, "{path} = {value}: {error}");
    }
}

fn ip(batch: &str) {
    run("ip", &["-batch", "-"], batch);
}

fn nft(rules: &str) {
    run("nft", &["-f", "-"], rules);
}

/// Runs a program in this thread's namespace.
fn run(program: &str, args: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error} (`make deps` installs it)"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} of\n{input}\n{}", String::from_utf8_lossy(&output.stderr));
}
