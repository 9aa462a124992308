//! Backends that leave, with real sockets that stay open meanwhile, in both families: UDP goes on at a living backend,
//! connections drain or are reset; a pod reaches itself; clients keep their backend as long as they were promised.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use lab::agent::serve::WHO;
use lab::manifests::Condition::{self, NotReady, Ready, Terminating};
use lab::manifests::Exposed;
use lab::netns::Netns;
use lab::shared::{Entered, Shared};
use lab::{Families, Lab, Options, manifests};

const FAMILIES: Families = Families::Dual;
/// Of hand-written slices; with affinity for long, and for a short time.
const LEAVES: Place = Place { name: "leaves", number: 20, node_port: 30080 };
const STAYS: Place = Place { name: "stays", number: 21, node_port: 30180 };
const FORGETS: Place = Place { name: "forgets", number: 22, node_port: 30280 };
const LONG_S: u32 = 10_800;
const SHORT_S: u32 = 2;
/// The echo server's port, at a cluster address and as a node port.
const ECHO: u16 = 7;
/// Whoever says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
struct Place {
    name: &'static str,
    number: u8,
    node_port: u16,
}

/// One lab for all tests of this file, one test at a time.
static LAB: Shared = Shared::new(start);

fn start() -> anyhow::Result<Lab> {
    let options = Options { families: FAMILIES, workers: 2, uplink_queues: 2, ..Options::default() };
    let mut lab = Lab::start(&options)?;
    for (name, node) in [("alice", 0), ("web-1", 0), ("web-2", 1), ("web-3", 0)] {
        lab.add_pod(name, node, &[])?;
    }
    for (place, affinity_s) in [(LEAVES, 0), (STAYS, LONG_S), (FORGETS, SHORT_S)] {
        let exposed = Exposed {
            name: place.name,
            addresses: &FAMILIES.service(place.number),
            // Nobody has it: endpoints come from slices.
            label: ("app", "none"),
            node_port: place.node_port,
            balancer: &[],
            external: &[],
            local: None,
        };
        let mut text = manifests::exposed(&exposed);
        if affinity_s > 0 {
            text = manifests::with_affinity(&text, affinity_s);
        }
        lab.objects().apply(&format!("service-{}", place.name), &text)?;
    }
    Ok(lab)
}

struct Stage(Entered);

impl Stage {
    fn enter() -> Self {
        Stage(LAB.enter())
    }

    fn lab(&mut self) -> &mut Lab {
        &mut self.0
    }

    /// These are the service's endpoints from now on, on both nodes.
    fn serve(&mut self, place: Place, endpoints: &[(&str, Condition)]) {
        let lab = self.lab();
        for v4 in [true, false] {
            let address = |name| *lab.pod(name).expect("a pod").addresses().iter().find(|a| a.is_ipv4() == v4).unwrap();
            let listed: Vec<_> = endpoints.iter().map(|&(name, condition)| (address(name), condition)).collect();
            let name = format!("{}-{}", place.name, if v4 { "v4" } else { "v6" });
            let ports = [("http", "TCP", 8080), ("echo", "TCP", 7777), ("echo-udp", "UDP", 7777)];
            let slice = manifests::slice(&name, place.name, &listed, &ports);
            lab.objects().apply(&format!("slice-{name}"), &slice).expect("an object");
        }
        lab.settle().expect("tables in force");
    }

    fn netns(&mut self, who: &str) -> Netns {
        match who {
            "client" => self.lab().client().clone(),
            "node" => self.lab().nodes[0].netns().clone(),
            pod => self.lab().pod(pod).expect("a pod").netns().clone(),
        }
    }

    /// A pod and the node by the cluster addresses, a client outside by node ports, in both families.
    fn clients(&mut self, place: Place) -> Vec<Client> {
        let cluster = FAMILIES.service(place.number);
        let node = self.lab().nodes[0].addresses().to_vec();
        let ways = [("alice", &cluster, ECHO), ("node", &cluster, ECHO), ("client", &node, place.node_port + 1)];
        let mut clients = Vec::new();
        for (who, addresses, port) in ways {
            for address in addresses {
                clients.push(Client { who, netns: self.netns(who), to: SocketAddr::new(*address, port) });
            }
        }
        clients
    }
}

/// Who asks whom.
struct Client {
    who: &'static str,
    netns: Netns,
    to: SocketAddr,
}

/// Who answered, and whom it saw; or what became of it.
type Answer = Result<(String, IpAddr), ErrorKind>;

fn read(answer: std::io::Result<String>) -> Answer {
    let text = answer.map_err(|error| error.kind())?;
    let (name, saw) = lab::traffic::seen(&text).expect("a name and an address");
    Ok((name.to_string(), saw.parse().expect("an address")))
}

impl Client {
    fn udp(&self) -> Udp {
        let any: IpAddr = if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.netns.inside(|| UdpSocket::bind((any, 0)).expect("a socket")).expect("inside");
        let to = self.to;
        self.netns.inside(|| socket.connect(to).expect("a route")).expect("inside");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        Udp { what: format!("udp {} -> {}", self.who, self.to), socket }
    }

