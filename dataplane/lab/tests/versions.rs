//! Control meets a dataplane of another layout version, in the middle of traffic: it says so in one sentence, packets keep
//! flowing by the old tables, and once both are of one version it takes over. The other version is a stand-in's: between
//! the two processes sits one that changes what the dataplane says of itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use lab::agent::serve::ECHO_PORT;
use lab::netns::Netns;
use lab::{Lab, Options, manifests, wait};
use serde_json::Value;
use tables::channel::{Channel, LOCK_EXTENSION, Listener};
use tables::layout::LAYOUT_VERSION;

const LIMIT: Duration = Duration::from_secs(10);

/// Passes one connection on, in both directions, until one end closes it.
fn pass_on(control: Channel, dataplane: Channel, version: u64) {
    let again = |channel: &Channel| Channel::from(channel.as_fd().try_clone_to_owned().expect("a descriptor"));
    let (to_dataplane, from_control) = (again(&dataplane), again(&control));
    std::thread::spawn(move || while forward(&from_control, &to_dataplane, |_| {}) {});
    let later = |message: &mut Value| {
        if message["say"] == "hello" {
            message["layoutVersion"] = version.into();
            message["surprise"] = "of another build".into();
        }
    };
    while forward(&dataplane, &control, later) {}
}

/// False once there is nothing more to come.
fn forward(from: &Channel, to: &Channel, change: impl FnOnce(&mut Value)) -> bool {
    let Ok((mut message, fds)) = from.receive::<Value>() else { return false };
    change(&mut message);
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    to.send(&message, &fds).is_ok()
}

/// Stands at `path` for the dataplane at `real`, for as long as there is a file there.
fn stand_in(path: &Path, real: &Path, version: u64) {
    let (listener, real) = (Listener::bind(path).expect("it listens"), real.to_path_buf());
    std::thread::spawn(move || {
        loop {
            let mut poll = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).expect("it waits");
            let control = listener.accept().expect("a connection");
            let Ok(dataplane) = Channel::connect(&real, false) else { return };
            std::thread::spawn(move || pass_on(control, dataplane, version));
        }
    });
}

/// A connection to the echo server, which answers with the name of its pod.
fn connect(from: &Netns, to: SocketAddr) -> TcpStream {
    let connected = from.inside(|| TcpStream::connect_timeout(&to, LIMIT)).expect("inside").expect("a connection");
    connected.set_read_timeout(Some(LIMIT)).expect("a time");
    connected
}

#[track_caller]
fn answers(stream: &mut TcpStream) {
    let mut answer = [0; 64];
    stream.write_all(b"who").expect("it is sent");
    assert!(stream.read(&mut answer).expect("an answer") > 0);
}

#[test]
fn of_a_later_version_a_dataplane_is_left_alone_and_of_the_same_taken_over() {
    is_left_alone_and_taken_over(LAYOUT_VERSION + 1);
}

#[test]
fn of_an_earlier_version_a_dataplane_is_left_alone_and_of_the_same_taken_over() {
    is_left_alone_and_taken_over(LAYOUT_VERSION - 1);
}

fn is_left_alone_and_taken_over(version: u64) {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default()).expect("the lab comes up");
    lab.add_pod("web-1", 0, &[("app", "web")]).expect("a pod");
    lab.add_pod("alice", 1, &[]).expect("a pod");
    let service = lab.families().service(20);
    lab.objects().apply("service-web", &manifests::service("web", &service, ("app", "web"))).expect("a service");
    lab.settle().expect("tables in force");
    let web = lab.pod("web-1").expect("web-1").netns().clone();
    let alice = lab.pod("alice").expect("alice").netns().clone();
    let (direct, by_service) =
        (SocketAddr::new(lab.pod("web-1").expect("web-1").address(), ECHO_PORT), SocketAddr::new(service[0], 7));
    let mut open = [connect(&alice, direct), connect(&alice, by_service), connect(&web, by_service)];
    open.iter_mut().for_each(answers);

    let run = lab.nodes[0].directory().join("run");
    let (path, real) = (run.join("dataplane.sock"), run.join("real.sock"));
    lab.nodes[0].kill_control().expect("control runs");
    std::fs::rename(&path, &real).expect("the socket moves");
    let [lock, moved] = [&path, &real].map(|path| path.with_extension(LOCK_EXTENSION));
    std::fs::rename(lock, moved).expect("and who holds it");
    stand_in(&path, &real, version);
    lab.nodes[0].start_control().expect("control starts");
    let sentence = format!("speaks layout version {version}, this process {LAYOUT_VERSION}");
    let mut problems = Vec::new();
    let told = wait::until(LIMIT, || {
        problems = lab.nodes[0].fairway().status().map(|status| status.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.contains(&sentence))
    });
    println!("{problems:?}");
    assert!(told, "{problems:?}");
    // Twice as long as it waits between two attempts.
    for _ in 0..20 {
        open.iter_mut().for_each(answers);
        for (from, to) in [(&alice, direct), (&alice, by_service), (&web, by_service)] {
            answers(&mut connect(from, to));
        }
        wait::sleep_ms(200);
    }
    // It comes, and waits.
    lab.add_pod("bob", 0, &[]).expect("a pod");

    std::fs::rename(&real, &path).expect("the socket is back");
    let status = lab.nodes[0].wait_connected().expect("taken over");
    assert!(!status.problems.iter().any(|problem| problem.contains("layout version")), "{:?}", status.problems);
    open.iter_mut().for_each(answers);
    lab.settle().expect("tables in force");
    let bob = lab.pod("bob").expect("bob").netns().clone();
    answers(&mut connect(&bob, direct));
}
