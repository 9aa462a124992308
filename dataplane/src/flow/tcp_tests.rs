use super::*;
use bytemuck::Zeroable;
use proptest::prelude::*;

const SYN_ACK: u8 = SYN | ACK;
/// First sequence numbers of the local and the remote end.
const ISS: [u32; 2] = [0xffff_f000, 7_000_000];

fn header(seq: u32, ack: u32) -> Header {
    let mut bytes = Vec::new();
    let mut header = etherparse::TcpHeader::new(1000, 80, seq, 4096);
    header.acknowledgment_number = ack;
    header.write(&mut bytes).unwrap();
    *bytes.first_chunk().unwrap()
}

/// A flow's record, and numbers relative to where each end begins.
struct Connection(FlowRecord);

impl Connection {
    fn new() -> Connection {
        Connection(FlowRecord::zeroed())
    }

    fn established() -> Connection {
        let mut connection = Connection::new();
        connection.pass(Way::Out, SYN, 0, 0);
        connection.pass(Way::Back, SYN_ACK, 0, 1);
        connection.pass(Way::Out, ACK, 1, 1);
        connection
    }

    fn pass(&mut self, way: Way, flags: u8, seq: u32, ack: u32) -> bool {
        let header = header(ISS[way as usize].wrapping_add(seq), ISS[way.other() as usize].wrapping_add(ack));
        note(&mut self.0, way, flags, &header)
    }

    fn state(&self) -> FlowState {
        state(self.0.state)
    }
}

#[test]
fn a_handshake_establishes_one_way_or_both_at_once() {
    let mut connection = Connection::new();
    connection.pass(Way::Out, SYN, 0, 0);
    connection.pass(Way::Back, SYN_ACK, 0, 1);
    assert_eq!(connection.state(), FlowState::TcpOpening);
    connection.pass(Way::Out, ACK, 1, 1);
    assert_eq!(connection.state(), FlowState::TcpEstablished);
    let mut connection = Connection::new();
    connection.pass(Way::Out, SYN, 0, 0);
    connection.pass(Way::Back, SYN, 0, 0);
    connection.pass(Way::Out, SYN_ACK, 0, 1);
    assert_eq!(connection.state(), FlowState::TcpOpening);
    connection.pass(Way::Back, SYN_ACK, 0, 1);
    assert_eq!(connection.state(), FlowState::TcpEstablished);
}

#[test]
fn a_connection_closes_by_halves() {
    let mut connection = Connection::established();
    connection.pass(Way::Back, FIN | ACK, 1, 1);
    connection.pass(Way::Out, ACK, 1, 2);
    assert_eq!(connection.state(), FlowState::TcpHalfClosed);
    connection.pass(Way::Out, ACK, 500_000, 2);
    assert_eq!(connection.state(), FlowState::TcpHalfClosed);
    connection.pass(Way::Out, FIN | ACK, 500_001, 2);
    assert_eq!(connection.state(), FlowState::TcpClosing);
    assert!(is_closed(connection.0.state));
}

#[test]
fn a_reset_counts_if_it_is_near_the_window() {
    for (offset, is_believed) in
        [(0, true), (1460, true), (4 << 20, true), (5 << 20, false), (1 << 31, false), (-200_000i32 as u32, false)]
    {
        for way in [Way::Out, Way::Back] {
            let mut connection = Connection::established();
            assert_eq!(connection.pass(way, RST, 1u32.wrapping_add(offset), 0), is_believed, "{offset:#x} {way:?}");
            assert_eq!(connection.state() == FlowState::TcpReset, is_believed);
        }
    }
}

#[test]
fn who_speaks_on_has_not_reset() {
    let mut connection = Connection::established();
    assert!(connection.pass(Way::Back, RST, 1000, 0));
    // The challenge, and what was on its way; then the answer of somebody alive.
    connection.pass(Way::Out, ACK, 1, 1);
    assert_eq!(connection.state(), FlowState::TcpReset);
    connection.pass(Way::Back, ACK, 1, 1);
    assert_eq!(connection.state(), FlowState::TcpEstablished);
}

#[test]
fn a_connection_that_opens_is_reset_by_who_acknowledges_it_or_by_its_opener() {
    let refused = |flags: u8, seq: u32, ack: u32| {
        let mut connection = Connection::new();
        connection.pass(Way::Out, SYN, 0, 0);
        connection.pass(Way::Back, flags, seq, ack)
    };
    let zero = 0u32.wrapping_sub(ISS[1]);
    assert!(refused(RST | ACK, zero, 1));
    assert!(refused(RST | ACK, zero, 1 + 1460), "data on the SYN (RFC 7413)");
    assert!(!refused(RST | ACK, zero, 1 << 30) && !refused(RST, zero, 0), "anybody could say so");
    let mut connection = Connection::new();
    connection.pass(Way::Out, SYN, 0, 0);
    assert!(!connection.pass(Way::Out, RST, 1 << 30, 0) && connection.pass(Way::Out, RST, 1, 0));
}

#[test]
fn a_syn_amid_a_connection_changes_nothing() {
    for flags in [SYN, SYN_ACK] {
        let mut connection = Connection::established();
        let before = connection.0;
        assert!(!connection.pass(Way::Out, flags, 1 << 30, 7));
        assert_eq!(connection.0, before);
    }
}