    fn connect(&self) -> std::io::Result<Tcp> {
        let stream = self.netns.inside(|| TcpStream::connect_timeout(&self.to, PATIENCE)).expect("inside")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Tcp { what: format!("tcp {} -> {}", self.who, self.to), stream })
    }

    #[track_caller]
    fn tcp(&self) -> Tcp {
        self.connect().unwrap_or_else(|error| panic!("{} -> {}: {error}", self.who, self.to))
    }

    /// Who answers a new connection.
    #[track_caller]
    fn name(&self) -> String {
        self.tcp().ask().unwrap_or_else(|kind| panic!("{} -> {}: {kind}", self.who, self.to)).0
    }

    #[track_caller]
    fn names(&self, count: usize) -> BTreeSet<String> {
        (0..count).map(|_| self.name()).collect()
    }
}

/// A socket that stays open.
struct Udp {
    what: String,
    socket: UdpSocket,
}

impl Udp {
    /// The answer to a datagram, also an ICMP error about it.
    fn ask(&self) -> Answer {
        let mut answer = [0; 200];
        let came = self.socket.send(WHO).and_then(|_| self.socket.recv(&mut answer));
        read(came.map(|size| String::from_utf8_lossy(&answer[..size]).into_owned()))
    }

    #[track_caller]
    fn answers(&self, name: &str) {
        let answer = self.ask().map(|(name, _)| name);
        assert_eq!(answer.as_deref(), Ok(name), "{}", self.what);
    }
}

/// A connection that stays open.
struct Tcp {
    what: String,
    stream: TcpStream,
}

impl Tcp {
    fn ask(&mut self) -> Answer {
        let mut answer = [0; 200];
        let came = self.stream.write_all(WHO).and_then(|()| self.stream.read(&mut answer));
        read(came.and_then(|size| match size {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            size => Ok(String::from_utf8_lossy(&answer[..size]).into_owned()),
        }))
    }

    #[track_caller]
    fn answers(&mut self, name: &str) {
        let answer = self.ask().map(|(name, _)| name);
        assert_eq!(answer.as_deref(), Ok(name), "{}", self.what);
    }

    /// Told with its next packet that it has ended, and at once.
    #[track_caller]
    fn expect_reset(mut self) {
        let started = Instant::now();
        let answer = self.ask();
        assert_eq!(answer, Err(ErrorKind::ConnectionReset), "{} after {:?}", self.what, started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(1), "{}: reset after {:?}", self.what, started.elapsed());
    }
}

#[track_caller]
fn all_new_go_to(clients: &[Client], name: &str) {
    for client in clients {
        assert_eq!(client.names(3), [name.to_string()].into(), "{} -> {}", client.who, client.to);
    }
}

#[test]
fn udp_goes_to_a_living_backend_with_the_next_packet_also_after_none_was_left() {
    let mut stage = Stage::enter();
    stage.serve(LEAVES, &[("web-1", Ready)]);
    let sockets: Vec<Udp> = stage.clients(LEAVES).iter().map(Client::udp).collect();
    sockets.iter().for_each(|socket| socket.answers("web-1"));
    for (endpoints, name) in [
        (&[("web-1", Terminating), ("web-2", Ready)][..], "web-2"),
        (&[("web-2", Ready)], "web-2"),
        (&[("web-3", Ready)], "web-3"),
        (&[("web-2", Ready), ("web-3", NotReady)], "web-2"),
        (&[("web-1", Terminating)], "web-1"),
    ] {
        stage.serve(LEAVES, endpoints);
        sockets.iter().for_each(|socket| socket.answers(name));
    }
    for name in ["web-1", "web-2"] {
        stage.serve(LEAVES, &[]);
        for socket in &sockets {
            assert_eq!(socket.ask(), Err(ErrorKind::ConnectionRefused), "{}: nobody is left", socket.what);
        }
        stage.serve(LEAVES, &[(name, Ready)]);
        sockets.iter().for_each(|socket| socket.answers(name));
    }
}

#[test]
fn connections_to_who_leaves_drain_and_are_reset_when_it_is_gone() {
    for (first, second) in [("web-1", "web-2"), ("web-2", "web-3")] {
        let mut stage = Stage::enter();
        stage.serve(LEAVES, &[(first, Ready)]);
        let clients = stage.clients(LEAVES);
        let mut old: Vec<Tcp> = clients.iter().map(Client::tcp).collect();
        old.iter_mut().for_each(|connection| connection.answers(first));
        for condition in [Terminating, NotReady, Terminating] {
            stage.serve(LEAVES, &[(first, condition), (second, Ready)]);
            old.iter_mut().for_each(|connection| connection.answers(first));
            all_new_go_to(&clients, second);
        }
        let mut new: Vec<Tcp> = clients.iter().map(Client::tcp).collect();
        new.iter_mut().for_each(|connection| connection.answers(second));
        stage.serve(LEAVES, &[(second, Ready)]);
        old.into_iter().for_each(Tcp::expect_reset);
        new.iter_mut().for_each(|connection| connection.answers(second));
        stage.serve(LEAVES, &[]);
        new.into_iter().for_each(Tcp::expect_reset);
        for client in &clients {
            let refused = client.connect().err().map(|error| error.kind());
            assert_eq!(refused, Some(ErrorKind::ConnectionRefused), "{} -> {}", client.who, client.to);
        }
        stage.serve(LEAVES, &[(first, Ready)]);
        all_new_go_to(&clients, first);
    }
}

