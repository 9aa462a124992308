//! The tables as a worker reads them, against a naive reading of the same objects.

mod audit;
mod cases;
mod naive;
mod naive_services;
mod policies;
mod policy;
mod policy_scale;
mod scale;
mod unclaimed;
mod world;

use super::*;
use crate::state::Local;
use naive::Route;
use naive_services::Found;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tables::endpoint::{EndpointRecord, FLAG_POLICY_IN_FORCE};
use tables::layout::Table;
use tables::lpm::Lpm;
use tables::neighbour::NeighbourRecord;
use tables::policy::{Direction, IDENTITY_WORLD, MODE_OPEN, MODE_TIERED, PolicyKey, PolicyRow, PolicySetRecord, place};
use tables::route::{RouteKind, RouteRecord};
use tables::rules::rules_of;
use tables::scope::{Scope, ScopeCounters, Scopes};
use tables::service::*;
use tables::status::Status;
use tables::{Prefix, Protocol, Publisher, Reader, View};
use world::{Step, Truth};

/// State, compiler and tables of one node, and a worker that reads them.
struct Rig {
    state: State,
    compiler: Compiler,
    publisher: Publisher,
    status: Status,
    reader: Reader,
    counters: ScopeCounters,
}

impl Rig {
    fn new(local: Local) -> Rig {
        let publisher = Publisher::create(0x5eed).unwrap();
        let status = Status::create(1).unwrap();
        let reader = Reader::from_fd(publisher.region().fd().try_clone_to_owned().unwrap()).unwrap();
        let mut state = State::new();
        state.set_local(local);
        state.set_complete();
        let (compiler, counters) = (Compiler::new(), ScopeCounters::default());
        Rig { state, compiler, publisher, status, reader, counters }
    }

    fn update(&mut self) -> Report {
        let mut batch = self.publisher.batch(self.status.acks()).expect("the only reader has acknowledged");
        let report = self.compiler.update(&mut self.state, &mut batch);
        batch.publish();
        self.reader.pin(self.status.block(0).ack(), &mut self.counters);
        report
    }

    fn view(&self) -> View<'_> {
        self.reader.view()
    }
}

/// A look-up's result and what it depends on.
type Answer<T> = (T, [Option<Scope>; 4]);

fn service(view: &View, addr: Addr, port: u16, protocol: Protocol) -> Answer<Found> {
    let find = |key| view.find::<ServiceKey, ServiceRecord>(Table::Service, &key);
    if let Some(row) = find(ServiceKey::new(addr, port, protocol)) {
        return (port_row(view, &row, addr.is_v4()), [Some(Scope::Service(row.id)), None, None, None]);
    }
    match find(ServiceKey::address(addr)) {
        Some(row) => {
            assert_eq!(row.flags, FLAG_ADDRESS_ONLY);
            (Found::NoPort, [Some(Scope::Service(row.id)), None, None, None])
        }
        None => (Found::None, [Some(Scope::Route(route_id(view, addr))), None, None, None]),
    }
}

fn port_row(view: &View, row: &ServiceRecord, v4: bool) -> Found {
    let set = |rows: Rows| {
        let all = (0..rows.count).map(|i| view.row::<BackendRecord>(Table::Backend, rows.get(i).unwrap()));
        let all: Vec<_> = all.map(|b| (b.addr, b.port)).collect();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        all.into_iter().collect::<BTreeSet<_>>()
    };
    let answer = |rows: Rows, flag| match set(rows) {
        all if !all.is_empty() => naive_services::Answer::To(all),
        _ if row.flags & flag != 0 => naive_services::Answer::Drop,
        _ => naive_services::Answer::Reject,
    };
    let sources = (0..row.sources.count).map(|i| view.row::<SourceRecord>(Table::Source, row.sources.get(i).unwrap()));
    let sources = sources.map(|source| tables::Prefix::new(source.addr, source.length).unwrap());
    Found::Port {
        inside: answer(row.inside, FLAG_DROP_INSIDE),
        outside: answer(row.outside, FLAG_DROP_OUTSIDE),
        affinity_s: row.affinity_s,
        keeps: [row.inside, row.outside, row.leaving].into_iter().flat_map(set).collect(),
        sources: sources.inspect(|range| assert_eq!(range.is_v4(), v4)).collect(),
        flags: row.flags & (FLAG_MASQUERADE_ALL | FLAG_MASQUERADE_OUTSIDE | FLAG_PODS_OUTSIDE | FLAG_DIRECT),
    }
}

