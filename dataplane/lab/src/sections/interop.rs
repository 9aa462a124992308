//! Section 8: kernel devices for Geneve and IP in IP as the other node, SCTP by kernel sockets, and VLAN devices as uplinks.
//! Few kernels have all of it, so that it is only played when it is asked for.

use anyhow::{Context, Result};

use crate::addressing::{Families, host_part};
use crate::agent::sctp::SCTP_PORT;
use crate::exchange::{self, End, Road};
use crate::fabric::UPLINK;
use crate::lab::{Lab, Options};
use crate::manifests;
use crate::netns::Netns;
use crate::peer::Peer;
use crate::process::Process;
use crate::report::{Measured, Report};
use crate::sections::INTEROP;
use crate::shell::Cmd;
use crate::transcript::Transcript;
use crate::wait;

/// Where pods of the SCTP service are reached through it.
const SERVICE_PORT: u16 = 3868;

/// A kernel tunnel of one make.
struct Tunnel {
    what: &'static str,
    families: Families,
    encapsulation: &'static str,
    /// Inside.
    mtu: u32,
    set_up: fn(&Peer, u32) -> Result<()>,
}

const TUNNELS: [Tunnel; 4] = [
    Tunnel { what: "geneve", families: Families::Dual, encapsulation: "geneve", mtu: 1450, set_up: geneve },
    Tunnel { what: "geneve over IPv6", families: Families::Ipv6, encapsulation: "geneve", mtu: 1430, set_up: geneve },
    Tunnel { what: "ipip and sit", families: Families::Dual, encapsulation: "ipip", mtu: 1480, set_up: ipip_and_sit },
    Tunnel { what: "ip6tnl", families: Families::Ipv6, encapsulation: "ipip", mtu: 1452, set_up: ip6tnl },
];

/// Plays on labs of its own, one after the other.
pub fn play(show: &Transcript) -> Report {
    let mut report = Report::new(INTEROP.1);
    show.heading(INTEROP.1);
    for tunnel in &TUNNELS {
        if let Err(error) = tunnel.play(show, &mut report) {
            report.stopped_by(&error.context(tunnel.what));
        }
    }
    if let Err(error) = sctp(show, &mut report) {
        report.stopped_by(&error.context("SCTP"));
    }
    if let Err(error) = vlan(show, &mut report) {
        report.stopped_by(&error.context("VLAN"));
    }
    show.report(&report);
    report
}

impl Tunnel {
    fn play(&self, show: &Transcript, report: &mut Report) -> Result<()> {
        show.progress(&format!("a lab whose third node has a kernel's {} ...", self.what));
        let control_args = ["--encapsulation", self.encapsulation].map(str::to_string).to_vec();
        let mut lab = Lab::start(&Options { families: self.families, control_args, ..Options::default() })?;
        let peer = Peer::join(&lab)?;
        (self.set_up)(&peer, self.mtu)?;
        lab.serve("kernel", peer.netns())?;
        lab.add_pod("alice", 0, &[])?;
        lab.settle()?;
        let alice = lab.pod("alice")?;
        let _one = exchange::bulk_server(alice.netns(), lab.directory())?;
        let _other = exchange::bulk_server(peer.netns(), lab.directory())?;
        for (&near, &far) in alice.addresses().iter().zip(peer.pods()) {
            let near = End { name: "alice", netns: alice.netns(), address: near };
            let far = End { name: "kernel", netns: peer.netns(), address: far };
            let road = Road { mtu: self.mtu, megabits_per_second: 0 };
            talk(&lab, report, self.what, (near, far), road);
        }
        Ok(())
    }
}

fn talk(lab: &Lab, report: &mut Report, what: &str, (near, far): (End, End), road: Road) {
    let told = exchange::meet(near, far).and_then(|()| exchange::everything(lab.binaries(), near, far, road));
    let (told, good) = told.map_or_else(|error| (format!("{error:#}"), false), |told| (told, true));
    report.check(format!("{what}: everything passes"), Measured::Text(told), good, "no error");
}

/// Uplinks that are VLAN devices: between pods, and with the kernel of a client in the same VLAN.
fn vlan(show: &Transcript, report: &mut Report) -> Result<()> {
    show.progress("a lab whose uplinks are in a VLAN ...");
    let options = Options { families: Families::Dual, uplink_vlan: 5, ..Options::default() };
    let mut lab = Lab::start(&options)?;
    for (name, node) in [("alice", 0), ("bob", 1)] {
        lab.add_pod(name, node, &[])?;
    }
    let client = lab.client().clone();
    lab.serve("client", &client)?;
    lab.settle()?;
    let (alice, bob) = (lab.pod("alice")?, lab.pod("bob")?);
    let _one = exchange::bulk_server(alice.netns(), lab.directory())?;
    let _other = exchange::bulk_server(bob.netns(), lab.directory())?;
    for i in 0..2 {
        let [near, far] =
            [alice, bob].map(|pod| End { name: pod.name(), netns: pod.netns(), address: pod.addresses()[i] });
        let overlay = Road { mtu: 1450, megabits_per_second: 0 };
        talk(&lab, report, "pod to pod in a VLAN", (near, far), overlay);
        let ping = Cmd::line("ping -q -c 3 -i 0.05 -W 2").arg(lab.families().client()[i]).netns(alice.netns());
        let ran = ping.run()?;
        show.ran(&ran);
        let answers = if ran.stdout.contains(" 3 received") { "3" } else { ran.stdout.trim() };
        report.equal("masqueraded into the VLAN, answers", answers, "3");
    }
    Ok(())
}

