//! What is known of the packets of a burst while it passes: of each what it takes to find its flow, and, where a packet is
//! not plain, all that was parsed. Who needs to know more of a plain one reads its headers again. Decides nothing.

use super::forward::Path;
use super::owners::{End, NOBODYS};
use crate::classify::Origin;
use crate::classify::ahead::{Expected, Opens};
use crate::classify::whence::Whence;
use crate::flow::{Asked, Likely, Way};
use crate::handoff::Plain;
use crate::packet::{BURST_MAX, Packet};
use crate::parse::{self, Meta};
use tables::Protocol;
use tables::flow::{Hop, Tuple};
use tables::owner::Worker;

/// A packet that waits for the next pass; it stands in its place of the burst.
#[derive(Clone)]
pub struct Queued {
    /// By the flow's tuple by its local end.
    pub asked: Asked,
    pub protocol: Protocol,
    pub whence: Whence,
    /// Where it goes at the end.
    pub to: To,
    /// Where in the burst it stands.
    pub at: u16,
    pub way: Way,
    pub headers: Headers,
    /// Who keeps its flow, of one that leaves, and where it goes then.
    pub end: End,
}

/// What is known of a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Its `Meta` is kept.
    Any,
    /// It may go the short way, and its `Meta` is not kept.
    PlainV4,
    PlainV6,
}

impl Headers {
    #[inline(always)]
    fn of(is_plain: bool, is_v4: bool) -> Headers {
        match (is_plain, is_v4) {
            (true, true) => Headers::PlainV4,
            (true, false) => Headers::PlainV6,
            (false, _) => Headers::Any,
        }
    }
}

/// All that is known of a packet on its way; the packet itself stands beside it.
pub struct Item {
    pub meta: Meta,
    /// As of a [`Queued`], as are those below.
    pub hash: u64,
    pub way: Way,
    pub origin: Origin,
    /// As of a [`Queued`].
    pub enters: bool,
    /// It may go the short way.
    pub is_plain: bool,
    pub at: u16,
    pub likely: Likely,
    pub to: To,
}

/// Where a packet goes once nothing else is to be done to its headers.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// It has come to its end, or is yet to be judged by another half of its flow.
    Nowhere,
    /// Out of this interface.
    Interface(u32),
    /// Nowhere yet; but its hop is counted, and its Ethernet header is written as if it went out of this interface.
    Addressed(u32),
    /// Out of the uplink by this hop, once it fits a wire.
    Wire(Hop),
}

impl Item {
    /// The flow's tuple by its local end.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        tuple(&self.meta, self.way)
    }

    /// Of a packet that is not in a burst.
    pub(super) fn of(meta: Meta, way: Way, origin: Origin) -> Item {
        Item { meta, hash: 0, way, origin, enters: true, is_plain: false, at: 0, likely: Likely::NONE, to: To::Nowhere }
    }

    /// Whether all of the packet's bytes lie in its head frame.
    pub fn is_whole(&self, packet: &Packet) -> bool {
        !packet.is_chained() && self.meta.end as usize <= packet.head_size()
    }

    pub(super) fn place(&self) -> usize {
        self.at as usize % BURST_MAX
    }
}

/// The packets of a burst that wait for the next pass. Its memory is taken once.
#[derive(Default)]
pub(super) struct Queue {
    slots: Box<[Queued]>,
    count: usize,
}

impl Queue {
    pub fn new() -> Queue {
        Queue { slots: vec![Queued::NONE; BURST_MAX].into_boxed_slice(), count: 0 }
    }

    /// Of each of a burst's packets once. Of a place only what is known yet is written: the rest is found in the next pass.
    #[inline(always)]
    fn push(&mut self, at: u16, words: [u64; 5], headers: Headers, way: Way, whence: Whence) {
        let Some(slot) = self.slots.get_mut(self.count) else { return debug_assert!(false, "more than a burst") };
        (slot.asked.words, slot.protocol) = (words, Tuple::of_words(words).protocol);
        (slot.whence, slot.to, slot.at, slot.way, slot.headers) = (whence, To::Nowhere, at, way, headers);
        self.count += 1;
    }

    /// The same of one that may leave.
    #[inline(always)]
    fn push_for(&mut self, end: End, at: u16, words: [u64; 5], headers: Headers, way: Way, whence: Whence) {
        if let Some(slot) = self.slots.get_mut(self.count) {
            slot.end = end;
        }
        self.push(at, words, headers, way, whence);
    }

    /// The same of one that another worker told of, and addressed if it could.
    #[inline(always)]
    pub fn push_told(&mut self, at: u16, plain: &Plain) {
        let count = self.count;
        self.push(at, plain.words(), Headers::PlainV4, plain.way(), plain.whence());
        if let Some((slot, interface)) = self.slots.get_mut(count).zip(plain.addressed()) {
            slot.to = To::Addressed(interface);
        }
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }
}

impl std::ops::Deref for Queue {
    type Target = [Queued];

    #[inline(always)]
    fn deref(&self) -> &[Queued] {
        &self.slots[..self.count]
    }
}

impl std::ops::DerefMut for Queue {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Queued] {
        &mut self.slots[..self.count]
    }
}

/// What waits for the next pass, and what is to be handed to other workers before that.
pub(super) struct Queues([Queue; 2]);

impl Queues {
    pub fn new() -> Queues {
        Queues([Queue::new(), Queue::new()])
    }

