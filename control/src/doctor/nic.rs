//! One NIC, or the members of a bond: whether Fairway can use it, how fast, and which commands make it better.

use super::fix::Fix;
use super::{Diagnosis, Patient, bond, profile};
use crate::claim::{self, QUEUES_MAX};
use crate::netlink::{LinkInfo, Netlink};
use crate::sys;
use crate::uplink::{self, POD_MTU_MIN};
use std::collections::BTreeSet;
use std::fs;

const CHECK: &str = "nic";
/// What every Ethernet carries.
const MTU_USUAL: u32 = 1500;
/// linux/netdev.h, `enum netdev_xdp_act`.
const XDP_ACT_BASIC: u64 = 1;
const XDP_ACT_ZERO_COPY: u64 = 1 << 3;
/// What one buffer of 2048 bytes holds, see hw-profiles.
const ONE_BUFFER_MTU_MAX: u32 = 1770;

pub async fn check(netlink: &Netlink, name: &str, patient: &Patient, diagnosis: &mut Diagnosis) {
    let name = match uplink::named(netlink, name).await {
        Ok(name) => name,
        Err(error) => return diagnosis.wrong(CHECK, error, "name the NIC"),
    };
    let link = match netlink.link(&name).await {
        Ok(Some(link)) => link,
        Ok(None) => {
            return diagnosis.wrong(CHECK, format!("there is no device {name} here"), "name one that `ip link` shows");
        }
        Err(error) => return diagnosis.wrong(CHECK, error, "run it as root"),
    };
    check_state(&link, patient, diagnosis);
    check_place(netlink, &link, diagnosis).await;
    let nic = match uplink::nic(netlink, &link).await {
        Ok(nic) => nic,
        Err(error) => return diagnosis.wrong(CHECK, error, "give a device that lies right on a NIC"),
    };
    if nic.bond.is_some()
        && let Ok(xdp) = sys::xdp_of(nic.index)
    {
        check_programs(&nic, &xdp.programs, diagnosis);
    }
    for member in bond::check(netlink, &nic, diagnosis).await {
        check_xdp(&member, link.mtu, diagnosis);
        let queues = uplink::queues(&member).await;
        check_queues(&member, queues, patient, diagnosis);
        check_spreading(&member, queues, diagnosis);
        check_memory(&member, patient, diagnosis);
    }
}

fn check_state(link: &LinkInfo, patient: &Patient, diagnosis: &mut Diagnosis) {
    let (name, mtu, overhead) = (&link.name, link.mtu, patient.encapsulation.overhead(true));
    if !link.is_up {
        diagnosis.wrong(CHECK, format!("{name} is down"), format!("ip link set {name} up"));
        diagnosis.fixes.push(Fix::new(format!("ip link set {name} up"), format!("ip link set {name} down")));
    }
    let least = POD_MTU_MIN + overhead;
    if mtu < least {
        let what = format!("{name} has an MTU of {mtu}, and pods with IPv6 behind the tunnels need {least}");
        diagnosis.wrong("mtu", what, format!("ip link set {name} mtu {MTU_USUAL}, here and on all nodes"));
        let (set, back) = (format!("ip link set {name} mtu {MTU_USUAL}"), format!("ip link set {name} mtu {mtu}"));
        return diagnosis.fixes.push(Fix::new(set, back));
    }
    let most = if link.mtu_max == 0 { "not told".to_owned() } else { link.mtu_max.to_string() };
    diagnosis.fact("mtu", format!("{name} has {mtu}, pods get {}; the driver's limit is {most}", mtu - overhead));
}

/// Bond, bridge or VLAN.
async fn check_place(netlink: &Netlink, link: &LinkInfo, diagnosis: &mut Diagnosis) {
    let name = &link.name;
    if let Some(index) = link.controller {
        let controller = netlink.link_at(index).await.ok().flatten();
        let (other, kind) = controller.map_or(("another device".to_owned(), String::new()), |c| (c.name, c.kind));
        let what = format!("{name} is a member of {other} ({kind}), which has the addresses and takes the packets");
        diagnosis.wrong(
            CHECK,
            what,
            format!("give {other} as the uplink, or take {name} out: ip link set {name} nomaster"),
        );
    }
    if let Some(tag) = link.vlan {
        diagnosis.fact(CHECK, format!("{name} is VLAN {tag}: frames move on the NIC below it"));
    }
}

