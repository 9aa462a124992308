//! Section 5 of the demo: either process dies and returns; and what is left on a node when both have ended.

use lab::agent::converse::Conversation;
use lab::agent::serve::ECHO_PORT;
use lab::manifests::Exposed;
use lab::netns::Netns;
use lab::process::Process;
use lab::sections::{self, SHARED};
use lab::shell::Cmd;
use lab::stage::{Stage, harvest};
use lab::transcript::Transcript;
use lab::{Families, Lab, Options, manifests};

#[test]
fn either_process_dies_and_returns() {
    let _one = lab::one_at_a_time();
    let show = Transcript::default();
    let mut lab = sections::stage_lab(&Options::default(), &show).expect("the lab comes up");
    let section = SHARED.iter().find(|section| section.number == 5).expect("section 5");
    Stage { lab: &mut lab, show: &show }.play(section.title, section.play).assert_passed();
}

#[test]
fn both_processes_end_when_asked_and_undo_what_they_did() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default()).expect("the lab comes up");
    let node = &mut lab.nodes[0];
    node.stop().expect("both end with 0");
    let links = node.netns().ip("-o link").expect("ip link").stdout;
    assert!(!links.contains("fairway0"), "fairway0 is left: {links}");
    assert!(!links.contains("xdp"), "an XDP program is left: {links}");
    let routes = node.netns().ip("route").expect("ip route").stdout;
    assert!(!routes.contains("10.244.") && !routes.contains("10.96."), "routes are left: {routes}");
    let rules = node.netns().ip("rule").expect("ip rule").stdout;
    assert_eq!(rules.lines().count(), 3, "rules are left: {rules}");
    node.start().expect("both start again");
}

/// All that a node's kernel was told, but for what it counts.
fn settings(node: &Netns) -> String {
    let mut all = String::new();
    for what in ["rule", "-6 rule", "route show table all", "-6 route show table all", "-o link", "-o address"] {
        all += &node.ip(what).expect("ip").stdout;
    }
    let sysctls = Cmd::new("sh").args(["-c", "sysctl -a 2>/dev/null | grep -E '^net\\.ipv[46]\\.(conf|ip_)'"]);
    all += &sysctls.netns(node).run().expect("sysctl").stdout;
    all += &Cmd::line("ss -Htlun").netns(node).run().expect("ss").stdout;
    all
}

/// One node alone, whose tables follow what was written before.
fn settle(lab: &mut Lab) -> anyhow::Result<()> {
    lab::wait::sleep_ms(500);
    lab.nodes[0].wait_connected().map(|_| ())
}

#[test]
fn nothing_of_it_is_left_on_a_node_after_the_stop_also_if_control_was_killed_before() {
    let _one = lab::one_at_a_time();
    let options = Options { families: Families::Dual, ..Options::default() };
    let mut lab = Lab::wire(&options).expect("the lab is wired");
    let balancer = ["198.51.100.1", "2001:db8:98::1"].map(|text| text.parse().expect("an address"));
    let exposed = Exposed {
        name: "near",
        addresses: &Families::Dual.service(20),
        label: ("name", "web-1"),
        node_port: 30080,
        balancer: &balancer,
        external: &[],
        local: Some(31080),
    };
    lab.objects().apply("service-near", &manifests::exposed(&exposed)).expect("an object");
    let before = settings(lab.nodes[0].netns());
    lab.nodes[0].start().expect("Fairway starts");
    settle(&mut lab).expect("tables in force");
    let during = settings(lab.nodes[0].netns());
    for part in ["lookup 25000", "198.51.100.1 ", "2001:db8:98::1 ", ":31080 "] {
        assert!(during.contains(part), "{part} is not in {during}");
    }
    lab.nodes[0].kill_control().expect("control runs");
    lab.nodes[0].start_control().expect("control starts");
    settle(&mut lab).expect("tables in force");
    lab.nodes[0].stop().expect("both processes stop");
    let after = settings(lab.nodes[0].netns());
    let new: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    let gone: Vec<&str> = before.lines().filter(|line| !after.contains(line)).collect();
    assert!(new.is_empty() && gone.is_empty(), "left behind: {new:#?}\ngone: {gone:#?}");
}

/// As a kubelet has one to the API server long before Fairway comes to the node.
#[test]
fn a_connection_that_the_node_has_from_a_snat_port_goes_on() -> anyhow::Result<()> {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::wire(&Options::default())?;
    let outside = lab.client().clone();
    lab.serve("outside", &outside)?;
    let node = lab.nodes[0].netns().clone();
    Cmd::line("sysctl -qw").arg("net.ipv4.ip_local_port_range=50000 50003").netns(&node).ok()?;
    let to = format!("{}:{ECHO_PORT}", lab.families().client()[0]);
    let command = Cmd::new(lab.binaries().agent()).args(["converse", "--to", &to]).netns(&node);
    let conversation = Process::spawn("kubelet", &command, lab.directory())?;
    lab::wait::sleep_ms(500);
    lab.nodes[0].start()?;
    settle(&mut lab)?;
    let started_us = lab::wait::now_us();
    lab::wait::sleep_ms(1000);
    let conversation: Conversation = harvest(conversation)?;
    assert_eq!(conversation.broken, None);
    let slowest = conversation.exchanges.iter().map(|exchange| exchange.echoed_us - exchange.sent_us).max();
    assert!(conversation.exchanges.last().is_some_and(|last| last.sent_us > started_us + 500_000), "it hangs");
    println!("{} exchanges, the slowest took {slowest:?} us", conversation.exchanges.len());
    Ok(())
}
