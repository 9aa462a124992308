use super::super::lists::{Change, Room};
use super::*;
use crate::topology::Usable;
use tables::{Publisher, View};

fn usable(cluster: &[u8], local: &[u8]) -> Usable {
    let backends = |last: &[u8]| Some(last.iter().map(|last| (Addr::v4([10, 1, 0, *last]), 80)).collect());
    Usable { cluster: backends(cluster), local: backends(local), any: true, leaving: Vec::new() }
}

/// The ring that a row finds at a word.
fn read(view: &View, at: u32) -> Vec<u16> {
    let rows: Rows = view.row(Table::Ring, at as usize);
    let word = |i: usize| view.row::<[u16; SLOTS_PER_WORD]>(Table::Ring, rows.first as usize + i);
    let slots = rows.count as usize;
    let mut ring: Vec<u16> = (0..slots.div_ceil(SLOTS_PER_WORD)).flat_map(word).collect();
    ring.truncate(slots);
    ring
}

#[test]
fn each_row_finds_the_rings_of_its_lists_for_those_inside_and_outside() {
    let mut publisher = Publisher::create(1).unwrap();
    let mut batch = publisher.batch([]).unwrap();
    let (mut backends, mut room, mut rings) = (Room::new(), RingRoom::new(), None);
    let mut lists = Lists::default();
    for (cluster, local) in [(&[1, 2, 3][..], &[2][..]), (&[1, 2], &[1, 2]), (&[1], &[]), (&[], &[]), (&[7, 8], &[9])] {
        let change = backends.change(&mut lists, &usable(cluster, local), &[], &mut batch).unwrap();
        assert_eq!(change, Change::Serving);
        room.follow(&mut rings, Algorithm::Maglev, &lists, change == Change::Serving, &mut batch).unwrap();
        let ring = |last: &[u8]| maglev::ring(&usable(last, &[]).cluster.unwrap());
        for (inside, outside) in
            [(Which::Cluster, Which::Cluster), (Which::Cluster, Which::Local), (Which::Local, Which::Local)]
        {
            let at = rings.as_ref().unwrap().pair(inside, outside);
            assert_ne!(at, 0);
            for (at, which) in [(at, inside), (at + 1, outside)] {
                let expected = if which == Which::Cluster { ring(cluster) } else { ring(local) };
                assert_eq!(read(&batch.view(), at), expected, "{cluster:?} {local:?} {inside:?} {outside:?}");
            }
        }
    }
    room.follow(&mut rings, Algorithm::RoundRobin, &lists, false, &mut batch).unwrap();
    assert!(rings.is_none() && room.used() == 0);
}

#[test]
fn where_there_is_no_room_there_is_no_ring_and_none_is_lost() {
    let mut publisher = Publisher::create(1).unwrap();
    let mut batch = publisher.batch([]).unwrap();
    let (mut backends, mut room, mut lists) = (Room::new(), RingRoom::new(), Lists::default());
    backends.change(&mut lists, &usable(&[1, 2, 3], &[]), &[], &mut batch).unwrap();
    // All but what is too small for a ring.
    let mut taken = Vec::new();
    while let Ok(range) = room.0.alloc(1024) {
        taken.push(range);
    }
    let mut rings = None;
    assert!(room.follow(&mut rings, Algorithm::SourceHash, &lists, true, &mut batch).is_err());
    assert!(rings.is_none() && room.used() == taken.len() * 1024);
    room.0.free(taken.pop().unwrap());
    // It is tried again although the lists are the same.
    assert_eq!(room.follow(&mut rings, Algorithm::SourceHash, &lists, false, &mut batch), Ok(()));
    assert!(rings.is_some());
}