fn check_xdp(nic: &LinkInfo, mtu: u32, diagnosis: &mut Diagnosis) {
    let name = &nic.name;
    let driver =
        sys::driver(name).unwrap_or_else(|_| if nic.kind.is_empty() { "unknown".to_owned() } else { nic.kind.clone() });
    let known = profile::of(&driver);
    match sys::xdp_of(nic.index) {
        Err(error) => diagnosis
            .fact(CHECK, format!("{name} is driven by {driver}; the kernel does not tell its XDP features ({error})")),
        Ok(xdp) => {
            diagnosis
                .fact(CHECK, format!("{name} is driven by {driver}; zero-copy: {}", zero_copy(xdp.features, known)));
            let promised = known.is_some_and(|profile| profile.zero_copy);
            if promised && xdp.features & XDP_ACT_ZERO_COPY == 0 {
                let what = format!("{driver} can do zero-copy, and this kernel does not offer it on {name}");
                diagnosis.slow(
                    CHECK,
                    what,
                    format!("boot a newer kernel; {}", known.map_or("", |profile| profile.why)),
                );
            }
            if mtu > ONE_BUFFER_MTU_MAX && xdp.features & XDP_ACT_ZERO_COPY != 0 && xdp.zero_copy_segments <= 1 {
                let what = format!("an MTU of {mtu} takes several buffers, which {driver} can only copy");
                diagnosis.slow(
                    "mtu",
                    what,
                    format!("use chunks of 4096 for an MTU of up to 3818, or ip link set {name} mtu {MTU_USUAL}"),
                );
            }
            check_programs(nic, &xdp.programs, diagnosis);
        }
    }
}

fn zero_copy(features: u64, known: Option<profile::Profile>) -> String {
    match (features & XDP_ACT_ZERO_COPY != 0, features & XDP_ACT_BASIC != 0, known) {
        (true, _, _) => "yes, the driver offers it".to_owned(),
        (_, _, Some(profile)) => format!("no ({})", profile.why),
        (_, true, None) => {
            "no, the driver runs XDP programs and has no AF_XDP of its own: packets are copied".to_owned()
        }
        (_, false, None) => {
            "no, the driver knows nothing of XDP: the generic mode is used, and packets are copied".to_owned()
        }
    }
}

fn check_programs(nic: &LinkInfo, programs: &[u32], diagnosis: &mut Diagnosis) {
    let name = &nic.name;
    for program in claim::foreign(programs) {
        let what = format!("{name} already runs another XDP program ({program})");
        diagnosis.wrong(
            CHECK,
            what,
            format!("stop what attached it, then ip link set {name} xdp off; or give another uplink"),
        );
    }
}

fn check_queues(nic: &LinkInfo, queues: u32, patient: &Patient, diagnosis: &mut Diagnosis) {
    let (name, workers) = (&nic.name, patient.cpus.len() as u32);
    let set = |count: u32| format!("ethtool -L {name} combined {count}");
    if queues > QUEUES_MAX {
        diagnosis.wrong(
            "queues",
            format!("{name} has {queues} queues, and {QUEUES_MAX} can be covered"),
            set(QUEUES_MAX),
        );
        return diagnosis.fixes.push(Fix::new(set(QUEUES_MAX), set(queues)));
    }
    if queues < workers {
        let what =
            format!("{name} has {queues} queues in use for {workers} workers: some receive only what others hand over");
        diagnosis.slow("queues", what, format!("{}, if it has as many (ethtool -l {name})", set(workers)));
        return diagnosis.fixes.push(Fix::new(set(workers), set(queues)));
    }
    diagnosis.fact("queues", format!("{name} has {queues} in use"));
}

