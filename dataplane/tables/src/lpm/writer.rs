//! The writer's side of longest prefix match. A change costs what it changes: a prefix of length 24 or more a few words
//! (and a group of 1 KiB where it is the first in its /16, and in its /24), a shorter one the entries that it covers:
//! 1 KiB for each /16, so a /8 256 KiB. Taking a prefix away gives its entries back to the next shorter one, which the
//! hash table of prefixes knows. This file must not decide what a look-up does.

use super::{Entry, GROUP_ENTRIES, Lengths, Lpm, TOP_ENTRIES, VALUE_MAX, probe};
use crate::Prefix;
use crate::publish::{Batch, TableFull};
use std::ops::Range;

/// What the only writer remembers of a prefix table; readers need none of it.
pub(crate) struct Writer {
    table: Lpm,
    /// Prefixes of each length in the 128-bit space, IPv6 and IPv4.
    counts: [[u32; 2]; 129],
    prefixes: usize,
    /// Groups that were in use and are not.
    free: Vec<u32>,
    /// By number, of those ever used and the empty one: the prefixes that have entries in it, and the groups it names.
    uses: Vec<u16>,
}

impl Writer {
    pub fn new(table: Lpm) -> Writer {
        Writer { table, counts: [[0; 2]; 129], prefixes: 0, free: Vec::new(), uses: vec![0] }
    }

    /// Whether the value can be said and, if it comes with a new prefix, that it fits.
    fn check_room(&self, value: u64, is_new: bool) -> Result<(), TableFull> {
        let limit = self.table.limit();
        match () {
            () if value > VALUE_MAX => {
                Err(TableFull { table: self.table.prefixes().name(), limit: VALUE_MAX as usize })
            }
            () if is_new && self.prefixes >= limit => Err(TableFull { table: self.table.prefixes().name(), limit }),
            () => Ok(()),
        }
    }

    #[cfg(test)]
    pub fn groups_used(&self) -> usize {
        self.uses.len() - 1 - self.free.len()
    }

    fn count(&mut self, prefix: &Prefix, by: i32) {
        let count = &mut self.counts[prefix.mapped_length() as usize][prefix.is_v4() as usize];
        *count = count.saturating_add_signed(by);
        self.prefixes = self.prefixes.saturating_add_signed(by as isize);
    }

    fn is_used(&self, prefix: &Prefix) -> bool {
        self.counts[prefix.mapped_length() as usize][prefix.is_v4() as usize] > 0
    }

    /// There is always one: see `trie_groups`.
    fn allocate(&mut self) -> Entry {
        let number = self.free.pop().unwrap_or_else(|| {
            self.uses.push(0);
            self.uses.len() as u32 - 1
        });
        Entry::group(number)
    }

    /// One use more of a group.
    fn acquire(&mut self, group: Entry) {
        if let Some(uses) = self.uses.get_mut(group.number()) {
            *uses += 1;
        }
    }

    /// One use less. True: it was the last, and the group is free.
    fn release(&mut self, group: Entry) -> bool {
        let Some(uses) = self.uses.get_mut(group.number()).filter(|uses| **uses > 0) else { return false };
        *uses -= 1;
        let is_free = *uses == 0;
        if is_free {
            self.free.push(group.number() as u32);
        }
        is_free
    }
}

/// An IPv4 prefix of length 1 to 32.
#[derive(Clone, Copy)]
struct Span {
    addr: u32,
    length: u8,
}

impl Span {
    fn of(prefix: &Prefix) -> Span {
        Span { addr: prefix.addr().low_bits(), length: prefix.length() }
    }

    /// The /16s that it has entries in.
    fn tops(self) -> Range<usize> {
        let first = self.addr as usize >> 16;
        first..first + (1 << 16u8.saturating_sub(self.length))
    }

    /// Its entries in the group of one of these.
    fn in_24s(self, group: Entry) -> Range<usize> {
        let count = 1 << 24u8.saturating_sub(self.length.max(16));
        let first = group.number() * GROUP_ENTRIES + (self.addr as usize >> 8 & 0xff);
        first..first + count
    }

