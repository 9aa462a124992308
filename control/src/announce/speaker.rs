//! The thread that hears and speaks: members come and go, and with them the addresses that this node answers for.

use super::link::Link;
use super::members::{Beat, INTERVAL, Members, SILENCE};
use super::neighbour::{announcements, answer, question};
use super::share::{self, Standing};
use super::{Config, Order, View};
use crate::log;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};
use tables::Addr;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often a new owner says so, once an interval: hosts keep an entry that is younger than a second.
const TIMES: u8 = 8;
/// Addresses announced in one interval; the others follow in the next.
const ADDRS_PER_INTERVAL: usize = 1024;
/// Between two attempts to open the sockets.
const RETRY: Duration = Duration::from_secs(1);
/// What problems are about.
const GROUPS: &str = "groups";
const NAMESAKE: &str = "namesake";
const SOCKETS: &str = "sockets";

pub fn run(config: Config, orders: watch::Receiver<Order>, views: watch::Sender<View>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(Speaker::new(config, views).run(orders)),
        Err(error) => log(format_args!("cannot announce addresses: {error}")),
    }
}

struct Speaker {
    config: Config,
    views: watch::Sender<View>,
    order: Order,
    link: Option<Link>,
    open_at: Instant,
    members: Members,
    standing: Standing,
    serving: BTreeSet<String>,
    owned: BTreeSet<Addr>,
    /// What is still to be said, and how often.
    unsaid: VecDeque<(Addr, u8)>,
    namesake_heard: Option<Instant>,
    /// By what they are about.
    problems: BTreeMap<&'static str, String>,
}

enum Event {
    Ordered(Option<Order>),
    Beat(io::Result<Vec<u8>>),
    Frame(io::Result<Vec<u8>>),
    Tick,
}

