use super::*;

/// This many on other nodes and one here, all ready.
fn everywhere(others: usize) -> Vec<Candidate> {
    let candidate = |number: usize, is_local| Candidate {
        backend: (Addr::from_bits(0xfd00_u128 << 112 | number as u128), 80),
        ready: true,
        serving: true,
        terminating: false,
        is_local,
        zone: Hint::NotSaid,
        node: Hint::NotSaid,
    };
    (1..=others).map(|number| candidate(number, false)).chain([candidate(others + 1, true)]).collect()
}

const LOCAL: Uses = Uses { cluster: false, local: true, local_alone: true };

#[test]
fn few_endpoints_of_other_nodes_keep_connections_under_policy_local() {
    let few = everywhere(LEAVING_REMOTE_MAX - 1);
    assert_eq!(usable(&few, LOCAL).leaving.len(), LEAVING_REMOTE_MAX - 1);
    let many = everywhere(LEAVING_REMOTE_MAX);
    assert_eq!(usable(&many, LOCAL).leaving, []);
}

#[test]
fn who_terminates_here_keeps_connections_however_many_there_are() {
    let mut many = everywhere(LEAVING_REMOTE_MAX);
    let mut ends = Candidate { ready: false, terminating: true, ..*many.last().unwrap() };
    ends.backend.1 = 81;
    many.push(ends);
    for (uses, is_here) in
        [(LOCAL, true), (Uses { cluster: true, ..LOCAL }, true), (Uses { cluster: true, ..LOCAL }, false)]
    {
        many.last_mut().unwrap().is_local = is_here;
        assert_eq!(usable(&many, uses).leaving, [ends.backend], "{uses:?}, here: {is_here}");
    }
}

#[test]
fn whom_hints_leave_out_keeps_connections() {
    let mut three = everywhere(2);
    for (candidate, hint) in three.iter_mut().zip([Hint::This, Hint::Others, Hint::Others]) {
        candidate.zone = hint;
    }
    let found = usable(&three, Uses { cluster: true, local: false, local_alone: false });
    assert_eq!((found.cluster.unwrap().len(), found.leaving.len()), (1, 2));
}
