//! A fuzzer's bytes, taken from the front; what is not there reads as zero.

pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let size = N.min(self.0.len());
        array[..size].copy_from_slice(self.take(size));
        array
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Up to `size` bytes.
    pub fn take(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Changes single bytes of something valid: a count, then (offset, value) each.
    pub fn edit(&mut self, bytes: &mut [u8]) {
        for _ in 0..self.byte() % 8 {
            let (at, value) = (self.word() as usize, self.byte());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
    }

    /// Changes the size of something valid: cut short, or followed by zeroes.
    pub fn resize(&mut self, bytes: &mut Vec<u8>) {
        match self.byte() {
            0 => {}
            by @ 1..128 => bytes.truncate(bytes.len().saturating_sub(by as usize)),
            by => bytes.resize(bytes.len() + by as usize - 127, 0),
        }
    }
}
