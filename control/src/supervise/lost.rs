//! Attachments that nobody will detach any more: an ADD whose caller died, or a node that restarted with a runtime that
//! forgot. What the network namespace was called is gone, and so is the pod; then the address is given back. Whoever
//! still has a namespace is left alone, and so is a pod that the cluster still knows: its runtime may be slow.

use super::Supervisor;
use crate::attachment::Attachment;
use crate::log;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::Path;

/// A runtime takes the namespace away shortly before or after its DEL.
const PATIENCE_TICKS: u64 = 30;

/// Since which tick, by key.
#[derive(Default)]
pub struct Lost(BTreeMap<String, u64>);

impl Supervisor {
    /// Every second.
    pub(super) async fn detach_lost(&mut self) {
        let lost: Vec<String> = self.store.iter().filter(|one| self.is_lost(one)).map(Attachment::key).collect();
        self.lost.0.retain(|key, _| lost.contains(key));
        for key in lost {
            let since = *self.lost.0.entry(key.clone()).or_insert(self.ticks);
            if self.ticks - since >= PATIENCE_TICKS {
                log(format_args!("{key} was never detached, and its pod is gone: its addresses are given back"));
                // Not again each second, should its file stay.
                self.lost.0.remove(&key);
                self.cni_del(&key, None).await;
            }
        }
    }

    fn is_lost(&self, attachment: &Attachment) -> bool {
        let key = attachment.key();
        if self.attaching.is_busy(&key) || !is_gone(&attachment.netns) {
            return false;
        }
        // Processes may go on in a namespace without a name, and no object tells of a container that is no pod.
        if attachment.pod.is_empty() {
            return self.problems.contains_key(&key);
        }
        let id = attachment.pod_id();
        let is_successor = |other: &&Attachment| other.pod_id() == id && other.key() != key && !is_gone(&other.netns);
        let has_object = !self.state.is_complete() || self.state.pod(&id).is_some();
        !has_object || self.store.iter().any(|other| is_successor(&other))
    }
}

/// There is no such path, or what stands there is no namespace any more.
fn is_gone(netns: &Path) -> bool {
    match rustix::fs::statfs(netns) {
        Ok(found) => found.f_type != libc::NSFS_MAGIC,
        Err(error) => error == Errno::NOENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespace_is_there() {
        assert!(!is_gone(Path::new("/proc/self/ns/net")));
        let path = std::env::temp_dir().join(format!("fairway-lost-{}", std::process::id()));
        assert!(is_gone(&path));
        std::fs::write(&path, "").unwrap();
        assert!(is_gone(&path), "unmounted, as its file stays behind for a moment");
        std::fs::remove_file(path).unwrap();
    }
}