fn up(peer: &Peer, device: &str, mtu: u32, kind: &str) -> Result<()> {
    peer.netns().ip(&format!("link add {device} mtu {mtu} {kind}"))?;
    peer.netns().ip(&format!("link set {device} up")).map(|_| ())
}

fn geneve(peer: &Peer, mtu: u32) -> Result<()> {
    let ([mac, _], node) = (peer.macs(), peer.node());
    // Over IPv6 Fairway's outer checksum is zero, which RFC 6935 allows and a kernel has to be told.
    let zero = if node.is_ipv6() { "udp6zerocsumrx" } else { "" };
    up(peer, "geneve1", mtu, &format!("address {mac} type geneve id 1 remote {node} dstport 6081 {zero}"))?;
    peer.route_by_ethernet("geneve1")
}

fn ipip_and_sit(peer: &Peer, mtu: u32) -> Result<()> {
    for (kind, is_v4) in [("ipip", true), ("sit", false)] {
        let device = format!("{kind}1");
        up(peer, &device, mtu, &format!("type {kind} local {} remote {} ttl 64", peer.address(), peer.node()))?;
        peer.route_by_ip(&device, is_v4)?;
    }
    Ok(())
}

/// As it comes: with a destination option that limits tunnels in tunnels.
fn ip6tnl(peer: &Peer, mtu: u32) -> Result<()> {
    let ends = format!("local {} remote {}", peer.address(), peer.node());
    up(peer, "ip6tnl1", mtu, &format!("type ip6tnl mode any {ends} dev {UPLINK}"))?;
    peer.route_by_ip("ip6tnl1", false)
}

/// Pod to pod across nodes, to a service with another port, and masqueraded, in both families.
fn sctp(show: &Transcript, report: &mut Report) -> Result<()> {
    show.progress("a lab whose pods speak SCTP by kernel sockets ...");
    let families = Families::Dual;
    let mut lab = Lab::start(&Options { families, ..Options::default() })?;
    for (name, node) in [("alice", 0), ("web-2", 1)] {
        lab.add_pod(name, node, &[])?;
    }
    let service =
        manifests::one_port("sctp", &families.service(20), ("name", "web-2"), ("SCTP", SERVICE_PORT, SCTP_PORT));
    lab.objects().apply("service-sctp", &service)?;
    lab.settle()?;
    let (alice, web, client) = (lab.pod("alice")?, lab.pod("web-2")?, lab.client());
    let _one = sctp_server(&lab, "web-2", web.netns())?;
    let _other = sctp_server(&lab, "client", client)?;
    let node = &lab.nodes[0];
    let own = |address: usize| alice.addresses()[address].to_string();
    for family in 0..2 {
        let (masquerade, service) = (node.addresses()[family], families.service(20)[family]);
        for (what, to, port, expected) in [
            ("pod to pod", web.addresses()[family], SCTP_PORT, format!("web-2 saw {}", own(family))),
            ("pod to service", service, SERVICE_PORT, format!("web-2 saw {}", own(family))),
            ("masqueraded", families.client()[family], SCTP_PORT, format!("client saw {masquerade}")),
        ] {
            let ask = Cmd::new(lab.binaries().agent()).args(["sctp-ask", "--to", &format!("{}:{port}", host_part(to))]);
            let ran = ask.netns(alice.netns()).run()?;
            show.ran(&ran);
            let answer = if ran.succeeded() { ran.stdout.trim().to_string() } else { ran.complaint() };
            report.equal(format!("SCTP, {what}, {to}"), &answer, &expected);
        }
    }
    Ok(())
}

fn sctp_server(lab: &Lab, name: &str, netns: &Netns) -> Result<Process> {
    let command = Cmd::new(lab.binaries().agent()).netns(netns).args(["sctp-serve", "--name", name]);
    let mut server = Process::spawn(&format!("sctp-{name}"), &command, lab.directory())?;
    // There is no look at who listens that works everywhere: the server ends at once if it cannot.
    wait::sleep_ms(1000);
    server.still_running().context("an SCTP server")?;
    Ok(server)
}
