//! The connection to the dataplane, from the other end of the socket.

use control::link::{Link, LinkError, News};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tables::channel::{Channel, LOCK_EXTENSION, Listener};
use tables::layout::LAYOUT_VERSION;
use tables::message::{Answer, FromDataplane, ToDataplane};
use tables::owner::SnatPorts;
use tables::status::Status;

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("fairway-handshake-{name}-{}", std::process::id()))
}

fn hello(layout_version: u64) -> FromDataplane {
    let snat = SnatPorts::new(40000, 60999, 1).unwrap();
    let polling = "adaptive".into();
    FromDataplane::Hello { layout_version, pid: 7, workers: 1, snat, fresh: true, polling, flows_max: 64 }
}

fn greet(channel: &Channel, version: u64) {
    let status = Status::create(1).unwrap();
    let (bell, _) = std::io::pipe().unwrap();
    channel.send(&hello(version), &[status.region().fd(), bell.as_fd()]).unwrap();
    let flows = std::fs::File::open("/dev/null").unwrap();
    channel.send(&FromDataplane::Flows { worker: 0 }, &[flows.as_fd()]).unwrap();
    channel.send(&FromDataplane::Synced, &[]).unwrap();
}

/// A dataplane that does what `serve` says with its first connection.
fn dataplane(name: &str, serve: impl FnOnce(Channel) + Send + 'static) -> PathBuf {
    let path = socket(name);
    let listener = Listener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut poll = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        serve(listener.accept().unwrap());
    });
    path
}

fn remove(socket: &Path) {
    for file in [socket, &socket.with_extension(LOCK_EXTENSION)] {
        std::fs::remove_file(file).unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_dataplane_has_is_taken_and_answers_find_their_questions() {
    let path = dataplane("good", |channel| {
        greet(&channel, LAYOUT_VERSION);
        let (ask, _) = channel.receive::<ToDataplane>().unwrap();
        let late = FromDataplane::Answer { id: ask.id() + 100, answer: Answer::Done };
        channel.send(&late, &[]).unwrap();
        channel.send(&FromDataplane::InterfaceGone { interface: 3 }, &[]).unwrap();
        let why = "no frames left".to_owned();
        channel.send(&FromDataplane::Answer { id: ask.id(), answer: Answer::Refused { why } }, &[]).unwrap();
    });
    let (mut link, greeting) = Link::connect(&path).await.unwrap().unwrap();
    assert!(greeting.fresh && greeting.flows.len() == 1 && greeting.status.workers() == 1);
    let answer = link.ask(|id| ToDataplane::Start { id }, &[]).await.unwrap();
    assert_eq!(answer, Answer::Refused { why: "no frames left".into() });
    assert!(matches!(link.news().await, Ok(News::InterfaceGone(3))), "news that came in between are kept");
    assert!(matches!(link.news().await, Err(LinkError::Channel(_))), "the end of the connection is noticed");
    remove(&path);
}

#[tokio::test(flavor = "current_thread")]
async fn another_layout_another_message_and_nobody_are_told_apart() {
    let path = dataplane("version", |channel| greet(&channel, LAYOUT_VERSION + 1));
    let error = Link::connect(&path).await.err().unwrap();
    assert!(matches!(error, LinkError::Version { .. }) && error.to_string().contains("restart"), "{error}");
    remove(&path);

    let path = dataplane("later", |channel| {
        let mut hello = serde_json::to_value(hello(LAYOUT_VERSION + 1)).unwrap();
        hello["surprise"] = "of a later build".into();
        channel.send(&hello, &[]).unwrap();
    });
    let error = Link::connect(&path).await.err().unwrap();
    assert!(matches!(error, LinkError::Version { .. }), "{error}");
    remove(&path);

    let path = dataplane("nonsense", |channel| channel.send(&FromDataplane::Synced, &[]).unwrap());
    assert!(matches!(Link::connect(&path).await, Err(LinkError::Hello)));
    remove(&path);

    let path = dataplane("bare", |channel| channel.send(&hello(LAYOUT_VERSION), &[]).unwrap());
    assert!(matches!(Link::connect(&path).await, Err(LinkError::Descriptors { got: 0, .. })));
    remove(&path);

    assert!(Link::connect(&path).await.unwrap().is_none());
}