impl Speaker {
    fn new(config: Config, views: watch::Sender<View>) -> Speaker {
        let now = Instant::now();
        Speaker {
            config,
            views,
            order: Order::default(),
            link: None,
            open_at: now,
            members: Members::default(),
            standing: Standing::new(now),
            serving: BTreeSet::new(),
            owned: BTreeSet::new(),
            unsaid: VecDeque::new(),
            namesake_heard: None,
            problems: BTreeMap::new(),
        }
    }

    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                changed = orders.changed() => Event::Ordered(changed.ok().map(|()| orders.borrow_and_update().clone())),
                beat = beat(self.link.as_ref()) => Event::Beat(beat),
                frame = frame(self.link.as_ref()) => Event::Frame(frame),
                _ = tick.tick() => Event::Tick,
            };
            match event {
                Event::Ordered(Some(order)) => self.take_order(order),
                Event::Ordered(None) => return self.leave(),
                Event::Beat(Ok(beat)) => self.hear(&beat),
                Event::Frame(Ok(frame)) => self.answer(&frame),
                // As when the uplink goes down: who cannot hear does not compete.
                Event::Beat(Err(_)) | Event::Frame(Err(_)) => self.link = None,
                Event::Tick => self.tick(),
            }
        }
    }

    fn take_order(&mut self, order: Order) {
        self.standing.set_serving(order.is_serving, Instant::now());
        if order.mac != self.order.mac {
            self.unsaid = self.owned.iter().map(|addr| (*addr, TIMES)).collect();
        }
        self.order = order;
        self.reconsider(true);
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(beat) = Beat::decode(bytes).filter(|beat| beat.vni == self.config.vni) else { return };
        if beat.node == self.config.node {
            self.namesake_heard = Some(Instant::now());
            let sentence = format!("another node of this link is called {}, too: give it another --node", beat.node);
            return self.set_problem(NAMESAKE, Some(sentence));
        }
        self.members.hear(beat, Instant::now());
        self.reconsider(false);
    }

    fn answer(&mut self, frame: &[u8]) {
        let asked = question(frame).filter(|question| self.owned.contains(&question.target));
        if let Some(frame) = asked.and_then(|question| answer(&question, self.order.mac)) {
            self.send(&frame);
        }
    }

    fn tick(&mut self) {
        self.open();
        self.members.forget_silent(Instant::now());
        self.reconsider(false);
        self.say();
        self.repeat();
        if self.namesake_heard.is_some_and(|heard| heard.elapsed() > SILENCE) {
            self.namesake_heard = None;
            self.set_problem(NAMESAKE, None);
        }
    }

    fn open(&mut self) {
        let now = Instant::now();
        if self.link.is_some() || now < self.open_at {
            return;
        }
        self.open_at = now + RETRY;
        let opened = Link::open(&self.config).inspect_err(|error| {
            let Config { device, port, .. } = &self.config;
            let sentence = format!(
                "cannot announce addresses on {device}: {error}; nobody else may use UDP port {port} of its multicast groups (--announce-port)"
            );
            self.set_problem(SOCKETS, Some(sentence));
        });
        if let Ok(link) = opened {
            self.set_problem(SOCKETS, None);
            self.standing.listen_again(now);
            self.link = Some(link);
        }
    }

    /// Who owns what, if that may have changed; the others hear at once of a change of this node.
    fn reconsider(&mut self, is_ordered: bool) {
        let mut serving = self.members.serving();
        self.standing.update(serving.is_empty(), Instant::now());
        let competes = self.standing.competes() && self.link.is_some();
        if competes {
            serving.insert(self.config.node.clone());
        }
        let (did_compete, is_new) = (self.competes(), serving != self.serving);
        self.serving = serving;
        if is_new || is_ordered {
            self.share();
        }
        if did_compete != competes {
            self.say();
        }
    }

    fn competes(&self) -> bool {
        self.serving.contains(&self.config.node)
    }

    fn share(&mut self) {
        let owners = share::owners(&self.order.wanted, &self.serving);
        let own = |(addr, owner): (&Addr, &String)| (*owner == self.config.node).then_some(*addr);
        let owned: BTreeSet<Addr> = owners.iter().filter_map(own).collect();
        self.unsaid.retain(|(addr, _)| owned.contains(addr));
        self.unsaid.extend(owned.difference(&self.owned).map(|addr| (*addr, TIMES)));
        let is_new = owned != self.owned;
        self.owned = owned;
        if is_new {
            self.listen();
            self.repeat();
        }
        self.show(owners);
    }

    fn listen(&mut self) {
        let Some(link) = &mut self.link else { return };
        let heard = link.listen_for(self.owned.iter());
        let name = &self.config.device;
        let problem = heard.err().map(|error| format!("not all IPv6 addresses can be announced on {name}: {error}"));
        self.set_problem(GROUPS, problem);
    }

    fn show(&self, owners: BTreeMap<Addr, String>) {
        let writer = share::writer(&self.serving).map(str::to_owned);
        let (heard, problems) = (self.members.heard(), self.problems.values().cloned().collect());
        self.views.send_replace(View { owners, heard, writer, problems });
    }

    fn set_problem(&mut self, about: &'static str, sentence: Option<String>) {
        if self.problems.get(about) == sentence.as_ref() {
            return;
        }
        match sentence {
            Some(sentence) => self.problems.insert(about, sentence),
            None => self.problems.remove(about),
        };
        let problems = self.problems.values().cloned().collect();
        self.views.send_modify(|view| view.problems = problems);
    }

    fn say(&self) {
        self.say_serving(self.competes());
    }

    fn say_serving(&self, is_serving: bool) {
        let beat = Beat { vni: self.config.vni, is_serving, node: self.config.node.clone() };
        if let Some(link) = &self.link {
            // One that is lost is one of five a second.
            let _ = link.say(&beat.encode());
        }
    }

    fn repeat(&mut self) {
        for (addr, times) in self.unsaid.drain(..self.unsaid.len().min(ADDRS_PER_INTERVAL)).collect::<Vec<_>>() {
            announcements(addr, self.order.mac).iter().for_each(|frame| self.send(frame));
            if times > 1 {
                self.unsaid.push_back((addr, times - 1));
            }
        }
    }

    /// A frame that finds no room is repeated, or asked for again.
    fn send(&self, frame: &[u8]) {
        let _ = self.link.as_ref().map(|link| link.send(frame));
    }

    /// The others need not wait until this node's silence tells them.
    fn leave(&self) {
        self.say_serving(false);
    }
}

async fn beat(link: Option<&Link>) -> io::Result<Vec<u8>> {
    match link {
        Some(link) => link.beat().await,
        None => std::future::pending().await,
    }
}

async fn frame(link: Option<&Link>) -> io::Result<Vec<u8>> {
    match link {
        Some(link) => link.frame().await,
        None => std::future::pending().await,
    }
}
