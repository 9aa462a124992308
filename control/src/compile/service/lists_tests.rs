use super::*;
use tables::Publisher;

fn backends(last: &[u8]) -> Vec<Backend> {
    last.iter().map(|last| (tables::Addr::v4([10, 1, 0, *last]), 80)).collect()
}

fn usable(cluster: &[u8], local: &[u8]) -> Usable {
    Usable { cluster: Some(backends(cluster)), local: Some(backends(local)), any: true, leaving: Vec::new() }
}

#[test]
fn equal_lists_stand_in_one_place_and_a_backend_has_one_id() {
    let mut publisher = Publisher::create(1).unwrap();
    let (mut room, mut lists) = (Room::new(), Lists::default());
    let mut batch = publisher.batch([]).unwrap();
    assert_eq!(room.change(&mut lists, &usable(&[1, 2, 3], &[2, 9]), &[], &mut batch), Ok(Change::Serving));
    assert_eq!((room.used(), lists.all().count()), (5, 4));
    let id = |list: &List, last: u8| find(&list.backends, tables::Addr::v4([10, 1, 0, last]), 80);
    assert_eq!(id(&lists.cluster, 2), id(&lists.local, 2));
    let [one, nine] = [id(&lists.cluster, 1), id(&lists.local, 9)];
    assert_eq!(room.change(&mut lists, &usable(&[1, 9], &[1, 9]), &[], &mut batch), Ok(Change::Serving));
    assert_eq!((room.used(), lists.cluster()), (2, lists.local()));
    assert_eq!([one, nine], [id(&lists.cluster, 1), id(&lists.cluster, 9)], "they move and keep their ids");
    assert_eq!(room.change(&mut lists, &usable(&[1, 9], &[1, 9]), &[], &mut batch), Ok(Change::Nothing));
    room.free(&lists);
    assert_eq!((room.used(), room.ids.used()), (0, 0));
}

#[test]
fn who_leaves_stands_in_a_list_of_its_own_and_keeps_its_id_until_it_is_gone() {
    let mut publisher = Publisher::create(1).unwrap();
    let (mut room, mut lists) = (Room::new(), Lists::default());
    let mut batch = publisher.batch([]).unwrap();
    let mut change = |lists: &mut Lists, cluster: &[u8], leaving: &[u8]| {
        let usable = Usable { leaving: backends(leaving), ..usable(cluster, &[]) };
        (room.change(lists, &usable, &[], &mut batch), room.used(), room.ids.used())
    };
    assert_eq!(change(&mut lists, &[1, 2, 3], &[]), (Ok(Change::Serving), 3, 3));
    let id = |list: &List, last: u8| find(&list.backends, tables::Addr::v4([10, 1, 0, last]), 80);
    let two = id(&lists.cluster, 2);
    assert_eq!(change(&mut lists, &[1, 3], &[2]), (Ok(Change::Serving), 3, 3));
    assert_eq!((lists.leaving().count, id(&lists.leaving, 2)), (1, two));
    assert_eq!(change(&mut lists, &[1, 3], &[2]), (Ok(Change::Nothing), 3, 3));
    assert_eq!(change(&mut lists, &[1, 3], &[2, 4]), (Ok(Change::Leaving), 4, 4));
    assert_eq!(change(&mut lists, &[1, 2, 3], &[]), (Ok(Change::Serving), 3, 3), "it is ready again");
    assert_eq!(id(&lists.cluster, 2), two);
    assert_eq!(change(&mut lists, &[], &[1, 2]), (Ok(Change::Serving), 2, 2));
    assert_eq!(change(&mut lists, &[], &[]), (Ok(Change::Leaving), 0, 0));
}
