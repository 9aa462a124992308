//! The real program between the ends of a veth pair in two namespaces of its own. Needs root, `ip` and `ping`; fails without.

use serde_json::Value;
use std::{
    process::{Child, Command, Output, Stdio, id},
    thread::sleep,
    time::{Duration, Instant},
};

/// Two namespaces joined by a veth pair; gone when dropped, also after a failed test.
struct Pair {
    name: String,
}

impl Pair {
    /// `test` keeps tests of one process apart; the process id keeps processes apart.
    fn new(test: &str) -> Self {
        let pair = Pair { name: format!("fwpg-{}-{test}", id()) };
        for side in ["a", "b"] {
            ip(&["netns", "add", &pair.netns(side)]);
        }
        let (a, b) = (pair.netns("a"), pair.netns("b"));
        ip(&["link", "add", "va", "netns", &a, "type", "veth", "peer", "name", "vb", "netns", &b]);
        for (side, link, address) in [("a", "va", "10.77.0.1"), ("b", "vb", "10.77.0.2")] {
            let netns = pair.netns(side);
            ip(&["-n", &netns, "addr", "add", &format!("{address}/24"), "dev", link]);
            ip(&["-n", &netns, "link", "set", link, "up"]);
        }
        // The kernel may take a second to call a new link running; tests that act midway need a start without that.
        wait_until("both ends run", || {
            pair.shows("a", "va")["operstate"] == "UP" && pair.shows("b", "vb")["operstate"] == "UP"
        });
        pair
    }

    fn shows(&self, side: &str, link: &str) -> Value {
        let shown = ip(&["-n", &self.netns(side), "-j", "link", "show", link]);
        let mut links: Value = serde_json::from_slice(&shown.stdout).unwrap();
        links[0].take()
    }

    fn netns(&self, side: &str) -> String {
        format!("{}-{side}", self.name)
    }

