//! The addresses of other nodes, from which may come what a client asked them.

use super::problem::{Problems, Subject};
use crate::state::{Changes, State};
use bytemuck::Zeroable;
use std::collections::{BTreeSet, HashMap};
use tables::Addr;
use tables::layout::Table;
use tables::node::PeerRecord;
use tables::publish::Batch;

#[derive(Default)]
pub struct Peers {
    /// What each node says of itself.
    by_node: HashMap<String, BTreeSet<Addr>>,
    /// How many nodes have each address, and how many its row says.
    counts: HashMap<Addr, (u32, u32)>,
    dirty: BTreeSet<Addr>,
}

impl Peers {
    pub fn update(&mut self, state: &State, changes: &Changes, batch: &mut Batch, problems: &mut Problems) {
        // Which of them is this node.
        for name in if changes.node { state.nodes.keys().collect() } else { Vec::new() } {
            self.take(state, name);
        }
        for name in &changes.nodes {
            self.take(state, name);
        }
        for addr in std::mem::take(&mut self.dirty) {
            if !self.install(addr, batch, problems) {
                self.dirty.insert(addr);
            }
        }
    }

    fn take(&mut self, state: &State, name: &str) {
        let other = state.node(name).filter(|node| node.name != state.local().node);
        let addrs: BTreeSet<Addr> = other.map_or_else(BTreeSet::new, |node| node.addrs.iter().copied().collect());
        let before = self.by_node.remove(name).unwrap_or_default();
        for addr in addrs.symmetric_difference(&before) {
            let (count, _) = self.counts.entry(*addr).or_default();
            *count = if addrs.contains(addr) { *count + 1 } else { *count - 1 };
            self.dirty.insert(*addr);
        }
        if !addrs.is_empty() {
            self.by_node.insert(name.to_owned(), addrs);
        }
    }

    fn install(&mut self, addr: Addr, batch: &mut Batch, problems: &mut Problems) -> bool {
        let Some((count, written)) = self.counts.get_mut(&addr).filter(|(count, written)| count != written) else {
            return true;
        };
        let nodes = *count;
        if nodes == 0 {
            batch.remove(Table::Peer, &addr);
            self.counts.remove(&addr);
            return true;
        }
        let record = PeerRecord { nodes, ..PeerRecord::zeroed() };
        let is_done = problems.note(Subject::Peer(addr), batch.insert(Table::Peer, &addr, &record));
        if is_done {
            *written = nodes;
        }
        is_done
    }

    pub fn used(&self) -> usize {
        self.counts.len()
    }
}
