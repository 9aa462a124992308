//! Port rules in blocks of the rule table; equal lists are kept once, under one number.

use crate::alloc::{Range, Ranges};
use crate::state::HashMap;
use bytemuck::Zeroable;
use std::sync::Arc;
use tables::layout::Table;
use tables::limits::RULE_BLOCKS_MAX;
use tables::policy::{PolicyRow, RuleRecord};
use tables::publish::{Batch, TableFull};
use tables::rules::blocks_of;

pub type ListId = u32;

struct List {
    rules: Arc<[RuleRecord]>,
    /// Its blocks.
    range: Range,
    row: PolicyRow,
    users: usize,
}

pub struct RuleLists {
    ids: HashMap<Arc<[RuleRecord]>, ListId>,
    lists: Vec<Option<List>>,
    free: Vec<ListId>,
    /// Those that may have no user.
    idle: Vec<ListId>,
    ranges: Ranges,
}

impl RuleLists {
    pub fn new() -> RuleLists {
        let mut ranges = Ranges::new(Table::Rule.name(), RULE_BLOCKS_MAX);
        // The first block is that of all rows without rules.
        let _ = ranges.alloc(1);
        RuleLists { ids: HashMap::default(), lists: Vec::new(), free: Vec::new(), idle: Vec::new(), ranges }
    }

    /// The number of this list. It stays while it has users, and until the next sweep.
    pub fn intern(&mut self, rules: &[RuleRecord], batch: &mut Batch) -> Result<ListId, TableFull> {
        if let Some(&id) = self.ids.get(rules) {
            return Ok(id);
        }
        let range = self.ranges.alloc(blocks_of(rules.len()))?;
        let row = batch.set_rules(range.first, rules)?;
        let rules: Arc<[RuleRecord]> = rules.into();
        let id = self.free.pop().unwrap_or_else(|| {
            self.lists.push(None);
            self.lists.len() as ListId - 1
        });
        self.lists[id as usize] = Some(List { rules: rules.clone(), range, row, users: 0 });
        self.ids.insert(rules, id);
        self.idle.push(id);
        Ok(id)
    }

    fn list(&mut self, id: ListId) -> &mut List {
        self.lists[id as usize].as_mut().expect("it has users")
    }

    /// One more user of a list.
    pub fn acquire(&mut self, id: ListId) -> PolicyRow {
        let list = self.list(id);
        list.users += 1;
        list.row
    }

    /// The row of a list that has users; without one that of no rules.
    pub fn row(&self, id: Option<&ListId>) -> PolicyRow {
        let list = id.and_then(|id| self.lists[*id as usize].as_ref());
        list.map_or(PolicyRow::zeroed(), |list| list.row)
    }

    pub fn release(&mut self, id: ListId) {
        let list = self.list(id);
        list.users -= 1;
        if list.users == 0 {
            self.idle.push(id);
        }
    }

    /// Gives back what nobody uses.
    pub fn sweep(&mut self) {
        for id in std::mem::take(&mut self.idle) {
            if self.lists[id as usize].as_ref().is_some_and(|list| list.users == 0)
                && let Some(list) = self.lists[id as usize].take()
            {
                self.ids.remove(&list.rules);
                self.ranges.free(list.range);
                self.free.push(id);
            }
        }
    }

    /// Blocks in use.
    pub fn used(&self) -> usize {
        self.ranges.used()
    }
}
