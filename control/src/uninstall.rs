//! Leaves a node as it was before Fairway, whatever ended the processes: what a control process undoes at its own exit, and
//! what outlives it on purpose. It does nothing while one of them runs, and nothing twice.

use crate::attachment::{Attachment, Store, StoreError};
use crate::claim::{self, ClaimError};
use crate::disk;
use crate::install::{CniPlaces, InstallError};
use crate::lock::{self, LockError};
use crate::netlink::{Netlink, NetlinkError};
use crate::node::{Node, NodeError};
use crate::offload::{Offload, OffloadError};
use crate::pod::{PodError, PodInterface};
use crate::reserve::{Reservation, ReserveError};
use std::io;
use std::path::{Path, PathBuf};
use tables::channel::Channel;
use tables::limits::WORKERS_MAX;

#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("a dataplane answers at {0}: stop it first")]
    Dataplane(PathBuf),
    #[error("still attached: {0}. Drain the node first (kubectl drain), or take their network from them with --force")]
    Attached(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Cni(#[from] InstallError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    #[error(transparent)]
    Offload(#[from] OffloadError),
    #[error("cannot remove {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
}

const STATE_FILES: [&str; 5] =
    ["attachments", "ipam.json", "objects.jsonl", "reserved-ports.json", "vlan-offload.json"];
const RUN_FILES: [&str; 4] = [lock::FILE, "control.sock", "dataplane.sock", DATAPLANE_LOCK];
const DATAPLANE_LOCK: &str = "dataplane.lock";

/// What to leave nothing of.
#[derive(Clone, Debug)]
pub struct Places {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub cni: CniPlaces,
}

impl Places {
    /// `force`: also from pods that are attached. Tells `say` of each thing that was there. Must be called inside a tokio
    /// runtime.
    pub async fn leave(&self, force: bool, say: &mut dyn FnMut(String)) -> Result<(), UninstallError> {
        let lock = if self.run_dir.exists() { Some(lock::take(&self.run_dir)?) } else { None };
        let dataplane = self.run_dir.join("dataplane.sock");
        if Channel::connect(&dataplane, true).is_ok() {
            return Err(UninstallError::Dataplane(dataplane));
        }
        self.detach_pods(force, say).await?;
        self.cni.remove()?.into_iter().for_each(&mut *say);
        leave_kernel(say).await?;
        if let Some(before) = Reservation::left(&self.state_dir)? {
            say(format!("{before} again"));
        }
        for device in Offload::left(&self.state_dir)? {
            say(format!("{device} takes VLAN tags out of frames again"));
        }
        drop(lock);
        remove_files(&self.state_dir, &STATE_FILES, say)?;
        let flows: Vec<String> = (0..WORKERS_MAX).map(|worker| format!("flows-{worker}")).collect();
        let names: Vec<&str> = RUN_FILES.into_iter().chain(flows.iter().map(String::as_str)).collect();
        remove_files(&self.run_dir, &names, say)
    }

    async fn detach_pods(&self, force: bool, say: &mut dyn FnMut(String)) -> Result<(), UninstallError> {
        if !self.state_dir.exists() {
            return Ok(());
        }
        let store = Store::open(&self.state_dir)?;
        // A namespace that is gone took its interface along.
        let attached: Vec<&Attachment> = store.iter().filter(|attachment| attachment.netns.exists()).collect();
        if !attached.is_empty() && !force {
            let pods: Vec<String> = attached.iter().map(|attachment| attachment.pod_id().to_string()).collect();
            return Err(UninstallError::Attached(pods.join(", ")));
        }
        for attachment in attached {
            interface(attachment).remove().await?;
            say(format!("took {} from {}", attachment.ifname, attachment.pod_id()));
        }
        Ok(())
    }
}

fn interface(attachment: &Attachment) -> PodInterface {
    PodInterface {
        netns: attachment.netns.clone(),
        ifname: attachment.ifname.clone(),
        mac: attachment.mac,
        addrs: attachment.addrs.clone(),
        gateways: Vec::new(),
        mtu: attachment.mtu,
        bandwidth: attachment.bandwidth.clone(),
    }
}

async fn leave_kernel(say: &mut dyn FnMut(String)) -> Result<(), UninstallError> {
    let netlink = Netlink::connect().map_err(UninstallError::Socket)?;
    let links = netlink.links().await?;
    let claimed = claim::detach_left(links.iter().map(|link| (link.index, link.name.as_str())))?;
    for link in links.iter().filter(|link| claimed.contains(&link.index)) {
        say(format!("took the XDP program from {}", link.name));
    }
    // A VLAN's neighbours are its own, the program is its NIC's.
    let is_uplink = |index: &u32| claimed.contains(index);
    for link in links.iter().filter(|link| is_uplink(&link.index) || link.parent.as_ref().is_some_and(is_uplink)) {
        for neighbour in netlink.neighbours(link.index).await?.iter().filter(|neighbour| neighbour.managed) {
            netlink.delete_neighbour(link.index, neighbour.addr).await?;
            say(format!("forgot the neighbour {} of {}", neighbour.addr, link.name));
        }
    }
    Node::left(netlink).await?.into_iter().for_each(say);
    Ok(())
}

/// What is known by name goes, and then the directory, if nothing else is in it; it may be somebody's mount.
fn remove_files(directory: &Path, names: &[&str], say: &mut dyn FnMut(String)) -> Result<(), UninstallError> {
    let mut removed = false;
    for name in names {
        let path = directory.join(name);
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match gone {
            Ok(()) => removed |= ![lock::FILE, DATAPLANE_LOCK].contains(name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(UninstallError::Remove { path, source }),
        }
        let _ = std::fs::remove_file(path.with_extension(disk::DRAFT));
    }
    if std::fs::remove_dir(directory).is_ok() || removed {
        say(format!("removed what was in {}", directory.display()));
    }
    Ok(())
}