    /// Its entries in the group of the addresses of its /24, if it is longer than that.
    fn in_addresses(self, group: Entry) -> Range<usize> {
        let first = group.number() * GROUP_ENTRIES + (self.addr as usize & 0xff);
        first..first + (1 << (32 - self.length))
    }
}

impl Batch<'_> {
    /// Points a prefix at a value: a route id, an identity.
    pub fn insert_prefix(&mut self, table: Lpm, prefix: &Prefix, value: u64) -> Result<(), TableFull> {
        let is_new = self.view().find_slot(table.prefixes(), prefix).is_none();
        self.writer(table).check_room(value, is_new)?;
        self.insert(table.prefixes(), prefix, &value)?;
        if is_new {
            self.count_prefix(table, prefix, 1);
        }
        match (prefix.is_v4(), prefix.length()) {
            (true, 0) => self.set_default(table, value + 1),
            (true, _) => self.point(table, Span::of(prefix), value, is_new),
            _ => {}
        }
        Ok(())
    }

    /// Takes a prefix away; its addresses go to the next shorter one. False: it was not there.
    pub fn remove_prefix(&mut self, table: Lpm, prefix: &Prefix) -> Result<bool, TableFull> {
        if !self.remove(table.prefixes(), prefix) {
            return Ok(false);
        }
        self.count_prefix(table, prefix, -1);
        match (prefix.is_v4(), prefix.length()) {
            (true, 0) => self.set_default(table, 0),
            (true, _) => self.give_back(table, prefix),
            _ => {}
        }
        Ok(true)
    }

    fn writer(&mut self, table: Lpm) -> &mut Writer {
        &mut self.publisher.prefixes[table as usize]
    }

    fn count_prefix(&mut self, table: Lpm, prefix: &Prefix, by: i32) {
        self.writer(table).count(prefix, by);
        let is_used = self.writer(table).is_used(prefix) as u64;
        self.change_lengths(table, |lengths| {
            let length = prefix.length() as usize;
            let word = if prefix.is_v4() { &mut lengths.used_v4 } else { &mut lengths.used_v6[length / 64] };
            *word = *word & !(1 << (length % 64)) | is_used << (length % 64);
        });
    }

    fn set_default(&mut self, table: Lpm, default_v4: u64) {
        self.change_lengths(table, |lengths| lengths.default_v4 = default_v4);
    }

    fn change_lengths(&mut self, table: Lpm, change: impl FnOnce(&mut Lengths)) {
        let old: Lengths = self.view().row(table.lengths(), 0);
        let mut new = old;
        change(&mut new);
        if new != old {
            let at = self.publisher.place(table.lengths()).offset;
            self.publisher.put(at, &new);
        }
    }

    /// Writes a prefix into the trie.
    fn point(&mut self, table: Lpm, span: Span, value: u64, is_new: bool) {
        let entry = Entry::prefix(span.length, value);
        for top in span.tops() {
            let top = self.top(table) + top;
            let (group, _) = self.group_at(table, top);
            let at = span.in_24s(group);
            if span.length <= 24 {
                self.use_group(table, group, is_new);
                self.fill(table, at, entry, span.length);
                continue;
            }
            let (addresses, is_new_below) = self.group_at(table, at.start);
            self.use_group(table, group, is_new_below);
            self.use_group(table, addresses, is_new);
            self.fill(table, span.in_addresses(addresses), entry, span.length);
        }
    }

    fn use_group(&mut self, table: Lpm, group: Entry, is_new: bool) {
        if is_new {
            self.writer(table).acquire(group);
        }
    }

    /// The group that an entry names; a new one, filled with what was there, if it names none. True: it is new.
    fn group_at(&mut self, table: Lpm, at: usize) -> (Entry, bool) {
        let old = self.entry(table, at);
        if old.is_group() {
            return (old, false);
        }
        let group = self.writer(table).allocate();
        let first = group.number() * GROUP_ENTRIES;
        self.change_entries(table, first..first + GROUP_ENTRIES, |_| old);
        self.put_entry(table, at, group);
        (group, true)
    }

    /// Takes a prefix out of the trie, and the groups that nothing else uses.
    fn give_back(&mut self, table: Lpm, prefix: &Prefix) {
        let span = Span::of(prefix);
        let heir = self.covering(table, span);
        for top in span.tops() {
            let top = self.top(table) + top;
            let group = self.entry(table, top);
            let at = span.in_24s(group);
            let is_unused = match span.length {
                ..=24 => {
                    self.fill(table, at, heir, span.length);
                    true
                }
                _ => self.give_back_addresses(table, span, at.start, heir),
            };
            if is_unused && self.writer(table).release(group) {
                self.put_entry(table, top, Entry::NONE);
            }
        }
    }

    /// The same below a /24, whose entry is `at`. True: its group is gone.
    fn give_back_addresses(&mut self, table: Lpm, span: Span, at: usize, heir: Entry) -> bool {
        let group = self.entry(table, at);
        self.fill(table, span.in_addresses(group), heir, span.length);
        let is_free = self.writer(table).release(group);
        if is_free {
            // Without prefixes of its own a group repeats what covers all of it.
            let covers = self.entry(table, group.number() * GROUP_ENTRIES);
            self.put_entry(table, at, covers);
        }
        is_free
    }

    /// The longest prefix shorter than this one that covers it, as an entry; the default has none.
    fn covering(&self, table: Lpm, span: Span) -> Entry {
        let view = self.view();
        let shorter = view.word(table.lengths(), 1) & ((1 << span.length) - 1) & !1;
        let addr = crate::Addr::v4(span.addr.to_be_bytes());
        let found = probe(&view, table, addr, shorter, 96);
        found.map_or(Entry::NONE, |(length, value)| Entry::prefix(length, value))
    }

    /// Points those of some entries that belong to no prefix longer than `length`, and such of the groups that they
    /// name, at `entry`.
    fn fill(&mut self, table: Lpm, entries: Range<usize>, entry: Entry, length: u8) {
        let replaced = |old: Entry| if old.is_group() || old.length() > length { old } else { entry };
        let mut groups = Vec::new();
        self.change_entries(table, entries, |old| {
            groups.extend(old.is_group().then_some(old.number() * GROUP_ENTRIES));
            replaced(old)
        });
        for first in groups {
            self.change_entries(table, first..first + GROUP_ENTRIES, replaced);
        }
    }

    /// The first entry of the top.
    fn top(&self, table: Lpm) -> usize {
        self.publisher.place(table.trie()).capacity * GROUP_ENTRIES - TOP_ENTRIES
    }

    fn entry(&self, table: Lpm, at: usize) -> Entry {
        let pair: [u32; 2] = bytemuck::cast(self.view().word(table.trie(), at / 2));
        Entry(pair[at % 2])
    }

    fn put_entry(&mut self, table: Lpm, at: usize, entry: Entry) {
        self.change_entries(table, at..at + 1, |_| entry);
    }

    /// Entries that do not exist are only named in a damaged table, and left out.
    fn change_entries(&mut self, table: Lpm, entries: Range<usize>, mut change: impl FnMut(Entry) -> Entry) {
        let place = self.publisher.place(table.trie());
        if entries.end > place.capacity * GROUP_ENTRIES {
            return;
        }
        let mut at = entries.start & !1;
        let words = place.offset + entries.start / 2..place.offset + entries.end.div_ceil(2);
        self.publisher.change(words, |word| {
            let mut pair: [u32; 2] = bytemuck::cast(word);
            for half in &mut pair {
                if entries.contains(&at) {
                    *half = change(Entry(*half)).0;
                }
                at += 1;
            }
            bytemuck::cast(pair)
        });
    }
}
