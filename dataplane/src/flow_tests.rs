use super::*;
use crate::parse::tcp_flag;
use proptest::prelude::*;
use std::collections::HashMap;
use tables::Addr;

fn table(capacity: usize) -> FlowTable {
    FlowTable::new(FlowLayout::for_capacity(capacity).create(0, 1, 42, 0).unwrap()).unwrap()
}

fn tuple(local_port: u16, remote: [u8; 4]) -> Tuple {
    Tuple {
        local: Addr::v4([10, 1, 0, 4]),
        remote: Addr::v4(remote),
        local_port,
        remote_port: 80,
        protocol: Protocol::TCP,
        reserved: 0,
        network: 0,
    }
}

fn record(inside: Tuple, outside: Tuple) -> FlowRecord {
    FlowRecord::new(inside, &outside)
}

#[test]
fn a_translated_flow_is_found_by_each_tuple_in_its_own_way_only() {
    let mut flows = table(64);
    let (inside, outside) = (tuple(1, [172, 30, 0, 1]), tuple(1, [10, 1, 1, 9]));
    let id = flows.insert(record(inside, outside)).unwrap();
    assert_eq!(flows.find(&inside, Way::Out), Some(id));
    assert_eq!(flows.find(&outside, Way::Back), Some(id));
    assert_eq!((flows.find(&inside, Way::Back), flows.find(&outside, Way::Out)), (None, None));
    assert_eq!(flows.insert(record(outside, outside)), Err(DropReason::TupleClash));
    flows.remove(id);
    assert_eq!((flows.find(&inside, Way::Out), flows.find(&outside, Way::Back), flows.used()), (None, None, 0));
}

/// Notes a segment of a TCP flow.
fn segment(flows: &mut FlowTable, id: FlowId, way: Way, flags: u8, now_ms: u32) {
    let record = flows.record_mut(id);
    let (src, dst) = if way == Way::Out { (1, 80) } else { (80, 1) };
    let mut frame = Vec::new();
    let mut header = etherparse::TcpHeader::new(src, dst, 1000, 4096);
    let has = |flag: u8| flags & flag != 0;
    (header.syn, header.ack, header.fin) = (has(tcp_flag::SYN), has(tcp_flag::ACK), has(tcp_flag::FIN));
    header.acknowledgment_number = 1000;
    let ip = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 1, 0, 4], [1, 1, 1, 1], 64);
    ip.tcp_header(header).write(&mut frame, &[]).unwrap();
    let meta = crate::parse::parse_plain(&frame, frame.len()).expect("a plain packet");
    note(record, way, &meta, || &frame, now_ms);
}

#[test]
fn a_record_of_ipv6_whose_lower_words_are_those_of_ipv4_is_not_taken_for_it() {
    let of_v4 = (tuple(1, [172, 30, 0, 1]), tuple(1, [10, 1, 1, 9]));
    let lower = |addr: Addr| Addr::of_words([1, addr.words()[1]]);
    for (out, seen) in [(true, of_v4.0), (false, of_v4.1)] {
        let of = |local, remote| {
            let like = Tuple { local, remote, ..seen };
            if out { record(like, of_v4.1) } else { record(of_v4.0, like) }
        };
        let words = seen.words();
        assert!(of(seen.local, seen.remote).is_of_v4(&words, out));
        assert!(!of(seen.local, seen.remote).is_of_v4(&words, !out));
        assert!(!of(lower(seen.local), seen.remote).is_of_v4(&words, out));
        assert!(!of(seen.local, lower(seen.remote)).is_of_v4(&words, out));
    }
}

#[test]
fn flows_leave_when_their_kind_of_silence_is_over() {
    let mut flows = table(64);
    let t = tuple(1, [1, 1, 1, 1]);
    let mut opened = record(t, t);
    opened.flags = FLAG_OPENED_LOCALLY;
    let (syn, ack, fin) = (tcp_flag::SYN, tcp_flag::ACK, tcp_flag::FIN);
    let id = flows.insert(opened).unwrap();
    segment(&mut flows, id, Way::Out, syn, 1000);
    assert_eq!((flows.expire(64, 60_999), flows.expire(64, 61_000)), (0, 1), "an unanswered SYN");
    let id = flows.insert(opened).unwrap();
    segment(&mut flows, id, Way::Out, syn, 0);
    segment(&mut flows, id, Way::Back, syn | ack, 1);
    segment(&mut flows, id, Way::Out, ack, 2);
    assert_eq!(flows.expire(64, 3_600_000), 0, "an established connection");
    segment(&mut flows, id, Way::Out, fin | ack, 3_600_000);
    assert!(!flows.is_closed(id));
    assert_eq!(flows.expire(64, 10_800_000), 0, "one side has closed, the other is silent for two hours");
    segment(&mut flows, id, Way::Back, fin | ack, 10_800_000);
    assert!(flows.is_closed(id));
    assert_eq!((flows.expire(64, 10_829_999), flows.expire(64, 10_830_000)), (0, 1), "both sides closed");
}

