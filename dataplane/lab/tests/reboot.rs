//! A node restarts: nothing of memory, no namespace and no device is left, only what is on disk. Then the runtime detaches
//! what it remembers, without namespaces, and attaches pods anew; what it forgot is given back by itself.

use std::fs;
use std::time::Duration;

use lab::netns::Netns;
use lab::pod::container;
use lab::shell::Cmd;
use lab::{Lab, Options, wait};

/// Twice the time that an attachment is lost before it is detached.
const PATIENCE: Duration = Duration::from_secs(60);

fn reaches(lab: &Lab, from: &str, to: &str) -> bool {
    let (netns, url) = (lab.pod(from).expect("a pod").netns(), lab.pod(to).expect("a pod").url());
    Cmd::line("curl -s -m 1 -o /dev/null").arg(url).netns(netns).run().is_ok_and(|ran| ran.succeeded())
}

fn attachments(lab: &Lab) -> Vec<String> {
    let listed = fs::read_dir(lab.nodes[0].directory().join("state/attachments")).expect("a directory");
    let mut names: Vec<String> = listed.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn problems(lab: &Lab) -> Vec<String> {
    lab.nodes[0].fairway().status().map(|status| status.problems).unwrap_or_default()
}

/// What a kernel that starts knows nothing of.
fn forget(lab: &mut Lab, pods: &[&Netns]) {
    lab.nodes[0].kill_control().expect("control runs");
    lab.nodes[0].kill_dataplane().expect("the dataplane runs");
    let node = &lab.nodes[0];
    for pod in pods {
        (*pod).clone().remove().expect("a namespace");
    }
    let (netns, uplink) = (node.netns(), node.uplink());
    netns.ip("link delete fairway0").expect("ip");
    netns.ip(&format!("link set {uplink} xdp off")).expect("ip");
    netns.ip("rule flush").expect("ip");
    for (table, priority) in [("local", 0), ("main", 32766), ("default", 32767)] {
        netns.ip(&format!("rule add from all lookup {table} priority {priority}")).expect("ip");
    }
    netns.ip(&format!("neigh flush dev {uplink} nud all")).expect("ip");
    let run = node.directory().join("run");
    fs::remove_dir_all(&run).and_then(|()| fs::create_dir(&run)).expect("a directory");
}

#[test]
fn after_a_restart_of_the_node_pods_come_again_and_nothing_is_left_of_the_old() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default()).expect("the lab comes up");
    for (name, node) in [("old", 0), ("forgotten", 0), ("far", 1)] {
        lab.add_pod(name, node, &[]).expect("a pod");
    }
    lab.settle().expect("tables in force");
    assert!(reaches(&lab, "far", "old"));
    let [old, forgotten] = ["old", "forgotten"].map(|name| lab.pod(name).expect("a pod"));
    let (sandbox, result) = (old.container().clone(), old.attachment().result.clone());
    let (old, forgotten) = (old.netns().clone(), forgotten.netns().clone());
    lab.kill_server("old").expect("it runs");
    lab.kill_server("forgotten").expect("it runs");
    forget(&mut lab, &[&old, &forgotten]);
    // Nobody runs it any more.
    lab.withdraw_pod("forgotten").expect("an object");

    lab.nodes[0].start().expect("Fairway starts");
    let said = problems(&lab);
    assert!(said.iter().any(|problem| problem.contains("demo/old")), "{said:?}");
    let plugin = lab.nodes[0].plugin().clone();
    plugin.del(&sandbox, Some(&result)).expect("DEL without a namespace");
    plugin.del(&sandbox, None).expect("and again");
    lab.add_pod("new", 0, &[]).expect("a pod");
    lab.settle().expect("tables in force");
    assert!(reaches(&lab, "far", "new") && reaches(&lab, "new", "far"));

    let is_given_back = || attachments(&lab).len() == 1 && problems(&lab).is_empty();
    assert!(wait::until(PATIENCE, is_given_back), "{:?} {:?}", attachments(&lab), problems(&lab));
    assert!(reaches(&lab, "far", "new"), "it is another's");
}

#[test]
fn a_pod_that_is_gone_without_a_del_gives_its_address_back_and_one_that_is_there_keeps_it() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default()).expect("the lab comes up");
    for name in ["gone", "known", "alive"] {
        lab.add_pod(name, 0, &[]).expect("a pod");
    }
    lab.settle().expect("tables in force");
    for name in ["gone", "known"] {
        lab.kill_server(name).expect("it runs");
        lab.pod(name).expect("a pod").netns().clone().remove().expect("a namespace");
    }
    // Its object is gone, too, but it is there.
    for name in ["gone", "alive"] {
        lab.withdraw_pod(name).expect("an object");
    }
    // Another one of its name is there: a kubelet begins anew with a sandbox that failed.
    let prefix = lab.guard().prefix().to_owned();
    let again = Netns::create(&format!("{prefix}again")).expect("a namespace");
    lab.nodes[0].plugin().add(&container("alive", again)).expect("ADD");
    let names = |suffixes: &[&str]| {
        let mut names: Vec<String> = suffixes.iter().map(|name| format!("{prefix}{name}@eth0.json")).collect();
        names.sort();
        names
    };
    assert!(wait::until(PATIENCE, || attachments(&lab).len() < 4), "{:?}", attachments(&lab));
    assert_eq!(attachments(&lab), names(&["again", "alive", "known"]));
    // The one that is known is lost once there is another in its place.
    let anew = Netns::create(&format!("{prefix}anew")).expect("a namespace");
    lab.nodes[0].plugin().add(&container("known", anew)).expect("ADD");
    assert!(wait::until(PATIENCE, || attachments(&lab).len() < 4), "{:?}", attachments(&lab));
    assert_eq!(attachments(&lab), names(&["again", "alive", "anew"]));
}
