//! ADDs of pods whose object has not come yet: what it asks for its addresses is not known. The API server tells us and the
//! kubelet at the same time, so it may be on its way; it is waited for, but not long, for a pod gets its addresses also while
//! the API server is away.

use super::Supervisor;
use crate::api::{CniPod, Failure, Reply, code};
use crate::attachment;
use crate::object::Named;
use crate::serve::ReplyTo;
use crate::state::Asked;
use std::time::Duration;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(1);

/// An ADD that waits for its pod's object.
pub struct Unknown {
    pod: CniPod,
    reply: ReplyTo,
    deadline: Instant,
}

impl Supervisor {
    pub(super) fn cni_add(&mut self, pod: CniPod, reply: ReplyTo) {
        if self.lacks_object(&pod) {
            let deadline = Instant::now() + PATIENCE;
            return self.attaching.unknown.push(Unknown { pod, reply, deadline });
        }
        self.start_add(pod, reply);
    }

    /// A directory is whoever's who attaches: what is not in it by now need not come.
    fn lacks_object(&self, pod: &CniPod) -> bool {
        let is_followed = self.args.objects.is_none() && self.state.is_complete();
        is_followed && !pod.pod.is_empty() && self.state.pod(&Named::new(&*pod.namespace, &*pod.pod)).is_none()
    }

    /// Begins what has waited long enough.
    pub(super) fn begin_known(&mut self) {
        let now = Instant::now();
        for unknown in std::mem::take(&mut self.attaching.unknown) {
            if unknown.deadline > now && self.lacks_object(&unknown.pod) {
                self.attaching.unknown.push(unknown);
            } else {
                self.start_add(unknown.pod, unknown.reply);
            }
        }
    }

    /// A DEL comes before its ADD has begun.
    pub(super) fn give_up_unknown(&mut self, key: &str) {
        let is_it = |unknown: &mut Unknown| attachment::key(&unknown.pod.container, &unknown.pod.ifname) == key;
        for unknown in self.attaching.unknown.extract_if(.., is_it) {
            let failure = Failure::new(code::TRY_AGAIN, format!("{key} was taken away before it was attached"));
            let _ = unknown.reply.send(Reply::Failed(failure));
        }
    }

    /// What the runtime asks goes before what annotations ask.
    pub(super) fn asked_for(&self, pod: &CniPod) -> Result<Asked, Failure> {
        if pod.pod.is_empty() {
            return Ok(Asked { addrs: pod.wants.addrs.clone(), pool: None });
        }
        let id = Named::new(&*pod.namespace, &*pod.pod);
        let asked = self.state.asked_for(&id);
        let mut asked = asked.map_err(|error| Failure::new(code::NETWORK_CONFIG, format!("pod {id}: {error}")))?;
        if !pod.wants.addrs.is_empty() {
            asked.addrs = pod.wants.addrs.clone();
        }
        Ok(asked)
    }
}
