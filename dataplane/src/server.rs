//! The main thread: one connection with control at a time, what control handed over, and what must be told to a control
//! process that comes back. Moves no packets.

use crate::config::Config;
use crate::explain::explain;
use crate::handoff::{Command, Mailbox};
use crate::io::Interface;
use crate::io::bond::Sending;
use crate::io::pool::FramePool;
use crate::io::tap::Tap;
use crate::start;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use tables::channel::Channel;
use tables::layout::LAYOUT_VERSION;
use tables::limits::INTERFACES_MAX;
use tables::message::{Answer, FromDataplane, InterfaceInfo, InterfaceKind, InterfaceSpec, ToDataplane};
use tables::owner::Worker;
use tables::publish::{Reader, unpin};
use tables::scope::ScopeCounters;
use tables::status::Status;

/// An interface and the descriptors that control shall have back when it returns.
struct Kept {
    info: InterfaceInfo,
    fds: Vec<OwnedFd>,
    /// Of a bond.
    sending: Sending,
}

/// Before the workers run: what they will be made of.
struct Parts {
    pools: Vec<FramePool>,
    memory: Arc<crate::io::frames::Memory>,
    predecessors: HashMap<Worker, OwnedFd>,
}

pub struct Server {
    config: Config,
    status: Status,
    mailboxes: Arc<[Mailbox]>,
    /// None once the workers run.
    parts: Option<Parts>,
    threads: Vec<JoinHandle<()>>,
    interfaces: Vec<Kept>,
    /// Each worker's flow memory, for control to keep.
    flows: Vec<OwnedFd>,
    reader: Option<Reader>,
    tell: start::Tell,
    /// Where the obituaries come out.
    obituaries: std::io::PipeReader,
}

