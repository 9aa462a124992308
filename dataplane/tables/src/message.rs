//! What the two processes tell each other over the control socket: one JSON message a datagram (unix SOCK_SEQPACKET),
//! file descriptors beside it (SCM_RIGHTS).
//!
//! The dataplane listens. On connect it says [`FromDataplane::Hello`], then every interface and every worker's flow
//! memory with their descriptors, then `Synced`: so a control process that was restarted gets back what it kept.
//! If the dataplane is `fresh`, control answers with what it kept for it (`AdoptFlows`), the interfaces, and `Start`.
//! In any case control then passes `Tables`. Each request carries an id; its `Answer` carries the same one.
//!
//! Descriptors, in order: `Hello`: status region, eventfd that rings when a neighbour is asked for. `Interface` and
//! `AddInterface`: uplink: one AF_XDP socket a queue; pod and host: the TAP's queues. `Flows`, `AdoptFlows`, `Tables`: the region.
//!
//! Both sides treat what they receive as a claim: sizes are bounded, unknown fields refused.

use crate::owner::{SnatPorts, Worker};
use crate::{Addr, Mac, Protocol};
use serde::{Deserialize, Serialize};

/// The largest message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The most descriptors beside one message: queues of one interface.
pub const MESSAGE_FDS_MAX: usize = 64;

/// What an interface is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceKind {
    Uplink,
    Host,
    Pod,
}

/// How an uplink's sockets were bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    ZeroCopy,
    Copy,
}

/// An interface as control describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InterfaceSpec {
    pub kind: InterfaceKind,
    /// The device's name; for a pod `container id/ifname`, by which control finds its attachment again.
    pub name: String,
    /// Kernel index in the namespace the sockets were made in; uplinks bind by it: a VLAN's parent.
    pub ifindex: u32,
    /// Of a bond: the kernel indices of its members, whose sockets come one member after the other, the same number of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<u32>,
    /// The 802.1Q tag that an uplink's frames carry, 0 for none; everything above the device is without it.
    pub vlan: u16,
    /// The address of the far side: a pod's or the host's own; an uplink's own.
    pub mac: Mac,
    /// Addresses that may be sent from (pods); empty: any (host, uplink).
    pub addrs: Vec<Addr>,
    /// Largest IP packet, bytes. Of an uplink at the start: what its sockets must be able to take.
    pub mtu: u16,
    /// Asks for an owner; the dataplane's own choice otherwise.
    pub owner: Option<Worker>,
}

/// An interface as the dataplane keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InterfaceInfo {
    pub id: u32,
    pub owner: Worker,
    pub spec: InterfaceSpec,
    /// Uplinks: how they are bound.
    pub mode: Option<XdpMode>,
}

/// A question about one packet that was never sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExplainQuery {
    /// Interface id the packet comes in by; None: by the uplink, other nodes' pods in the tunnel.
    pub interface: Option<u32>,
    pub src: Addr,
    pub dst: Addr,
    pub src_port: u16,
    pub dst_port: u16,
    pub protocol: Protocol,
}

/// What became of one packet of a capture in a bundle's engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Replayed {
    /// From 1, in the order of the capture.
    pub number: u64,
    pub time_ns: u64,
    /// By which it came in.
    pub interface: u32,
    /// `SRC DST PROTOCOL` and what else is worth a word.
    pub packet: String,
    pub ends: Vec<ReplayEnd>,
}

/// Where a packet, or a part of it, or an answer to it, went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "end", rename_all = "camelCase")]
pub enum ReplayEnd {
    Sent {
        interface: u32,
        /// The other end of a tunnel.
        tunnel: Option<Addr>,
        packet: String,
    },
    /// Name of the `DropReason`.
    Dropped { reason: String },
    /// It waits: for a neighbour, or for the first part of a fragmented packet.
    Waits,
    /// The node sent it: it was not put in again.
    Own,
}

/// What would become of it. Ids are those of the tables; control knows their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Explained {
    /// `forward`, `drop`, `reject`, `punt`.
    pub verdict: String,
    /// Name of the `DropReason` of a drop.
    pub reason: Option<String>,
    /// The policy that decided, by index.
    pub policy: Option<u32>,
    /// Which of its rules, as in `ingress[0]`; none if it denies what no rule allows.
    pub rule: Option<String>,
    /// Each look-up in the order it was made: (what, with which result).
    pub steps: Vec<(String, String)>,
    /// The service port that was matched, by id.
    pub service: Option<u32>,
    /// Every backend that could have been chosen.
    pub backends: Vec<(Addr, u16)>,
    /// The flow as its local end sees it, and as the network sees it.
    pub inside: Option<String>,
    pub outside: Option<String>,
    /// Whether the source becomes an address of the node.
    pub masquerade: bool,
    /// The node to which the packet goes as it came, to be answered from there.
    pub direct: Option<Addr>,
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "say", rename_all = "camelCase")]
pub enum FromDataplane {
    #[serde(rename_all = "camelCase")]
    Hello {
        layout_version: u64,
        pid: u32,
        workers: Worker,
        snat: SnatPorts,
        /// Not started: waits for interfaces and `Start`.
        fresh: bool,
        polling: String,
        /// Capacity of each worker's flow table.
        flows_max: u64,
    },
    Interface(InterfaceInfo),
    Flows {
        worker: Worker,
    },
    Synced,
    Answer {
        id: u64,
        answer: Answer,
    },
    /// A device died under the dataplane.
    #[serde(rename_all = "camelCase")]
    InterfaceGone {
        interface: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "is", rename_all = "camelCase")]
pub enum Answer {
    Done,
    Interface(InterfaceInfo),
    Explained(Explained),
    /// One sentence for a person.
    Refused {
        why: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "say", rename_all = "camelCase")]
pub enum ToDataplane {
    AdoptFlows {
        id: u64,
        worker: Worker,
    },
    AddInterface {
        id: u64,
        spec: InterfaceSpec,
    },
    RemoveInterface {
        id: u64,
        interface: u32,
    },
    /// Registers memory, drops privileges, starts the workers. Only once.
    Start {
        id: u64,
    },
    Tables {
        id: u64,
    },
    /// Which members of a bond send: a bit each, in the order of its spec. None do before it is said.
    SetSending {
        id: u64,
        interface: u32,
        members: u64,
    },
    Explain {
        id: u64,
        query: ExplainQuery,
    },
}

impl ToDataplane {
    pub fn id(&self) -> u64 {
        match self {
            ToDataplane::AdoptFlows { id, .. }
            | ToDataplane::AddInterface { id, .. }
            | ToDataplane::RemoveInterface { id, .. }
            | ToDataplane::Start { id }
            | ToDataplane::Tables { id }
            | ToDataplane::SetSending { id, .. }
            | ToDataplane::Explain { id, .. } => *id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_and_unknown_fields_are_refused() {
        let message = ToDataplane::AddInterface {
            id: 3,
            spec: InterfaceSpec {
                kind: InterfaceKind::Pod,
                name: "abc/eth0".into(),
                ifindex: 2,
                members: Vec::new(),
                vlan: 0,
                mac: Mac([2, 0, 0, 0, 0, 1]),
                addrs: vec!["10.1.0.4".parse().unwrap()],
                mtu: 1450,
                owner: None,
            },
        };
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<ToDataplane>(&text).unwrap(), message);
        let extended = text.replace("\"mtu\"", "\"extra\":1,\"mtu\"");
        assert!(serde_json::from_str::<ToDataplane>(&extended).is_err());
    }
}
