//! Direct server return with real sockets on two nodes: pods of the node that a client outside did not ask see the client's own
//! address, and answer it past the node that it asked. In both families, with links of the usual MTU of 1500 bytes.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lab::agent::serve::WHO;
use lab::manifests::Exposed;
use lab::shared::{Entered, Shared};
use lab::shell::Cmd;
use lab::{Families, Lab, Options, manifests};

const FAMILIES: Families = Families::Dual;
/// Of pods on both nodes, and on the second one alone; HTTP, and echo on the next port.
const BOTH: u16 = 30080;
const FAR: u16 = 30180;
const PATIENCE: Duration = Duration::from_secs(5);
const BULK_BYTES: usize = 16 << 20;

/// One lab for all tests of this file, one test at a time.
static LAB: Shared = Shared::new(start);

fn start() -> anyhow::Result<Lab> {
    let options = Options { families: FAMILIES, workers: 2, uplink_queues: 2, ..Options::default() };
    let mut lab = Lab::start(&options)?;
    for (name, node, label) in [("web-1", 0, "near"), ("web-2", 1, "far"), ("web-3", 1, "far")] {
        lab.add_pod(name, node, &[("app", "web"), ("where", label)])?;
    }
    let balancer = balancer();
    for (name, number, label, node_port, balancer) in
        [("both", 20, ("app", "web"), BOTH, &balancer[..]), ("far", 21, ("where", "far"), FAR, &[])]
    {
        let addresses = FAMILIES.service(number);
        let exposed = Exposed { name, addresses: &addresses, label, node_port, balancer, external: &[], local: None };
        let text = manifests::annotated(&manifests::exposed(&exposed), "fairway.dev/forwarding", "dsr");
        lab.objects().apply(&format!("service-{name}"), &text)?;
    }
    for address in balancer {
        lab.client().ip(&format!("route add {address} via {}", of_family(lab.nodes[0].addresses(), address)))?;
    }
    lab.settle()?;
    Ok(lab)
}

fn balancer() -> [IpAddr; 2] {
    ["198.51.100.1", "2001:db8:98::1"].map(|text| text.parse().expect("an address"))
}

fn of_family(all: &[IpAddr], like: IpAddr) -> IpAddr {
    *all.iter().find(|address| address.is_ipv4() == like.is_ipv4()).expect("an address of each family")
}

/// The lab, and where its first node is asked for pods of the second one.
struct Stage(Entered);

impl Stage {
    fn enter() -> Stage {
        Stage(LAB.enter())
    }

    fn far(&self, port: u16) -> Vec<SocketAddr> {
        self.0.nodes[0].addresses().iter().map(|address| SocketAddr::new(*address, port)).collect()
    }

    /// A socket of the client outside.
    fn udp(&self, to: SocketAddr) -> UdpSocket {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let bind = || {
            let socket = UdpSocket::bind((any, 0)).expect("a socket");
            socket.connect(to).expect("a route");
            socket
        };
        let socket = self.0.client().inside(bind).expect("inside");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        socket
    }

