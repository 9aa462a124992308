use super::*;
use bytemuck::Zeroable;
use tables::Protocol;
use tables::flow::Tuple;
use tables::service::{Rows, ServiceRecord};

const MINUTE_MS: u32 = 60_000;

fn layout() -> FlowLayout {
    FlowLayout::for_capacity(64)
}

fn memory() -> Region {
    layout().create(0, 1, 7, 0).unwrap()
}

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn asks(client: Addr, service: Addr, port: u16) -> Tuple {
    Tuple {
        local: client,
        remote: service,
        local_port: 40_000,
        remote_port: port,
        protocol: Protocol::TCP,
        reserved: 0,
        network: 0,
    }
}

/// A service with an affinity of 60 s.
fn service() -> ServiceRecord {
    ServiceRecord { affinity_s: 60, ..ServiceRecord::zeroed() }
}

fn recall(affinities: &mut Affinities, tuple: &Tuple, now_ms: u32) -> Option<Addr> {
    let service = service();
    let asked = Asked { tuple, service: &service, backends: Rows::default() };
    let now_ms = affinities.time(now_ms);
    affinities.recall(&asked, now_ms).map(|(addr, _)| addr)
}

fn keep(affinities: &mut Affinities, tuple: &Tuple, backend: Addr, now_ms: u32) {
    let service = service();
    let asked = Asked { tuple, service: &service, backends: Rows::default() };
    let now_ms = affinities.time(now_ms);
    affinities.keep(&asked, (backend, 8080), now_ms);
}

#[test]
fn a_client_is_remembered_to_the_millisecond_and_each_new_flow_renews_it() {
    let mut affinities = Affinities::beside(&memory()).unwrap();
    for (client, service, backend) in
        [("10.1.0.4", "172.30.0.10", "10.2.0.1"), ("fd00:1::4", "fd00:3::10", "fd00:2::1")]
    {
        let (tuple, backend) = (asks(addr(client), addr(service), 80), addr(backend));
        let start = affinities.clock_ms() as u32;
        assert_eq!(recall(&mut affinities, &tuple, start), None);
        keep(&mut affinities, &tuple, backend, start);
        assert_eq!(recall(&mut affinities, &tuple, start + MINUTE_MS - 1), Some(backend));
        keep(&mut affinities, &tuple, backend, start + MINUTE_MS - 1);
        assert_eq!(recall(&mut affinities, &tuple, start + 2 * MINUTE_MS - 2), Some(backend));
        assert_eq!(recall(&mut affinities, &tuple, start + 2 * MINUTE_MS - 1), None);
    }
}

#[test]
fn ports_protocols_services_and_clients_are_apart() {
    let mut affinities = Affinities::beside(&memory()).unwrap();
    let (client, service) = (addr("10.1.0.4"), addr("172.30.0.10"));
    let tuple = asks(client, service, 80);
    keep(&mut affinities, &tuple, addr("10.2.0.1"), 0);
    let others = [
        asks(client, service, 81),
        asks(addr("10.1.0.5"), service, 80),
        asks(client, addr("172.30.0.11"), 80),
        Tuple { protocol: Protocol::UDP, ..tuple },
    ];
    for other in others {
        assert_eq!(recall(&mut affinities, &other, 0), None, "{other:?}");
    }
    assert!(
        recall(&mut affinities, &Tuple { local_port: 1, ..tuple }, 0).is_some(),
        "the client's port is not looked at"
    );
}

#[test]
fn time_goes_on_where_the_clock_wraps() {
    let mut affinities = Affinities::beside(&memory()).unwrap();
    let tuple = asks(addr("10.1.0.4"), addr("172.30.0.10"), 80);
    affinities.time(u32::MAX / 2);
    keep(&mut affinities, &tuple, addr("10.2.0.1"), u32::MAX - 10);
    assert!(recall(&mut affinities, &tuple, MINUTE_MS - 12).is_some());
    assert!(recall(&mut affinities, &tuple, MINUTE_MS - 11).is_none());
    // One whole round of the clock later, to the millisecond, it is not remembered again.
    affinities.time(u32::MAX / 2);
    assert!(recall(&mut affinities, &tuple, u32::MAX - 10).is_none());
}

#[test]
fn a_successor_goes_on_with_what_is_whole_and_forgets_the_rest() {
    let memory = memory();
    let tuple = |i: u8| asks(Addr::v4([10, 1, 0, i]), addr("172.30.0.10"), 80);
    let mut affinities = Affinities::beside(&memory).unwrap();
    affinities.time(5_000);
    (0..8).for_each(|i| keep(&mut affinities, &tuple(i), addr("10.2.0.1"), 5_000));
    // The first one is moved to where nobody looks for it, the next is of two families, one is from the future.
    let places: Vec<usize> =
        (0..affinities.parts.first().len()).filter(|&i| affinities.parts.first()[i].used == 1).collect();
    let damaged: Vec<Addr> = places[..3].iter().map(|&i| affinities.parts.first()[i].client).collect();
    let records = affinities.parts.first_mut();
    let other = (0..records.len()).find(|i| records[*i].used == 0 && i / WAYS != places[0] / WAYS).unwrap();
    records.swap(places[0], other);
    records[places[1]].backend = addr("fd00::1");
    records[places[2]].last_used_ms = u64::MAX;
    drop(affinities);
    let mut successor = Affinities::beside(&memory).unwrap();
    assert_eq!(successor.check(), 5);
    for i in 0..8 {
        let tuple = tuple(i);
        assert_eq!(recall(&mut successor, &tuple, 6_000).is_none(), damaged.contains(&tuple.local), "client {i}");
    }
}

#[test]
fn in_a_full_set_the_one_that_was_asked_after_longest_ago_goes_and_is_counted_if_it_still_counted() {
    let mut affinities = Affinities::beside(&memory()).unwrap();
    let tuple = |i: u32| asks(Addr::v4([10, (i >> 16) as u8, (i >> 8) as u8, i as u8]), addr("172.30.0.10"), 80);
    let capacity = layout().affinities() as u32;
    for i in 0..100 * capacity {
        keep(&mut affinities, &tuple(i), addr("10.2.0.1"), i);
        assert!(recall(&mut affinities, &tuple(i), i).is_some(), "the newest one always finds room");
    }
    let evicted = affinities.take_evicted();
    assert!(evicted >= 99 * capacity as u64, "{evicted}");
    assert_eq!(affinities.take_evicted(), 0);
    let day_later = 100 * capacity + AFFINITY_MAX_S * 1_000;
    keep(&mut affinities, &tuple(u32::MAX), addr("10.2.0.1"), day_later);
    assert_eq!(affinities.take_evicted(), 0, "who was not remembered any more is not missed");
}
