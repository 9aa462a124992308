//! `fairway flows`: reads every worker's flow memory as it stands. Takes a while when tables are large, so it runs beside
//! the loop.

use crate::explain::endpoint_text;
use crate::listing::{FlowView, LoadView};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use tables::Addr;
use tables::counters::DropReason;
use tables::flow::{self, FLAG_ANSWERED, FLAG_TRANSLATED, FlowRecord, FlowRegionError, Hop, HopKind, Tuple};
use tables::owner::Worker;
use tables::region::{Access, Region};

/// Names that only control knows.
pub struct Names {
    pub interfaces: BTreeMap<u32, String>,
    pub services: BTreeMap<u32, String>,
}

pub fn list(regions: Vec<(Worker, OwnedFd)>, names: &Names) -> Result<Vec<FlowView>, FlowRegionError> {
    let mut views = Vec::new();
    for (worker, fd) in regions {
        let region = Region::attach(fd, Access::ReadOnly)?;
        views.extend(flow::list(&region)?.map(|record| view(worker, &record, names)));
    }
    Ok(views)
}

/// What goes to each backend, by service id and `address:port`. A service is asked by the end that opened the flow, which is
/// its local one.
pub fn by_backend(regions: Vec<(Worker, OwnedFd)>) -> Result<HashMap<(u32, String), LoadView>, FlowRegionError> {
    let mut loads: HashMap<(u32, Addr, u16), LoadView> = HashMap::new();
    for (_, fd) in regions {
        let region = Region::attach(fd, Access::ReadOnly)?;
        for record in flow::list(&region)?.filter(|record| record.service != 0) {
            let outside = record.outside();
            let load = loads.entry((record.service, outside.remote, outside.remote_port)).or_default();
            load.flows += 1;
            load.packets += record.packets as u64;
        }
    }
    Ok(loads.into_iter().map(|((id, addr, port), load)| ((id, endpoint_text(addr, port)), load)).collect())
}

fn view(worker: Worker, record: &FlowRecord, names: &Names) -> FlowView {
    let [local, remote] = ends(&record.inside);
    let translated = record.flags & FLAG_TRANSLATED != 0;
    FlowView {
        worker,
        protocol: record.inside.protocol.to_string(),
        local,
        remote,
        outside: translated.then(|| ends(&record.outside()).into()),
        out: hop(&record.out, names),
        back: hop(&record.back, names),
        service: names.services.get(&record.service).cloned(),
        answered: record.flags & FLAG_ANSWERED != 0,
        packets: record.packets,
    }
}

fn ends(tuple: &Tuple) -> [String; 2] {
    [endpoint_text(tuple.local, tuple.local_port), endpoint_text(tuple.remote, tuple.remote_port)]
}

fn hop(hop: &Hop, names: &Names) -> String {
    let interface =
        || names.interfaces.get(&hop.target).cloned().unwrap_or_else(|| format!("interface {}", hop.target));
    match hop.kind() {
        HopKind::None => "-".to_owned(),
        HopKind::Drop => DropReason::from_index(hop.reason as usize).map_or("drop", DropReason::name).to_owned(),
        HopKind::Tunnel => "tunnel".to_owned(),
        HopKind::Direct => "direct".to_owned(),
        HopKind::Uplink => "uplink".to_owned(),
        HopKind::Interface | HopKind::Endpoint => interface(),
        HopKind::Reject => "reject".to_owned(),
        HopKind::Punt => "punt".to_owned(),
    }
}
