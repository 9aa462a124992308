use super::*;
use crate::classify::service::ByHash;
use crate::classify::{Masquerade, Origin, Verdict, from_local, outside, to_local};
use bytemuck::Zeroable;
use proptest::prelude::*;
use tables::endpoint::{EndpointKind, FLAG_POLICY_IN_FORCE};
use tables::lpm::Lpm;
use tables::node::NodeRecord;
use tables::policy::{MODE_ISOLATED, PolicyKey, PolicySetRecord, RuleRecord};
use tables::publish::Batch;
use tables::route::{RouteKind, RouteRecord};
use tables::service::{FLAG_MASQUERADE_OUTSIDE, Rows};
use tables::{Prefix, Protocol, Publisher};

const POD: Addr = Addr::v4([10, 1, 0, 4]);
const POD_V6: Addr = v6(1, 4);
const SNAT: Addr = Addr::v4([10, 1, 0, 3]);
const SEED: u64 = 99;

struct Packet {
    place: usize,
    tuple: Tuple,
    hash: u64,
    opens: Option<Opens>,
}

impl Expected for Packet {
    fn opens(&self) -> Option<Opens> {
        self.opens
    }

    fn tuple(&self) -> Tuple {
        self.tuple
    }

    fn hash(&self) -> u64 {
        self.hash
    }

    fn place(&self) -> usize {
        self.place
    }
}

