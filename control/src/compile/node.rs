//! The one row about this node, and its ports that are not Fairway's.

use super::problem::{Problems, Subject};
use crate::state::State;
use std::collections::BTreeSet;
use tables::Addr;
use tables::layout::Table;
use tables::node::{NodeRecord, family};
use tables::publish::Batch;
use tables::taken;

#[derive(Default)]
pub struct Node {
    installed: Option<NodeRecord>,
    taken: BTreeSet<u16>,
}

impl Node {
    /// `asked` are SNAT ports that services or pods have.
    pub fn update(
        &mut self,
        state: &State,
        asked: impl Iterator<Item = u16>,
        batch: &mut Batch,
        problems: &mut Problems,
    ) {
        self.update_taken(state.local().taken_ports.iter().copied().chain(asked).collect(), batch);
        let record = record(state);
        if self.installed == Some(record) {
            return;
        }
        if problems.note(Subject::Node, batch.set(Table::Node, 0, &record)) {
            // Every flow that leaves the node was decided with these addresses.
            if self.installed.replace(record).is_some() {
                batch.touch_all();
            }
        }
    }

    fn update_taken(&mut self, wanted: BTreeSet<u16>, batch: &mut Batch) {
        if wanted == self.taken {
            return;
        }
        // Cannot fail: every word is within the table.
        let mut set = |(at, word): (usize, u64)| drop(batch.set(Table::TakenPorts, at, &word));
        taken::words(&self.taken).into_iter().for_each(|(at, _)| set((at, 0)));
        taken::words(&wanted).into_iter().for_each(set);
        self.taken = wanted;
    }
}

fn record(state: &State) -> NodeRecord {
    let local = state.local();
    let mut node = [Addr::UNSPECIFIED; 2];
    for &addr in local.addrs.iter().rev() {
        node[family(addr)] = addr;
    }
    NodeRecord {
        node,
        gateway: local.gateway,
        host: local.host,
        snat: local.snat,
        vni: local.vni,
        tunnel_port: local.tunnel_port,
        uplink_mtu: local.uplink.mtu,
        uplink: local.uplink.interface,
        uplink_mac: local.uplink.mac,
        gateway_mac: local.gateway_mac,
        ready: state.is_complete() as u32,
        host_interface: local.host_interface,
        encapsulation: local.encapsulation.row() as u32,
        direct_port: local.direct_port,
        reserved: 0,
    }
}
