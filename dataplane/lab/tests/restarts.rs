//! Section 5 of the demo: either process dies and returns.

use lab::sections::{self, SHARED};
use lab::stage::Stage;
use lab::transcript::Transcript;
use lab::{Lab, Options};

#[test]
fn either_process_dies_and_returns() {
    let _one = lab::one_at_a_time();
    let show = Transcript::default();
    let mut lab = sections::stage_lab(&Options::default(), &show).expect("the lab comes up");
    let section = SHARED.iter().find(|section| section.number == 5).expect("section 5");
    Stage { lab: &mut lab, show: &show }.play(section.title, section.play).assert_passed();
}

#[test]
fn both_processes_end_when_asked_and_undo_what_they_did() {
    let _one = lab::one_at_a_time();
    let mut lab = Lab::start(&Options::default()).expect("the lab comes up");
    let node = &mut lab.nodes[0];
    node.stop().expect("both end with 0");
    let links = node.netns().ip("-o link").expect("ip link").stdout;
    assert!(!links.contains("fairway0"), "fairway0 is left: {links}");
    assert!(!links.contains("xdp"), "an XDP program is left: {links}");
    let routes = node.netns().ip("route").expect("ip route").stdout;
    assert!(!routes.contains("10.244.") && !routes.contains("10.96."), "routes are left: {routes}");
    let rules = node.netns().ip("rule").expect("ip rule").stdout;
    assert_eq!(rules.lines().count(), 3, "rules are left: {rules}");
    node.start().expect("both start again");
}
