#![forbid(unsafe_code)]
//! Bytes on their way between a socket and those who use them, in storage that a turn borrows from its worker.

use std::ops::Range;

/// A queue of bytes in storage that is initialized once, of less than 4 GiB. At rest it owns just what it
/// holds.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// All of it is initialized; `start..end` is in use.
    storage: Vec<u8>,
    // Half the room, in each of many thousand connections that rest.
    start: u32,
    end: u32,
}

impl Store {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn set(&mut self, range: Range<usize>) {
        let narrow = |place| u32::try_from(place).expect("a bounded store");
        (self.start, self.end) = (narrow(range.start), narrow(range.end));
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.storage[self.range()]
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.storage[range]
    }

    pub(crate) fn len(&self) -> usize {
        self.range().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        let Range { start, end } = self.range();
        self.set(if start + count >= end {
            0..0
        } else {
            start + count..end
        });
    }

    /// Room for `count` bytes behind what is there, to be claimed with [`Store::add`].
    pub(crate) fn room(&mut self, count: usize) -> &mut [u8] {
        let mut range = self.range();
        if self.storage.len() - range.end < count {
            self.storage.copy_within(range.clone(), 0);
            range = 0..range.len();
            self.set(range.clone());
            if self.storage.len() < range.end + count {
                self.storage.resize(range.end + count, 0);
            }
        }
        &mut self.storage[range.end..]
    }

    /// Claims bytes that were written to [`Store::room`].
    pub(crate) fn add(&mut self, count: usize) {
        let Range { start, end } = self.range();
        self.set(start..end + count);
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.add(bytes.len());
    }

    /// Exchanges what it owns for a large spare storage, with its bytes.
    pub(crate) fn lend(&mut self, spare: &mut Vec<u8>) {
        let count = self.len();
        if spare.len() < count {
            spare.resize(count, 0);
        }
        spare[..count].copy_from_slice(self.filled());
        std::mem::swap(&mut self.storage, spare);
        self.set(0..count);
    }

    /// Gives the spare storage back; what is left moves to one of its own size.
    pub(crate) fn give_back(&mut self, spare: &mut Vec<u8>) {
        let kept = self.filled().to_vec();
        *spare = std::mem::replace(&mut self.storage, kept);
        self.set(0..self.storage.len());
    }
}

#[cfg(test)]
mod tests {
    use super::Store;

    #[test]
    fn bytes_stay_in_order_through_lending_and_growing() {
        let mut spare = vec![0; 8];
        let mut store = Store::default();
        let mut expected = Vec::<u8>::new();
        for turn in 0..40_u8 {
            store.lend(&mut spare);
            let piece = vec![turn; usize::from(turn % 7)];
            store.extend(&piece);
            expected.extend(&piece);
            let gone = expected.len() / 3;
            store.consume(gone);
            expected.drain(..gone);
            assert_eq!(store.filled(), expected);
            store.give_back(&mut spare);
            assert_eq!(store.filled(), expected);
            assert_eq!(store.storage.len(), expected.len(), "nothing spare at rest");
        }
    }
}