#[test]
fn what_lies_in_a_later_fragment_is_not_taken_for_a_header() {
    let mut flows = table(64);
    let t = tuple(1, [1, 1, 1, 1]);
    let id = flows.insert(record(t, t)).unwrap();
    segment(&mut flows, id, Way::Out, tcp_flag::SYN, 0);
    let before = *flows.record(id);
    let mut frame = Vec::new();
    let ip = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 1, 0, 4], [1, 1, 1, 1], 64);
    ip.tcp(1, 80, 9_000_000, 4096).ack(8_000_000).write(&mut frame, &[]).unwrap();
    let meta = crate::parse::parse_plain(&frame, frame.len()).expect("a plain packet");
    note(flows.record_mut(id), Way::Out, &Meta { kind: Kind::Piece, ..meta }, || &frame, 5);
    let after = flows.record(id);
    assert_eq!((after.state, after.acked_high, after.last_seen_ms), (before.state, before.acked_high, 5));
}

#[test]
fn timeouts_are_those_that_were_given() {
    let mut flows = table(64);
    let mut timeouts = Timeouts::default();
    timeouts.set("tcp-opening=3s").unwrap();
    flows.set_timeouts(timeouts);
    let t = tuple(1, [1, 1, 1, 1]);
    flows.insert(record(t, t)).unwrap();
    assert_eq!((flows.expire(64, 2_999), flows.expire(64, 3_000)), (0, 1));
}

#[test]
fn a_successor_adopts_what_its_predecessor_kept() {
    let mut flows = table(64);
    let (inside, outside) = (tuple(1, [172, 30, 0, 1]), tuple(1, [10, 1, 1, 9]));
    flows.insert(record(inside, outside)).unwrap();
    let fd = flows.region().fd().try_clone_to_owned().unwrap();
    let attach = || Region::attach(fd.try_clone().unwrap(), tables::region::Access::ReadWrite).unwrap();
    drop(flows);
    assert!(FlowTable::adopt(attach(), 1, 2).unwrap().is_none(), "another worker's flows");
    let flows = FlowTable::adopt(attach(), 0, 1).unwrap().unwrap();
    assert_eq!(flows.used(), 1);
    assert!(flows.find(&inside, Way::Out).is_some() && flows.find(&outside, Way::Back).is_some());
}

#[test]
fn a_flow_that_the_index_has_no_room_for_leaves_its_record_unused() {
    let mut flows = table(64);
    let buckets = flows.parts.first().len() as u64;
    let buckets_of =
        |flows: &FlowTable, t: &Tuple| [flows.hash(t) >> 32, flows.hash(t) & 0xffff_ffff].map(|h| (h * buckets) >> 32);
    let wanted = buckets_of(&flows, &tuple(1, [1, 1, 1, 1]));
    let all = (1..=u16::MAX).map(|port| tuple(port, [1, 1, 1, 1]));
    let same: Vec<Tuple> = all.filter(|t| buckets_of(&flows, t) == wanted).take(61).collect();
    let inserted = same.iter().filter(|t| flows.insert(record(**t, **t)).is_ok()).count();
    assert_eq!((same.len(), inserted, flows.used()), (61, 60, 60));
    let (refused, other) = (same[60], tuple(1, [9, 9, 9, 9]));
    assert_eq!(flows.find(&refused, Way::Out), None);
    let unused = *flows.record(flows.free_head);
    assert_eq!((unused.flags, unused.inside), (0, FlowRecord::zeroed().inside));
    let id = flows.insert(record(other, other)).unwrap();
    assert_eq!((flows.find(&other, Way::Back), flows.used()), (Some(id), 61));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any order of inserts and removes: the table is a map with room for `capacity`.
    #[test]
    fn the_table_is_a_map(ops in prop::collection::vec((0u16..100, any::<bool>()), 1..400)) {
        let mut flows = table(64);
        let mut model: HashMap<u16, FlowId> = HashMap::new();
        for (port, insert) in ops {
            let (inside, outside) = (tuple(port, [172, 30, 0, 1]), tuple(port, [10, 1, 1, 9]));
            if insert {
                // Answered, so that none makes room for another.
                let mut answered = record(inside, outside);
                answered.flags = FLAG_ANSWERED | FLAG_CONFIRMED;
                match flows.insert(answered) {
                    Ok(id) => prop_assert!(model.insert(port, id).is_none()),
                    Err(DropReason::TupleClash) => prop_assert!(model.contains_key(&port)),
                    Err(reason) => prop_assert!(reason == DropReason::FlowTableFull && model.len() == 64),
                }
            } else if let Some(id) = model.remove(&port) {
                flows.remove(id);
            }
            for port in 0..100 {
                let (inside, outside) = (tuple(port, [172, 30, 0, 1]), tuple(port, [10, 1, 1, 9]));
                prop_assert_eq!(flows.find(&inside, Way::Out), model.get(&port).copied());
                prop_assert_eq!(flows.find(&outside, Way::Back), model.get(&port).copied());
            }
        }
        prop_assert_eq!(flows.used(), model.len());
    }
}
