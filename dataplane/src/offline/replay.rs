//! The workers of a bundle's node over interfaces of memory: its tables, its flows, its interfaces. A packet is put in where
//! its sender was, and what comes out, or is counted, is told. Neighbours are as they were; nothing is asked for.

use crate::balance::loads::Loads;
use crate::balance::turns::Turns;
use crate::flow::FlowTable;
use crate::handoff::Mailbox;
use crate::io::Interface;
use crate::io::frames::Memory;
use crate::io::mem::pcap::Captured;
use crate::io::mem::{self, MemConfig, MemPeer};
use crate::io::pool::FramePool;
use crate::io::vlan::tagged;
use crate::overlay::TUNNEL_BYTES;
use crate::parse::{self, Meta, Parsed, tcp_flag};
use crate::start;
use crate::worker::forward::Path;
use crate::worker::interfaces::Interfaces;
use crate::worker::{Polling, Worker};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tables::bundle::Bundle;
use tables::counters::DropReason;
use tables::flow::FlowLayout;
use tables::layout::Table;
use tables::message::{InterfaceInfo, InterfaceKind, ReplayEnd, Replayed};
use tables::node::NodeRecord;
use tables::scope::ScopeCounters;
use tables::status::Status;
use tables::{Addr, Mac, Protocol};

/// Of each worker: a capture goes through packet by packet.
const FRAMES: u32 = 4096;
const FRAME_BYTES: u32 = 2048;
const RING_LEN: usize = 1024;
/// Of a table that must be made because the bundle's cannot be used.
const FLOWS: usize = 1 << 16;
/// Offset of an Ethernet frame inside a UDP header's VXLAN or plain Geneve one.
const INNER: usize = 8 + TUNNEL_BYTES;

pub struct Engine {
    workers: Vec<Worker>,
    /// By interface and worker.
    peers: BTreeMap<(u32, u16), MemPeer>,
    interfaces: Vec<InterfaceInfo>,
    status: Status,
    node: NodeRecord,
}

impl Engine {
    pub fn of(bundle: &Bundle) -> Result<Engine> {
        let about = &bundle.about;
        let count = about.workers;
        let snat = about.snat.context("the bundle was made while the dataplane was gone: it has no workers to run")?;
        let status = Status::create(count as usize).context("cannot make the status memory")?;
        let mailboxes = Mailbox::all(count as usize).context("cannot make mailboxes")?;
        let (memory, frames) =
            Memory::create(FRAMES * count as u32, FRAME_BYTES).context("cannot make packet memory")?;
        let pools = FramePool::divide(Arc::new(memory), frames, count as usize);
        let reader = super::reader(bundle)?;
        let mut engine = Engine {
            workers: Vec::new(),
            peers: BTreeMap::new(),
            interfaces: about.interfaces.clone(),
            status,
            node: bytemuck::Zeroable::zeroed(),
        };
        let (turns, loads) = (Arc::<Turns>::default(), Arc::<Loads>::default());
        for (id, pool) in (0..count).zip(pools) {
            let flows = flows(bundle, id)?;
            let interfaces = Interfaces::new(id, mailboxes.clone());
            let mut path = Path::new(id, snat, flows, pool, interfaces, engine.status.clone());
            // What was adopted is looked at again.
            path.scopes = ScopeCounters::starting_at(1 << 16);
            path.turns = turns.clone();
            path.flows.count_with(loads.clone());
            path.use_tables(Box::new(reader.another()));
            let worker = Worker::new(path, mailboxes.clone(), Polling::Interrupt).context("cannot make a worker")?;
            engine.workers.push(worker);
            engine.give_interfaces(id)?;
        }
        engine.run();
        let pinned = engine.workers.first_mut().and_then(|worker| worker.path().reader.as_ref());
        engine.node = pinned.map(|reader| reader.view().row(Table::Node, 0)).context("the bundle has no workers")?;
        Ok(engine)
    }

