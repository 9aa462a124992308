//! Rows in aligned columns, as kubectl prints them.

use crate::listing::*;
use std::io::{self, Write};

/// A listing's row.
pub trait Row {
    fn header(wide: bool) -> Vec<&'static str>;
    fn cells(&self, wide: bool) -> Vec<String>;
    /// None: the row belongs to no namespace and is always shown.
    fn namespace(&self) -> Option<&str> {
        None
    }
}

/// Columns as wide as their widest cell, three spaces between.
pub fn print(out: &mut dyn Write, header: Option<Vec<&'static str>>, rows: &[Vec<String>]) -> io::Result<()> {
    let header = header.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
    let all: Vec<&Vec<String>> = header.iter().chain(rows).collect();
    let columns = all.iter().map(|row| row.len()).max().unwrap_or(0);
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in &all {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("   ").trim_end())?;
    }
    Ok(())
}

fn or_dash<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), T::to_string)
}

fn joined<T: ToString>(values: &[T]) -> String {
    if values.is_empty() { "<none>".to_owned() } else { values.iter().map(T::to_string).collect::<Vec<_>>().join(",") }
}

fn with_wide<T>(mut narrow: Vec<T>, wide: bool, more: Vec<T>) -> Vec<T> {
    if wide {
        narrow.extend(more);
    }
    narrow
}

impl Row for InterfaceView {
    fn header(wide: bool) -> Vec<&'static str> {
        let narrow = vec!["NAMESPACE", "POD", "KIND", "ID", "OWNER", "RX-PACKETS", "TX-PACKETS"];
        with_wide(narrow, wide, vec!["RX-BYTES", "TX-BYTES", "MAC", "MTU", "MODE", "NAME"])
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let (namespace, pod) = self.pod.as_deref().and_then(|pod| pod.split_once('/')).unwrap_or(("-", &self.name));
        let counters = [self.rx_packets, self.tx_packets].map(|count| count.to_string());
        let narrow = [namespace, pod, &self.kind, &self.id.to_string(), &self.owner.to_string()].map(str::to_owned);
        let more = [
            self.rx_bytes.to_string(),
            self.tx_bytes.to_string(),
            self.mac.to_string(),
            self.mtu.to_string(),
            or_dash(&self.mode),
            self.name.clone(),
        ];
        with_wide(narrow.into_iter().chain(counters).collect(), wide, more.into())
    }

    fn namespace(&self) -> Option<&str> {
        Some(self.pod.as_deref().and_then(|pod| pod.split_once('/')).map_or("", |(namespace, _)| namespace))
    }
}

