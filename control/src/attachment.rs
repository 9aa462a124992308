//! The attachments of this node, each a file, so that addresses and pods' interfaces are known after a restart. It must
//! not touch interfaces.

use crate::bandwidth::Bandwidth;
use crate::disk::{self, DiskError};
use crate::ipam::pool::PodPool;
use crate::ipam::{Ipam, LastGiven};
use crate::object::{HostPort, Named, Pod};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use tables::{Addr, Mac, Prefix};

/// One interface of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Attachment {
    /// The runtime's id of the sandbox.
    pub container: String,
    /// Name of the interface inside the pod.
    pub ifname: String,
    /// Name of the network; empty if it was attached by an older version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    pub netns: PathBuf,
    /// Both empty for a container that is no pod of Kubernetes.
    pub namespace: String,
    pub pod: String,
    pub addrs: Vec<Addr>,
    pub mac: Mac,
    pub mtu: u32,
    /// Ports of the node that lead to it, as the runtime asked. For a pod its object says them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<HostPort>,
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

impl Attachment {
    /// By which the interface is known to the dataplane too.
    pub fn key(&self) -> String {
        key(&self.container, &self.ifname)
    }

    /// Whose it is. Containers that are no pods are in no namespace, under the runtime's id.
    pub fn pod_id(&self) -> Named {
        if self.is_pod() { Named::new(&self.namespace, &self.pod) } else { Named::new("", &self.container) }
    }

    fn is_pod(&self) -> bool {
        !self.pod.is_empty()
    }

    /// What stands for the object of a container that is no pod: without labels, and in no namespace that a NetworkPolicy
    /// could be in.
    pub fn stand_in(&self, node: &str) -> Option<Pod> {
        (!self.is_pod()).then(|| Pod {
            id: self.pod_id().into(),
            addrs: self.addrs.clone(),
            node: Some(node.into()),
            ready: true,
            host_ports: self.ports.clone(),
            ..Pod::default()
        })
    }
}

pub fn key(container: &str, ifname: &str) -> String {
    format!("{container}/{ifname}")
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Ipam(#[from] crate::ipam::IpamError),
    #[error("cannot use the state directory {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
}

/// All attachments, and the addresses that they hold.
pub struct Store {
    directory: PathBuf,
    attachments: BTreeMap<String, Attachment>,
    ipam: Ipam,
}

impl Store {
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        let directory = state_dir.join("attachments");
        let fail = |source| StoreError::Directory { path: directory.clone(), source };
        std::fs::create_dir_all(&directory).map_err(fail)?;
        let mut attachments = BTreeMap::new();
        for entry in std::fs::read_dir(&directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            match path.extension().and_then(OsStr::to_str) {
                Some("json") => attachments.extend(disk::read::<Attachment>(&path)?.map(|found| (found.key(), found))),
                // An earlier run was killed before it was whole.
                Some(disk::DRAFT) => disk::remove(&path)?,
                _ => {}
            }
        }
        let used = attachments.values().flat_map(|attachment| attachment.addrs.iter().copied());
        let last: LastGiven = disk::read(&last_path(state_dir))?.unwrap_or_default();
        let ipam = Ipam::new(used, last);
        Ok(Store { directory: state_dir.to_owned(), attachments, ipam })
    }

    pub fn set_ranges(&mut self, ranges: &[Prefix]) -> Result<(), StoreError> {
        Ok(self.ipam.set_ranges(ranges)?)
    }

    pub fn set_pools(&mut self, pools: &[PodPool]) {
        self.ipam.set_pools(pools);
    }

    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    pub fn get(&self, key: &str) -> Option<&Attachment> {
        self.attachments.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// Reserves addresses, those that are asked for among them and the others out of this pool, and keeps the attachment that `make` builds of them, on disk
    /// before it returns.
    pub fn add(
        &mut self,
        asked: &[Addr],
        pool: Option<&str>,
        make: impl FnOnce(Vec<Addr>) -> Attachment,
    ) -> Result<Attachment, StoreError> {
        let addrs = self.ipam.allocate(asked, pool)?;
        let attachment = make(addrs.clone());
        if let Err(error) = self.write(&attachment) {
            self.ipam.release(&addrs);
            return Err(error);
        }
        self.attachments.insert(attachment.key(), attachment.clone());
        Ok(attachment)
    }

    fn write(&self, attachment: &Attachment) -> Result<(), StoreError> {
        disk::write(&last_path(&self.directory), self.ipam.last_given())?;
        Ok(disk::write(&self.path(attachment), attachment)?)
    }

    /// Gives the addresses back.
    pub fn remove(&mut self, key: &str) -> Result<Option<Attachment>, StoreError> {
        let Some(attachment) = self.attachments.get(key) else { return Ok(None) };
        disk::remove(&self.path(attachment))?;
        let removed = self.attachments.remove(key);
        self.ipam.release(removed.as_ref().map_or(&[], |attachment| &attachment.addrs));
        Ok(removed)
    }

    fn path(&self, attachment: &Attachment) -> PathBuf {
        self.directory.join("attachments").join(format!("{}@{}.json", attachment.container, attachment.ifname))
    }
}

fn last_path(state_dir: &Path) -> PathBuf {
    state_dir.join("ipam.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fairway-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    fn open(path: &Path) -> Store {
        let mut store = Store::open(path).unwrap();
        store.set_ranges(&["10.244.1.0/24".parse().unwrap()]).unwrap();
        store
    }

    fn add(store: &mut Store, container: &str) -> Attachment {
        let make = |addrs| Attachment {
            container: container.into(),
            ifname: "eth0".into(),
            network: "fairway".into(),
            netns: "/run/netns/x".into(),
            namespace: "demo".into(),
            pod: "web".into(),
            addrs,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1450,
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
        };
        store.add(&[], None, make).unwrap()
    }

    #[test]
    fn attachments_and_addresses_survive_reopening() {
        let path = state_dir("reopen");
        let mut store = open(&path);
        let first = add(&mut store, "a");
        let second = add(&mut store, "b");
        let draft = path.join("attachments/c@eth0.draft");
        std::fs::write(&draft, "{").unwrap();
        assert_eq!(store.remove("a/eth0").unwrap(), Some(first.clone()));
        drop(store);
        let mut store = open(&path);
        assert_eq!(store.iter().collect::<Vec<_>>(), [&second]);
        assert!(!draft.exists(), "what was not finished is swept up");
        let third = add(&mut store, "c");
        assert!(third.addrs != second.addrs && third.addrs != first.addrs, "{third:?}");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let path = state_dir("damaged");
        add(&mut open(&path), "a");
        let file = path.join("attachments/a@eth0.json");
        std::fs::write(&file, "{").unwrap();
        let error = Store::open(&path).err().unwrap().to_string();
        assert!(error.contains("a@eth0.json") && error.contains("damaged"), "{error}");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn an_unwritable_directory_gives_the_address_back() {
        let path = state_dir("unwritable");
        let mut store = open(&path);
        std::fs::remove_dir_all(&path).unwrap();
        let make = |addrs| Attachment { addrs, ..add(&mut open(&state_dir("other")), "z") };
        assert!(store.add(&[], None, make).is_err());
        assert_eq!(store.ipam().used(), 0);
        std::fs::remove_dir_all(state_dir("other")).ok();
    }
}
