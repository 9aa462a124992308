//! Arbitrary messages on the control socket, with arbitrary descriptors beside them: the dataplane's main thread answers
//! or refuses each, and control's end understands or refuses whatever a dataplane says.

use super::cluster;
use super::input::Input;
use dataplane::config::{Config, Profile};
use dataplane::server::Server;
use dataplane::worker::Polling;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tables::Region;
use tables::channel::{Channel, ChannelError};
use tables::flow::FlowLayout;
use tables::message::FromDataplane;
use tables::owner::SnatPorts;

const MESSAGES: [&str; 8] = [
    r#"{"say":"adoptFlows","id":1,"worker":0}"#,
    r#"{"say":"addInterface","id":2,"spec":{"kind":"pod","name":"a/eth0","ifindex":3,"mac":"02:00:00:00:00:01","addrs":["10.1.0.4"],"mtu":1450,"owner":0}}"#,
    r#"{"say":"addInterface","id":3,"spec":{"kind":"uplink","name":"eth0","ifindex":2,"mac":"02:00:00:00:00:02","addrs":[],"mtu":1500,"owner":null}}"#,
    r#"{"say":"removeInterface","id":4,"interface":1}"#,
    r#"{"say":"start","id":5}"#,
    r#"{"say":"tables","id":6}"#,
    r#"{"say":"explain","id":7,"query":{"interface":3,"src":"10.1.0.4","dst":"172.30.0.1","srcPort":1000,"dstPort":80,"protocol":6}}"#,
    r#"{"say":"hello","layoutVersion":1,"pid":1,"workers":1,"snat":{"first":40000,"last":60999,"workers":1},"fresh":true,"polling":"poll","flowsMax":1024}"#,
];
const HELLO: usize = 7;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut server = None;
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let (index, message) = message(&mut input);
        let fds = descriptors(&mut input);
        if index == HELLO {
            heard_by_control(&message, &fds);
        } else {
            heard_by_dataplane(server.get_or_insert_with(new_server), &message, &fds);
        }
    }
    if let Some(server) = server {
        server.stop();
    }
}

fn new_server() -> Server {
    let config = Config {
        socket: "unused".into(),
        workers: 1,
        cpus: vec![0],
        profile: Profile::default(),
        polling: Polling::Interrupt,
        frames: 1024,
        flows_max: 1024,
        stand_by: false,
        snat: SnatPorts::new(40_000, 60_999, 1).expect("a good range"),
        timeouts: Default::default(),
    };
    Server::new(config).expect("a server needs no privileges")
}

/// A good message, an edited one, or any bytes.
fn message(input: &mut Input) -> (usize, Vec<u8>) {
    let index = input.byte() as usize;
    if index >= 240 {
        let size = input.byte() as usize;
        return (index % 8, input.take(size).to_vec());
    }
    let mut message = MESSAGES[index % 8].as_bytes().to_vec();
    input.edit(&mut message);
    input.resize(&mut message);
    (index % 8, message)
}

/// Nothing, or what the message may and may not expect.
fn descriptors(input: &mut Input) -> Vec<OwnedFd> {
    let one = |kind: u8| match kind {
        0 => std::fs::File::open("/dev/null").expect("a null device").into(),
        1 => cluster::publisher().region().fd().try_clone_to_owned().expect("a descriptor"),
        2 => FlowLayout::for_capacity(1024).create(0, 1, 7, 0).map(|region| owned(&region)).expect("memory"),
        3 => std::io::pipe().expect("a pipe").0.into(),
        _ => owned(&Region::create(c"fuzz", 1 + kind as usize).expect("memory")),
    };
    (0..input.byte() % 3).map(|_| one(input.byte() % 8)).collect()
}

fn owned(region: &Region) -> OwnedFd {
    region.fd().try_clone_to_owned().expect("a descriptor")
}

/// A connection, and its other end with the message in it.
fn sent(message: &[u8], fds: &[OwnedFd]) -> (OwnedFd, Channel) {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a pair");
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let bytes = [IoSlice::new(message)];
    rustix::net::sendmsg(&ours, &bytes, &mut ancillary, SendFlags::NOSIGNAL).expect("room for one message");
    (ours, theirs.into())
}

fn heard_by_dataplane(server: &mut Server, message: &[u8], fds: &[OwnedFd]) {
    let (_ours, channel) = sent(message, fds);
    let understood = server.serve(&channel);
    // Whatever was said, the next control process must be greeted.
    server.greet(&channel).unwrap_or_else(|error| panic!("{error:#} after {understood:?}"));
}

fn heard_by_control(message: &[u8], fds: &[OwnedFd]) {
    let (_ours, channel) = sent(message, fds);
    match channel.receive::<FromDataplane>() {
        Ok((FromDataplane::Hello { snat, workers, .. }, got)) => {
            assert_eq!(got.len(), fds.len());
            snat.owner(40_000);
            if workers > 0 {
                snat.block(0);
            }
        }
        Ok(_) | Err(ChannelError::Closed | ChannelError::Json(_)) => {}
        Err(error) => panic!("{error}"),
    }
}
