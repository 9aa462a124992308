//! A dataplane comes and goes: a fresh one is given everything it lacks and started, one that outlived the last control
//! process is asked what it has. In both cases the tables follow as soon as they are complete.

use super::{RECONNECT, RECONNECT_REFUSED, Supervisor};
use crate::attachment::Attachment;
use crate::ipam::HOST_MAC;
use crate::link::{Greeting, Link, LinkError, News, borrowed};
use crate::log;
use crate::node::HOST_DEVICE;
use crate::pod::PodInterface;
use crate::sys;
use crate::uplink::Uplink;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tables::message::{Answer, InterfaceInfo, InterfaceKind, InterfaceSpec, ToDataplane};
use tables::owner::{SnatPorts, Worker};
use tables::status::Status;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the dataplane refused {what}: {why}")]
    Refused { what: String, why: String },
    #[error("the dataplane answered {what} with something else: the two processes are of different builds")]
    Answer { what: String },
    #[error(transparent)]
    Node(#[from] crate::node::NodeError),
    #[error(transparent)]
    Uplink(#[from] crate::uplink::UplinkError),
    #[error("cannot wait for the dataplane's bell: {0}")]
    Bell(std::io::Error),
}

/// A dataplane that is connected.
pub struct Dataplane {
    link: Link,
    pub status: Status,
    bell: AsyncFd<OwnedFd>,
    /// Neighbour requests seen, by worker.
    pub requests_seen: Vec<u64>,
    pub workers: Worker,
    pub snat: SnatPorts,
    pub polling: String,
    /// By name: devices, attachment keys.
    pub interfaces: BTreeMap<String, InterfaceInfo>,
    /// Bound sockets of the uplink, until the XDP program sends to them.
    pub sockets: Vec<OwnedFd>,
    /// It has this process's tables.
    pub has_tables: bool,
}

pub enum Incoming {
    News(News),
    Bell,
    Lost(LinkError),
}

/// What the dataplane says of its own accord; waits for ever while there is none. May be dropped while it waits.
pub async fn incoming(dataplane: &mut Option<Dataplane>) -> Incoming {
    let Some(dataplane) = dataplane else { return std::future::pending().await };
    tokio::select! {
        news = dataplane.link.news() => news.map_or_else(Incoming::Lost, Incoming::News),
        ready = dataplane.bell.readable() => match ready {
            Ok(mut ready) => {
                let mut count = [0; 8];
                let _ = rustix::io::read(dataplane.bell.get_ref(), &mut count);
                ready.clear_ready();
                Incoming::Bell
            }
            Err(error) => Incoming::Lost(LinkError::Channel(error.into())),
        },
    }
}

impl Dataplane {
    fn new(link: Link, greeting: &mut Greeting, bell: OwnedFd) -> Result<Dataplane, SessionError> {
        let readers = greeting.status.workers() + 1;
        Ok(Dataplane {
            link,
            status: greeting.status.clone(),
            bell: sys::watched(bell).map_err(SessionError::Bell)?,
            requests_seen: vec![0; readers],
            workers: greeting.workers,
            snat: greeting.snat,
            polling: std::mem::take(&mut greeting.polling),
            interfaces: BTreeMap::new(),
            sockets: Vec::new(),
            has_tables: false,
        })
    }

    async fn ask(
        &mut self,
        what: &str,
        make: impl FnOnce(u64) -> ToDataplane,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, SessionError> {
        match self.link.ask(make, fds).await? {
            Answer::Refused { why } => Err(SessionError::Refused { what: what.to_owned(), why }),
            answer => Ok(answer),
        }
    }

    pub async fn start(&mut self) -> Result<(), SessionError> {
        self.ask("to start", |id| ToDataplane::Start { id }, &[]).await.map(drop)
    }

    pub async fn adopt_flows(&mut self, worker: Worker, fd: BorrowedFd<'_>) -> Result<(), SessionError> {
        let what = format!("the flows of worker {worker}");
        self.ask(&what, |id| ToDataplane::AdoptFlows { id, worker }, &[fd]).await.map(drop)
    }

    pub async fn add(&mut self, spec: InterfaceSpec, fds: &[BorrowedFd<'_>]) -> Result<InterfaceInfo, SessionError> {
        let (name, what) = (spec.name.clone(), format!("interface {}", spec.name));
        match self.ask(&what, |id| ToDataplane::AddInterface { id, spec }, fds).await? {
            Answer::Interface(info) => {
                self.interfaces.insert(name, info.clone());
                Ok(info)
            }
            _ => Err(SessionError::Answer { what }),
        }
    }

    pub async fn remove(&mut self, interface: u32, name: &str) -> Result<(), SessionError> {
        self.interfaces.remove(name);
        let what = format!("to remove interface {name}");
        self.ask(&what, |id| ToDataplane::RemoveInterface { id, interface }, &[]).await.map(drop)
    }

    pub async fn give_tables(&mut self, region: BorrowedFd<'_>) -> Result<(), SessionError> {
        self.ask("the tables", |id| ToDataplane::Tables { id }, &[region]).await?;
        self.has_tables = true;
        Ok(())
    }

    /// Which members of the uplink send, if it is a bond.
    pub async fn set_sending(&mut self, uplink: &Uplink) -> Result<(), SessionError> {
        let Some(info) = self.of_kind(InterfaceKind::Uplink).filter(|_| uplink.bond.is_some()) else { return Ok(()) };
        let (interface, members) = (info.id, uplink.sending());
        let what = format!("what members of {} send", uplink.device);
        self.ask(&what, |id| ToDataplane::SetSending { id, interface, members }, &[]).await.map(drop)
    }

    pub async fn explain(
        &mut self,
        query: tables::message::ExplainQuery,
    ) -> Result<tables::message::Explained, SessionError> {
        let what = "to explain a packet".to_owned();
        match self.ask(&what, |id| ToDataplane::Explain { id, query }, &[]).await? {
            Answer::Explained(explained) => Ok(explained),
            _ => Err(SessionError::Answer { what }),
        }
    }

    pub fn of_kind(&self, kind: InterfaceKind) -> Option<&InterfaceInfo> {
        self.interfaces.values().find(|info| info.spec.kind == kind)
    }
}

impl Supervisor {
    pub(super) async fn reconnect(&mut self) {
        self.reconnect_at = Instant::now() + RECONNECT;
        match self.connect().await {
            Ok(true) => {
                self.clear_problem("dataplane");
                self.refresh_local();
            }
            Ok(false) => {}
            Err(error) => {
                self.set_problem("dataplane", error);
                self.reconnect_at = Instant::now() + RECONNECT_REFUSED;
            }
        }
    }

    /// True once there is a connection.
    async fn connect(&mut self) -> Result<bool, SessionError> {
        let Some((link, mut greeting)) = Link::connect(&self.args.dataplane_socket()).await? else { return Ok(false) };
        let (pid, fresh) = (greeting.pid, greeting.fresh);
        let bell = greeting.bell.try_clone().map_err(SessionError::Bell)?;
        let mut dataplane = Dataplane::new(link, &mut greeting, bell)?;
        if fresh {
            self.start_fresh(&mut dataplane, greeting).await?;
        } else {
            self.take_over(&mut dataplane, greeting).await?;
        }
        dataplane.set_sending(&self.uplink).await?;
        let how = if fresh { "started it" } else { "took it over as it runs" };
        log(format_args!("connected to the dataplane (pid {pid}, {} workers): {how}", dataplane.workers));
        self.check_snat(dataplane.snat);
        self.dataplane = Some(dataplane);
        Ok(true)
    }

    fn check_snat(&mut self, snat: SnatPorts) {
        let (ours, theirs) = (&self.args.snat_ports, snat.range());
        if *ours == theirs {
            return self.clear_problem("snat");
        }
        let sentence = format!(
            "the dataplane translates to ports {}-{}, but {}-{} are reserved on this node: give both processes the same --snat-ports",
            theirs.start(),
            theirs.end(),
            ours.start(),
            ours.end()
        );
        self.set_problem("snat", sentence);
    }

    async fn start_fresh(&mut self, dataplane: &mut Dataplane, greeting: Greeting) -> Result<(), SessionError> {
        for (info, _) in greeting.interfaces {
            // Left by an attempt that was refused half-way.
            dataplane.remove(info.id, &info.spec.name).await?;
        }
        self.give_back_flows(dataplane).await?;
        let sockets = self.uplink.sockets()?;
        dataplane.add(self.uplink_spec(), &borrowed(&sockets)).await?;
        self.add_host(dataplane).await?;
        for attachment in self.store.iter().cloned().collect::<Vec<_>>() {
            self.add_kept(dataplane, &attachment).await?;
        }
        dataplane.start().await?;
        dataplane.sockets = sockets;
        Ok(())
    }

    async fn give_back_flows(&mut self, dataplane: &mut Dataplane) -> Result<(), SessionError> {
        for (worker, fd) in std::mem::take(&mut self.custody.flows) {
            match dataplane.adopt_flows(worker, fd.as_fd()).await {
                Ok(()) => {
                    self.custody.flows.insert(worker, fd);
                }
                Err(error @ SessionError::Refused { .. }) => log(format_args!("{error}: it starts without them")),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take_over(&mut self, dataplane: &mut Dataplane, greeting: Greeting) -> Result<(), SessionError> {
        self.custody.flows.extend(greeting.flows);
        for (info, fds) in greeting.interfaces {
            self.take_back(dataplane, info, fds).await?;
        }
        if dataplane.of_kind(InterfaceKind::Uplink).is_none() {
            let why = format!("it is bound to another device than {}: restart it", self.uplink.name);
            return Err(SessionError::Refused { what: "its uplink".into(), why });
        }
        if dataplane.of_kind(InterfaceKind::Host).is_none() {
            self.add_host(dataplane).await?;
        }
        for attachment in self.store.iter().cloned().collect::<Vec<_>>() {
            if !dataplane.interfaces.contains_key(&attachment.key()) {
                self.add_kept(dataplane, &attachment).await?;
            }
        }
        Ok(())
    }

    /// What is still as this process knows it is kept, the rest removed.
    async fn take_back(
        &mut self,
        dataplane: &mut Dataplane,
        info: InterfaceInfo,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(), SessionError> {
        let spec = &info.spec;
        let known = match spec.kind {
            InterfaceKind::Uplink => self.uplink.is(spec),
            InterfaceKind::Host => spec.ifindex == self.node.ifindex(),
            InterfaceKind::Pod => self.store.get(&spec.name).is_some(),
        };
        if !known {
            log(format_args!("the dataplane has interface {}, which is not known here: removed", spec.name));
            return dataplane.remove(info.id, &spec.name).await;
        }
        match spec.kind {
            InterfaceKind::Uplink => dataplane.sockets = fds,
            InterfaceKind::Host => fds.drain(..).take(1).for_each(|tap| self.node.keep_tap(tap)),
            InterfaceKind::Pod => self.custody.taps.extend(fds.drain(..).take(1).map(|tap| (spec.name.clone(), tap))),
        }
        dataplane.interfaces.insert(spec.name.clone(), info);
        Ok(())
    }

    async fn add_host(&mut self, dataplane: &mut Dataplane) -> Result<(), SessionError> {
        let spec = InterfaceSpec {
            kind: InterfaceKind::Host,
            name: HOST_DEVICE.into(),
            ifindex: self.node.ifindex(),
            members: Vec::new(),
            vlan: 0,
            mac: HOST_MAC,
            addrs: Vec::new(),
            mtu: self.pod_mtu() as u16,
            owner: None,
        };
        let tap = self.node.tap()?;
        dataplane.add(spec, &[tap.as_fd()]).await.map(drop)
    }

    fn uplink_spec(&self) -> InterfaceSpec {
        InterfaceSpec {
            kind: InterfaceKind::Uplink,
            name: self.uplink.name.clone(),
            ifindex: self.uplink.device_index,
            members: self.uplink.bonded(),
            vlan: self.uplink.vlan,
            mac: self.uplink.mac,
            addrs: Vec::new(),
            mtu: self.uplink.mtu.min(u16::MAX as u32) as u16,
            owner: None,
        }
    }

    /// An attachment of before: its TAP is in custody, or can be joined again in the pod's namespace. One that cannot is
    /// named, and does not keep the others waiting.
    async fn add_kept(&mut self, dataplane: &mut Dataplane, attachment: &Attachment) -> Result<(), SessionError> {
        let key = attachment.key();
        if self.attaching.is_busy(&key) {
            return Ok(());
        }
        if !self.custody.taps.contains_key(&key) {
            match self.interface_of(attachment).reopen().await {
                Ok(made) => drop(self.custody.taps.insert(key.clone(), made.tap)),
                Err(error) => {
                    self.set_problem(&key, format!("pod {} is not attached: {error}", attachment.pod_id()));
                    return Ok(());
                }
            }
        }
        let Some(tap) = self.custody.taps.get(&key) else { return Ok(()) };
        match dataplane.add(pod_spec(attachment), &[tap.as_fd()]).await {
            Err(error @ SessionError::Refused { .. }) => self.set_problem(&key, error),
            other => drop(other?),
        }
        Ok(())
    }

    pub(super) fn interface_of(&self, attachment: &Attachment) -> PodInterface {
        let is_family = |v4: bool| attachment.addrs.iter().any(|addr| addr.is_v4() == v4);
        let ranges = self.store.ipam().ranges().iter();
        PodInterface {
            netns: attachment.netns.clone(),
            ifname: attachment.ifname.clone(),
            mac: attachment.mac,
            addrs: attachment.addrs.clone(),
            gateways: ranges.filter(|range| is_family(range.prefix().is_v4())).map(|range| range.gateway()).collect(),
            mtu: attachment.mtu,
            bandwidth: attachment.bandwidth.clone(),
        }
    }

    /// What the dataplane serves; nothing while it is gone.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &InterfaceInfo> {
        self.dataplane.iter().flat_map(|dataplane| dataplane.interfaces.values())
    }

    pub(super) async fn take_incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::News(News::Flows(worker, fd)) => drop(self.custody.flows.insert(worker, fd)),
            Incoming::News(News::Interface(info)) => self.update_interface(info),
            Incoming::News(News::InterfaceGone(id)) => self.interface_gone(id),
            Incoming::Bell => self.take_neighbour_requests().await,
            Incoming::Lost(error) => self.lose_dataplane(error),
        }
    }

    fn update_interface(&mut self, info: InterfaceInfo) {
        let Some(dataplane) = &mut self.dataplane else { return };
        // One that was removed in the meantime does not come back.
        if let Some(kept) = dataplane.interfaces.get_mut(&info.spec.name) {
            *kept = info;
        }
    }

    fn interface_gone(&mut self, id: u32) {
        let name = self.interfaces().find(|info| info.id == id).map(|info| info.spec.name.clone());
        if let Some(name) = name {
            self.set_problem(
                &name,
                format!("the device of interface {name} is gone: its pod was deleted without a DEL"),
            );
        }
    }

    /// Packets of pods stop until it is back; the node's own go on, since the XDP program lets all pass without sockets.
    pub(super) fn lose_dataplane(&mut self, error: impl std::fmt::Display) {
        if self.dataplane.take().is_some() {
            log(format_args!("lost the dataplane: {error}"));
            self.reconnect_at = Instant::now() + RECONNECT;
        }
    }
}

pub fn pod_spec(attachment: &Attachment) -> InterfaceSpec {
    InterfaceSpec {
        kind: InterfaceKind::Pod,
        name: attachment.key(),
        // In the pod's own namespace; nothing is bound by it.
        ifindex: 0,
        members: Vec::new(),
        vlan: 0,
        mac: attachment.mac,
        addrs: attachment.addrs.clone(),
        mtu: attachment.mtu as u16,
        owner: None,
    }
}
