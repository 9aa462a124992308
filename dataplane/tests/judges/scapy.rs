//! The exchange with `judge.py`: it builds packets, this puts them into nodes and gives back what came out, until it has
//! nothing more to ask. Everything that crossed is kept for the other judge.

use crate::support::*;
use dataplane::io::mem::pcap;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tables::Protocol;

/// Made by `make test`, beside what cargo builds.
fn python() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().nth(3).unwrap();
    let python = target.join("scapy/bin/python");
    assert!(python.exists(), "{} is missing: `make judges` makes it", python.display());
    python
}

pub struct Exchange {
    folder: PathBuf,
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    nodes: BTreeMap<String, Node>,
    /// What came out.
    sent: Vec<Vec<u8>>,
    dropped: Vec<String>,
}

/// What the judge finds wrong.
const SAID: &str = "said.txt";

/// A packet's case and place.
type Mark = (String, String);

impl Exchange {
    pub fn start(folder: &Path) -> Exchange {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/judge.py");
        // In a network of its own: scapy would ask for Ethernet addresses that it is not told.
        let mut command = Command::new("unshare");
        command.arg("--net").arg(python());
        // A pipe might fill up while nobody reads it.
        let said = std::fs::File::create(folder.join(SAID)).unwrap();
        command.arg("-B").arg(script).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().expect("unshare (util-linux)");
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Exchange { folder: folder.to_owned(), child, to, from, nodes: nodes(), sent: Vec::new(), dropped: Vec::new() }
    }

    /// To the end; what the judge says, if anything is wrong.
    pub fn run(mut self) -> (Vec<Vec<u8>>, Result<String, String>) {
        while let Some(asked) = self.read() {
            self.answer(asked);
        }
        drop(self.to);
        let status = self.child.wait().unwrap();
        let said = std::fs::read_to_string(self.folder.join(SAID)).unwrap();
        (self.sent, if status.success() { Ok(said) } else { Err(format!("{said}{:?}", self.dropped)) })
    }

    fn read(&mut self) -> Option<Vec<(Mark, Vec<u8>)>> {
        let mut marks = Vec::new();
        loop {
            let line = self.from.next()?.unwrap();
            if line == "go" {
                break;
            }
            let (case, place) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            marks.push((case.to_owned(), place.to_owned()));
        }
        let packets = pcap::read(std::fs::File::open(self.folder.join("asked.pcap")).unwrap()).unwrap();
        assert_eq!(packets.len(), marks.len());
        Some(marks.into_iter().zip(packets.into_iter().map(|packet| packet.bytes)).collect())
    }

    fn answer(&mut self, asked: Vec<(Mark, Vec<u8>)>) {
        let (mut lines, first) = (String::new(), self.sent.len());
        for ((case, place), bytes) in asked {
            let (kind, interface) = place.split_once('.').unwrap();
            let node = self.nodes.get_mut(kind).unwrap();
            let passed = node.pass_all(interface_of(interface), None, [&bytes]);
            self.dropped.extend(passed.dropped.iter().map(|reason| format!("case {case}: {reason:?}")));
            for (interface, bytes) in passed.sent {
                lines += &format!("{case} {kind}.{}\n", name_of(interface));
                self.sent.push(bytes);
            }
        }
        write_capture(&self.folder.join("answered.pcap"), &self.sent[first..]);
        // If it is gone, its exit says why.
        let _ = self.to.write_all((lines + "end\n").as_bytes());
    }
}

const PLACES: [(u32, &str); 3] = [(UPLINK, "uplink"), (POD_A, "pod4"), (POD_B, "pod5")];

fn interface_of(name: &str) -> u32 {
    PLACES.iter().find(|(_, place)| *place == name).unwrap_or_else(|| panic!("{name}")).0
}

fn name_of(interface: u32) -> &'static str {
    PLACES.iter().find(|(id, _)| *id == interface).map_or("elsewhere", |(_, place)| place)
}

pub fn write_capture(path: &Path, packets: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    pcap::write_header(&mut bytes).unwrap();
    packets.iter().for_each(|packet| pcap::write_packet(&mut bytes, 0, packet).unwrap());
    std::fs::write(path, bytes).unwrap();
}

/// A node for each way between nodes, whose services have the remote pod as their backend.
pub fn nodes() -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    for (wrapped, name) in [(Wrapped::Vxlan, "vxlan"), (Wrapped::Geneve, "geneve"), (Wrapped::Ip, "ipip")] {
        for (underlay, family) in [(0, "4"), (1, "6")] {
            let mut node = Node::new(Shape { wrapped, underlay, ..Shape::default() });
            node.publish(|rows| {
                for (i, ends) in (0..).zip(FAMILIES) {
                    rows.service(1 + i, (ends.service, 700, Protocol::UDP), &[(ends.remote, 47_000)]);
                    rows.service(3 + i, (ends.service, 701, Protocol::TCP), &[(ends.remote, 47_001)]);
                    rows.service(5 + i, (ends.service, 703, Protocol::SCTP), &[(ends.remote, 47_003)]);
                }
            });
            nodes.insert(format!("{name}{family}"), node);
        }
    }
    nodes
}
