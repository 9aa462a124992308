use super::*;
use bytemuck::Zeroable;
use tables::Publisher;
use tables::endpoint::{EndpointKind, EndpointRecord};
use tables::layout::Table;
use tables::node::NodeRecord;
use tables::service::{ServiceKey, ServiceRecord};

const BALANCER: Addr = Addr::v4([192, 0, 2, 1]);
const NODE: Addr = Addr::v4([192, 168, 0, 1]);

fn snat() -> SnatPorts {
    SnatPorts::new(40_000, 60_999, 2).unwrap()
}

/// Publishes a service at each (address, port), with so many seconds of affinity.
fn publish(publisher: &mut Publisher, services: &[(Addr, u16)], affinity_s: u32) {
    let mut batch = publisher.batch([]).unwrap();
    batch.insert(Table::Endpoint, &NODE, &EndpointRecord::new(EndpointKind::Node)).unwrap();
    for &(addr, port) in services {
        let record = ServiceRecord { id: 1, affinity_s, ..ServiceRecord::zeroed() };
        batch.insert(Table::Service, &ServiceKey::new(addr, port, Protocol::TCP), &record).unwrap();
    }
    batch.publish();
}

const DIRECT_PORT: u16 = 6082;

fn find(asked: &mut Asked, publisher: &Publisher, addr: Addr, port: u16) -> Option<Asker> {
    find_by(asked, publisher, (addr, port, Protocol::TCP))
}

fn find_by(asked: &mut Asked, publisher: &Publisher, key: (Addr, u16, Protocol)) -> Option<Asker> {
    let node = NodeRecord { direct_port: DIRECT_PORT, ..NodeRecord::zeroed() };
    let mut find = || asked.find(&Context::new(publisher.live(), &node), &snat(), key);
    let (first, second) = (find(), find());
    assert_eq!(first, second, "what is kept is what the tables said");
    first
}

#[test]
fn a_service_is_known_until_the_tables_change() {
    let (mut publisher, mut asked) = (Publisher::create(7).unwrap(), Asked::default());
    for (affinity_s, asker) in [(0, Asker::Port), (10, Asker::Client)] {
        publish(&mut publisher, &[(BALANCER, 80)], affinity_s);
        assert_eq!(find(&mut asked, &publisher, BALANCER, 80), Some(asker));
    }
    let mut batch = publisher.batch([]).unwrap();
    batch.remove(Table::Service, &ServiceKey::new(BALANCER, 80, Protocol::TCP));
    batch.publish();
    assert_eq!(find(&mut asked, &publisher, BALANCER, 80), None);
}

#[test]
fn what_is_no_services_port_is_left_to_the_tables() {
    let (mut publisher, mut asked) = (Publisher::create(7).unwrap(), Asked::default());
    publish(&mut publisher, &[(BALANCER, 80), (NODE, 30_000), (NODE, 50_000)], 0);
    assert_eq!(find(&mut asked, &publisher, NODE, 30_000), Some(Asker::Port));
    for (addr, port) in [(BALANCER, 81), (NODE, 50_000), (Addr::v4([10, 0, 0, 1]), 80)] {
        assert_eq!(find(&mut asked, &publisher, addr, port), None, "{addr} {port}");
    }
    let mut batch = publisher.batch([]).unwrap();
    let key = (NODE, DIRECT_PORT, Protocol::UDP);
    batch.insert(Table::Service, &ServiceKey::new(key.0, key.1, key.2), &ServiceRecord::zeroed()).unwrap();
    batch.publish();
    assert_eq!(find_by(&mut asked, &publisher, key), None, "other nodes send there, too");
}

#[test]
fn ports_that_share_a_place_keep_to_themselves() {
    let (mut publisher, mut asked) = (Publisher::create(7).unwrap(), Asked::default());
    let ports =
        |affinity: bool| (0..=PLACES as u16).filter(move |port| (port % 2 == 0) == affinity).map(|p| (BALANCER, p));
    publish(&mut publisher, &ports(false).collect::<Vec<_>>(), 0);
    publish(&mut publisher, &ports(true).collect::<Vec<_>>(), 10);
    for port in (0..=PLACES as u16).chain(0..=PLACES as u16) {
        let asker = if port % 2 == 0 { Asker::Client } else { Asker::Port };
        assert_eq!(find(&mut asked, &publisher, BALANCER, port), Some(asker));
    }
}