#[test]
fn connections_drain_over_a_restart_of_either_process() {
    let mut stage = Stage::enter();
    stage.serve(LEAVES, &[("web-1", Ready)]);
    let clients = stage.clients(LEAVES);
    let mut old: Vec<Tcp> = clients.iter().map(Client::tcp).collect();
    old.iter_mut().for_each(|connection| connection.answers("web-1"));
    stage.serve(LEAVES, &[("web-1", Terminating), ("web-2", Ready)]);
    for restart in [restart_control, restart_dataplane] {
        restart(&mut stage);
        old.iter_mut().for_each(|connection| connection.answers("web-1"));
        all_new_go_to(&clients, "web-2");
    }
}

fn restart_control(stage: &mut Stage) {
    let node = &mut stage.lab().nodes[0];
    node.kill_control().expect("control runs");
    node.start_control().expect("control starts");
    stage.lab().settle().expect("tables in force");
}

fn restart_dataplane(stage: &mut Stage) {
    let node = &mut stage.lab().nodes[0];
    node.kill_dataplane().expect("the dataplane runs");
    node.wait_dataplane_gone().expect("control misses it");
    node.start_dataplane().expect("the dataplane starts");
    stage.lab().settle().expect("tables in force");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mut stage = Stage::enter();
    for (name, node) in [("web-1", 0), ("web-2", 1)] {
        stage.serve(LEAVES, &[(name, Ready)]);
        let netns = stage.netns(name);
        let node = stage.lab().nodes[node].reserved_addresses().expect("reserved addresses");
        for address in FAMILIES.service(LEAVES.number) {
            let client = Client { who: name, netns: netns.clone(), to: SocketAddr::new(address, ECHO) };
            let (udp, mut tcp) = (client.udp(), client.tcp());
            for answer in [udp.ask(), tcp.ask(), udp.ask(), tcp.ask()] {
                let (who, saw) = answer.unwrap_or_else(|kind| panic!("{name} -> {address}: {kind}"));
                assert_eq!(who, name);
                assert!(node.contains(&saw), "{name} -> {address}: it saw {saw}, none of the node's {node:?}");
            }
        }
    }
}

const ALL: [(&str, Condition); 3] = [("web-1", Ready), ("web-2", Ready), ("web-3", Ready)];

#[test]
fn a_client_keeps_its_backend_over_restarts_until_it_goes() {
    let mut stage = Stage::enter();
    stage.serve(STAYS, &ALL);
    let clients = stage.clients(STAYS);
    let kept: Vec<BTreeSet<String>> = clients.iter().map(|client| client.names(8)).collect();
    for (client, kept) in clients.iter().zip(&kept) {
        assert_eq!(kept.len(), 1, "{} -> {} met {kept:?}", client.who, client.to);
    }
    for (what, restart) in [("control", restart_control as fn(&mut Stage)), ("the dataplane", restart_dataplane)] {
        restart(&mut stage);
        for (client, kept) in clients.iter().zip(&kept) {
            assert_eq!(client.names(4), *kept, "{} -> {}: {what} restarted", client.who, client.to);
        }
    }
    let gone = kept[0].first().expect("a name").clone();
    let rest: Vec<_> = ALL.into_iter().filter(|(name, _)| *name != gone).collect();
    stage.serve(STAYS, &rest);
    for (client, kept) in clients.iter().zip(&kept) {
        let now = client.names(8);
        assert_eq!(now.len(), 1, "{} -> {} met {now:?}", client.who, client.to);
        assert_eq!(now == *kept, !kept.contains(&gone), "{} -> {}: {kept:?} to {now:?}", client.who, client.to);
        assert!(!now.contains(&gone));
    }
}

#[test]
fn a_client_is_forgotten_when_its_time_is_over_and_not_while_it_asks() {
    let mut stage = Stage::enter();
    stage.serve(FORGETS, &ALL);
    let clients = stage.clients(FORGETS);
    // Twice as long as the timeout, with pauses below it.
    let kept: Vec<String> = clients.iter().map(Client::name).collect();
    for _ in 0..2 * SHORT_S * 2 {
        lab::wait::sleep_ms(400);
        let now: Vec<String> = clients.iter().map(Client::name).collect();
        assert_eq!(now, kept);
    }
    // Each time all choose anew: that one of them always chooses the same has a chance of 6 / 3^8.
    let mut met: Vec<BTreeSet<String>> = vec![BTreeSet::new(); clients.len()];
    for _ in 0..9 {
        lab::wait::sleep_ms(u64::from(SHORT_S) * 1000 + 500);
        for (client, met) in clients.iter().zip(&mut met) {
            met.insert(client.name());
        }
    }
    for (client, met) in clients.iter().zip(met) {
        assert!(met.len() > 1, "{} -> {} met {met:?} alone", client.who, client.to);
    }
}
