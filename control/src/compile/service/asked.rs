//! Ports of those that Fairway translates to which rows have all the same, of however many addresses: no flow may be answered
//! there. It must not know which rows these are.

use std::collections::BTreeMap;

#[derive(Default)]
pub struct AskedPorts(BTreeMap<u16, usize>);

impl AskedPorts {
    pub fn count(&mut self, port: u16, is_more: bool) {
        let count = self.0.entry(port).or_default();
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.0.remove(&port);
        }
    }

    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.keys().copied()
    }
}
