//! The lab leaves nothing behind, however it ends. Nothing of Fairway is needed for this.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::process::Process;
use lab::shell::Cmd;
use lab::{Lab, Options, wait};

const LIMIT: Duration = Duration::from_secs(10);

fn namespaces(prefix: &str) -> Vec<String> {
    let list = Cmd::line("ip netns list").ok().expect("ip").stdout;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(prefix)).map(str::to_string).collect()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/ns")).read_dir().is_ok_and(|mut entries| entries.next().is_some())
}

fn sleeper(lab: &Lab) -> Process {
    let command = Cmd::line("sleep 600").netns(lab.client());
    Process::spawn("sleeper", &command, lab.directory()).expect("sleep starts")
}

#[test]
fn a_dropped_lab_is_gone() {
    let _one = lab::one_at_a_time();
    let lab = Lab::wire(&Options::default()).expect("the lab is wired");
    let (prefix, directory) = (lab.guard().prefix(), lab.directory().to_path_buf());
    let sleeper = sleeper(&lab);
    let pid = sleeper.pid();
    assert_eq!(namespaces(&prefix).len(), 4, "fabric, client and two nodes");
    drop(lab);
    drop(sleeper);
    assert_eq!(namespaces(&prefix), Vec::<String>::new());
    assert!(!directory.exists() && !is_alive(pid));
}

/// A lab in a process of its own, so that it can be killed.
fn victim() -> (std::process::Child, u32, PathBuf) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fairway-demo"))
        .arg("hold")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("directory=") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut output, &mut line).expect("readable") > 0, "the victim ended early");
    }
    let after =
        |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key)).expect("what it is asked for");
    (child, after("watcher=").parse().expect("a process id"), PathBuf::from(after("directory=")))
}

fn prefix_of(directory: &Path) -> String {
    format!("{}-", directory.file_name().expect("a name").to_string_lossy())
}

fn ends_by(signal: &str) {
    let _one = lab::one_at_a_time();
    let (mut child, _, directory) = victim();
    let prefix = prefix_of(&directory);
    assert_eq!(namespaces(&prefix).len(), 4);
    Cmd::new("kill").args([signal.to_string(), child.id().to_string()]).ok().expect("kill");
    child.wait().expect("it ends");
    let gone = wait::until(LIMIT, || !directory.exists() && namespaces(&prefix).is_empty());
    assert!(gone, "left after {signal}: {:?}", namespaces(&prefix));
}

#[test]
fn an_interrupted_lab_is_gone() {
    ends_by("-INT");
}

#[test]
fn a_killed_lab_is_gone() {
    ends_by("-KILL");
}

#[test]
fn what_a_killed_lab_without_guard_left_goes_at_the_next_start() {
    let _one = lab::one_at_a_time();
    let (mut child, watcher, directory) = victim();
    let prefix = prefix_of(&directory);
    Cmd::line(&format!("kill -KILL {watcher}")).ok().expect("kill");
    child.kill().expect("kill");
    child.wait().expect("it ends");
    assert_eq!(namespaces(&prefix).len(), 4, "without its guard a killed lab stays");
    drop(Lab::wire(&Options::default()).expect("the next lab"));
    assert_eq!(namespaces(&prefix), Vec::<String>::new());
    assert!(!directory.exists());
}

#[test]
fn a_kept_lab_stays_until_it_is_removed() {
    let _one = lab::one_at_a_time();
    let lab = Lab::wire(&Options::default()).expect("the lab is wired");
    let (prefix, id) = (lab.guard().prefix(), lab.guard().id().to_string());
    lab.keep().expect("it can be kept");
    drop(Lab::wire(&Options::default()).expect("another lab"));
    assert_eq!(namespaces(&prefix).len(), 4, "a kept lab is not a dead one");
    assert_eq!(lab::guard::remove(Some(&id)).expect("removed"), vec![id]);
    assert_eq!(namespaces(&prefix), Vec::<String>::new());
}

#[test]
fn the_nodes_kernels_forward_nothing_and_the_fabric_connects_them() {
    let _one = lab::one_at_a_time();
    let lab = Lab::wire(&Options::default()).expect("the lab is wired");
    for node in &lab.nodes {
        let forwards = Cmd::line("sysctl -n net.ipv4.ip_forward").netns(node.netns()).ok().expect("sysctl").stdout;
        assert_eq!(forwards.trim(), "0");
        let ruleset = Cmd::line("nft list ruleset").netns(node.netns()).ok().expect("nft").stdout;
        assert_eq!(ruleset, "");
    }
    let far = lab.nodes[1].address().to_string();
    for from in [lab.nodes[0].netns(), lab.client()] {
        Cmd::line("ping -q -c 1 -W 2").arg(&far).netns(from).ok().expect("the fabric connects");
    }
}