    /// No processor guesses well whose packet comes next: which queue it is, is counted and not asked.
    #[inline(always)]
    fn of(&mut self, is_here: bool) -> &mut Queue {
        &mut self.0[is_here as usize]
    }

    /// Of packets that this worker owns.
    #[inline(always)]
    pub fn here(&mut self) -> &mut Queue {
        self.of(true)
    }

    #[inline(always)]
    pub fn leaving(&mut self) -> &mut Queue {
        self.of(false)
    }
}

impl Queued {
    /// What stands in a place before the first packet.
    const NONE: Queued = Queued {
        asked: Asked::NONE,
        protocol: Protocol(0),
        whence: Whence::LOCAL,
        to: To::Nowhere,
        at: 0,
        way: Way::Out,
        headers: Headers::Any,
        end: NOBODYS,
    };

    /// It enters this node here: one hop is counted for each node that it passes.
    #[inline(always)]
    pub fn enters(&self) -> bool {
        self.way == Way::Out || !self.whence.is_here() && !matches!(self.to, To::Addressed(_))
    }

    /// Its hop is counted, and its Ethernet header written, as if it went out of this interface.
    #[inline(always)]
    pub(super) fn is_addressed_to(&self, interface: u32) -> bool {
        matches!(self.to, To::Addressed(to) if to == interface)
    }

    /// What its owner is told of it, if there is room for all that is known.
    #[inline(always)]
    pub(super) fn told(&self) -> Option<Plain> {
        let is_plain = self.headers == Headers::PlainV4;
        if is_plain { Plain::of(&self.asked.words, self.way, &self.whence) } else { None }
    }
}

impl Expected for Queued {
    #[inline(always)]
    fn opens(&self) -> Option<Opens> {
        let opens = match self.way {
            Way::Out if self.whence.is_here() => Opens::Local,
            Way::Out => Opens::Outside,
            Way::Back => Opens::Towards,
        };
        self.asked.likely.is_none().then_some(opens)
    }

    #[inline(always)]
    fn tuple(&self) -> Tuple {
        Tuple::of_words(self.asked.words)
    }

    #[inline(always)]
    fn hash(&self) -> u64 {
        self.asked.hash
    }

    #[inline(always)]
    fn place(&self) -> usize {
        self.at as usize % BURST_MAX
    }
}

impl Path {
    /// Queues a packet for the next passes.
    #[inline(always)]
    pub(super) fn queue(&mut self, at: u16, meta: Meta, is_plain: bool, way: Way, origin: Origin) {
        let headers = Headers::of(is_plain, meta.is_v4);
        if headers == Headers::Any {
            self.metas[at as usize % BURST_MAX] = meta;
        }
        self.queue_words(at, tuple(&meta, way).words(), headers, way, origin.into());
    }

    /// The same of one that this worker owns, or another, to which it is to be handed.
    #[inline(always)]
    pub(super) fn queue_for(&mut self, end: End, at: u16, meta: Meta, is_plain: bool, (way, origin): (Way, Origin)) {
        let headers = Headers::of(is_plain, meta.is_v4);
        if headers == Headers::Any {
            self.metas[at as usize % BURST_MAX] = meta;
        }
        let (words, queue) = (tuple(&meta, way).words(), self.queues.of(end.owner == self.id));
        queue.push_for(end, at, words, headers, way, origin.into());
    }

    /// Another worker is to be handed a packet, to be read again, after all that were found to leave before it.
    pub(super) fn leave(&mut self, to: Worker, at: u16, way: Way, origin: Origin) {
        self.queues.leaving().push_for(End::of(to), at, [0; 5], Headers::Any, way, origin.into());
    }

    /// The same of one that has these words, and whose `Meta` is kept, or is not to be.
    #[inline(always)]
    pub(super) fn queue_words(&mut self, at: u16, words: [u64; 5], headers: Headers, way: Way, whence: Whence) {
        self.queues.here().push(at, words, headers, way, whence);
    }

    /// All that is known of a packet; None where there is none.
    #[inline(always)]
    pub(super) fn item(&self, place: &Option<Packet>, queued: &Queued) -> Option<Item> {
        let packet = place.as_ref()?;
        let (head, total) = (self.pool.memory().head(packet), packet.total_size());
        let meta = match queued.headers {
            Headers::PlainV4 => parse::parse_plain(head, total)?,
            Headers::PlainV6 => parse::parse_plain_v6(head, total)?,
            Headers::Any => self.metas[queued.place()],
        };
        let Queued { asked: Asked { hash, likely, .. }, way, headers, at, to, .. } = *queued;
        let (is_plain, origin, enters) = (headers != Headers::Any, queued.whence.origin(), queued.enters());
        Some(Item { meta, hash, way, origin, enters, is_plain, at, likely, to })
    }

    /// Keeps what became of it.
    #[inline(always)]
    pub(super) fn keep(&mut self, queued: &mut Queued, item: &Item) {
        queued.to = item.to;
        // What is yet to be cut is another packet than it was.
        if let To::Wire(_) = item.to {
            self.metas[item.place()] = item.meta;
            queued.headers = Headers::Any;
        }
    }
}

/// The tuple of a packet's flow, by its local end.
#[inline(always)]
pub(super) fn tuple(meta: &Meta, way: Way) -> Tuple {
    if way == Way::Out { meta.from_local() } else { meta.from_remote() }
}
