//! The rules of a policy row as they lie in memory: sorted, none reaching into another, in blocks of one cache line. More than
//! a block holds are under a block of blocks, each of which is there for a range of places, and so on: a tree of which every
//! step is one look into one line. How it is written, and the one step of looking; who asks what is `judge`.

use crate::View;
use crate::cpu::holding_ranges;
use crate::judged::Judged;
use crate::layout::Table;
use crate::limits::{RULE_BLOCKS_MAX, RULES_PER_ROW_MAX};
use crate::policy::{IDENTITY_ANY, PLACE_LAST, PolicyKey, PolicyRow, PolicySetRecord, RuleRecord};
use crate::publish::{Batch, TableFull};
use crate::region::halves;
use bytemuck::{Pod, Zeroable};
use std::sync::atomic::{AtomicU64, Ordering};

/// Rules, or blocks, of a block.
pub const RULES_PER_BLOCK: usize = 4;
/// Steps from a row to a rule; a damaged row that wants more has none.
pub(crate) const DEPTH_MAX: u32 = RULES_PER_ROW_MAX.ilog(RULES_PER_BLOCK);

const _: () = assert!(RULE_BLOCKS_MAX.is_power_of_two() && PLACE_LAST < i32::MAX as u32);

/// Ranges of places, and what is said of each. What is not used holds no place.
#[derive(Clone, Copy, Pod, Zeroable, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RuleBlock {
    firsts: [u32; RULES_PER_BLOCK],
    /// What each ends before.
    ends: [u32; RULES_PER_BLOCK],
    /// `Judged`, as a word.
    says: [u64; RULES_PER_BLOCK],
}

/// A block as readers see it.
pub(crate) type Line = [AtomicU64; 8];

/// A range of places, and what stands for it in a block.
#[derive(Clone, Copy)]
struct Entry {
    first: u32,
    last: u32,
    judged: Judged,
}

/// So many blocks hold that many rules.
pub fn blocks_of(rules: usize) -> usize {
    let mut level = rules.div_ceil(RULES_PER_BLOCK);
    let mut blocks = level;
    while level > 1 {
        level = level.div_ceil(RULES_PER_BLOCK);
        blocks += level;
    }
    blocks
}

fn block_of(entries: &[Entry]) -> RuleBlock {
    let mut block = RuleBlock::zeroed();
    for (i, entry) in entries.iter().enumerate() {
        (block.firsts[i], block.ends[i]) = (entry.first, entry.last + 1);
        block.says[i] = entry.judged.to_word();
    }
    block
}

impl Batch<'_> {
    /// Writes sorted rules that do not overlap, at most `RULES_PER_ROW_MAX`, into blocks from `first` on: [`blocks_of`] them,
    /// none if there are no rules. Returns the row that has them.
    pub fn set_rules(&mut self, first: u32, rules: &[RuleRecord]) -> Result<PolicyRow, TableFull> {
        debug_assert!(rules.len() <= RULES_PER_ROW_MAX && rules.is_sorted_by(|a, b| a.last < b.first));
        let entry = |rule: &RuleRecord| Entry { first: rule.first, last: rule.last, judged: Judged::of_rule(rule) };
        let mut entries: Vec<Entry> = rules.iter().map(entry).collect();
        let mut next = first + blocks_of(rules.len()) as u32;
        while next > first {
            // A level of the tree, the one above it before it in memory.
            next -= entries.len().div_ceil(RULES_PER_BLOCK) as u32;
            let mut above = Vec::new();
            for (block, of) in (next..).zip(entries.chunks(RULES_PER_BLOCK)) {
                self.set(Table::Rule, block as usize, &block_of(of))?;
                above.push(Entry { first: of[0].first, last: of[of.len() - 1].last, judged: Judged::by_block(block) });
            }
            entries = above;
        }
        Ok(PolicyRow::new(if rules.is_empty() { 0 } else { first }))
    }

    /// Sets an identity's row, that of everybody, too.
    pub fn set_policy_row(&mut self, key: &PolicyKey, row: PolicyRow) -> Result<(), TableFull> {
        if key.identity() != IDENTITY_ANY {
            return self.insert(Table::Policy, key, &row);
        }
        let mut set: PolicySetRecord = self.view().row(Table::PolicySet, key.policy_set() as usize);
        set.sides[key.side() & 1].any = row;
        self.set(Table::PolicySet, key.policy_set() as usize, &set)
    }
}