    fn tcp(&self, to: SocketAddr) -> TcpStream {
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let stream = self.0.client().inside(connect).expect("inside").unwrap_or_else(|error| panic!("{to}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.set_nodelay(true).expect("an option");
        stream
    }

    /// Bytes that came out of a link of the fabric's, from who is at its other end.
    fn sent_by(&self, port: &str) -> u64 {
        let file = format!("cat /sys/class/net/{port}/statistics/rx_bytes");
        let fabric = self.0.fabric().netns().name();
        let ran = Cmd::line(&format!("ip netns exec {fabric} {file}")).ok().expect("a counter");
        ran.stdout.trim().parse().expect("a number")
    }
}

/// Who answers, and whom it saw.
fn who(answer: std::io::Result<Vec<u8>>) -> Result<(String, IpAddr), ErrorKind> {
    let answer = answer.map_err(|error| error.kind())?;
    let (name, saw) = lab::traffic::seen(std::str::from_utf8(&answer).expect("text")).expect("a name and an address");
    Ok((name.to_string(), saw.parse().expect("an address")))
}

fn ask(mut stream: &TcpStream) -> Result<(String, IpAddr), ErrorKind> {
    let mut answer = [0; 200];
    let came = stream.write_all(WHO).and_then(|()| stream.read(&mut answer));
    who(came.and_then(|size| match size {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        size => Ok(answer[..size].to_vec()),
    }))
}

fn ask_udp(socket: &UdpSocket, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut answer = vec![0; 65_536];
    socket.send(question)?;
    let size = socket.recv(&mut answer)?;
    answer.truncate(size);
    Ok(answer)
}

#[test]
fn pods_of_both_nodes_see_the_clients_own_address() {
    let stage = Stage::enter();
    let all = stage.0.nodes.iter().flat_map(|node| node.addresses()).map(|address| (*address, BOTH));
    for (address, port) in all.chain(balancer().map(|address| (address, 80))) {
        let (client, echo) = (of_family(&FAMILIES.client(), address), if port == 80 { 7 } else { port + 1 });
        let mut answered = BTreeSet::new();
        for _ in 0..32 {
            let ran = lab::stage::curl(stage.0.client(), &format!("http://{}/", SocketAddr::new(address, port)));
            let ran = ran.run().expect("curl runs");
            let (name, saw) = lab::traffic::seen(&ran.stdout).unwrap_or_else(|| panic!("{address}: {}", ran.stderr));
            assert_eq!(saw, client.to_string(), "{address}: what {name} saw");
            answered.insert(name.to_string());
            let to = SocketAddr::new(address, echo);
            for (name, saw) in
                [who(ask_udp(&stage.udp(to), WHO)), ask(&stage.tcp(to))].map(|answer| answer.expect("an answer"))
            {
                assert_eq!(saw, client, "{to}: what {name} saw");
            }
        }
        assert_eq!(answered.len(), 3, "{address}: {answered:?}");
    }
}

#[test]
fn much_goes_both_ways_and_the_asked_node_sends_none_of_the_answers() {
    let stage = Stage::enter();
    let ports: Vec<String> = stage.0.nodes.iter().map(|node| node.port().to_string()).collect();
    for to in stage.far(FAR + 1) {
        let before: Vec<u64> = ports.iter().map(|port| stage.sent_by(port)).collect();
        let stream = stage.tcp(to);
        let mut sender = stream.try_clone().expect("a copy");
        let sending = std::thread::spawn(move || {
            let chunk: Vec<u8> = (0..1 << 16).map(|i| (i % 251) as u8).collect();
            (0..BULK_BYTES / chunk.len()).try_for_each(|_| sender.write_all(&chunk))
        });
        let (mut came, mut chunk) = (0, vec![0; 1 << 16]);
        while came < BULK_BYTES {
            let size = (&stream).read(&mut chunk).unwrap_or_else(|error| panic!("{to}: {error} after {came} bytes"));
            assert!(size > 0, "{to}: ended after {came} bytes");
            let is_right =
                chunk[..size].iter().enumerate().all(|(i, byte)| *byte == ((came + i) % (1 << 16) % 251) as u8);
            assert!(is_right, "{to}: something else came back");
            came += size;
        }
        sending.join().expect("no panic").expect("all sent");
        let sent: Vec<u64> = ports.iter().zip(before).map(|(port, before)| stage.sent_by(port) - before).collect();
        println!("{to}: of {BULK_BYTES} bytes each way, node-1 sent {} and node-2 {}", sent[0], sent[1]);
        let bulk = BULK_BYTES as u64;
        // The client's bytes, some of them twice; with the answers it would be twice as much and more.
        assert!(sent[0] < bulk * 7 / 4, "the asked node sent {} bytes: the client's, and answers", sent[0]);
        assert!(sent[1] > bulk, "the backend's node sent {} bytes", sent[1]);
    }
}

#[test]
fn datagrams_larger_than_the_links_go_both_ways() {
    let stage = Stage::enter();
    for to in stage.far(FAR + 1) {
        let socket = stage.udp(to);
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time");
        for size in [1400, 1472, 3000, 9000] {
            let question: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
            // Of IPv6 the client itself must cut smaller, and hears so.
            let came = (0..4).find_map(|_| ask_udp(&socket, &question).ok());
            assert!(came.is_some_and(|answer| answer == question), "{to}: {size} bytes");
        }
    }
}

#[test]
fn when_a_backend_goes_datagrams_move_and_connections_are_reset() {
    let mut stage = Stage::enter();
    for (gone, other) in [("web-2", "web-3"), ("web-3", "web-2")] {
        let mut open = Vec::new();
        for to in stage.far(FAR + 1) {
            let is_gone = |answer: Result<(String, IpAddr), ErrorKind>| answer.expect("an answer").0 == gone;
            let udp = (0..64).map(|_| stage.udp(to)).find(|socket| is_gone(who(ask_udp(socket, WHO))));
            let tcp = (0..64).map(|_| stage.tcp(to)).find(|stream| is_gone(ask(stream)));
            open.push((udp.expect("a socket that speaks to it"), tcp.expect("a connection to it")));
        }
        stage.0.withdraw_pod(gone).expect("an object");
        stage.0.settle().expect("tables in force");
        for (udp, tcp) in &open {
            let (name, saw) = who(ask_udp(udp, WHO)).expect("an answer");
            assert_eq!((&name[..], saw), (other, of_family(&FAMILIES.client(), saw)));
            assert_eq!(ask(tcp), Err(ErrorKind::ConnectionReset), "{gone} is gone");
        }
        stage.0.publish_pod(gone).expect("an object");
        stage.0.settle().expect("tables in force");
    }
}

#[test]
fn what_is_open_goes_on_over_a_restart_of_either_nodes_dataplane() {
    let mut stage = Stage::enter();
    let ask_both = |(udp, tcp): &(UdpSocket, TcpStream)| [who(ask_udp(udp, WHO)), ask(tcp)];
    let open: Vec<_> = stage.far(FAR + 1).into_iter().map(|to| (stage.udp(to), stage.tcp(to))).collect();
    let before: Vec<_> = open.iter().map(ask_both).collect();
    assert!(before.iter().flatten().all(Result::is_ok), "{before:?}");
    for number in [0, 1] {
        // What is acknowledged late would meet the kernel alone, which knows of no such connection.
        lab::wait::sleep_ms(300);
        let node = &mut stage.0.nodes[number];
        node.kill_dataplane().expect("the dataplane runs");
        node.wait_dataplane_gone().expect("control misses it");
        node.start_dataplane().expect("the dataplane starts");
        stage.0.settle().expect("tables in force");
        let after: Vec<_> = open.iter().map(ask_both).collect();
        assert_eq!(after, before, "node {} was restarted", number + 1);
    }
}

#[test]
fn people_are_told_how_a_service_is_reached() {
    let stage = Stage::enter();
    let node = &stage.0.nodes[0];
    let services = node.fairway().run("services -A -o wide").expect("a list").stdout;
    let is_dsr = |line: &str| line.split_whitespace().any(|word| word == "dsr");
    let far: Vec<&str> = services.lines().filter(|line| line.contains(&format!("{FAR}/TCP"))).collect();
    assert!(services.contains("FORWARDING") && far.len() == 2 && far.iter().all(|line| is_dsr(line)), "{services}");
    for (address, client) in node.addresses().iter().zip(FAMILIES.client()) {
        let to = format!("{}/tcp", SocketAddr::new(*address, FAR));
        let told = node.fairway().run(&format!("explain {client} {to}")).expect("an answer").stdout;
        assert!(told.contains("direct server return through node node-2"), "{told}");
    }
}
