//! Fairway comes onto a node and off it again, and leaves nothing: what the node's kernel and disk say before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use lab::agent::serve::ECHO_PORT;
use lab::manifests::{self, Exposed};
use lab::netns::Netns;
use lab::shell::{Cmd, Ran};
use lab::{Families, Lab, Options};

const FAMILIES: Families = Families::Dual;
/// Whatever the node itself does is in these answers, too: what it counts is not asked for.
const QUESTIONS: [&str; 9] = [
    "ip -d -o link show",
    "ip -o address show",
    "ip -o -4 route show table all",
    "ip -o -6 route show table all",
    "ip -4 rule show",
    "ip -6 rule show",
    "ip -o neigh show nud permanent",
    "ethtool -k eth0",
    "sysctl -a --ignore --pattern ^net\\.",
];

/// What a node is like, by question.
type Snapshot = BTreeMap<String, BTreeSet<String>>;

fn snapshot(netns: &Netns, directory: &Path) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for question in QUESTIONS {
        let answer = Cmd::line(question).netns(netns).ok().expect(question).stdout;
        let lines = answer.lines().filter(|line| !line.contains("nf_conntrack_count"));
        snapshot.insert(question.to_string(), lines.map(str::to_string).collect());
    }
    let files = Cmd::new("find").arg(directory.display()).ok().expect("find").stdout;
    let is_log = |line: &&str| line.ends_with(".log") || line.ends_with(".out");
    snapshot.insert("files".into(), files.lines().filter(|line| !is_log(line)).map(str::to_string).collect());
    snapshot
}

#[track_caller]
fn expect_same(before: &Snapshot, after: &Snapshot) {
    for (question, was) in before {
        let is = &after[question];
        let gone: Vec<&String> = was.difference(is).collect();
        let new: Vec<&String> = is.difference(was).collect();
        assert!(gone.is_empty() && new.is_empty(), "`{question}`: gone {gone:#?}, new {new:#?}");
    }
}

fn options(more: &str) -> Options {
    let ranges = "--node-port-addresses 0.0.0.0/0,::/0 --localhost-node-ports";
    let args = [ranges, more].iter().flat_map(|args| args.split_whitespace()).map(str::to_string).collect();
    Options { families: FAMILIES, control_args: args, ..Options::default() }
}

/// A service with a node port, so that there are rules of each kind, and its pod.
fn expose(lab: &mut Lab) {
    lab.add_pod("web-1", 0, &[("app", "web")]).expect("a pod");
    let (addresses, balancer) = (FAMILIES.service(20), ["198.51.100.1".parse::<IpAddr>().expect("an address")]);
    let exposed = Exposed {
        name: "web",
        addresses: &addresses,
        label: ("app", "web"),
        node_port: 30080,
        balancer: &balancer,
        external: &[],
        local: Some(31080),
    };
    lab.objects().apply("service-web", &manifests::exposed(&exposed)).expect("a service");
    // The other node may not run. What was just written is read within this time.
    lab::wait::sleep_ms(300);
    lab.nodes[0].wait_connected().expect("tables in force");
}

fn fairway(lab: &Lab, command: &str) -> Ran {
    let node = &lab.nodes[0];
    let root = node.directory();
    let (bin, conf) = (root.join("cni/bin"), root.join("cni/conf"));
    node.fairway()
        .command(command)
        .args(["--cni-bin-dir".to_string(), bin.display().to_string()])
        .args(["--cni-conf-dir".to_string(), conf.display().to_string()])
        .netns(node.netns())
        .run()
        .expect("fairway runs")
}

fn uninstall(lab: &Lab, more: &str) -> Ran {
    fairway(lab, &format!("uninstall --state-dir {} {more}", lab.nodes[0].directory().join("state").display()))
}

