//! The one row about this node.

use super::problem::{Problems, Subject};
use crate::state::State;
use tables::Addr;
use tables::layout::Table;
use tables::node::{NodeRecord, family};
use tables::publish::Batch;

#[derive(Default)]
pub struct Node {
    installed: Option<NodeRecord>,
}

impl Node {
    pub fn update(&mut self, state: &State, batch: &mut Batch, problems: &mut Problems) {
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