fn route_id(view: &View, addr: Addr) -> u32 {
    view.longest_match(Lpm::Route, addr).unwrap_or(0) as u32
}

fn route(view: &View, addr: Addr) -> Answer<Route> {
    let id = route_id(view, addr);
    let row: RouteRecord = view.row(Table::Route, id as usize);
    let next_hop = view.row::<NeighbourRecord>(Table::Neighbour, row.next_hop as usize).addr;
    let found = match row.kind() {
        None => Route::None,
        Some(RouteKind::Local) => Route::Local,
        Some(RouteKind::Host) => Route::Host,
        Some(RouteKind::Blackhole) => Route::Blackhole,
        Some(RouteKind::Services) => Route::Services,
        Some(RouteKind::Tunnel | RouteKind::Ipip) => Route::Tunnel { peer: row.peer, next_hop },
        Some(RouteKind::Via) => Route::Via { next_hop },
        Some(RouteKind::OnLink) => Route::OnLink,
    };
    (found, [Some(Scope::Route(id)), None, None, None])
}

fn endpoint(view: &View, addr: Addr) -> Option<EndpointRecord> {
    view.find(Table::Endpoint, &addr)
}

/// Whether it is allowed; which policy and rule says so.
fn judged(
    view: &View,
    own: &EndpointRecord,
    direction: Direction,
    peer: Addr,
    (protocol, port): (Protocol, u16),
) -> (bool, Option<(u32, Option<u16>)>) {
    let set: PolicySetRecord = view.row(Table::PolicySet, own.policy_set as usize);
    let side = set.side(direction);
    let mode = side.mode();
    if mode == MODE_OPEN {
        return (true, None);
    }
    let row = |identity| view.find(Table::Policy, &PolicyKey::new(own.policy_set, direction, identity));
    let row: PolicyRow = row(identity(view, peer)).unwrap_or(side.any);
    let mut rules = rules_of(view, row).into_iter();
    match rules.find(|rule| rule.holds(place(protocol, port))) {
        Some(rule) if rule.policy == 0 => (rule.allows(), None),
        Some(rule) => (rule.allows(), Some((rule.policy, Some(rule.rule)))),
        None if mode == MODE_TIERED => (true, None),
        None => (false, Some((side.deny_policy(), None))),
    }
}

fn verdict(view: &View, own: &EndpointRecord, direction: Direction, peer: Addr, protocol: Protocol, port: u16) -> bool {
    judged(view, own, direction, peer, (protocol, port)).0
}

fn identity(view: &View, addr: Addr) -> u32 {
    view.longest_match(Lpm::Identity, addr).unwrap_or(IDENTITY_WORLD as u64) as u32
}

const PORTS: [(Protocol, u16); 7] = [
    (Protocol::TCP, 80),
    (Protocol::TCP, 82),
    (Protocol::TCP, 30_000),
    (Protocol::UDP, 80),
    (Protocol::UDP, 81),
    (Protocol::UDP, 30_000),
    (Protocol::ICMP, 0),
];

/// Everything that workers may look up, by what was asked.
fn everything(view: &View) -> BTreeMap<String, Answer<String>> {
    let mut all = BTreeMap::new();
    for addr in world::addrs() {
        for (protocol, port) in PORTS {
            let (found, scopes) = service(view, addr, port, protocol);
            all.insert(format!("service {addr} {port}/{protocol}"), (format!("{found:?}"), scopes));
        }
        let (found, scopes) = route(view, addr);
        all.insert(format!("route {addr}"), (format!("{found:?}"), scopes));
        let own = endpoint(view, addr);
        let shown = own.map(|row| (row.kind(), row.interface, row.mac, row.flags, row.owner_first, row.owner_count));
        all.insert(format!("endpoint {addr}"), (format!("{shown:?}"), scopes));
        let Some(own) = own.filter(|own| own.flags & FLAG_POLICY_IN_FORCE != 0) else { continue };
        verdicts(view, addr, &own, &mut all);
    }
    all
}

fn verdicts(view: &View, addr: Addr, own: &EndpointRecord, all: &mut BTreeMap<String, Answer<String>>) {
    for peer in world::addrs() {
        let scopes = [Some(Scope::PolicySet(own.policy_set)), Some(Scope::Identity(identity(view, peer))), None, None];
        for direction in [Direction::Ingress, Direction::Egress] {
            let judge = |&(protocol, port): &(Protocol, u16)| verdict(view, own, direction, peer, protocol, port);
            let verdicts: Vec<bool> = PORTS.iter().map(judge).collect();
            all.insert(format!("{direction:?} {addr} {peer}"), (format!("{verdicts:?}"), scopes));
        }
    }
}