    fn give_interfaces(&mut self, id: u16) -> Result<()> {
        for info in self.interfaces.clone() {
            let is_uplink = info.spec.kind == InterfaceKind::Uplink;
            let mut device: Option<Box<dyn Interface>> = None;
            if is_uplink || info.owner == id {
                let (end, peer) = mem::interface(MemConfig {
                    interface: info.id,
                    ring_len: RING_LEN,
                    super_frames: !is_uplink,
                    chains: is_uplink,
                });
                self.peers.insert((info.id, id), peer);
                // Whichever member it was: a capture has one place.
                device = Some(tagged(Box::new(end), info.spec.vlan));
            }
            self.workers[id as usize].add_interface(start::slot(&info, device));
        }
        Ok(())
    }

    /// Rounds until nobody has anything left to do.
    fn run(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            let taken: usize = self.workers.iter_mut().map(Worker::round).sum();
            quiet = if taken == 0 { quiet + 1 } else { 0 };
        }
    }

    /// Puts a packet in, by this interface or its sender's.
    pub fn pass(&mut self, number: u64, packet: Captured, interface: Option<u32>) -> Result<Replayed> {
        let interface = self.way_in(&packet.bytes, interface)?;
        let told = self.shown(&packet.bytes).0;
        if self.is_own(&packet.bytes) {
            let ends = vec![ReplayEnd::Own];
            return Ok(Replayed { number, time_ns: packet.time_ns, interface, packet: told, ends });
        }
        let drops = self.drops();
        let waiting = self.waiting();
        let peer = self.peers.iter().find(|((id, _), _)| *id == interface).map(|(_, peer)| peer);
        let peer = peer.ok_or_else(|| anyhow!("the bundle knows no interface {interface}"))?;
        if !peer.inject(packet.bytes) {
            bail!("packet {number} found no room in the ring");
        }
        self.run();
        let mut ends: Vec<ReplayEnd> = self.sent();
        for (reason, before) in DropReason::ALL.iter().zip(drops) {
            let count = self.drops_by(*reason) - before;
            let dropped = ReplayEnd::Dropped { reason: reason.name().to_owned() };
            ends.extend(std::iter::repeat_n(dropped, count as usize));
        }
        if self.waiting() > waiting {
            ends.push(ReplayEnd::Waits);
        }
        Ok(Replayed { number, time_ns: packet.time_ns, interface, packet: told, ends })
    }

    /// Whether the node sent a packet: a capture on an interface has both directions.
    fn is_own(&self, bytes: &[u8]) -> bool {
        bytes.get(6..12).is_some_and(|src| src == self.node.gateway_mac.0 || src == self.node.uplink_mac.0)
    }

    /// By which interface a packet came in: that of who has its source's Ethernet address.
    fn way_in(&self, bytes: &[u8], named: Option<u32>) -> Result<u32> {
        if let Some(named) = named {
            return Ok(named);
        }
        let src: Option<&[u8; 6]> = bytes.get(6..12).and_then(|mac| mac.try_into().ok());
        let is_its = |info: &&InterfaceInfo| info.spec.kind != InterfaceKind::Uplink && src == Some(&info.spec.mac.0);
        let is_uplink = |info: &&InterfaceInfo| info.spec.kind == InterfaceKind::Uplink;
        let found = self.interfaces.iter().find(is_its).or_else(|| self.interfaces.iter().find(is_uplink));
        found.map(|info| info.id).context("the bundle has neither the packet's sender nor an uplink")
    }

    fn drops(&self) -> Vec<u64> {
        DropReason::ALL.iter().map(|reason| self.drops_by(*reason)).collect()
    }

    fn drops_by(&self, reason: DropReason) -> u64 {
        self.status.blocks().map(|block| block.drops(reason)).sum()
    }

    fn waiting(&mut self) -> usize {
        self.workers.iter_mut().map(|worker| worker.path().held.len() + worker.path().fragments.waiting()).sum()
    }

    fn sent(&self) -> Vec<ReplayEnd> {
        let sent =
            self.peers.iter().flat_map(|((id, _), peer)| peer.take_all().into_iter().map(|packet| (*id, packet)));
        sent.map(|(interface, packet)| {
            let (packet, tunnel) = self.shown(&packet.bytes);
            ReplayEnd::Sent { interface, tunnel, packet }
        })
        .collect()
    }

    /// What a frame is, and the other end of the tunnel that it is in.
    fn shown(&self, bytes: &[u8]) -> (String, Option<Addr>) {
        let Parsed::Ip(meta) = parse::parse(bytes, bytes.len()) else { return (frame(bytes), None) };
        match inside(&self.node, bytes, &meta) {
            Some(inner) => {
                let is_ours = self.node.node.contains(&meta.src);
                (frame(&inner), Some(if is_ours { meta.dst } else { meta.src }))
            }
            None => (shown_ip(&meta), None),
        }
    }
}

