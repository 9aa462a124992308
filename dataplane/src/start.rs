//! From descriptors to running workers: memory, sockets, flow tables, then no privileges, then threads.

use crate::balance::loads::Loads;
use crate::balance::turns::Turns;
use crate::config::{Config, FRAMES_OF_A_WORKER};
use crate::flow::FlowTable;
use crate::handoff::{Command, Mailbox};
use crate::io::Interface;
use crate::io::bond::{Bond, Sending};
use crate::io::frames::{Holder, Memory};
use crate::io::pool::FramePool;
use crate::io::several::Several;
use crate::io::vlan::tagged;
use crate::io::xsk::{FRAME_EXTRA_BYTES, Xsk, XskConfig};
use crate::packet::Burst;
use crate::worker::forward::Path;
use crate::worker::interfaces::{Interfaces, Slot};
use crate::worker::{Worker, now_ms};
use anyhow::{Context, Result, bail};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use tables::counters::WorkerCounter;
use tables::flow::FlowLayout;
use tables::message::{InterfaceInfo, InterfaceSpec, XdpMode};
use tables::region::Access;
use tables::scope::ScopeCounters;
use tables::status::Status;
use tables::{Addr, Region};

/// Queues of one worker, by member of the bond; of a NIC that is in none there is one such row.
pub type Queues = Vec<Vec<Box<dyn Interface>>>;

/// An uplink's queues and how they were bound, by worker.
pub struct Uplink {
    pub queues: Vec<Queues>,
    /// Zero-copy if all are.
    pub mode: XdpMode,
}

/// Makes the packet memory and divides it.
pub fn memory(config: &Config) -> Result<(Arc<Memory>, Vec<FramePool>)> {
    let (memory, frames) = Memory::create(config.frames, config.profile.frame_size)
        .with_context(|| format!("cannot map {} packet frames: give fewer by --frames", config.frames))?;
    let memory = Arc::new(memory);
    let pools = FramePool::divide(memory.clone(), frames, config.workers as usize);
    Ok((memory, pools))
}

/// Registers the memory with the first socket of each device and binds one socket a queue; queue q goes to worker q modulo
/// workers.
pub fn uplink(config: &Config, memory: &Arc<Memory>, info: &InterfaceInfo, fds: &[OwnedFd]) -> Result<Uplink> {
    if fds.len() >= Holder::MAX as usize || fds.is_empty() {
        bail!("uplink {} came with {} sockets: between 1 and 254 queues can be bound", info.spec.name, fds.len());
    }
    let profile = &config.profile;
    let (devices, workers) = (devices(&info.spec), config.workers as usize);
    let each = fds.len() / devices.len();
    if each * devices.len() != fds.len() {
        bail!("bond {} came with {} sockets for {} members", info.spec.name, fds.len(), devices.len());
    }
    let queues_of_a_worker = (devices.len() * each.div_ceil(workers)) as u32;
    let needed = config.workers as u32 * (queues_of_a_worker * profile.frames_per_queue() + FRAMES_OF_A_WORKER);
    if needed > config.frames {
        let (queues, frames) = (fds.len(), config.frames);
        bail!("uplink {} has {queues} queues: they need {needed} frames, and --frames is {frames}", info.spec.name);
    }
    let xsk = XskConfig {
        interface: info.id,
        fill: profile.fill_ring_len,
        completion: profile.completion_ring_len,
        rx: profile.rx_ring_len,
        tx: profile.tx_ring_len,
        busy_poll: profile.busy_poll,
        bytes_max: info.spec.mtu as usize + FRAME_EXTRA_BYTES,
        ..XskConfig::default()
    };
    let none = || devices.iter().map(|_| Vec::new()).collect();
    let mut uplink = Uplink { queues: (0..workers).map(|_| none()).collect(), mode: XdpMode::ZeroCopy };
    for (at, fd) in fds.iter().enumerate() {
        let (member, queue) = (at / each, at % each);
        let fd = fd.try_clone().context("cannot duplicate a socket")?;
        // One member may copy where another does not, and sockets that share memory must all be alike.
        let share = (queue > 0).then(|| fds[member * each].as_fd());
        let holder = at as Holder + 1;
        let (socket, mode) = Xsk::open(fd, devices[member], queue as u32, memory.clone(), holder, xsk.clone(), share)
            .with_context(|| format!("uplink {}, queue {queue}", info.spec.name))?;
        if mode == XdpMode::Copy {
            uplink.mode = mode;
        }
        uplink.queues[queue % workers][member].push(Box::new(socket));
    }
    Ok(uplink)
}

/// What its sockets are bound to.
fn devices(spec: &InterfaceSpec) -> Vec<u32> {
    if spec.members.is_empty() { vec![spec.ifindex] } else { spec.members.clone() }
}

/// One device of possibly several queues and members, in a VLAN or in none. None if this worker has no queue.
pub fn joined(queues: Queues, spec: &InterfaceSpec, sending: &Sending) -> Result<Option<Box<dyn Interface>>> {
    let mut members = Vec::new();
    for mut queues in queues {
        match queues.len() {
            0 | 1 => members.extend(queues.pop()),
            _ => members.push(Box::new(Several::new(queues).context("cannot join queues")?)),
        }
    }
    let device: Option<Box<dyn Interface>> = match members.len() {
        1.. if !spec.members.is_empty() => {
            Some(Box::new(Bond::new(members, sending.clone()).context("cannot join the members of a bond")?))
        }
        _ => members.pop(),
    };
    Ok(device.map(|device| tagged(device, spec.vlan)))
}

