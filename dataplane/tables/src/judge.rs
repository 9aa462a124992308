//! What the tables say of a packet to policies of all tiers: at most two look-ups and a few steps among port rules, whatever
//! the number of policies. Which policy goes before which was decided by control. Workers judge by this, and control what a
//! change would do, so that there is one reading of the rows. Many at once are `burst`'s.

use crate::judged::Judged;
use crate::layout::{POLICY_SLOT_WORDS, Table};
use crate::limits::{POLICY_ROWS_MAX, POLICY_SETS_MAX, RULE_BLOCKS_MAX};
use crate::lpm::{Lpm, NO_MATCH};
use crate::policy::{Direction, IDENTITY_ANY, IDENTITY_NODE, IDENTITY_WORLD, PolicyKey, PolicyRow, PolicySide, place};
use crate::rules::{self, DEPTH_MAX, Line, block_at};
use crate::{Addr, Protocol, View};
use std::sync::atomic::{AtomicU64, Ordering};

pub mod burst;

const SIDES: usize = 2 * POLICY_SETS_MAX;
const SIDE_WORDS: usize = size_of::<PolicySide>() / 8;
const SLOTS: usize = 2 * POLICY_ROWS_MAX;
/// Where key and value of a slot stand, behind its tag.
const KEY: usize = 1;
const VALUE: usize = 2;

/// Who speaks of which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    key: PolicyKey,
    place: u32,
}

impl Question {
    /// What nobody asks.
    pub const NONE: Question = Question { key: PolicyKey::NONE, place: u32::MAX };

    /// `place` as from [`place`].
    #[inline(always)]
    pub fn new(policy_set: u32, direction: Direction, identity: u32, place: u32) -> Question {
        Question { key: PolicyKey::new(policy_set, direction, IDENTITY_ANY), place }.of(identity)
    }

    /// The same of another identity, if it was of everybody.
    #[inline(always)]
    pub fn of(self, identity: u32) -> Question {
        // The kubelet's probes: a node reaches its own pods.
        let is_open = identity == IDENTITY_NODE && self.key.direction() == Direction::Ingress;
        Question { key: if is_open { PolicyKey::OPEN } else { self.key.of(identity) }, ..self }
    }
}

/// Who an address is to policies.
#[inline]
pub fn identity(view: &View, addr: Addr) -> u32 {
    view.longest_match(Lpm::Identity, addr).map_or(IDENTITY_WORLD, |identity| identity as u32)
}

/// The same of many IPv4 addresses, as of `Addr::low_bits`: `identities[i]` becomes that of `addrs[i]`.
#[inline]
pub fn identities_v4(view: &View, addrs: &[u32], identities: &mut [u32]) {
    view.longest_match_burst(Lpm::Identity, addrs, identities);
    identities.iter_mut().filter(|identity| **identity == NO_MATCH).for_each(|identity| *identity = IDENTITY_WORLD);
}

/// The tables that policies are in, of the sizes that they have: an index is only cut to them.
#[derive(Clone, Copy)]
struct Tables<'a> {
    sides: &'a [AtomicU64; SIDES * SIDE_WORDS],
    slots: &'a [[AtomicU64; POLICY_SLOT_WORDS]; SLOTS],
    slot_mask: usize,
    blocks: &'a [Line; RULE_BLOCKS_MAX],
}

impl<'a> Tables<'a> {
    /// None if a table has another size, which attaching refuses.
    #[inline(always)]
    fn of(view: &View<'a>) -> Option<Tables<'a>> {
        let sides = view.words_from(Table::PolicySet).first_chunk()?;
        let slots = view.words_from(Table::Policy).as_chunks().0.first_chunk()?;
        Some(Tables { sides, slots, slot_mask: view.slot_mask(Table::Policy), blocks: rules::blocks(view)? })
    }

    /// Where a tag's row stands, unless another's stands there.
    #[inline(always)]
    fn slot(&self, tag: u64) -> &'a [AtomicU64; POLICY_SLOT_WORDS] {
        &self.slots[tag as usize & self.slot_mask & (SLOTS - 1)]
    }

    /// What is said where no rule says anything, and the block of everybody's rules.
    #[inline(always)]
    fn side(&self, key: PolicyKey) -> (Judged, u32) {
        let at = (key.side() * SIDE_WORDS) & (self.sides.len() - SIDE_WORDS);
        let [unsaid, any] = [at, at + 1].map(|at| self.sides[at].load(Ordering::Relaxed));
        (Judged::of_side(unsaid), any as u32)
    }
}

/// Judges (policy set, direction, identity, protocol, destination port).
#[inline]
pub fn judge(
    view: &View,
    policy_set: u32,
    direction: Direction,
    identity: u32,
    protocol: Protocol,
    port: u16,
) -> Judged {
    answer(view, &Question::new(policy_set, direction, identity, place(protocol, port)))
}

/// The answer to one question.
#[inline]
pub fn answer(view: &View, question: &Question) -> Judged {
    let Some(tables) = Tables::of(view) else { return Judged::CLOSED };
    let Question { key, place } = *question;
    let (unsaid, any) = tables.side(key);
    if unsaid.is_final() {
        return unsaid;
    }
    let row: Option<PolicyRow> = view.find(Table::Policy, &key);
    let mut said = rules::said(block_at(tables.blocks, row.map_or(any, |row| row.block)), place, unsaid);
    for _ in 1..DEPTH_MAX {
        if !said.is_deeper() {
            break;
        }
        said = rules::said(block_at(tables.blocks, said.block()), place, unsaid);
    }
    if said.is_deeper() { unsaid } else { said }
}

#[cfg(test)]
#[path = "judge/tests.rs"]
mod tests;
