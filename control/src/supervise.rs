//! The loop that holds everything together: what happens (objects, attachments, the kernel, the dataplane, questions)
//! goes into the state, the state through the compiler into the tables, and publishing never waits per change: what
//! arrives while workers still acknowledge forms the next batch. Each part of it is a file beside this one.

mod addresses;
mod answer;
mod attach;
mod audit;
mod bundle;
mod cluster;
mod keep;
mod kernel;
mod lost;
mod metrics;
mod publish;
mod runtime;
mod services;
mod session;
mod told;
mod unknown;
mod view;

pub use session::Dataplane;

use crate::api::Request;
use crate::args::{Args, AtExit};
use crate::attachment::Store;
use crate::claim::Claim;
use crate::compile::{Compiler, HealthPort, Single};
use crate::health::HealthPorts;
use crate::kube::{Lease, Writer};
use crate::netlink::Netlink;
use crate::node::Node;
use crate::object::Named;
use crate::offload::{self, Offload};
use crate::reserve::{self, Reservation};
use crate::serve::ReplyTo;
use crate::source::{self, Source};
use crate::state::State;
use crate::uplink::Uplink;
use crate::{log, uplink, watch};
use anyhow::{Context, Result};
use attach::{Attaching, Waiter};
use futures_util::StreamExt;
use session::Incoming;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tables::owner::Worker;
use tables::{Addr, Publisher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two attempts to reach the dataplane.
const RECONNECT: Duration = Duration::from_millis(50);
/// After the dataplane refused: a person has to do something.
const RECONNECT_REFUSED: Duration = Duration::from_secs(2);
/// How often acknowledgements are looked for while some are missing.
const ACKNOWLEDGE_POLL: Duration = Duration::from_micros(500);
/// How often neighbour requests are looked at without a bell.
const TICK: Duration = Duration::from_secs(1);
/// How often the kernel's routes and neighbours are read without having been told of a change.
const KERNEL_READ_TICKS: u64 = 30;
/// Reading all sockets may take long where there are many, and those in the range only become fewer.
const PORTS_READ_TICKS: u64 = 300;

/// What outlives the dataplane because this process keeps it open.
#[derive(Default)]
struct Custody {
    /// Pods' TAPs, by attachment key.
    taps: BTreeMap<String, OwnedFd>,
    /// Each worker's flow memory.
    flows: BTreeMap<Worker, OwnedFd>,
}

pub struct Supervisor {
    args: Args,
    netlink: Netlink,
    uplink: Uplink,
    node: Node,
    claim: Claim,
    reservation: Option<Reservation>,
    /// SNAT ports that sockets of the node have.
    taken_ports: BTreeSet<u16>,
    offload: Option<Offload>,
    store: Store,
    state: State,
    compiler: Compiler,
    publisher: Publisher,
    published: publish::Published,
    dataplane: Option<Dataplane>,
    reconnect_at: Instant,
    custody: Custody,
    /// Attachments whose interface is being made or taken away.
    attaching: Attaching,
    waiters: Vec<Waiter>,
    /// Next hops of the routes in force, and what workers asked for besides.
    next_hops: Arc<[Addr]>,
    asked: kernel::Asked,
    kernel_changed: bool,
    /// Every address that the kernel has of its own.
    node_addrs: Vec<Addr>,
    /// What services take outside the service ranges, as last compiled.
    singles: Arc<BTreeSet<Single>>,
    answering: Arc<BTreeSet<Single>>,
    has_taken_singles: bool,
    health: HealthPorts,
    health_wanted: Arc<BTreeMap<Named, HealthPort>>,
    addresses: addresses::Addresses,
    ticks: u64,
    audited: audit::Audited,
    /// Sentences for `status`, by what they are about.
    problems: BTreeMap<String, String>,
    object_problems: Vec<String>,
    file_problems: Vec<String>,
    following: cluster::Following,
    writer: Option<Writer>,
    lease: Option<Lease>,
    /// Until it runs.
    source: Option<Source>,
    told: told::Told,
    lost: lost::Lost,
}

/// What the loop was woken by.
enum Event {
    Objects(source::Update),
    Request(Request, ReplyTo),
    Kernel(watch::KernelChange),
    Dataplane(Incoming),
    Attached(attach::Outcome),
    Reconnect,
    Acknowledge,
    Tick,
    Stop,
}

impl Supervisor {
    /// Prepares the node; nothing is claimed yet.
    pub async fn start(mut args: Args) -> Result<Supervisor> {
        // First: what cannot be followed must not leave a node half prepared.
        let source = Source::open(&args).await?;
        let netlink = Netlink::connect().context("cannot open a netlink socket")?;
        args.uplink = uplink::named(&netlink, &args.uplink).await?;
        let uplink = Uplink::find(&netlink, &args.uplink, args.encapsulation.overhead(true)).await?;
        let mut store = Store::open(&args.state_dir)?;
        store.set_pools(&args.pod_pools);
        let claim = Claim::load(uplink.mtu)?;
        let publisher = Publisher::create(seed()).context("cannot make the tables' shared memory")?;
        let reservation = reserve::reserve(&args.snat_ports, &args.state_dir)?;
        let prepare = async || {
            let offload = offload::turn_off(&uplink.nics(), uplink.vlan != 0, &args.state_dir)?;
            match Node::prepare(netlink.clone(), uplink.mtu - args.encapsulation.overhead(true)).await {
                Ok(node) => Ok((offload, node)),
                Err(error) => {
                    offload.release()?;
                    Err(anyhow::Error::from(error))
                }
            }
        };
        let (offload, node) = match prepare().await {
            Ok(prepared) => prepared,
            Err(error) => {
                reservation.release()?;
                return Err(error);
            }
        };
        Ok(Supervisor {
            netlink,
            uplink,
            node,
            claim,
            reservation: Some(reservation),
            taken_ports: BTreeSet::new(),
            offload: Some(offload),
            state: attach::stand_ins(&store, &args.node),
            store,
            compiler: Compiler::new(),
            publisher,
            published: publish::Published::default(),
            dataplane: None,
            reconnect_at: Instant::now(),
            custody: Custody::found(&args.run_dir),
            attaching: Attaching::new(),
            waiters: Vec::new(),
            next_hops: Arc::default(),
            asked: kernel::Asked::default(),
            kernel_changed: true,
            node_addrs: Vec::new(),
            singles: Arc::default(),
            answering: Arc::default(),
            has_taken_singles: false,
            health: HealthPorts::default(),
            health_wanted: Arc::default(),
            addresses: addresses::Addresses::default(),
            ticks: 0,
            audited: audit::Audited::new(),
            problems: BTreeMap::new(),
            object_problems: Vec::new(),
            file_problems: Vec::new(),
            following: cluster::Following::of(source.name()),
            writer: source.writer(),
            lease: source.lease(),
            source: Some(source),
            told: told::Told::default(),
            lost: lost::Lost::default(),
            args,
        })
    }

    /// Runs until `stop` is done, then undoes what was done to the node, unless that is to stay.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<(Request, ReplyTo)>,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut kernel = watch::changes().context("cannot follow the kernel over netlink")?;
        let Some(mut source) = self.source.take() else { anyhow::bail!("it runs once") };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        tokio::pin!(stop);
        self.adopt_neighbours().await;
        self.check_local_ports();
        self.read_taken_ports();
        self.start_announcing();
        loop {
            let acknowledge = self.awaits_acknowledgement();
            let (gone, reconnect_at) = (self.dataplane.is_none(), self.reconnect_at);
            let event = tokio::select! {
                () = &mut stop => Event::Stop,
                incoming = session::incoming(&mut self.dataplane) => Event::Dataplane(incoming),
                update = source.next() => Event::Objects(update),
                Some((request, reply)) = requests.recv() => Event::Request(request, reply),
                change = kernel.next() => Event::Kernel(change.unwrap_or(watch::KernelChange::Lost)),
                outcome = self.attaching.next() => Event::Attached(outcome),
                () = tokio::time::sleep(ACKNOWLEDGE_POLL), if acknowledge => Event::Acknowledge,
                () = tokio::time::sleep_until(reconnect_at), if gone => Event::Reconnect,
                _ = tick.tick() => Event::Tick,
            };
            if matches!(event, Event::Stop) {
                break;
            }
            if matches!(event, Event::Kernel(watch::KernelChange::Lost)) {
                kernel = watch::changes().context("cannot follow the kernel over netlink")?;
            }
            self.handle(event).await;
            self.settle().await;
        }
        self.end().await
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Objects(update) => self.take_objects(update).await,
            Event::Request(request, reply) => self.answer(request, reply).await,
            Event::Kernel(change) => self.take_kernel_change(change),
            Event::Dataplane(incoming) => self.take_incoming(incoming).await,
            Event::Attached(outcome) => self.finish_attaching(outcome).await,
            Event::Reconnect => self.reconnect().await,
            Event::Tick => self.tick().await,
            Event::Acknowledge | Event::Stop => {}
        }
    }

    /// Whatever was said or not, requests are looked at and now and then the whole kernel.
    async fn tick(&mut self) {
        self.take_neighbour_requests().await;
        self.retry_singles().await;
        self.serve_health();
        self.write_statuses().await;
        self.tell_node().await;
        self.detach_lost().await;
        self.give_memory_back();
        self.ticks += 1;
        if self.ticks.is_multiple_of(audit::AUDIT_TICKS) {
            self.log_audited();
        }
        self.kernel_changed |= self.ticks.is_multiple_of(KERNEL_READ_TICKS);
        if self.ticks.is_multiple_of(PORTS_READ_TICKS) {
            self.check_local_ports();
            if !self.taken_ports.is_empty() {
                self.read_taken_ports();
            }
        }
    }

    /// After every event: what changed goes out, and who waits for that hears of it.
    async fn settle(&mut self) {
        if self.kernel_changed {
            self.read_kernel().await;
        }
        self.begin_known();
        self.publish().await;
        self.health.set_node_is_healthy(self.dataplane.as_ref().is_some_and(|dataplane| dataplane.has_tables));
        self.order_announcements();
        self.answer_waiters().await;
    }

    /// Keeps a sentence for `status` until it is cleared; says it once in the log.
    fn set_problem(&mut self, about: &str, sentence: impl ToString) {
        let sentence = sentence.to_string();
        if self.problems.get(about) != Some(&sentence) {
            log(format_args!("{sentence}"));
            self.problems.insert(about.to_owned(), sentence);
        }
    }

    fn clear_problem(&mut self, about: &str) {
        self.problems.remove(about);
    }

    async fn end(mut self) -> Result<()> {
        self.stop_announcing();
        self.give_lease_back().await;
        if self.args.at_exit == AtExit::Keep {
            log(format_args!("stopping: the node stays as it is for a successor"));
            self.keep_flows().await;
            return Ok(());
        }
        log(format_args!("stopping: giving the node back to its kernel"));
        self.uplink.members.iter().for_each(|member| self.claim.detach(member.index));
        self.dataplane = None;
        self.node.undo().await?;
        if let Some(reservation) = self.reservation.take() {
            reservation.release()?;
        }
        if let Some(offload) = self.offload.take() {
            offload.release()?;
        }
        Ok(())
    }
}

/// Hash tables must not be predictable from outside.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
