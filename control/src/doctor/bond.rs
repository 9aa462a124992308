//! A bond: whether frames can be moved on its members, and whether it notices when one of them fails.

use super::Diagnosis;
use super::fix::Fix;
use crate::netlink::{Bond, LinkInfo, Netlink};
use crate::uplink::{self, Member};

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
    let each: Vec<Member> = members.iter().map(Member::of).collect();
    diagnosis.fact(CHECK, uplink::bond_line(&nic.name, bond.mode, &each));
    if !each.iter().any(|member| member.sends) {
        let what = format!("{} sends by none of its members", nic.name);
        diagnosis.wrong(CHECK, what, format!("see /proc/net/bonding/{}", nic.name));
    }
    check_links(&nic.name, &members, diagnosis);
    check_watch(&nic.name, bond, diagnosis);
    check_queues(&nic.name, &members, diagnosis).await;
    members
}

fn check_links(name: &str, members: &[LinkInfo], diagnosis: &mut Diagnosis) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Mode;

    fn told(work: impl FnOnce(&mut Diagnosis)) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        work(&mut diagnosis);
        diagnosis
    }

    #[test]
    fn a_member_that_is_down_is_told_with_what_sets_it_up_and_down_again() {
        let member = |name: &str, is_up| LinkInfo { name: name.to_owned(), is_up, ..LinkInfo::default() };
        let well = told(|diagnosis| check_links("bond0", &[member("a", true)], diagnosis));
        assert_eq!(well, Diagnosis::default());
        let found = told(|diagnosis| check_links("bond0", &[member("a", true), member("b", false)], diagnosis));
        assert!(!found.is_well() && found.findings[0].what.starts_with("b, a member of bond0, is down"));
        let fix = Fix::new("ip link set b up".to_owned(), "ip link set b down".to_owned());
        assert_eq!(found.fixes, [fix]);
    }

    #[test]
    fn a_bond_that_never_looks_at_its_links_is_told() {
        let bond = |watch_ms| Bond { mode: Mode::ActiveBackup, watch_ms };
        assert!(told(|diagnosis| check_watch("bond0", bond(50), diagnosis)).is_well());
        let found = told(|diagnosis| check_watch("bond0", bond(0), diagnosis));
        assert!(!found.is_well() && found.findings[0].what.contains("miimon 0"), "{found:?}");
        let set = |ms: u32| format!("ip link set bond0 type bond miimon {ms}");
        assert_eq!(found.fixes, [Fix::new(set(100), set(0))]);
    }
}