    fn start(&self, more: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pktgen"));
        command.args(["run", "--iface", "va", "--sink", "vb", "-o", "json"]);
        command.args(["--iface-netns", &self.netns("a"), "--sink-netns", &self.netns("b")]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, more: &[&str]) -> Value {
        report(self.start(more))
    }

    fn has_xdp_program(&self) -> bool {
        self.shows("b", "vb").get("xdp").is_some()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in ["a", "b"] {
            // Not asserted: a panic here would hide the test's own.
            let _ = Command::new("ip").args(["netns", "del", &self.netns(side)]).status();
        }
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited 10 s in vain until {what}");
        sleep(Duration::from_millis(20));
    }
}

fn ip(args: &[&str]) -> Output {
    let output = Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args:?} (as root?): {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn report(run: Child) -> Value {
    let output = run.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert!(stderr.is_empty(), "a run that works says nothing on stderr: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn signal(run: &Child, name: &str) {
    let status = Command::new("kill").args([name, &run.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no count `{field}` in {report}"))
}

/// What holds of every report, however the run went.
fn assert_books_balance(report: &Value) {
    assert_eq!(count(report, "sent"), count(report, "received") + count(report, "lost"), "{report}");
    for never in ["duplicated", "reordered", "corrupted", "bad_checksum"] {
        assert_eq!(count(report, never), 0, "a veth pair does not do `{never}`: {report}");
    }
}

fn assert_lossless(report: &Value, packets: u64) {
    assert_books_balance(report);
    assert_eq!(count(report, "lost"), 0, "{report}");
    assert_eq!(count(report, "sent") + count(report, "forgone"), packets, "{report}");
    assert!(count(report, "sent") > packets / 10, "{report}");
    let latency = &report["latency"];
    let quantiles = ["min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"].map(|name| count(latency, name));
    assert!(quantiles.is_sorted() && quantiles[0] > 0, "{latency}");
}

#[test]
fn a_slow_run_loses_nothing() {
    let pair = Pair::new("slow");
    let report = pair.run(&["--rate", "10k", "--duration", "1s"]);
    assert_lossless(&report, 10_000);
    assert!(!pair.has_xdp_program(), "the program is detached after the run");
    // Right behind it: the queue of the run before is still being released.
    assert_lossless(&pair.run(&["--rate", "5k", "--duration", "200ms", "--flows", "7", "--size", "1514"]), 1000);
}

#[test]
fn ipv6_and_the_addresses_that_were_given_work_alike() {
    let pair = Pair::new("six");
    let more = ["--src-ip", "fd00::1", "--dst-ip", "fd00::2", "--flows", "100", "--spin"];
    assert_lossless(&pair.run(&[&["--rate", "10k", "--duration", "300ms"], &more[..]].concat()), 3000);
}

#[test]
fn packets_into_a_link_that_is_down_count_as_lost() {
    let pair = Pair::new("down");
    let run = pair.start(&["--rate", "5k", "--duration", "3s"]);
    wait_until("the sink listens", || pair.has_xdp_program());
    sleep(Duration::from_millis(1000));
    ip(&["-n", &pair.netns("b"), "link", "set", "vb", "down"]);
    sleep(Duration::from_millis(600));
    ip(&["-n", &pair.netns("b"), "link", "set", "vb", "up"]);
    let report = report(run);
    assert_books_balance(&report);
    assert!(count(&report, "lost") > 500, "{report}");
    assert!(count(&report, "received") > 2000, "{report}");
}

#[test]
fn packets_that_a_dead_interface_does_not_take_are_not_called_sent() {
    let pair = Pair::new("dead");
    let run = pair.start(&["--rate", "5k", "--duration", "2s"]);
    wait_until("the sink listens", || pair.has_xdp_program());
    sleep(Duration::from_millis(800));
    ip(&["-n", &pair.netns("a"), "link", "set", "va", "down"]);
    let report = report(run);
    assert_books_balance(&report);
    assert_eq!(count(&report, "sent") + count(&report, "forgone"), 10_000, "{report}");
    assert!(count(&report, "forgone") > 2000, "{report}");
}

#[test]
fn an_interrupt_ends_a_run_with_an_honest_report() {
    let pair = Pair::new("int");
    let run = pair.start(&["--rate", "2k", "--duration", "1h"]);
    wait_until("the sink listens", || pair.has_xdp_program());
    sleep(Duration::from_millis(1000));
    signal(&run, "-INT");
    let report = report(run);
    assert_books_balance(&report);
    assert_eq!(report["interrupted"], true);
    assert_eq!(count(&report, "lost"), 0, "{report}");
    assert!((100..20_000).contains(&count(&report, "sent")), "{report}");
    assert!(!pair.has_xdp_program(), "an interrupted run detaches its program");
}

#[test]
fn a_killed_run_does_not_hinder_the_next() {
    let pair = Pair::new("kill");
    let mut run = pair.start(&["--rate", "2k", "--duration", "1h"]);
    wait_until("the sink listens", || pair.has_xdp_program());
    run.kill().unwrap();
    run.wait().unwrap();
    assert_lossless(&pair.run(&["--rate", "2k", "--duration", "200ms"]), 400);
}

#[test]
fn foreign_packets_are_counted_apart() {
    let pair = Pair::new("other");
    let run = pair.start(&["--rate", "2k", "--duration", "2s"]);
    wait_until("the sink listens", || pair.has_xdp_program());
    // Nobody answers: the sink swallows the address resolution, which is what is to be counted.
    let ping = ["netns", "exec", &pair.netns("a"), "ping", "-q", "-c", "2", "-W", "1", "10.77.0.2"];
    Command::new("ip").args(ping).output().expect("ping is installed");
    let report = report(run);
    assert_lossless(&report, 4000);
    assert!(count(&report, "other") >= 1, "{report}");
}

#[test]
fn what_cannot_run_is_one_sentence_and_exit_status_1() {
    let pair = Pair::new("none");
    let output = pair.start(&["--rate", "1", "--duration", "1s", "--src-ip", "::1", "--dst-ip", "1.1.1.1"]);
    let output = output.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("not of one IP family") && stderr.lines().count() == 1, "{stderr}");
    ip(&["-n", &pair.netns("b"), "link", "del", "vb"]);
    let output = pair.start(&["--rate", "1", "--duration", "1s"]).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("no interface va") && stderr.lines().count() == 1, "{stderr}");
}