impl Server {
    pub fn new(config: Config) -> Result<Server> {
        let status = Status::create(config.workers as usize).context("cannot make the status memory")?;
        let mailboxes = Mailbox::all(config.workers as usize).context("cannot make mailboxes")?;
        let (memory, pools) = start::memory(&config)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let bell = Arc::new(rustix::event::eventfd(0, flags).context("cannot make an eventfd")?);
        let (obituaries, writer) = std::io::pipe().context("cannot make a pipe")?;
        let tell = start::Tell { bell, obituaries: Arc::new(writer.into()) };
        let parts = Some(Parts { pools, memory, predecessors: HashMap::new() });
        let (threads, interfaces, flows) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Server { config, status, mailboxes, parts, threads, interfaces, flows, reader: None, tell, obituaries })
    }

    /// Tells a control process that just connected everything that it may have lost.
    pub fn greet(&self, channel: &Channel) -> Result<()> {
        let hello = FromDataplane::Hello {
            layout_version: LAYOUT_VERSION,
            pid: std::process::id(),
            workers: self.config.workers,
            snat: self.config.snat,
            fresh: self.parts.is_some(),
            polling: format!("{:?}", self.config.polling).to_lowercase(),
            flows_max: self.config.flows_max as u64,
        };
        channel.send(&hello, &[self.status.region().fd(), self.tell.bell.as_fd()])?;
        for kept in &self.interfaces {
            let fds: Vec<BorrowedFd<'_>> = kept.fds.iter().map(|fd| fd.as_fd()).collect();
            channel.send(&FromDataplane::Interface(kept.info.clone()), &fds)?;
        }
        for (worker, fd) in self.flows.iter().enumerate() {
            channel.send(&FromDataplane::Flows { worker: worker as Worker }, &[fd.as_fd()])?;
        }
        Ok(channel.send(&FromDataplane::Synced, &[])?)
    }

    /// Whether the workers have been started.
    pub fn is_running(&self) -> bool {
        self.parts.is_none()
    }

    /// Does what control asks and answers.
    pub fn serve(&mut self, channel: &Channel) -> Result<()> {
        let (request, fds) = channel.receive::<ToDataplane>()?;
        let id = request.id();
        let answer = match self.handle(channel, request, fds) {
            Ok(answer) => answer,
            Err(error) => {
                let why = format!("{error:#}");
                eprintln!("refused: {why}");
                Answer::Refused { why }
            }
        };
        Ok(channel.send(&FromDataplane::Answer { id, answer }, &[])?)
    }

    fn handle(&mut self, channel: &Channel, request: ToDataplane, mut fds: Vec<OwnedFd>) -> Result<Answer> {
        match request {
            ToDataplane::AdoptFlows { worker, .. } => {
                let fd = fds.pop().ok_or_else(|| anyhow!("no flow memory came with AdoptFlows"))?;
                let parts = self.parts.as_mut().ok_or_else(|| anyhow!("the workers run already"))?;
                parts.predecessors.insert(worker, fd);
                Ok(Answer::Done)
            }
            ToDataplane::AddInterface { spec, .. } => Ok(Answer::Interface(self.add_interface(spec, fds)?)),
            ToDataplane::RemoveInterface { interface, .. } => self.remove_interface(interface).map(|()| Answer::Done),
            ToDataplane::Start { .. } => self.start(channel).map(|()| Answer::Done),
            ToDataplane::Tables { .. } => {
                let fd = fds.pop().ok_or_else(|| anyhow!("no region came with Tables"))?;
                self.take_tables(fd).map(|()| Answer::Done)
            }
            ToDataplane::SetSending { interface, members, .. } => {
                let kept = self.interfaces.iter().find(|kept| kept.info.id == interface);
                let kept = kept.ok_or_else(|| anyhow!("there is no interface {interface}"))?;
                kept.sending.store(members, Ordering::Relaxed);
                Ok(Answer::Done)
            }
            ToDataplane::Explain { query, .. } => self.explain(&query).map(Answer::Explained),
        }
    }

    fn add_interface(&mut self, spec: InterfaceSpec, fds: Vec<OwnedFd>) -> Result<InterfaceInfo> {
        if self.interfaces.iter().any(|kept| kept.info.spec.name == spec.name && kept.info.spec.kind == spec.kind) {
            bail!("there is an interface {} already", spec.name);
        }
        if spec.kind == InterfaceKind::Uplink && self.parts.is_none() {
            bail!("uplink {} must be given before the workers start: restart the dataplane", spec.name);
        }
        let owner = spec.owner.filter(|&w| w < self.config.workers).unwrap_or_else(|| self.idlest());
        let info = InterfaceInfo { id: self.free_id()?, owner, spec, mode: None };
        if self.parts.is_none() {
            self.attach(&info, &fds)?;
        }
        eprintln!("interface {} ({:?} {}) belongs to worker {owner}", info.id, info.spec.kind, info.spec.name);
        self.interfaces.push(Kept { info: info.clone(), fds, sending: Sending::default() });
        Ok(info)
    }

    /// The lowest id that no interface has; 0 is nobody's.
    fn free_id(&self) -> Result<u32> {
        (1..INTERFACES_MAX as u32)
            .find(|id| self.interfaces.iter().all(|kept| kept.info.id != *id))
            .ok_or_else(|| anyhow!("table interface is full at its limit of {INTERFACES_MAX}"))
    }

    /// The worker with the fewest interfaces.
    fn idlest(&self) -> Worker {
        let load = |worker: Worker| self.interfaces.iter().filter(|kept| kept.info.owner == worker).count();
        (0..self.config.workers).min_by_key(|&worker| load(worker)).unwrap_or(0)
    }

    /// Gives a TAP to its worker and tells the others of it.
    fn attach(&self, info: &InterfaceInfo, fds: &[OwnedFd]) -> Result<()> {
        let fd = fds.first().ok_or_else(|| anyhow!("interface {} came without its device", info.spec.name))?;
        let tap = Tap::open(fd.try_clone()?, info.id).with_context(|| format!("interface {}", info.spec.name))?;
        let mut device: Option<Box<dyn Interface>> = Some(Box::new(tap));
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            let mine = if worker == info.owner as usize { device.take() } else { None };
            self.command(mailbox, Command::AddInterface(Box::new(start::slot(info, mine))))?;
        }
        Ok(())
    }

    fn command(&self, mailbox: &Mailbox, command: Command) -> Result<()> {
        if mailbox.command(command) { Ok(()) } else { bail!("a worker does not take commands: it hangs") }
    }

    fn remove_interface(&mut self, id: u32) -> Result<()> {
        let found = self.interfaces.iter().position(|kept| kept.info.id == id);
        let index = found.ok_or_else(|| anyhow!("there is no interface {id}"))?;
        self.interfaces.remove(index);
        if self.parts.is_none() {
            for mailbox in self.mailboxes.iter() {
                self.command(mailbox, Command::RemoveInterface(id))?;
            }
        }
        Ok(())
    }

    /// Registers memory and binds the uplinks, gives up all privileges, starts the workers.
    fn start(&mut self, channel: &Channel) -> Result<()> {
        let Some(parts) = &self.parts else { bail!("the workers run already") };
        let mut uplinks = Vec::new();
        for kept in self.interfaces.iter_mut().filter(|kept| kept.info.spec.kind == InterfaceKind::Uplink) {
            let uplink = start::uplink(&self.config, &parts.memory, &kept.info, &kept.fds)?;
            kept.info.mode = Some(uplink.mode);
            uplinks.push((kept.info.clone(), kept.sending.clone(), uplink));
        }
        let mut parts = self.parts.take().ok_or_else(|| anyhow!("the workers run already"))?;
        let mut tables = Vec::new();
        for worker in 0..self.config.workers {
            let table = start::flow_table(&self.config, worker, parts.predecessors.remove(&worker))?;
            self.flows.push(table.region().fd().try_clone_to_owned()?);
            tables.push(table);
        }
        start::drop_privileges()?;
        self.threads = start::workers(&self.config, &self.status, &self.mailboxes, &self.tell, parts.pools, tables)?;
        self.hand_out(uplinks)?;
        self.tell_started(channel)
    }

    fn hand_out(&self, uplinks: Vec<(InterfaceInfo, Sending, start::Uplink)>) -> Result<()> {
        for (info, sending, uplink) in uplinks {
            for (mailbox, queues) in self.mailboxes.iter().zip(uplink.queues) {
                let slot = start::slot(&info, start::joined(queues, &info.spec, &sending)?);
                self.command(mailbox, Command::AddInterface(Box::new(slot)))?;
            }
            eprintln!("uplink {}: {:?} mode", info.spec.name, uplink.mode);
        }
        for kept in self.interfaces.iter().filter(|kept| kept.info.spec.kind != InterfaceKind::Uplink) {
            if let Err(error) = self.attach(&kept.info, &kept.fds) {
                eprintln!("interface {} is left out: {error:#}", kept.info.spec.name);
            }
        }
        Ok(())
    }

    /// What is known only now: how the uplinks are bound, and the flow memory for control to keep.
    fn tell_started(&self, channel: &Channel) -> Result<()> {
        for kept in self.interfaces.iter().filter(|kept| kept.info.mode.is_some()) {
            let fds: Vec<BorrowedFd<'_>> = kept.fds.iter().map(|fd| fd.as_fd()).collect();
            channel.send(&FromDataplane::Interface(kept.info.clone()), &fds)?;
        }
        for (worker, fd) in self.flows.iter().enumerate() {
            channel.send(&FromDataplane::Flows { worker: worker as Worker }, &[fd.as_fd()])?;
        }
        Ok(())
    }

    fn take_tables(&mut self, fd: OwnedFd) -> Result<()> {
        let reader = Reader::from_fd(fd)?;
        for mailbox in self.mailboxes.iter() {
            self.command(mailbox, Command::Tables(Box::new(reader.another())))?;
        }
        self.reader = Some(reader);
        Ok(())
    }

    fn explain(&mut self, query: &tables::message::ExplainQuery) -> Result<tables::message::Explained> {
        let reader = self.reader.as_mut().ok_or_else(|| anyhow!("no tables have been published yet"))?;
        let block = self.status.block(self.status.workers());
        reader.pin(block.ack(), &mut ScopeCounters::default());
        let explained = explain(reader.view(), query);
        unpin(block.ack());
        Ok(explained)
    }

    /// Readable when an interface's device has died; `pass_on_obituary` is next.
    pub fn obituaries(&self) -> BorrowedFd<'_> {
        self.obituaries.as_fd()
    }

    /// Tells control of one dead device.
    pub fn pass_on_obituary(&mut self, channel: Option<&Channel>) -> Result<()> {
        let mut id = [0; 4];
        self.obituaries.read_exact(&mut id).context("cannot hear from the workers")?;
        let interface = u32::from_ne_bytes(id);
        eprintln!("the device of interface {interface} is gone");
        if let Some(channel) = channel {
            channel.send(&FromDataplane::InterfaceGone { interface }, &[])?;
        }
        Ok(())
    }

    /// Stops the workers.
    pub fn stop(self) {
        start::stop(&self.mailboxes, self.threads);
    }
}
