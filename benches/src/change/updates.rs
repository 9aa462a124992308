//! Control's path of an update, as it runs in its own process: state, compiler, publisher. What reads objects from a
//! directory and what talks to the kernel is left out. Must not know who measures.

use super::world;
use anyhow::{Result, ensure};
use control::compile::Compiler;
use control::object::ObjectChange;
use control::state::State;
use rustix::fs::fstat;
use std::thread::sleep;
use std::time::Duration;
use tables::Publisher;
use tables::publish::Reader;
use tables::status::Status;

/// How often control looks for acknowledgements while some are missing.
const ACKNOWLEDGE_POLL: Duration = Duration::from_micros(500);

pub struct Updates {
    state: State,
    compiler: Compiler,
    publisher: Publisher,
    status: Status,
}

impl Updates {
    /// Fresh tables with everything but the services that are loaded, in both copies.
    pub fn new(status: Status) -> Result<Updates> {
        let mut state = State::new();
        state.set_local(world::local());
        world::base().into_iter().for_each(|change| state.apply(change));
        state.set_complete();
        let mut updates = Updates { state, compiler: Compiler::new(), publisher: Publisher::create(7)?, status };
        updates.publish()?;
        Ok(updates)
    }

    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// For a worker that is to read these tables.
    pub fn reader(&self) -> Result<Box<Reader>> {
        Ok(Box::new(Reader::from_fd(self.publisher.region().fd().try_clone_to_owned()?)?))
    }

    pub fn apply(&mut self, change: ObjectChange) {
        self.state.apply(change);
    }

    /// Compiles and publishes what changed, once the other copy is free.
    pub fn publish(&mut self) -> Result<()> {
        while !self.is_acknowledged() {
            sleep(ACKNOWLEDGE_POLL);
        }
        let mut batch = self.publisher.batch(self.status.acks()).expect("acknowledged");
        let report = self.compiler.update(&mut self.state, &mut batch);
        batch.publish();
        ensure!(report.problems.is_empty(), "not all could be put in force: {}", report.problems[0]);
        Ok(())
    }

    /// Brings the other copy up to date, as control does once a publish is acknowledged.
    pub fn catch_up(&mut self) {
        while !self.is_acknowledged() {
            sleep(ACKNOWLEDGE_POLL);
        }
        let _ = self.publisher.batch(self.status.acks());
    }

    pub fn put(&mut self, change: ObjectChange) -> Result<()> {
        self.apply(change);
        self.publish()
    }

    pub fn is_acknowledged(&self) -> bool {
        self.publisher.is_acknowledged(self.status.acks())
    }

    /// Memory that the tables' region has, both copies: the blocks of its file, since pages that nobody wrote are none.
    pub fn bytes(&self) -> Result<u64> {
        // In units of 512 bytes, as stat(2) says.
        Ok(fstat(self.publisher.region().fd())?.st_blocks as u64 * 512)
    }
}
