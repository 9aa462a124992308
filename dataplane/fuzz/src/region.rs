//! Shared memory that another process damaged: attaching refuses or answers, look-ups and listings answer anything, and
//! nothing crashes, hangs or reads elsewhere.

use super::cluster;
use super::input::Input;
use dataplane::explain::explain;
use dataplane::flow::{FlowTable, Way, tcp};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tables::endpoint::EndpointRecord;
use tables::flow::{FlowLayout, FlowRecord, Hop, HopKind, Tuple};
use tables::layout::{JOURNAL_START, Layout, Table};
use tables::lpm::Lpm;
use tables::message::ExplainQuery;
use tables::owner::{SnatPorts, owner};
use tables::publish::Reader;
use tables::region::Access;
use tables::scope::ScopeCounters;
use tables::status::Status;
use tables::{Addr, Protocol, Publisher, Region};

thread_local! {
    static PUBLISHER: Publisher = cluster::publisher();
    static IN_USE: Vec<usize> = PUBLISHER.with(table_words);
    static STATUS: Status = Status::create(2).expect("memory for status");
}

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 4 {
        0 => PUBLISHER.with(|publisher| {
            IN_USE.with(|places| damaged(publisher.region(), places, &mut input, tables));
        }),
        1 => STATUS.with(|status| damaged(status.region(), &[], &mut input, self::status)),
        2 => {
            let region = flow_region(&mut input);
            let places: Vec<usize> = (JOURNAL_START..region.words().len()).collect();
            damaged(&region, &places, &mut input, flows);
        }
        _ => arbitrary(&mut input),
    }
}

/// Memory without any structure, sealed as it must be.
fn arbitrary(input: &mut Input) {
    let region = Region::create(c"fuzz", 1 + input.byte() as usize * 4).expect("memory");
    for word in region.words() {
        word.store(u64::from_le_bytes(input.array()), Ordering::Relaxed);
    }
    tables(duplicate(&region));
    status(duplicate(&region));
    flows(duplicate(&region));
}

fn duplicate(region: &Region) -> OwnedFd {
    region.fd().try_clone_to_owned().expect("a descriptor")
}

/// Words of the tables in use: those that look-ups come by.
fn table_words(publisher: &Publisher) -> Vec<usize> {
    let layout = Layout::full();
    let start = layout.copy_start + (publisher.generation() & 1) as usize * layout.copy_words;
    let in_use = |table: Table| {
        let place = layout.place(table);
        (0..(place.capacity * place.record_words).min(1 << 14)).map(move |i| start + place.offset + i)
    };
    let words = publisher.region().words();
    let used = tables::layout::TABLES.into_iter().flat_map(in_use);
    used.filter(|&at| words[at].load(Ordering::Relaxed) != 0).collect()
}

/// Changes words of a good region (header or `places`), looks, and changes them back.
fn damaged(region: &Region, places: &[usize], input: &mut Input, look: fn(OwnedFd)) {
    let words: &[AtomicU64] = region.words();
    let mut undo = Vec::new();
    for _ in 0..1 + input.byte() % 6 {
        let (at, value) = (input.word() as usize, u64::from_le_bytes(input.array()));
        let in_header = places.is_empty() || at < JOURNAL_START;
        let at = if in_header { at % words.len() } else { places[(at - JOURNAL_START) % places.len()] };
        undo.push((at, words[at].load(Ordering::Relaxed)));
        words[at].store(value, Ordering::Relaxed);
    }
    look(duplicate(region));
    for (at, value) in undo.into_iter().rev() {
        words[at].store(value, Ordering::Relaxed);
    }
}