/// The bundle's flows, or none where it has none that can be used.
fn flows(bundle: &Bundle, worker: u16) -> Result<FlowTable> {
    let workers = bundle.about.workers;
    if let Ok(region) = bundle.flows(worker)
        && let Some(table) = FlowTable::adopt(region, worker, workers)?
    {
        return Ok(table);
    }
    let region = FlowLayout::for_capacity(FLOWS).create(worker, workers, 0, 0).context("cannot make flow memory")?;
    FlowTable::new(region).context("cannot use flow memory")
}

/// The frame inside a tunnel packet.
fn inside(node: &NodeRecord, bytes: &[u8], meta: &Meta) -> Option<Vec<u8>> {
    let l4 = meta.l4 as usize;
    if meta.protocol == Protocol::UDP && meta.dst_port == node.direct_port {
        let header = bytes.get(l4 + 8..)?;
        let geneve = crate::overlay::geneve(header).ok();
        let geneve = geneve.filter(|geneve| geneve.is_direct || node.tunnel_port == node.direct_port)?;
        return header.get(geneve.size..).map(<[u8]>::to_vec);
    }
    if meta.protocol == Protocol::UDP && meta.dst_port == node.tunnel_port {
        return bytes.get(l4 + INNER..).map(<[u8]>::to_vec);
    }
    let ether_type: [u8; 2] = match meta.protocol.0 {
        crate::overlay::IPV4_INSIDE => [8, 0],
        crate::overlay::IPV6_INSIDE => [0x86, 0xdd],
        _ => return None,
    };
    let Mac(mac) = meta.src_mac;
    Some([&mac[..], &mac, &ether_type, bytes.get(l4..)?].concat())
}

fn frame(bytes: &[u8]) -> String {
    match parse::parse(bytes, bytes.len()) {
        Parsed::Ip(meta) => shown_ip(&meta),
        Parsed::Fragment(meta, fragment) => format!("{} fragment {}", shown_ip(&meta), fragment.id),
        Parsed::Arp => "ARP".to_owned(),
        Parsed::Drop(reason) => format!("unreadable ({})", reason.name()),
    }
}

/// `10.1.0.4:1000 > 172.30.0.10:80 tcp S`
fn shown_ip(meta: &Meta) -> String {
    if !meta.protocol.has_ports() {
        return format!("{} > {} {}", meta.src, meta.dst, meta.protocol);
    }
    let end = |addr: Addr, port| SocketAddr::new(addr.ip(), port);
    let (src, dst) = (end(meta.src, meta.src_port), end(meta.dst, meta.dst_port));
    let flags = if meta.protocol == Protocol::TCP { shown_flags(meta.tcp_flags) } else { String::new() };
    format!("{src} > {dst} {}{flags}", meta.protocol)
}

/// As tcpdump has them.
fn shown_flags(flags: u8) -> String {
    let known = [(tcp_flag::SYN, 'S'), (tcp_flag::FIN, 'F'), (tcp_flag::RST, 'R'), (tcp_flag::ACK, '.')];
    let set: String = known.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, letter)| letter).collect();
    if set.is_empty() { set } else { format!(" {set}") }
}