/// Of the cluster's network of this number.
const fn v6(net: u8, host: u8) -> Addr {
    Addr::v6([0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
}

fn prefix(octets: [u8; 4], length: u8) -> Prefix {
    Prefix::new(Addr::v4(octets), length).unwrap()
}

/// Twenty services of five backends for clients here, and others for those outside, whom every other one masquerades.
fn publisher() -> Publisher {
    let mut publisher = Publisher::create(7).unwrap();
    let mut batch = publisher.batch([]).unwrap();
    for i in 0..20 {
        for (b, net) in (0..10).zip([9; 5].into_iter().chain([8; 5])) {
            let backend = BackendRecord { addr: Addr::v4([10, net, i, b]), port: 8000 + b as u16, weight: 1, id: 0 };
            batch.set(Table::Backend, i as usize * 10 + b as usize, &backend).unwrap();
        }
        let rows = |first| Rows { first: i as u32 * 10 + first, count: 5 };
        let flags = if i % 2 == 0 { FLAG_MASQUERADE_OUTSIDE } else { 0 };
        let record =
            ServiceRecord { id: i as u32, inside: rows(0), outside: rows(5), flags, ..ServiceRecord::zeroed() };
        batch.insert(Table::Service, &ServiceKey::new(Addr::v4([172, 30, 0, i]), 80, Protocol::UDP), &record).unwrap();
    }
    batch.set(Table::Route, 1, &RouteRecord::new(RouteKind::Tunnel)).unwrap();
    batch.set(Table::Route, 2, &RouteRecord::new(RouteKind::Via)).unwrap();
    batch.insert_prefix(Lpm::Route, &prefix([10, 0, 0, 0], 8), 1).unwrap();
    batch.insert_prefix(Lpm::Route, &prefix([198, 18, 0, 0], 15), 2).unwrap();
    let mut pod = EndpointRecord::new(EndpointKind::Pod);
    (pod.interface, pod.flags, pod.policy_set) = (3, FLAG_POLICY_IN_FORCE, 1);
    batch.insert(Table::Endpoint, &POD, &pod).unwrap();
    batch.insert(Table::Endpoint, &POD_V6, &pod).unwrap();
    batch.insert_prefix(Lpm::Route, &Prefix::new(v6(0, 0), 8).unwrap(), 1).unwrap();
    isolate(&mut batch);
    batch.publish();
    publisher
}

/// By policies the pod speaks with half of the backends and with whoever asks it from a service's address; over IPv6 with
/// who is in network 22 if it asks, and with network 23 if that does.
fn isolate(batch: &mut Batch) {
    batch.set(Table::PolicySet, 1, &PolicySetRecord::of_modes([MODE_ISOLATED; 2])).unwrap();
    let row = batch.set_rules(1, &[RuleRecord::everything().allowed_by(5)]).unwrap();
    for (net, identity, direction) in
        [(9, 20, Direction::Egress), (8, 21, Direction::Egress), (30, 22, Direction::Ingress)]
    {
        let first = if net == 30 { 172 } else { 10 };
        batch.insert_prefix(Lpm::Identity, &prefix([first, net, 0, 0], 16), identity as u64).unwrap();
        if net != 8 {
            batch.set_policy_row(&PolicyKey::new(1, direction, identity), row).unwrap();
        }
    }
    for (net, identity) in [(22, 20), (23, 22)] {
        batch.insert_prefix(Lpm::Identity, &Prefix::new(v6(net, 0), 16).unwrap(), identity).unwrap();
    }
}

/// A packet by its numbers: to a service, to an address that is none, or of a pod's over IPv6, where no service is.
fn packet(place: usize, service: u8, port: u16, opens: Option<Opens>) -> Packet {
    let is_v6 = service >= 22;
    let opens = opens.map(|opens| if is_v6 && opens == Opens::Outside { Opens::Towards } else { opens });
    let (local, remote) = match opens {
        _ if is_v6 => (POD_V6, v6(service, 9)),
        Some(Opens::Outside) => (Addr::v4([198, 18, 0, 7]), Addr::v4([172, 30, 0, service])),
        _ => (POD, Addr::v4([172, 30, 0, service])),
    };
    let tuple =
        Tuple { local, remote, local_port: port, remote_port: 80, protocol: Protocol::UDP, reserved: 0, network: 0 };
    let hash = tables::hash::hash_words(&tuple.words(), 3);
    Packet { place, tuple, hash, opens }
}

proptest! {
    /// A guess that is wrong costs nobody anything but time, so that nobody would notice.
    #[test]
    fn what_is_likely_is_what_is_decided(burst in prop::collection::vec((0u8..24, 1u16.., 0u8..4), 1..=BURST_MAX)) {
        let publisher = publisher();
        let node = NodeRecord { ready: 1, snat: [SNAT, Addr::UNSPECIFIED], host_interface: 9, ..NodeRecord::zeroed() };
        let context = Context::new(publisher.live(), &node);
        let kinds = [None, Some(Opens::Local), Some(Opens::Outside), Some(Opens::Towards)];
        // Places in the burst are not those among the first packets.
        let packets = burst.into_iter().enumerate();
        let burst: Vec<Packet> =
            packets.map(|(i, (service, port, kind))| packet(63 - i, service, port, kinds[kind as usize])).collect();
        let mut firsts = burst.iter().filter(|packet| packet.opens.is_some());
        let mut knowns = [UNKNOWN; BURST_MAX];
        expect(&context, &burst, SEED, &mut knowns, |packet, likely| {
            assert!(std::ptr::eq(packet, firsts.next().unwrap()));
            let pick = &mut ByHash(packet.hash ^ SEED);
            let decision = match packet.opens {
                Some(Opens::Local) => from_local(&context, &packet.tuple, 3, pick, None),
                Some(Opens::Outside) => outside::from_outside(&context, &packet.tuple, 0, pick, None),
                _ => return assert_eq!(likely.outside, packet.tuple),
            };
            let unmasqueraded = Tuple { local: packet.tuple.local, ..decision.outside(&packet.tuple) };
            assert_eq!(likely.outside, unmasqueraded);
            assert_eq!(likely.is_masqueraded, decision.masquerade != Masquerade::No);
        });
        prop_assert!(firsts.next().is_none());
        for packet in &burst {
            let known = &knowns[packet.place];
            prop_assert_eq!(packet.opens.is_none(), *known == UNKNOWN);
            let judge = |context: &Context| match packet.opens {
                Some(Opens::Outside) => {
                    outside::from_outside(context, &packet.tuple, 0, &mut ByHash(packet.hash ^ SEED), None)
                }
                Some(Opens::Towards) => to_local(context, &packet.tuple, Origin::Local),
                _ => from_local(context, &packet.tuple, 3, &mut ByHash(packet.hash ^ SEED), None),
            };
            // Also where another backend is chosen than the one that was likely.
            prop_assert_eq!(judge(&Context { known, ..context }), judge(&context));
            let is_judged = packet.opens != Some(Opens::Outside) && judge(&context).policy_set.is_some();
            if packet.opens.is_some() && is_judged {
                let closed = judge(&Context { known: &Known { judged: Judged::CLOSED, ..*known }, ..context });
                prop_assert!(closed.verdict != Verdict::Forward, "what was judged ahead is asked again");
            }
            let other = |context: &Context| from_local(context, &packet.tuple, 3, &mut ByHash(packet.hash + 1), None);
            prop_assert_eq!(other(&Context { known, ..context }), other(&context));
        }
    }
}
