//! A bond: whether frames can be moved on its members, and whether it notices when one of them fails.

use super::Diagnosis;
use super::fix::Fix;
use crate::netlink::{Bond, LinkInfo, Netlink};
use crate::uplink;

const CHECK: &str = "bond";
/// As often as `miimon` is usually told, and as 802.3ad does by itself.
const WATCH_MS: u32 = 100;

/// The NICs that frames move on: the device itself if it is no bond, none if its members cannot be used.
pub async fn check(netlink: &Netlink, nic: &LinkInfo, diagnosis: &mut Diagnosis) -> Vec<LinkInfo> {
    let members = match uplink::members(netlink, nic).await {
        Ok(members) => members,
        Err(error) => {
            diagnosis.wrong(CHECK, error, "then look again");
            return Vec::new();
        }
    };
    let Some(bond) = nic.bond else { return members };
    let sending: Vec<&str> = names(&members, true);
    let mut what =
        format!("{} is {}: frames move on its members, now out of {}", nic.name, bond.mode.name(), or_none(&sending));
    let idle = names(&members, false);
    if !idle.is_empty() {
        what = format!("{what}; idle: {}", idle.join(", "));
    }
    diagnosis.fact(CHECK, what);
    check_links(&nic.name, &members, diagnosis);
    check_watch(&nic.name, bond, diagnosis);
    check_queues(&nic.name, &members, diagnosis).await;
    members
}

fn names(members: &[LinkInfo], sends: bool) -> Vec<&str> {
    let wanted = members.iter().filter(|member| member.sends.unwrap_or(true) == sends);
    wanted.map(|member| member.name.as_str()).collect()
}

fn or_none(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn check_links(name: &str, members: &[LinkInfo], diagnosis: &mut Diagnosis) {
    if names(members, true).is_empty() {
        diagnosis.wrong(CHECK, format!("{name} sends by none of its members"), format!("see /proc/net/bonding/{name}"));
    }
    for member in members.iter().filter(|member| !member.is_up) {
        let up = format!("ip link set {} up", member.name);
        diagnosis.wrong(CHECK, format!("{}, a member of {name}, is down", member.name), &up);
        diagnosis.fixes.push(Fix::new(up, format!("ip link set {} down", member.name)));
    }
}

fn check_watch(name: &str, bond: Bond, diagnosis: &mut Diagnosis) {
    if bond.watch_ms > 0 {
        return diagnosis.fact(CHECK, format!("{name} looks at its links every {} ms", bond.watch_ms));
    }
    let set = |ms: u32| format!("ip link set {name} type bond miimon {ms}");
    let what = format!("{name} never looks at its links (miimon 0): what goes to a member that failed is lost");
    diagnosis.wrong(CHECK, what, set(WATCH_MS));
    diagnosis.fixes.push(Fix::new(set(WATCH_MS), set(0)));
}

/// A worker has queues of all members, or of none.
async fn check_queues(bond: &str, members: &[LinkInfo], diagnosis: &mut Diagnosis) {
    let mut each = Vec::new();
    for member in members {
        each.push((member, uplink::queues(member).await));
    }
    let fewest = each.iter().map(|(_, queues)| *queues).min().unwrap_or(0);
    for (member, queues) in each.into_iter().filter(|(_, queues)| *queues > fewest) {
        let (name, set) = (&member.name, |count: u32| format!("ethtool -L {} combined {count}", member.name));
        let what = format!("{name} has {queues} queues, and another member of {bond} {fewest}: all need as many");
        diagnosis.wrong("queues", what, set(fewest));
        diagnosis.fixes.push(Fix::new(set(fewest), set(queues)));
    }
}