fn leaves_nothing(more: &str, stop: fn(&mut Lab)) {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::wire(&options(more)).expect("the lab is wired");
    let root = lab.nodes[0].directory().to_path_buf();
    for directory in ["cni/bin", "cni/conf"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    std::fs::write(root.join("cni/conf/10-other.conflist"), "{}").expect("another plugin's configuration");
    let netns = lab.nodes[0].netns().clone();
    // Its own neighbours have been found, which is nothing of ours.
    let before = snapshot(&netns, &root);

    fairway(&lab, "install-cni").ok().expect("installed");
    let again = fairway(&lab, "install-cni").ok().expect("installed");
    assert_eq!(again.stdout, "", "nothing was left to do");
    lab.nodes[0].start().expect("the node starts");
    expose(&mut lab);
    let during = snapshot(&netns, &root);
    for question in QUESTIONS.iter().filter(|question| !question.contains("nud permanent")) {
        assert_ne!(before[*question], during[*question], "`{question}` shows nothing of Fairway");
    }
    let refused = uninstall(&lab, "--force");
    assert!(refused.code == 1 && refused.stderr.contains("stop it"), "{refused:?}");

    stop(&mut lab);
    let refused = uninstall(&lab, "");
    assert!(refused.code == 1 && refused.stderr.contains("demo/web-1"), "{refused:?}");
    let done = uninstall(&lab, "--force").ok().expect("uninstalled");
    println!("{}", done.stdout);
    let left = uninstall(&lab, "").ok().expect("again");
    assert_eq!(left.stdout, "", "it was done already");
    for directory in ["run", "state"] {
        assert!(!root.join(directory).exists(), "{directory} is left");
        std::fs::create_dir(root.join(directory)).expect("a directory");
    }
    expect_same(&before, &snapshot(&netns, &root));
    let pod = lab.pod("web-1").expect("the pod").netns().ip("-o link show").expect("ip").stdout;
    assert_eq!(pod.lines().count(), 1, "the pod's interface is left: {pod}");
}

#[test]
fn a_node_is_as_it_was_after_processes_that_kept_it_for_a_successor() {
    leaves_nothing("--at-exit keep", |lab| lab.nodes[0].stop().expect("both end"));
}

#[test]
fn a_node_is_as_it_was_after_processes_that_were_killed() {
    leaves_nothing("", |lab| {
        lab.nodes[0].kill_control().expect("control runs");
        lab.nodes[0].kill_dataplane().expect("the dataplane runs");
    });
}

/// A connection that asks again and again.
struct Asking(TcpStream);

impl Asking {
    fn connect(netns: &Netns, address: IpAddr, port: u16) -> Asking {
        let limit = Duration::from_secs(5);
        let to = SocketAddr::new(address, port);
        let connect = || TcpStream::connect_timeout(&to, limit).expect("a connection");
        let stream = netns.inside(connect).expect("inside");
        stream.set_read_timeout(Some(limit)).expect("a time");
        stream.set_nodelay(true).expect("an option");
        Asking(stream)
    }

    /// How long an answer took.
    fn ask(&mut self) -> std::io::Result<Duration> {
        let (begun, mut answer) = (Instant::now(), [0; 64]);
        self.0.write_all(b"who")?;
        match self.0.read(&mut answer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(begun.elapsed()),
        }
    }
}

#[test]
fn both_processes_restart_at_once_and_pods_keep_interfaces_and_connections() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&options("--at-exit keep")).expect("the lab comes up");
    lab.add_pod("alice", 1, &[]).expect("a pod");
    lab.add_pod("web-2", 1, &[("app", "web")]).expect("a pod");
    expose(&mut lab);
    lab.settle().expect("tables in force");
    let identity = lab.pod("web-1").expect("a pod").identity().expect("an interface");
    let alice = lab.pod("alice").expect("alice").netns().clone();
    let (web, service) = (lab.pod("web-1").expect("web").address(), FAMILIES.service(20)[0]);
    let client = lab.client().clone();
    // Direct, by services with backends to choose from, and masqueraded: the last two live in flow memory alone.
    let mut open = vec![Asking::connect(&alice, web, ECHO_PORT)];
    let inside = lab.pod("web-1").expect("web").netns().clone();
    open.extend((0..8).map(|_| Asking::connect(&inside, service, 7)));
    lab.serve("outside", &client).expect("a server");
    open.push(Asking::connect(&inside, FAMILIES.client()[0], ECHO_PORT));
    open.iter_mut().for_each(|asking| assert!(asking.ask().is_ok()));

    lab.nodes[0].stop_at_once().expect("both end");
    let down = Instant::now();
    lab.nodes[0].start().expect("both start");
    let up = down.elapsed();
    for (i, asking) in open.iter_mut().enumerate() {
        let took = asking.ask().unwrap_or_else(|error| panic!("connection {i}: {error}"));
        println!("down for {up:?}, and the answer on connection {i} after it took {took:?}");
    }
    assert_eq!(lab.pod("web-1").expect("a pod").identity().expect("an interface"), identity);
}

/// As a kubelet replaces a pod whose successor was started first.
#[test]
fn a_successor_stands_by_and_takes_over_at_once() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&options("--at-exit keep")).expect("the lab comes up");
    expose(&mut lab);
    lab.settle().expect("tables in force");
    let (inside, service) = (lab.pod("web-1").expect("web").netns().clone(), FAMILIES.service(20)[0]);
    let client = lab.client().clone();
    lab.serve("outside", &client).expect("a server");
    let mut open: Vec<Asking> = (0..8).map(|_| Asking::connect(&inside, service, 7)).collect();
    open.push(Asking::connect(&inside, FAMILIES.client()[0], ECHO_PORT));
    open.iter_mut().for_each(|asking| assert!(asking.ask().is_ok()));
    let mut next = lab.nodes[0].start_successors().expect("they start");
    let says = |process: &lab::process::Process| process.log_end().contains("standing by");
    assert!(lab::wait::until(Duration::from_secs(10), || next.iter().all(says)), "{}", next[0].log_end());
    let before = lab.nodes[0].control_pid();
    for asking in &mut open {
        let took = asking.ask().expect("an answer while they stand by");
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
    next.iter_mut().for_each(|process| process.still_running().expect("it stands by"));

    let down = Instant::now();
    lab.nodes[0].succeed(next).expect("they take over");
    let up = down.elapsed();
    assert_ne!(lab.nodes[0].control_pid(), before);
    let longest = open.iter_mut().map(|asking| asking.ask().expect("the connection goes on")).max();
    println!(
        "from the end of the one pair to the tables of the other in force {up:?}; slowest answer then {longest:?}"
    );
}
