use super::*;
use crate::Publisher;
use proptest::prelude::*;

const POD: Addr = Addr::v4([10, 1, 0, 4]);
const NODE: Addr = Addr::v4([192, 168, 0, 1]);
const SNAT: Addr = Addr::v4([10, 1, 0, 3]);
const SERVICE: Addr = Addr::v4([172, 30, 0, 10]);

fn tables() -> Publisher {
    let mut publisher = Publisher::create(9).unwrap();
    let mut batch = publisher.batch([]).unwrap();
    for (addr, kind, owner) in
        [(POD, EndpointKind::Pod, 3), (NODE, EndpointKind::Node, 0), (SNAT, EndpointKind::Snat, 0)]
    {
        let mut row = EndpointRecord::new(kind);
        row.owner_first = owner;
        batch.insert(Table::Endpoint, &addr, &row).unwrap();
    }
    for (port, affinity_s) in [(80, 0), (81, 60)] {
        let row = ServiceRecord { affinity_s, ..bytemuck::Zeroable::zeroed() };
        batch.insert(Table::Service, &ServiceKey::new(SERVICE, port, Protocol::TCP), &row).unwrap();
    }
    batch.publish();
    publisher
}

fn tuple(local: Addr, local_port: u16, remote: Addr, remote_port: u16) -> Tuple {
    Tuple { local, remote, local_port, remote_port, protocol: Protocol::TCP, reserved: 0, network: 0 }
}

#[test]
fn blocks_are_disjoint_and_each_port_answers_for_its_block() {
    let snat = SnatPorts::new(40000, 60999, 4).unwrap();
    for worker in 0..4 {
        assert!(snat.block(worker).all(|port| snat.owner(port) == Some(worker)));
    }
    assert_eq!(snat.owner(39999), None);
    assert_eq!(snat.owner(61000), None);
    assert!(SnatPorts::new(40000, 40100, 4).is_err() && SnatPorts::new(60999, 40000, 1).is_err());
}

proptest! {
    /// A packet, its answer and an ICMP error that quotes it are normalised to one tuple by their local end, so what is
    /// left to show is that the answer depends on that tuple's ends alone and stays within the workers.
    #[test]
    fn an_owner_is_stable_and_in_range(a in any::<u32>(), port in any::<u16>(), remote_port in any::<u16>()) {
        let publisher = tables();
        let view = publisher.live();
        let snat = SnatPorts::new(40000, 60999, 4).unwrap();
        let remote = Addr::v4(a.to_be_bytes());
        prop_assume!(![POD, NODE, SNAT, SERVICE].contains(&remote));
        prop_assert_eq!(owner(&view, &snat, &tuple(POD, port, remote, remote_port)), Some(3));
        prop_assert_eq!(owner(&view, &snat, &tuple(SNAT, port, remote, remote_port)), snat.owner(port));
        prop_assert_eq!(owner(&view, &snat, &tuple(NODE, port, remote, remote_port)), snat.owner(port).or(Some(0)));
        prop_assert_eq!(owner(&view, &snat, &tuple(remote, port, POD, remote_port)), None);
        let service = owner(&view, &snat, &tuple(SERVICE, 80, remote, remote_port)).unwrap();
        prop_assert!(service < 4);
        let sticky = |client_port| owner(&view, &snat, &tuple(SERVICE, 81, remote, client_port));
        prop_assert_eq!(sticky(remote_port), sticky(remote_port.wrapping_add(1)));
    }
}

#[test]
fn a_port_that_a_service_has_is_kept_by_who_asks_though_it_is_a_snat_port() {
    let (port, other) = (40_007, 40_008);
    let mut publisher = tables();
    let mut batch = publisher.batch([]).unwrap();
    let row: ServiceRecord = bytemuck::Zeroable::zeroed();
    batch.insert(Table::Service, &ServiceKey::new(NODE, port, Protocol::TCP), &row).unwrap();
    for (at, word) in crate::taken::words(&[port].into()) {
        batch.set(Table::TakenPorts, at, &word).unwrap();
    }
    batch.publish();
    let (view, snat) = (publisher.live(), SnatPorts::new(40000, 60999, 4).unwrap());
    let client = Addr::v4([203, 0, 113, 7]);
    for remote_port in 1024..1088 {
        let asked = tuple(NODE, port, client, remote_port);
        assert_eq!(asker(&view, &snat, &asked), Some(Asker::Port));
        assert_eq!(owner(&view, &snat, &asked), Some(Asker::Port.owner(&asked, 4)));
        let answer = tuple(NODE, other, client, remote_port);
        assert_eq!((asker(&view, &snat, &answer), owner(&view, &snat, &answer)), (None, snat.owner(other)));
    }
}
