//! Bonds: two links of a node as one uplink, and the other ends of these in the fabric.
//!
//! Few kernels of machines that tests run on have them.

use std::path::Path;

use anyhow::{Context, Result};

use crate::fabric::Fabric;
use crate::lab::Nics;
use crate::netns::Netns;
use crate::shell::Cmd;

/// A node's uplink.
pub const BOND: &str = "bond0";
const MEMBERS: usize = 2;
/// How often the kernel looks at the links.
const WATCH_MS: u32 = 50;

/// Joins a node to the fabric by two links, NICs where there are any, and gives the ends in the fabric.
pub fn connect(
    fabric: &Fabric,
    node: &str,
    netns: &Netns,
    mode: &str,
    nics: &[Nics],
    queues: u32,
) -> Result<Vec<String>> {
    let links: Vec<Nics> = match nics {
        [] => {
            (0..MEMBERS).map(|at| format!("eth{at}")).map(|uplink| Nics { port: port(node, &uplink), uplink }).collect()
        }
        nics => nics.to_vec(),
    };
    for link in &links {
        match nics {
            [] => fabric.lay(&link.port, netns, &link.uplink, queues)?,
            _ => fabric.move_in(&link.port, netns, &link.uplink)?,
        }
    }
    let (here, there): (Vec<_>, Vec<_>) = links.into_iter().map(|link| (link.uplink, link.port)).unzip();
    join(netns, BOND, mode, &here)?;
    match mode {
        // Any switch will do.
        "active-backup" => there.iter().try_for_each(|port| fabric.plug(port))?,
        _ => {
            let trunk = format!("{node}-trunk");
            join(fabric.netns(), &trunk, mode, &there)?;
            fabric.plug(&trunk)?;
        }
    }
    there.iter().try_for_each(|port| fabric.complete_checksums(port))?;
    Ok(there)
}

/// The other end of a node's veth pair.
pub fn port(node: &str, member: &str) -> String {
    format!("{node}-{member}")
}

fn join(netns: &Netns, bond: &str, mode: &str, members: &[String]) -> Result<()> {
    let more = if mode == "802.3ad" { "lacp_rate fast" } else { "" };
    netns.ip(&format!("link add {bond} type bond mode {mode} miimon {WATCH_MS} xmit_hash_policy layer3+4 {more}"))?;
    for member in members {
        netns.ip(&format!("link set {member} down"))?;
        netns.ip(&format!("link set {member} master {bond}"))?;
        netns.ip(&format!("link set {member} up"))?;
    }
    netns.ip(&format!("link set {bond} up")).map(|_| ())
}

/// Names of a bond's members in a namespace, the one that an active-backup bond sends by first.
pub fn members(netns: &Netns) -> Result<Vec<String>> {
    let read = |what: &str| -> Result<String> {
        let path = Path::new("/sys/class/net").join(BOND).join("bonding").join(what);
        // sysfs shows the namespace that it was mounted in, `ip netns exec` mounts it anew.
        let ran = Cmd::line(&format!("ip netns exec {} cat {}", netns.name(), path.display())).ok()?;
        Ok(ran.stdout.trim().to_string())
    };
    let (all, active) = (read("slaves")?, read("active_slave")?);
    let mut members: Vec<String> = all.split(' ').map(str::to_string).collect();
    members.sort_by_key(|member| *member != active);
    members.first().context("the bond has no members")?;
    Ok(members)
}

/// Frames that a device has received. (What AF_XDP sends without copying not every driver counts.)
pub fn received(netns: &Netns, device: &str) -> Result<u64> {
    let told = netns.ip(&format!("-j -s link show {device}"))?.stdout;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    told[0]["stats64"]["rx"]["packets"].as_u64().with_context(|| format!("what {device} received"))
}
