use super::*;
use tables::flow::Tuple;

const PORT: u16 = 8080;
/// More than fit in one look, beside one another.
const BACKENDS: u32 = 64;

fn flow_of(backend: u32) -> FlowRecord {
    let inside = Tuple {
        local: Addr::v4([10, 1, 0, 4]),
        remote: Addr::v4([172, 30, 0, 10]),
        local_port: 40_000,
        remote_port: 80,
        protocol: Protocol::TCP,
        reserved: 0,
        network: 0,
    };
    FlowRecord::new(inside, &Tuple { remote: addr(backend), remote_port: PORT, ..inside })
}

fn addr(backend: u32) -> Addr {
    Addr::v4([10, 2, 0, backend as u8])
}

fn count(loads: &Loads, backend: u32) -> u32 {
    loads.of(addr(backend), PORT, Protocol::TCP)
}

/// Each thread leaves one flow more of each backend than it takes away.
#[test]
fn threads_that_count_at_once_lose_no_flow_and_leave_no_place() {
    let loads = Loads::default();
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let loads = &loads;
            threads.spawn(move || {
                for round in 0..2_000 {
                    let backend = (round * 7 + thread) % BACKENDS;
                    assert!(loads.add(&flow_of(backend)) && loads.add(&flow_of(backend)));
                    loads.remove(&flow_of(backend));
                    if round >= BACKENDS {
                        loads.remove(&flow_of(backend));
                    }
                }
            });
        }
    });
    // The first 64 rounds of each thread met each backend once.
    assert!((0..BACKENDS).all(|backend| count(&loads, backend) == 4));
    (0..BACKENDS).for_each(|backend| (0..4).for_each(|_| loads.remove(&flow_of(backend))));
    assert!(loads.places.iter().all(|place| place.load(Relaxed) == 0), "every place is free again");
}

#[test]
fn what_is_gone_is_not_taken_away_twice() {
    let loads = Loads::default();
    assert!(loads.add(&flow_of(1)));
    loads.remove(&flow_of(1));
    loads.remove(&flow_of(1));
    assert_eq!((count(&loads, 1), count(&loads, 2)), (0, 0));
}
