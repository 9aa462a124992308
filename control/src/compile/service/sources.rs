//! Where the source ranges of a service stand in the table, by family.

use crate::alloc::{Range, Ranges};
use tables::layout::Table;
use tables::limits::SOURCES_MAX;
use tables::publish::{Batch, TableFull};
use tables::service::{Rows, SourceRecord};

/// The source ranges of one service, as they are installed.
#[derive(Default)]
pub struct Sources([(Range, Vec<SourceRecord>); 2]);

impl Sources {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, sources)| sources.is_empty())
    }

    pub fn rows(&self, family: usize) -> Rows {
        let range = self.0[family].0;
        Rows { first: range.first, count: range.count }
    }
}

/// The table's room.
pub struct SourceRoom(Ranges);

impl SourceRoom {
    pub fn new() -> SourceRoom {
        SourceRoom(Ranges::new(Table::Source.name(), SOURCES_MAX))
    }

    /// Rows in use.
    pub fn used(&self) -> usize {
        self.0.used()
    }

    /// Answers whether anything is different. What finds no room leaves its family as it was.
    pub fn change(
        &mut self,
        sources: &mut Sources,
        wanted: &mut [Vec<SourceRecord>; 2],
        batch: &mut Batch,
    ) -> Result<bool, TableFull> {
        let mut changed = false;
        for ((range, have), wanted) in sources.0.iter_mut().zip(wanted) {
            if have == wanted {
                continue;
            }
            *range = self.0.resize(*range, wanted.len())?;
            for (i, source) in wanted.iter().enumerate() {
                // Cannot fail: ranges lie within the table.
                let _ = batch.set(Table::Source, range.first as usize + i, source);
            }
            *have = std::mem::take(wanted);
            changed = true;
        }
        Ok(changed)
    }
}