/// A worker's and the main thread's use of tables.
pub fn tables(fd: OwnedFd) {
    let Ok(mut reader) = Reader::from_fd(fd) else { return };
    let (ack, mut scopes) = (AtomicU64::new(0), ScopeCounters::default());
    reader.pin(&ack, &mut scopes);
    reader.pin(&ack, &mut scopes);
    let view = reader.view();
    let snat = SnatPorts::new(40_000, 40_999, 2).expect("a good range");
    for family in [0, 1] {
        let (pod, service) = (cluster::pod_addr(0, family), cluster::SERVICE[family]);
        for dst in [service, cluster::pod_addr(1, family), cluster::OUTSIDE[family], cluster::REMOTE_POD[family]] {
            view.longest_match(Lpm::Route, dst);
            for (interface, protocol) in [(Some(cluster::PODS[0]), Protocol::TCP), (None, Protocol::UDP)] {
                let query = ExplainQuery { interface, src: pod, dst, src_port: 1000, dst_port: 80, protocol };
                explain(view, &query);
            }
            let tuple = Tuple { local: dst, remote: pod, local_port: 80, remote_port: 1000, ..tuple(0) };
            owner(&view, &snat, &tuple);
        }
    }
    assert!(
        view.rows::<Addr, EndpointRecord>(Table::Endpoint).count() <= Layout::full().place(Table::Endpoint).capacity
    );
}

/// Control's use of the status region.
pub fn status(fd: OwnedFd) {
    use tables::counters::{DropReason, WorkerCounter};
    let Ok(status) = Status::attach(fd) else { return };
    for block in status.blocks() {
        block.get(WorkerCounter::Packets);
        block.drops(DropReason::Truncated);
        block.policy_drops(usize::MAX);
        let mut asked = 0;
        block.requests(0, |_| asked += 1);
        assert!(asked <= tables::limits::REQUESTS_MAX);
    }
    assert_eq!(status.acks().count(), status.workers() + 1);
}

fn tuple(i: u8) -> Tuple {
    let (local, remote) = (Addr::v4([10, 1, 0, i]), Addr::v4([10, 2, 0, i]));
    Tuple { local, remote, local_port: 1000, remote_port: 80, protocol: Protocol::TCP, reserved: 0, network: 0 }
}

fn flow(i: u8) -> FlowRecord {
    let outside = Tuple { local: Addr::v4([192, 168, 0, 1]), local_port: 40_000 + i as u16, ..tuple(i) };
    let (out, back) = (Hop::new(HopKind::Uplink, 1), Hop::new(HopKind::Interface, cluster::PODS[0]));
    let mut record = FlowRecord::new(tuple(i), &outside);
    (record.out, record.back) = (out, back);
    record
}

/// A flow table with a few flows in it.
pub fn flow_region(input: &mut Input) -> Region {
    let region = FlowLayout::for_capacity(64).create(0, 1, 7, 0).expect("memory for flows");
    let kept = Region::attach(duplicate(&region), Access::ReadWrite).expect("as it was made");
    let mut table = FlowTable::new(region).expect("fresh memory");
    for i in 0..input.byte() % 8 {
        table.insert(flow(i)).expect("room");
    }
    kept
}

/// Control's listing, and a successor's adoption and use.
pub fn flows(fd: OwnedFd) {
    let Ok(region) = Region::attach(fd, Access::ReadWrite) else { return };
    let region = Arc::new(region);
    if let Ok(list) = tables::flow::list(&region) {
        list.count();
    }
    let Some(region) = Arc::into_inner(region) else { return };
    let Ok(Some(mut table)) = FlowTable::adopt(region, 0, 1) else { return };
    assert!(table.used() <= table.capacity());
    for i in 0..8 {
        if let Some(id) = table.find(&tuple(i), Way::Out) {
            tcp::note(table.record_mut(id), Way::Back, 0xff, &[0xff; 12]);
            table.is_closed(id);
            table.remove(id);
        }
    }
    let room = table.capacity() - table.used();
    let inserted = (100..200).filter(|&i| table.insert(flow(i)).is_ok()).count();
    assert!(inserted <= room + table.take_evicted() as usize);
    let used = table.used();
    let expired = table.expire(table.capacity(), u32::MAX / 4);
    assert_eq!(table.used(), used - expired);
}