#[test]
fn a_connection_is_picked_up_amid_its_way_once_both_have_spoken() {
    let mut connection = Connection::new();
    connection.pass(Way::Back, ACK, 90_000, 80_000);
    assert_eq!(connection.state(), FlowState::TcpOpening);
    connection.pass(Way::Out, ACK, 80_000, 90_000);
    assert_eq!(connection.state(), FlowState::TcpEstablished);
    assert!(!connection.pass(Way::Out, RST, 1 << 30, 0) && connection.pass(Way::Out, RST, 80_000, 0));
}

const NEITHER: [bool; 2] = [false, false];
const BOTH: [bool; 2] = [true, true];

/// The same by whole numbers and words.
#[derive(Default)]
struct Model {
    expected: [Option<u32>; 2],
    acked: [bool; 2],
    closed: [bool; 2],
    reset: [bool; 2],
}

impl Model {
    fn pass(&mut self, side: usize, flags: u8, seq: u32, ack: u32) {
        let other = 1 - side;
        let is_open = self.acked == BOTH;
        let near = |number: u32, expected: Option<u32>| {
            expected.is_some_and(|expected| (-65_536..=4 << 20).contains(&(number.wrapping_sub(expected) as i32)))
        };
        if flags & RST != 0 {
            let acknowledges = flags & ACK != 0 && near(ack, self.expected[side]);
            let knows_nothing = self.expected == [None, None];
            if near(seq, self.expected[other]) || !is_open && (acknowledges || knows_nothing) {
                self.reset[side] = true;
            }
            return;
        }
        if flags == 0 {
            return;
        }
        if flags & SYN != 0 {
            if is_open {
                return;
            }
            if !self.acked[other] {
                self.expected[other] = Some(seq.wrapping_add(1));
            }
        }
        if flags & ACK != 0 {
            (self.expected[side], self.acked[side]) = (Some(ack), true);
        }
        self.closed[side] |= flags & FIN != 0;
        self.reset[side] = false;
    }

    fn state(&self) -> FlowState {
        match (self.reset, self.closed, self.acked) {
            (NEITHER, BOTH, _) => FlowState::TcpClosing,
            (NEITHER, NEITHER, BOTH) => FlowState::TcpEstablished,
            (NEITHER, _, BOTH) => FlowState::TcpHalfClosed,
            (NEITHER, ..) => FlowState::TcpOpening,
            _ => FlowState::TcpReset,
        }
    }
}

fn segments() -> impl Strategy<Value = Vec<(bool, u8, u32, u32)>> {
    let flags = prop::sample::select(vec![0, SYN, SYN_ACK, ACK, ACK, ACK, FIN | ACK, FIN, RST, RST | ACK]);
    // Any two are clearly within reach of each other or clearly beyond it: between, upper halves are coarse.
    let number = (prop_oneof![4 => Just(0), 1 => 1u32..64], 0u32..30_000).prop_map(|(far, near)| far << 24 | near);
    prop::collection::vec((any::<bool>(), flags, number.clone(), number), 1..40)
}

proptest! {
    /// Any segments in any order: as the model has it.
    #[test]
    fn states_are_those_of_a_naive_model(segments in segments()) {
        let (mut connection, mut model) = (Connection::new(), Model::default());
        for (is_out, flags, seq, ack) in segments {
            let way = if is_out { Way::Out } else { Way::Back };
            connection.pass(way, flags, seq, ack);
            model.pass(way as usize, flags, ISS[way as usize].wrapping_add(seq), ISS[way.other() as usize].wrapping_add(ack));
            prop_assert_eq!(connection.state(), model.state());
        }
    }
}

/// A connection of which only what the local end sends passes here.
fn half(segments: &[(u8, u32, u32)]) -> Connection {
    let mut connection = Connection::new();
    segments.iter().for_each(|segment| unseen(&mut connection, *segment));
    connection
}

fn unseen(connection: &mut Connection, (flags, seq, ack): (u8, u32, u32)) {
    connection.pass(Way::Out, flags, seq, ack);
    let header = header(ISS[0].wrapping_add(seq), ISS[1].wrapping_add(ack));
    note_unseen(&mut connection.0, flags, &header);
}

#[test]
fn of_one_half_alone_a_connection_is_established_when_its_opener_goes_on_and_closing_when_it_closes() {
    assert_eq!(half(&[(SYN, 0, 0), (SYN, 0, 0)]).state(), FlowState::TcpOpening, "nobody has answered");
    let mut connection = half(&[(SYN, 0, 0), (ACK, 1, 1)]);
    assert_eq!(connection.state(), FlowState::TcpEstablished);
    unseen(&mut connection, (FIN | ACK, 100, 1));
    assert_eq!(connection.state(), FlowState::TcpClosing);
    unseen(&mut connection, (ACK, 101, 2000));
    assert_eq!(connection.state(), FlowState::TcpClosing, "it only acknowledges");
}

#[test]
fn of_one_half_alone_a_reset_is_believed_near_what_was_sent_last() {
    for (seq, state) in [(100 << 20, FlowState::TcpReset), (7 << 20, FlowState::TcpEstablished)] {
        let sent = (1..=100).map(|i| (ACK, i << 20, 1));
        let mut connection = half(&[(SYN, 0, 0)].into_iter().chain(sent).collect::<Vec<_>>());
        unseen(&mut connection, (RST, seq, 0));
        assert_eq!(connection.state(), state, "{seq}");
    }
}