impl Row for EndpointView {
    fn header(wide: bool) -> Vec<&'static str> {
        let narrow = vec!["NAMESPACE", "NAME", "READY", "ADDRESS", "INTERFACE"];
        with_wide(narrow, wide, vec!["OWNER", "MAC", "IDENTITY", "POLICY-SET", "CONTAINER"])
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let ready = if self.ready { "true" } else { "false" }.to_owned();
        let narrow =
            vec![self.namespace.clone(), self.name.clone(), ready, joined(&self.addrs), or_dash(&self.interface)];
        let container = format!("{}/{}", self.container, self.ifname);
        let more = vec![
            or_dash(&self.owner),
            self.mac.to_string(),
            or_dash(&self.identity),
            or_dash(&self.policy_set),
            container,
        ];
        with_wide(narrow, wide, more)
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

impl Row for ServiceView {
    fn header(wide: bool) -> Vec<&'static str> {
        let narrow = vec!["NAMESPACE", "NAME", "ADDRESS", "PORT", "BACKENDS"];
        with_wide(narrow, wide, vec!["PORT-NAME", "AFFINITY", "ALGORITHM", "FORWARDING", "BACKEND-ADDRESSES"])
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let narrow = vec![
            self.namespace.clone(),
            self.name.clone(),
            self.address.to_string(),
            format!("{}/{}", self.port, self.protocol.to_uppercase()),
            self.backends.len().to_string(),
        ];
        let affinity = if self.affinity_s == 0 { "None".to_owned() } else { format!("ClientIP {}s", self.affinity_s) };
        let loads = self.loads.iter().map(|load| format!(" ({} flows, {} packets)", load.flows, load.packets));
        let loads = loads.chain(std::iter::repeat(String::new()));
        let backends: Vec<_> =
            self.backends.iter().zip(loads).map(|(backend, load)| format!("{backend}{load}")).collect();
        with_wide(
            narrow,
            wide,
            vec![self.port_name.clone(), affinity, self.algorithm.clone(), self.forwarding.clone(), joined(&backends)],
        )
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

impl Row for AddressView {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["NAMESPACE", "SERVICE", "ADDRESS", "KIND", "POOL", "ANNOUNCED-BY"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let (pool, node) = (or_dash(&self.pool), or_dash(&self.announced_by));
        vec![self.namespace.clone(), self.name.clone(), self.addr.to_string(), self.kind.clone(), pool, node]
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

impl Row for PolicyView {
    fn header(wide: bool) -> Vec<&'static str> {
        with_wide(vec!["NAMESPACE", "NAME", "KIND", "TYPES", "PODS-HERE", "DROPS"], wide, vec!["FLOWS", "AUDITED"])
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let (pods, drops) = (self.local_endpoints.to_string(), self.drops.to_string());
        let namespace = if self.namespace.is_empty() { "-".to_owned() } else { self.namespace.clone() };
        let narrow = vec![namespace, self.name.clone(), self.kind.clone(), joined(&self.types), pods, drops];
        with_wide(narrow, wide, vec![self.flows.to_string(), self.audited.to_string()])
    }

    fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(&self.namespace)
    }
}

impl Row for RouteView {
    fn header(wide: bool) -> Vec<&'static str> {
        with_wide(vec!["PREFIX", "KIND", "PEER", "NEXT-HOP"], wide, vec!["NEXT-HOP-MAC", "MASQUERADE"])
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let narrow = vec![self.prefix.clone(), self.kind.clone(), or_dash(&self.peer), or_dash(&self.next_hop)];
        with_wide(narrow, wide, vec![or_dash(&self.next_hop_mac), self.masquerade.to_string()])
    }
}

impl Row for FlowView {
    fn header(wide: bool) -> Vec<&'static str> {
        let narrow = vec!["PROTOCOL", "LOCAL", "REMOTE", "OUT", "BACK", "PACKETS"];
        with_wide(narrow, wide, vec!["OUTSIDE", "SERVICE", "WORKER", "ANSWERED"])
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let narrow = vec![
            self.protocol.clone(),
            self.local.clone(),
            self.remote.clone(),
            self.out.clone(),
            self.back.clone(),
            self.packets.to_string(),
        ];
        let outside = self.outside.as_ref().map(|(local, remote)| format!("{local}->{remote}"));
        let more = vec![or_dash(&outside), or_dash(&self.service), self.worker.to_string(), self.answered.to_string()];
        with_wide(narrow, wide, more)
    }
}

impl Row for DropView {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["REASON", "COUNT", "POLICY", "MEANING"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.reason.clone(), self.count.to_string(), or_dash(&self.policy), self.sentence.clone()]
    }
}

impl Row for ReplayView {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["NUMBER", "TIME", "IN", "PACKET", "WAY"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let time = format!("{:.6}", self.time_s);
        vec![self.number.to_string(), time, self.interface.clone(), self.packet.clone(), self.ways.join("; ")]
    }
}

impl Row for WorkerView {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["WORKER", "GENERATION", "STATE", "BUSY", "PACKETS", "HANDOFFS-OUT", "HANDOFFS-IN", "FLOWS", "LIMIT"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        let state = match (self.asleep, self.shares_core) {
            (true, _) => "asleep",
            (false, true) => "awake (shares its core)",
            (false, false) => "awake",
        };
        let counts = [self.packets, self.handoffs_out, self.handoffs_in, self.flows, self.flows_limit];
        let busy = format!("{:.0}%", self.busy_ratio * 100.0);
        let first = [self.id.to_string(), self.generation.to_string(), state.to_owned(), busy];
        first.into_iter().chain(counts.map(|count| count.to_string())).collect()
    }
}

impl Row for FillView {
    fn header(_: bool) -> Vec<&'static str> {
        vec!["TABLE", "USED", "LIMIT"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![self.table.clone(), self.used.to_string(), self.limit.to_string()]
    }
}
