use super::*;

fn backends(count: usize) -> Vec<(Addr, u16)> {
    let addr = |i: usize| Addr::v4([10, 1, (i >> 8) as u8, i as u8]);
    let mut all: Vec<(Addr, u16)> = (0..count).map(|i| (addr(i * 7), 8080)).collect();
    all.sort();
    all
}

/// Who has each slot.
fn owners(backends: &[(Addr, u16)]) -> Vec<(Addr, u16)> {
    ring(backends).into_iter().map(|i| backends[i as usize]).collect()
}

#[test]
fn rings_have_a_prime_of_at_least_a_hundred_slots_for_each_backend() {
    let is_prime = |n: u32| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    for (most, count) in RUNGS {
        assert!(count as usize >= 100 * most && is_prime(count), "{count}");
        assert_eq!(slots(most), Some(count));
    }
    assert_eq!((slots(0), slots(65_537)), (None, None));
    assert!(ring(&[]).is_empty());
}

#[test]
fn shares_of_slots_are_nearly_equal() {
    for count in [1, 2, 3, 4, 5, 100, 128, 129, 1_000] {
        let ring = ring(&backends(count));
        let mut shares = vec![0u32; count];
        ring.iter().for_each(|&i| shares[i as usize] += 1);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "{count} backends: {least} to {most}");
    }
}

#[test]
fn few_slots_move_when_one_of_a_hundred_backends_goes_or_comes() {
    let all = backends(100);
    let before = owners(&all);
    let mut worst = 0;
    for gone in 0..100 {
        let mut left = all.clone();
        left.remove(gone);
        let after = owners(&left);
        worst = worst.max(before.iter().zip(&after).filter(|(a, b)| a != b).count());
    }
    println!("slots that move when one of 100 goes: at most {:.2} %", worst as f64 * 100.0 / before.len() as f64);
    assert!(worst * 100 < 2 * before.len(), "{worst} of {}", before.len());
}

#[test]
fn the_same_flow_has_the_same_slot_in_every_build_and_on_every_node() {
    // Known answers: nodes of two releases must agree. A change of these is a change of the contract.
    let tuple = Tuple {
        local: Addr::v4([10, 1, 0, 4]),
        remote: Addr::v4([172, 30, 0, 10]),
        local_port: 40_000,
        remote_port: 80,
        protocol: crate::Protocol::TCP,
        reserved: 0,
        network: 0,
    };
    let (ring, all) = (ring(&backends(100)), backends(100));
    let found = |hash| all[ring[slot(hash, ring.len() as u32) as usize] as usize].0;
    let known = (found(of_flow(&tuple)), found(of_client(tuple.local)));
    assert_eq!(known, (Addr::v4([10, 1, 1, 192]), Addr::v4([10, 1, 0, 252])));
}
