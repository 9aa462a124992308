//! The rows of the CLI's listings, as JSON and as Rust: control fills them in, `fairway` prints them.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tables::{Addr, Mac};

/// `fairway status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    pub node: String,
    /// `connected` or `gone`.
    pub dataplane: String,
    /// Published last.
    pub generation: u64,
    /// Where objects come from.
    #[serde(default)]
    pub source: SourceView,
    /// The newest generation that every worker judges by.
    pub acknowledged: u64,
    pub polling: Option<String>,
    pub uplink: UplinkView,
    pub workers: Vec<WorkerView>,
    pub objects: BTreeMap<String, usize>,
    pub tables: Vec<FillView>,
    pub pods: usize,
    pub pod_ranges: Vec<String>,
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// A directory, or the API server's address.
    pub name: String,
    /// `reading` (the first read is not complete), `connected` or `failing`.
    pub state: String,
    /// For so long.
    pub since_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UplinkView {
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    pub queues: u32,
    /// How the sockets are bound: `zero-copy` or `copy`.
    pub mode: Option<String>,
    /// How the XDP program runs: `driver` or `generic`.
    pub xdp: Option<String>,
    /// What a bond does with its members.
    #[serde(default)]
    pub bond: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    pub id: u16,
    /// Acknowledged last.
    pub generation: u64,
    pub asleep: bool,
    /// Share of the last second that was spent on packets; polling without finding any is idle.
    pub busy_ratio: f64,
    pub shares_core: bool,
    pub handoffs_out: u64,
    pub handoffs_in: u64,
    pub packets: u64,
    pub flows: u64,
    pub flows_limit: u64,
}

/// `fairway status --runtime`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuntimeView {
    pub node: String,
    pub polling: String,
    pub workers: Vec<WorkerRuntime>,
}

/// What a worker does with its time, since it started where nothing else is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRuntime {
    pub id: u16,
    pub asleep: bool,
    pub shares_core: bool,
    /// Share of the last second that was spent on packets, exponentially weighted; polling without finding any is idle.
    pub busy_1s: f64,
    pub busy_10s: f64,
    /// In the last second.
    pub packets_per_s: f64,
    pub packets: u64,
    /// Rounds of the poll loop that found packets, and that found none.
    pub rounds: u64,
    pub empty_rounds: u64,
    pub sleeps: u64,
    pub handoffs_out: u64,
    pub handoffs_in: u64,
    /// Rounds whose stages were measured; those of `rounds` in which another thread took the core are left out.
    pub sampled_rounds: u64,
    pub preempted_rounds: u64,
    /// Ticks of the worker's clock in a second.
    pub tick_hz: u64,
    /// Packets of an average burst.
    pub burst_mean: f64,
    pub bursts: Vec<BurstView>,
    pub stages: Vec<StageView>,
    /// Of all stages together; null before the first sample.
    pub ticks_per_packet: Option<f64>,
    pub ns_per_packet: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BurstView {
    /// Packets: `1`, `2-3`, ...
    pub size: String,
    pub bursts: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    pub stage: String,
    pub sentence: String,
    /// Estimated from the sampled rounds.
    pub packets: u64,
    /// Of those bursts that had packets here.
    pub burst_mean: f64,
    /// null for a stage that had no packets.
    pub ticks_per_packet: Option<f64>,
    pub ns_per_packet: Option<f64>,
    /// Of the time that all stages took.
    pub share: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillView {
    pub table: String,
    pub used: u64,
    pub limit: u64,
}

/// `fairway interfaces`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    pub name: String,
    pub kind: String,
    pub id: u32,
    pub owner: u16,
    pub mode: Option<String>,
    pub mac: Mac,
    pub mtu: u16,
    /// `namespace/name`
    pub pod: Option<String>,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// `fairway endpoints`: the pods attached here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    pub namespace: String,
    pub name: String,
    pub addrs: Vec<Addr>,
    pub mac: Mac,
    pub container: String,
    pub ifname: String,
    pub interface: Option<u32>,
    pub owner: Option<u16>,
    pub identity: Option<u32>,
    pub policy_set: Option<u32>,
    /// Traffic flows: the pod is known and its policies are in force.
    pub ready: bool,
}

/// `fairway drops`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropView {
    pub reason: String,
    pub sentence: String,
    pub count: u64,
    /// `namespace/name` of the NetworkPolicy that these were counted for; None: the total of the reason.
    pub policy: Option<String>,
}

/// `fairway flows`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    pub worker: u16,
    pub protocol: String,
    /// As the local end sees it.
    pub local: String,
    pub remote: String,
    /// As the network sees it, where that differs.
    pub outside: Option<(String, String)>,
    pub out: String,
    pub back: String,
    /// `namespace/name`
    pub service: Option<String>,
    pub answered: bool,
    /// Both ways.
    pub packets: u32,
}

