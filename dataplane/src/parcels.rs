//! A ring of batches between threads. What one gives another travels in parcels that go to and fro, so that a ring
//! operation, and the cache line that all fight for, is paid for once a batch, and no memory is taken after the start.
//! Must not know what it carries.

use crossbeam::queue::ArrayQueue;

/// A way to one receiver, for any number of senders.
pub struct Parcels<T> {
    full: ArrayQueue<T>,
    empty: ArrayQueue<T>,
}

impl<T> Parcels<T> {
    /// `count` of what is made here go to and fro.
    pub fn new(count: usize, make: impl Fn() -> T) -> Parcels<T> {
        let (full, empty) = (ArrayQueue::new(count), ArrayQueue::new(count));
        for _ in 0..count {
            let _ = empty.push(make());
        }
        Parcels { full, empty }
    }

    /// Sends `parcel`, and leaves an empty one in its place. False, and nothing done, while the receiver has all the empty
    /// ones.
    pub fn send(&self, parcel: &mut T) -> bool {
        let Some(empty) = self.empty.pop() else { return false };
        let full = std::mem::replace(parcel, empty);
        // There are no more parcels than it has room for.
        let _ = self.full.push(full);
        true
    }

    /// The oldest parcel; [`give_back`](Self::give_back) it, empty.
    #[inline(always)]
    pub fn receive(&self) -> Option<T> {
        // To ask costs less than to take in vain.
        if self.full.is_empty() { None } else { self.full.pop() }
    }

    pub fn give_back(&self, parcel: T) {
        let _ = self.empty.push(parcel);
    }

    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_arrive_in_order_and_go_round() {
        let parcels = Parcels::new(2, || Vec::with_capacity(4));
        let mut parcel = Vec::with_capacity(4);
        for round in 0..10 {
            parcel.extend([round, round + 1]);
            assert!(parcels.send(&mut parcel) && parcel.is_empty() && parcel.capacity() >= 4);
            parcel.push(99);
            assert!(parcels.send(&mut parcel));
            parcel.push(100);
            assert!(!parcels.send(&mut parcel), "all are under way");
            assert_eq!(parcel, [100]);
            parcel.clear();
            for expected in [vec![round, round + 1], vec![99]] {
                let mut received = parcels.receive().unwrap();
                assert_eq!(received, expected);
                received.clear();
                parcels.give_back(received);
            }
            assert!(parcels.is_empty() && parcels.receive().is_none());
        }
    }
}