fn check_against_naive(rig: &Rig, truth: &Truth) -> Result<(), TestCaseError> {
    let view = &rig.view();
    for addr in world::addrs() {
        for (protocol, port) in PORTS.into_iter().filter(|(_, port)| *port > 0) {
            let found = service(view, addr, port, protocol).0;
            prop_assert_eq!(found, truth.service(addr, port, protocol), "service {} {}/{}", addr, port, protocol);
        }
        prop_assert_eq!(route(view, addr).0, truth.route(addr), "route {}", addr);
    }
    for attached in truth.local.endpoints.values() {
        for &addr in &attached.addrs {
            let own = endpoint(view, addr).expect("attached");
            prop_assert_eq!(
                (own.interface, own.owner_first, own.mac),
                (attached.interface, attached.owner, attached.mac)
            );
            let pod = truth.pod(&attached.pod);
            prop_assert_eq!(own.flags & FLAG_POLICY_IN_FORCE != 0, pod.is_some());
            let Some(pod) = pod else { continue };
            policy::check(view, truth, &rig.compiler, pod, &own)?;
        }
    }
    let attached = truth.local.endpoints.values().map(|endpoint| endpoint.addrs.len()).sum::<usize>();
    prop_assert_eq!(view.rows::<Addr, EndpointRecord>(Table::Endpoint).count(), 8 + attached);
    Ok(())
}

/// Rows outside the service ranges.
fn singles(view: &View, ranges: &[Prefix]) -> BTreeSet<Single> {
    let rows =
        view.rows::<ServiceKey, ServiceRecord>(Table::Service).filter(|(_, row)| row.flags & FLAG_ADDRESS_ONLY == 0);
    let all = rows.map(|(key, _)| Single { addr: key.addr, protocol: key.protocol, port: key.port });
    all.filter(|single| !ranges.iter().any(|range| range.contains(single.addr))).collect()
}

/// Rows in use, which must not depend on how one got there.
fn used(rig: &Rig) -> Vec<(&'static str, usize)> {
    rig.compiler.fill().into_iter().map(|fill| (fill.table, fill.used)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: the tables say what the objects say, every look-up that changed was announced
    /// by a touched scope, and nothing is left over compared with compiling the end state alone.
    #[test]
    fn tables_say_what_the_objects_say(prelude in world::prelude(), steps in prop::collection::vec(world::step(), 1..80)) {
        let (mut rig, mut truth) = (Rig::new(world::local()), Truth::new());
        rig.update();
        for step in prelude.iter().chain(&steps).chain([&Step::Update]) {
            truth.step(step);
            world::apply(&mut rig.state, step);
            if !matches!(step, Step::Update) {
                continue;
            }
            let before: BTreeMap<String, (String, Scopes)> = everything(&rig.view())
                .into_iter()
                .map(|(asked, (answer, scopes))| (asked, (answer, rig.counters.depend(scopes))))
                .collect();
            rig.update();
            for (asked, (answer, _)) in everything(&rig.view()) {
                if let Some((old, scopes)) = before.get(&asked) && *old != answer {
                    prop_assert!(!rig.counters.is_current(scopes), "{} went from {} to {} unannounced", asked, old, answer);
                }
            }
        }
        check_against_naive(&rig, &truth)?;
        let mut fresh = Rig::new(truth.local.clone());
        truth.objects.values().for_each(|object| fresh.state.apply(crate::object::ObjectChange::Put(object.clone())));
        let report = fresh.update();
        prop_assert_eq!(used(&rig), used(&fresh));
        let told = rig.update();
        prop_assert_eq!((&told.singles, &told.health_ports), (&report.singles, &report.health_ports));
        prop_assert_eq!(&told.answering, &report.answering);
        prop_assert_eq!(&*told.singles, &singles(&fresh.view(), &truth.local.service_cidrs));
        let answers = |rig: &Rig| everything(&rig.view()).into_iter().map(|(asked, (answer, _))| (asked, answer)).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(answers(&rig), answers(&fresh));
        let nodes: BTreeSet<Addr> = report.next_hops.iter().copied().collect();
        prop_assert_eq!(rig.update().next_hops.iter().copied().collect::<BTreeSet<_>>(), nodes);
    }
}
