//! SCTP between pods, through a service and masqueraded, in both families. Both ends are usrsctp, a stack of its own in user
//! space, which drops what has a wrong CRC32c: most kernels have no SCTP.

use std::net::IpAddr;
use std::time::Duration;

use lab::netns::Netns;
use lab::process::Process;
use lab::shell::Cmd;
use lab::{Families, Lab, Options, manifests};

const PROGRAMS: &str = "/usr/lib/usrsctp";
/// Where its echo server listens, and where the service is reached.
const ECHO_PORT: u16 = 7;
const SERVICE_PORT: u16 = 3868;
const SERVICE: u8 = 20;
const FAMILIES: Families = Families::Dual;
/// usrsctp packs them together without a look at the interface's MTU, which all of them must fit.
const LINES: usize = 50;

fn echo_server(lab: &Lab, name: &str, netns: &Netns) -> Process {
    let command = Cmd::new(format!("{PROGRAMS}/echo_server")).netns(netns);
    Process::spawn(&format!("sctp-{name}"), &command, lab.directory()).expect("an SCTP server")
}

/// Every line comes back, and the association is ended by both sides.
#[track_caller]
fn echoes(what: &str, from: &Netns, to: IpAddr, port: u16) {
    // The input stays open until the last line has come back: at its end the client closes.
    let talk = format!("(seq 1 {LINES}; sleep 0.5) | {PROGRAMS}/client {to} {port}");
    let ran = Cmd::new("sh").args(["-c", &talk]).netns(from).limit(Duration::from_secs(8)).run().expect("sh runs");
    let came = ran.stdout.lines().filter(|line| line.parse::<usize>().is_ok()).count();
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert!(ran.succeeded() && came == LINES, "{what}, {to}: {came} of {LINES} lines; {}", ran.complaint());
    assert!(told.contains("SCTP_SHUTDOWN_COMP"), "{what}, {to}: {}", ran.complaint());
}

#[test]
fn sctp_passes_between_nodes_through_a_service_and_masqueraded() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options { families: FAMILIES, ..Options::default() }).expect("the lab comes up");
    for (name, node) in [("alice", 0), ("bob", 0), ("carol", 0), ("dave", 0), ("web-1", 0), ("web-2", 1)] {
        lab.add_pod(name, node, &[]).expect("a pod");
    }
    let port = ("SCTP", SERVICE_PORT, ECHO_PORT);
    let service = manifests::one_port("sctp", &FAMILIES.service(SERVICE), ("name", "web-2"), port);
    lab.objects().apply("service-sctp", &service).expect("an object");
    lab.settle().expect("tables in force");
    let pod = |name: &str| lab.pod(name).expect("a pod");
    let places = [("web-1", pod("web-1").netns()), ("web-2", pod("web-2").netns()), ("client", lab.client())];
    let _servers = places.map(|(name, netns)| echo_server(&lab, name, netns));
    lab::wait::sleep_ms(500);
    // One client a namespace: usrsctp refuses what it does not know, also another client's associations.
    let from = |who: &'static str, to: [IpAddr; 2], port: u16| {
        let netns = pod(who).netns();
        move || to.into_iter().for_each(|to| echoes(who, netns, to, port))
    };
    let pair = |addresses: &[IpAddr]| -> [IpAddr; 2] { addresses.try_into().expect("two families") };
    std::thread::scope(|scope| {
        scope.spawn(from("alice", pair(pod("web-2").addresses()), ECHO_PORT));
        scope.spawn(from("bob", pair(&FAMILIES.service(SERVICE)), SERVICE_PORT));
        scope.spawn(from("carol", pair(&FAMILIES.client()), ECHO_PORT));
        scope.spawn(from("dave", pair(pod("web-1").addresses()), ECHO_PORT));
    });
}
