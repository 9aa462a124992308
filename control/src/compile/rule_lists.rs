//! Port rules in the rule table; equal lists are kept once.

use crate::alloc::{Range, Ranges};
use std::collections::HashMap;
use std::sync::Arc;
use tables::layout::Table;
use tables::limits::RULES_MAX;
use tables::policy::{PolicyRow, RuleRecord};
use tables::publish::{Batch, TableFull};

pub type Rules = Arc<[RuleRecord]>;

struct List {
    range: Range,
    users: usize,
}

pub struct RuleLists {
    lists: HashMap<Rules, List>,
    ranges: Ranges,
}

impl RuleLists {
    pub fn new() -> RuleLists {
        RuleLists { lists: HashMap::new(), ranges: Ranges::new(Table::Rule.name(), RULES_MAX) }
    }

    /// The place of this list, for one more user.
    pub fn acquire(&mut self, rules: &Rules, batch: &mut Batch) -> Result<PolicyRow, TableFull> {
        if !self.lists.contains_key(rules) {
            let range = self.ranges.alloc(rules.len())?;
            for (i, rule) in rules.iter().enumerate() {
                batch.set(Table::Rule, range.first as usize + i, rule)?;
            }
            self.lists.insert(rules.clone(), List { range, users: 0 });
        }
        let list = self.lists.get_mut(rules).expect("just made");
        list.users += 1;
        Ok(PolicyRow { rules_first: list.range.first, rules_count: list.range.count })
    }

    pub fn release(&mut self, rules: &Rules) {
        let Some(list) = self.lists.get_mut(rules) else { return };
        list.users -= 1;
        if list.users == 0 {
            self.ranges.free(list.range);
            self.lists.remove(rules);
        }
    }

    pub fn used(&self) -> usize {
        self.ranges.used()
    }
}
