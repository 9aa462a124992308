//! Sections 1 to 4 and 6 of the demo on one lab with one worker a node.

use lab::Options;
use lab::sections::{self, SHARED};
use lab::shared::Shared;
use lab::stage::Stage;
use lab::transcript::Transcript;

/// One lab for all tests of this file, one test at a time.
static LAB: Shared = Shared::new(|| sections::stage_lab(&Options::default(), &Transcript::default()));

#[track_caller]
fn play(number: u32) {
    let lab = &mut *LAB.enter();
    let section = SHARED.iter().find(|section| section.number == number).expect("a section of the shared lab");
    let report = Stage { lab, show: &Transcript::default() }.play(section.title, section.play);
    report.assert_passed();
}

#[test]
fn pods_talk_on_one_node_and_across_nodes() {
    play(1);
}

#[test]
fn a_service_spreads_requests_over_its_pods() {
    play(2);
}

#[test]
fn the_node_and_the_world_outside_reach_pods_and_back() {
    play(3);
}

#[test]
fn a_policy_cuts_what_it_names_and_nothing_else() {
    play(4);
}

#[test]
fn counters_match_the_packets_sent() {
    play(6);
}