/// The interface as worker `worker` sees it.
pub fn slot(info: &InterfaceInfo, device: Option<Box<dyn Interface>>) -> Slot {
    Slot {
        id: info.id,
        kind: info.spec.kind,
        owner: info.owner,
        mac: info.spec.mac,
        addrs: info.spec.addrs.iter().copied().filter(|addr: &Addr| !addr.is_unspecified()).collect(),
        device,
        out: Burst::default(),
        gone: false,
    }
}

/// A predecessor's flow table if it can be adopted, else an empty one; says which.
pub fn flow_table(config: &Config, worker: u16, predecessor: Option<OwnedFd>) -> Result<FlowTable> {
    let mut table = adopted_or_new(config, worker, predecessor)?;
    table.set_timeouts(config.timeouts);
    Ok(table)
}

fn adopted_or_new(config: &Config, worker: u16, predecessor: Option<OwnedFd>) -> Result<FlowTable> {
    if let Some(fd) = predecessor {
        match adopt(config, worker, fd) {
            Ok(Some(table)) => {
                eprintln!("worker {worker}: adopted {} flows of its predecessor", table.used());
                return Ok(table);
            }
            Ok(None) => eprintln!("worker {worker}: starts without flows, its predecessor had other workers or size"),
            Err(error) => eprintln!("worker {worker}: starts without flows, its predecessor's are unusable: {error:#}"),
        }
    }
    let layout = FlowLayout::for_capacity(config.flows_max);
    let region = layout.create(worker, config.workers, random(), 0).context("cannot make flow memory")?;
    FlowTable::new(region).context("cannot use flow memory")
}

fn adopt(config: &Config, worker: u16, fd: OwnedFd) -> Result<Option<FlowTable>> {
    let region = Region::attach(fd, Access::ReadWrite)?;
    if FlowLayout::read(&region)? != FlowLayout::for_capacity(config.flows_max) {
        return Ok(None);
    }
    Ok(FlowTable::adopt(region, worker, config.workers)?)
}

/// Gives up every capability, for this thread and all it starts, for good.
pub fn drop_privileges() -> Result<()> {
    let none = CapabilitySet::empty();
    for bit in 0..CapabilitySet::all().bits().count_ones() {
        if let Some(capability) = CapabilitySet::from_bits(1 << bit) {
            // Fails without CAP_SETPCAP, and then there is nothing to lose.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_no_new_privs(true).context("cannot renounce new privileges")?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .context("cannot drop capabilities")
}

/// What workers tell others by.
pub struct Tell {
    /// An eventfd of control's: a neighbour was asked for.
    pub bell: Arc<OwnedFd>,
    /// A pipe to the main thread: interfaces whose devices died.
    pub obituaries: Arc<OwnedFd>,
}

/// Starts one thread a worker, pinned. Each begins without interfaces and tables; both come as commands.
pub fn workers(
    config: &Config,
    status: &Status,
    mailboxes: &Arc<[Mailbox]>,
    tell: &Tell,
    pools: Vec<FramePool>,
    flows: Vec<FlowTable>,
) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let (turns, loads) = (Arc::new(Turns::seeded(random())), Arc::new(Loads::default()));
    for (id, (pool, flows)) in pools.into_iter().zip(flows).enumerate() {
        let interfaces = Interfaces::new(id as u16, mailboxes.clone());
        let mut path = Path::new(id as u16, config.snat, flows, pool, interfaces, status.clone());
        path.seed = random();
        path.turns = turns.clone();
        path.flows.count_with(loads.clone());
        path.fragments.seed(random());
        path.bell = Some(tell.bell.clone());
        path.obituaries = Some(tell.obituaries.clone());
        // Adopted flows were validated by a predecessor's counters: none of their sums may look current.
        path.scopes = ScopeCounters::starting_at(random() as u32 | 1);
        path.now_ms = now_ms();
        status.block(id).set(WorkerCounter::FlowsAdopted, path.flows.used() as u64);
        let core = core_affinity::CoreId { id: config.cpus[id] };
        let (mailboxes, polling) = (mailboxes.clone(), config.polling);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            core_affinity::set_for_current(core);
            // Made here: its epoll buffer stays with its thread.
            match Worker::new(path, mailboxes, polling) {
                Ok(worker) => {
                    let _ = tell.send(Ok(()));
                    worker.run();
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        threads.push(thread.context("cannot start a worker thread")?);
        told.recv().context("a worker thread died at its start")?.context("cannot make an epoll")?;
    }
    Ok(threads)
}

/// Stops the workers and waits for them.
pub fn stop(mailboxes: &[Mailbox], threads: Vec<JoinHandle<()>>) {
    for mailbox in mailboxes {
        mailbox.command(Command::Stop);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Unpredictable from outside; not for cryptography.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