/// The rules of a row in their order, for who looks at all of them.
pub fn rules_of(view: &View, row: PolicyRow) -> Vec<RuleRecord> {
    let mut found = Vec::new();
    list(view, row.block, 0, &mut found);
    found
}

fn list(view: &View, block: u32, depth: u32, found: &mut Vec<RuleRecord>) {
    let RuleBlock { firsts, ends, says } = view.row(Table::Rule, block as usize);
    for i in (0..RULES_PER_BLOCK).filter(|&i| firsts[i] < ends[i]) {
        let judged = Judged::of_word(says[i]);
        if !judged.is_deeper() {
            found.push(RuleRecord { first: firsts[i], last: ends[i] - 1, ..judged.to_rule() });
        } else if depth + 1 < DEPTH_MAX {
            list(view, judged.block(), depth + 1, found);
        }
    }
}

/// All blocks. None if the table has another size, which attaching refuses.
#[inline(always)]
pub(crate) fn blocks<'a>(view: &View<'a>) -> Option<&'a [Line; RULE_BLOCKS_MAX]> {
    view.words_from(Table::Rule).as_chunks().0.first_chunk()
}

/// One of all blocks.
#[inline(always)]
pub(crate) fn block_at(blocks: &[Line; RULE_BLOCKS_MAX], block: u32) -> &Line {
    &blocks[block as usize & (RULE_BLOCKS_MAX - 1)]
}

/// What a block says of a place, or `unsaid`. Without a branch on where it stands or whether.
#[inline(always)]
pub(crate) fn said(block: &Line, place: u32, unsaid: Judged) -> Judged {
    let (bounds, says) = block.split_at(RULES_PER_BLOCK);
    let found = holding_ranges(halves(bounds).first_chunk().expect("eight bounds"), place as i32);
    // Where none holds it this is the last one's, and not taken.
    let at = (found | 1 << (RULES_PER_BLOCK - 1)).trailing_zeros() as usize;
    let said = Judged::of_word(says[at & (RULES_PER_BLOCK - 1)].load(Ordering::Relaxed));
    if (found == 0) | unsaid.is_final() { unsaid } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Publisher;

    #[test]
    fn rules_of_any_number_read_back_and_take_as_many_blocks_as_was_said() {
        let mut publisher = Publisher::create(3).unwrap();
        for count in (0..=RULES_PER_ROW_MAX).filter(|count| *count < 30 || *count % 17 == 0 || *count > 254) {
            let rule = |i| RuleRecord {
                first: 9 * i,
                last: 9 * i + i % 9,
                policy: i % 5,
                rule: i as u16,
                flags: i as u16 % 8,
            };
            let rules: Vec<RuleRecord> = (0..count as u32).map(rule).collect();
            let mut batch = publisher.batch([]).unwrap();
            let beyond = 100 + blocks_of(count);
            batch.set(Table::Rule, beyond, &RuleBlock::zeroed()).unwrap();
            let row = batch.set_rules(100, &rules).unwrap();
            assert_eq!(rules_of(&batch.view(), row), rules);
            let left: RuleBlock = batch.view().row(Table::Rule, beyond);
            assert_eq!(left, RuleBlock::zeroed(), "{count}");
            batch.publish();
        }
        assert_eq!([0, 1, 4, 5, 16, 17, 256].map(blocks_of), [0, 1, 1, 3, 5, 8, 85]);
    }
}
