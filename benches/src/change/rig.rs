//! A worker that forwards established flows on the measuring thread, and control's path of an update beside it on another
//! one. Must not know what is measured.

use super::eye::{Eye, Prober, WatchedUplink};
use super::updates::Updates;
use super::world::{OTHER_POD_MAC, Size};
use crate::cluster::{HOST, OTHER_POD, OTHER_POD_ADDR, POD, POD_ADDR, POD_MAC, SERVICES_USED, UPLINK};
use crate::device::Traffic;
use crate::node::{self, Kind, shuffled};
use anyhow::{Result, anyhow, ensure};
use core_affinity::CoreId;
use dataplane::handoff::Mailbox;
use dataplane::io::Interface;
use dataplane::packet::Burst;
use dataplane::worker::Worker;
use dataplane::worker::interfaces::Slot;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tables::counters::{DropReason, WorkerCounter};
use tables::message::InterfaceKind;
use tables::status::Status;
use tables::{Addr, Mac};

/// A change that is not seen for so long never will be.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub size: Size,
    pub worker: Worker,
    pub updates: Updates,
    pub status: Status,
    pub eye: Arc<Eye>,
}

impl Rig {
    /// A node through which so many flows go to used services, all established. `deliver` may put something around the
    /// device that they come from.
    pub fn new(size: Size, flows: u32, deliver: impl FnOnce(Traffic, &Status) -> Box<dyn Interface>) -> Result<Rig> {
        let status = Status::create(1)?;
        let updates = Updates::new(status.clone())?;
        let mailboxes = Mailbox::all(1)?;
        let pool = node::pools(1).remove(0);
        let worker = node::worker(0, updates.publisher(), &status, &mailboxes, pool, flows as usize * 5 / 4 + 1024);
        let mut rig = Rig { size, worker, updates, status, eye: Eye::new() };
        let (template, patch) = node::traffic(Kind::Encap, SERVICES_USED);
        let traffic = Traffic::new(POD, template, patch, shuffled(flows));
        rig.add(UPLINK, InterfaceKind::Uplink, Mac([2, 0, 0, 0, 1, 3]), &[], Box::new(WatchedUplink(rig.eye.clone())));
        rig.add(HOST, InterfaceKind::Host, Mac([2, 0, 0, 0, 1, 2]), &[], Box::new(Traffic::silent(HOST)));
        let device = deliver(traffic, &rig.status);
        rig.add(POD, InterfaceKind::Pod, POD_MAC, &[POD_ADDR], device);
        // The first round fills the ring.
        rig.forward(flows as u64 + 2048);
        ensure!(rig.count(WorkerCounter::FlowsInserted) == flows as u64, "not all flows came to be");
        ensure!(rig.dropped() == 0, "packets are dropped: {}", rig.reasons());
        Ok(rig)
    }

    /// Adds the pod whose flow to the last service shows when a change is there.
    pub fn with_prober(mut self) -> Rig {
        let prober = Box::new(Prober::new(self.size.number(self.size.services - 1)));
        self.add(OTHER_POD, InterfaceKind::Pod, OTHER_POD_MAC, &[OTHER_POD_ADDR], prober);
        self
    }

    fn add(&mut self, id: u32, kind: InterfaceKind, mac: Mac, addrs: &[Addr], device: Box<dyn Interface>) {
        let (addrs, device) = (addrs.to_vec(), Some(device));
        self.worker.add_interface(Slot { id, kind, owner: 0, mac, addrs, device, out: Burst::default(), gone: false });
    }

    /// Rounds until so many packets went through.
    pub fn forward(&mut self, packets: u64) {
        let mut done = 0;
        while done < packets {
            done += self.worker.round() as u64;
        }
    }

    /// Goes over to fresh tables without the services that are loaded.
    pub fn start_anew(&mut self) -> Result<()> {
        let updates = Updates::new(self.status.clone())?;
        self.worker.path().use_tables(updates.reader()?);
        self.updates = updates;
        self.forward(1024);
        // Both copies have it: it is not part of what comes now.
        self.updates.catch_up();
        self.eye.forget();
        Ok(())
    }

    /// Loads all services at once, with nobody measuring.
    pub fn load(&mut self) -> Result<()> {
        self.size.load().into_iter().for_each(|change| self.updates.apply(change));
        self.updates.publish()?;
        self.forward(1024);
        self.updates.catch_up();
        Ok(())
    }

    /// Control does `work` on its core while the worker goes on here. What came of it, and how many packets went through.
    pub fn beside<T: Send>(
        &mut self,
        core: CoreId,
        work: impl FnOnce(&mut Updates, &Eye) -> Result<T> + Send,
    ) -> Result<(T, u64)> {
        const ROUNDS: usize = 16;
        let (updates, worker, eye) = (&mut self.updates, &mut self.worker, &self.eye);
        thread::scope(|scope| {
            let control = scope.spawn(move || {
                ensure!(core_affinity::set_for_current(core), "cannot pin control to core {}", core.id);
                work(updates, eye)
            });
            let mut packets = 0;
            while !control.is_finished() {
                packets += (0..ROUNDS).map(|_| worker.round() as u64).sum::<u64>();
            }
            let outcome = control.join().map_err(|_| anyhow!("control panicked"))?;
            Ok((outcome?, packets))
        })
    }

    /// Control does `work` on its core while the worker stands still.
    pub fn meanwhile(&mut self, core: CoreId, work: impl FnOnce(&mut Updates) -> Result<()> + Send) -> Result<()> {
        let updates = &mut self.updates;
        let work = move || {
            ensure!(core_affinity::set_for_current(core), "cannot pin control to core {}", core.id);
            work(updates)
        };
        thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("control panicked"))?
    }

    pub fn count(&self, counter: WorkerCounter) -> u64 {
        self.status.block(0).get(counter)
    }

    /// Packets dropped so far, for any reason.
    pub fn dropped(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.status.block(0).drops(reason)).sum()
    }

    pub fn reasons(&self) -> String {
        let counts = DropReason::ALL.iter().map(|&reason| (reason.name(), self.status.block(0).drops(reason)));
        counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count} ")).collect()
    }
}

/// Waits until the flow in question goes to another backend than `before`; when the first of its packets did.
pub fn wait_for_other(eye: &Eye, before: Option<Addr>, pause: impl Fn()) -> Result<u64> {
    let start = Instant::now();
    loop {
        if eye.backend().is_some() && eye.backend() != before {
            return Ok(eye.since_ns());
        }
        ensure!(start.elapsed() < PATIENCE, "no packet was treated by a change in {} s", PATIENCE.as_secs());
        pause();
    }
}
