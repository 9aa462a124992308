use super::*;
use bytemuck::Zeroable;

/// Tags that the local and the remote end chose: packets towards an end bear its tag.
const TAGS: [u32; 2] = [0x1111_0001, 0x2222_0002];

fn pass(record: &mut FlowRecord, way: Way, kind: u8, flags: u8, tag: u32) -> bool {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&tag.to_be_bytes());
    (header[12], header[13]) = (kind, flags);
    header[16..20].copy_from_slice(&TAGS[way as usize].to_be_bytes());
    note(record, way, &header)
}

fn tag(way: Way) -> u32 {
    TAGS[way.other() as usize]
}

fn established() -> FlowRecord {
    let mut record = FlowRecord::zeroed();
    pass(&mut record, Way::Out, chunk::INIT, 0, 0);
    pass(&mut record, Way::Back, chunk::INIT_ACK, 0, tag(Way::Back));
    pass(&mut record, Way::Out, 10, 0, tag(Way::Out));
    assert_eq!(state(record.state), FlowState::SctpOpening);
    pass(&mut record, Way::Back, chunk::COOKIE_ACK, 0, tag(Way::Back));
    assert_eq!(state(record.state), FlowState::SctpEstablished);
    record
}

#[test]
fn an_association_is_opened_by_four_packets_and_ended_by_three() {
    let mut record = established();
    pass(&mut record, Way::Out, chunk::SHUTDOWN, 0, tag(Way::Out));
    pass(&mut record, Way::Back, chunk::SHUTDOWN_ACK, 0, tag(Way::Back));
    assert_eq!((state(record.state), is_closed(record.state)), (FlowState::SctpClosing, false));
    pass(&mut record, Way::Out, chunk::SHUTDOWN_COMPLETE, 0, tag(Way::Out));
    assert!(is_closed(record.state));
}

#[test]
fn an_abort_counts_if_it_bears_the_senders_tag_or_reflects_the_others() {
    for (flags, tag, is_believed) in
        [(0, tag(Way::Out), true), (REFLECTED, tag(Way::Back), true), (0, tag(Way::Back), false), (0, 7, false)]
    {
        let mut record = established();
        // Data that was acknowledged before: both tags are known.
        pass(&mut record, Way::Out, chunk::SACK, 0, super::tests::tag(Way::Out));
        assert_eq!(pass(&mut record, Way::Out, chunk::ABORT, flags, tag), is_believed);
        assert_eq!(is_closed(record.state), is_believed);
    }
}

#[test]
fn an_init_amid_an_association_changes_nothing() {
    let mut record = established();
    let before = record;
    assert!(!pass(&mut record, Way::Back, chunk::INIT, 0, 0));
    assert_eq!(record, before);
}

#[test]
fn an_association_is_picked_up_by_what_it_acknowledges() {
    let mut record = FlowRecord::zeroed();
    pass(&mut record, Way::Out, chunk::DATA, 0, tag(Way::Out));
    assert_eq!(state(record.state), FlowState::SctpOpening);
    pass(&mut record, Way::Back, chunk::SACK, 0, tag(Way::Back));
    assert_eq!(state(record.state), FlowState::SctpEstablished);
}
