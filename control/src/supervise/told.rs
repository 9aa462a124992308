//! Says on this node's Node object that its network is there, once it is: until then the scheduler keeps pods away. It is
//! never taken back: pods that run keep their network while a process restarts.

use super::Supervisor;
use crate::kube::Order;
use tokio::task::JoinHandle;

/// Of which problem `status` tells here.
const NODE: &str = "node-status";
/// Between two looks whether it still stands there: a node that joins anew has forgotten it.
const AGAIN_TICKS: u64 = 120;
/// After it could not be written.
const RETRY_TICKS: u64 = 5;

#[derive(Default)]
pub struct Told {
    writing: Option<JoinHandle<Result<(), String>>>,
    /// Not before this tick.
    next: u64,
}

impl Supervisor {
    /// Every second.
    pub(super) async fn tell_node(&mut self) {
        let Some(writer) = self.writer.clone() else { return };
        if let Some(writing) = self.told.writing.take_if(|writing| writing.is_finished()) {
            let outcome = writing.await.unwrap_or_else(|error| Err(error.to_string()));
            self.told.next = self.ticks + if outcome.is_ok() { AGAIN_TICKS } else { RETRY_TICKS };
            self.note(NODE, outcome);
        }
        let is_known = self.state.node(&self.args.node).is_some();
        let is_due = self.told.writing.is_none() && self.ticks >= self.told.next;
        if is_due && is_known && self.has_network() {
            let order = Order::Networked { node: self.args.node.clone() };
            self.told.writing = Some(tokio::spawn(async move { writer.write(order).await }));
        }
    }

    fn has_network(&self) -> bool {
        let has_tables = self.dataplane.as_ref().is_some_and(|dataplane| dataplane.has_tables);
        has_tables && self.is_in_force() && !["claim", "tables"].iter().any(|about| self.problems.contains_key(*about))
    }
}