/// `fairway explain`. Of many questions, one that has no answer has the verdict `unknown` and why as its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    pub verdict: String,
    pub reason: Option<String>,
    pub policy: Option<String>,
    /// Which of the policy's rules, as in `ingress[0]`, with the name that it may have; none if it denies what no rule allows.
    pub rule: Option<String>,
    pub service: Option<String>,
    pub backends: Vec<String>,
    pub steps: Vec<(String, String)>,
    pub inside: Option<String>,
    pub outside: Option<String>,
    pub masquerade: bool,
    /// The node that answers by itself (direct server return).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<String>,
    pub generation: u64,
}

/// `fairway services`: one row a service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    pub port_name: String,
    /// A cluster address, a node's with a node port, a load balancer's or an external one.
    pub address: Addr,
    pub port: u16,
    pub protocol: String,
    pub affinity_s: u32,
    /// How new flows are spread over the backends.
    pub algorithm: String,
    /// How clients outside reach backends of other nodes: `snat`, `dsr`, or `-` where they reach none.
    #[serde(default)]
    pub forwarding: String,
    /// `address:port`
    pub backends: Vec<String>,
    /// In the tables, 0 if it is not there; flows name it.
    #[serde(default)]
    pub id: u32,
    /// What goes to each backend by the flows that are there now, in the order of `backends`; asked for by `-o wide`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loads: Vec<LoadView>,
}

/// Flows to one backend, and the packets of both ways that they have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadView {
    pub flows: u64,
    pub packets: u64,
}

impl ServiceView {
    /// Fills in what goes to each backend. `loads` are by service id and `address:port`.
    pub fn add_loads(&mut self, loads: &HashMap<(u32, String), LoadView>) {
        let load = |backend: &String| loads.get(&(self.id, backend.clone())).copied().unwrap_or_default();
        self.loads = self.backends.iter().map(load).collect();
    }
}

/// `fairway bundle`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleView {
    pub file: PathBuf,
    pub bytes: u64,
}

/// `fairway replay`: a packet of the capture and its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayView {
    pub number: u64,
    /// Seconds since the first packet.
    pub time_s: f64,
    pub interface: String,
    pub packet: String,
    pub ways: Vec<String>,
}

/// `fairway addresses`: those of services that no device has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressView {
    pub namespace: String,
    pub name: String,
    pub addr: Addr,
    /// `load-balancer` or `external`.
    pub kind: String,
    /// The address pool that it lies in.
    pub pool: Option<String>,
    /// The node of this link that answers for it, as this node sees it.
    pub announced_by: Option<String>,
}

/// `fairway policies`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    pub kind: String,
    /// Empty for policies of the whole cluster.
    pub namespace: String,
    pub name: String,
    /// `Ingress`, `Egress`: the directions that it speaks of.
    pub types: Vec<String>,
    /// Attachments of this node that it selects.
    pub local_endpoints: usize,
    /// Packets that it kept away.
    pub drops: u64,
    /// Flows that its rules let in.
    #[serde(default)]
    pub flows: u64,
    /// Flows that passed although it would keep them away: it is only being tried.
    #[serde(default)]
    pub audited: u64,
}

/// `fairway policies diff`: a flow that a change would cut or admit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowChange {
    /// `cut` or `admitted`.
    pub change: String,
    pub protocol: String,
    /// Who opened it, as the network sees it: backends, not services.
    pub source: String,
    pub source_pod: Option<String>,
    pub destination: String,
    pub destination_pod: Option<String>,
    /// The policy that cuts it, or that allows it if one does.
    pub policy: Option<String>,
    /// None if it is cut because no rule allows it.
    pub rule: Option<String>,
    /// `ingress` or `egress`: whose policy that is, the destination's or the source's.
    pub direction: String,
    /// That it has carried so far, both ways.
    pub packets: u32,
}

/// `fairway policies --lint`: something about a policy that its author may not have meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LintView {
    pub kind: String,
    /// Empty for policies of the whole cluster.
    pub namespace: String,
    pub name: String,
    /// Such as `ingress[0]`; none if it is about the whole policy.
    pub rule: Option<String>,
    pub finding: String,
}

/// `fairway routes`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    pub prefix: String,
    pub kind: String,
    /// The other node, for tunnels.
    pub peer: Option<Addr>,
    pub next_hop: Option<Addr>,
    /// Ethernet address of the next hop, once it is known.
    pub next_hop_mac: Option<Mac>,
    pub masquerade: bool,
}