/// Between two nodes only the tunnel's source port differs from flow to flow.
fn check_spreading(nic: &LinkInfo, queues: u32, diagnosis: &mut Diagnosis) {
    let name = &nic.name;
    if queues < 2 {
        return diagnosis.fact("spreading", "one queue has nothing to spread over");
    }
    for (family, flow) in [("udp4", sys::UDP_V4_FLOW), ("udp6", sys::UDP_V6_FLOW)] {
        match sys::hashes_ports(name, flow) {
            Ok(Some(true)) => diagnosis.fact("spreading", format!("{family} is spread by outer addresses and ports")),
            Ok(Some(false)) => {
                let what = format!(
                    "{name} spreads {family} by outer addresses alone: all that comes from one node lands on one queue"
                );
                let set = |fields: &str| format!("ethtool -N {name} rx-flow-hash {family} {fields}");
                diagnosis.slow("spreading", what, set("sdfn"));
                diagnosis.fixes.push(Fix::new(set("sdfn"), set("sd")));
            }
            Ok(None) | Err(_) => {
                diagnosis.fact("spreading", format!("the driver of {name} does not tell what {family} is spread by"))
            }
        }
    }
    check_steering(name, &sys::steering_rules(name).unwrap_or_default(), diagnosis);
}

/// Only who made a rule knows whether it is meant: nothing is deleted by itself.
fn check_steering(name: &str, rules: &[u32], diagnosis: &mut Diagnosis) {
    if rules.is_empty() {
        return;
    }
    let what = format!("{} rules of {name} steer packets to queues past the spreading", rules.len());
    let delete: Vec<String> = rules.iter().map(|rule| format!("ethtool -N {name} delete {rule}")).collect();
    let advice = format!("see ethtool -n {name}, and delete those that are not meant: {}", delete.join("; "));
    diagnosis.slow("steering", what, advice);
}

fn check_memory(nic: &LinkInfo, patient: &Patient, diagnosis: &mut Diagnosis) {
    let near = fs::read_to_string(format!("/sys/class/net/{}/device/numa_node", nic.name)).ok();
    let Some(node) = near.and_then(|text| text.trim().parse::<u32>().ok()) else { return };
    let cores = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
    let (cores, far) = (cores.trim(), far_cores(&patient.cpus, &cores));
    if far.is_empty() {
        return diagnosis.fact("numa", format!("{} is on node {node}, whose cores are {cores}", nic.name));
    }
    let what = format!("{} is on NUMA node {node}, and the worker cores {far:?} are not", nic.name);
    diagnosis.slow("numa", what, format!("give the workers cores of {cores}: fairway-dataplane --cpus"));
}

/// Those of `cpus` that are not in a list such as `0-3,8`.
fn far_cores(cpus: &[usize], list: &str) -> Vec<usize> {
    let bounds = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    let near: BTreeSet<usize> = list.split(',').filter_map(bounds).flatten().collect();
    cpus.iter().copied().filter(|cpu| !near.contains(cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn cores_of_other_nodes_are_found() {
        assert_eq!(far_cores(&[0, 2, 8, 9], "0-3,8\n"), [9]);
        assert_eq!(far_cores(&[], ""), [0usize; 0]);
    }

    #[test]
    fn steering_rules_are_told_with_what_deletes_them_and_are_not_deleted() {
        let mut diagnosis = Diagnosis::default();
        check_steering("eth1", &[], &mut diagnosis);
        assert_eq!(diagnosis, Diagnosis::default());
        check_steering("eth1", &[7, 1023], &mut diagnosis);
        let found = &diagnosis.findings[0];
        assert!(found.severity == Severity::Slow && found.what.starts_with("2 rules of eth1"), "{found:?}");
        assert!(found.advice.ends_with("ethtool -N eth1 delete 7; ethtool -N eth1 delete 1023"), "{found:?}");
        assert!(diagnosis.fixes.is_empty(), "--apply would run them");
    }

    #[test]
    fn zero_copy_says_why_not() {
        assert!(zero_copy(XDP_ACT_BASIC | XDP_ACT_ZERO_COPY, None).starts_with("yes"));
        assert!(zero_copy(XDP_ACT_BASIC, None).contains("no AF_XDP of its own"));
        assert!(zero_copy(0, None).contains("generic"));
        assert!(zero_copy(XDP_ACT_BASIC, profile::of("veth")).starts_with("no ("));
    }
}
