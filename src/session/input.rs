#![forbid(unsafe_code)]
//! Bytes that arrived and were not consumed yet.

use std::ops::Deref;

use super::store::Store;

/// Received bytes in order; dereferences to what is not consumed yet.
///
/// Bounded by its limit: at the limit nothing more is read from the peer.
#[derive(Debug, Default)]
pub struct Input {
    store: Store,
    consumed: u64,
}

impl Input {
    /// The most bytes kept unconsumed: one TLS record or a long command line fits several times.
    pub const LIMIT: usize = 64 * 1024;

    /// Marks the first `count` bytes as used. More than there are uses them all.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len());
        self.store.consume(count);
        self.consumed += count as u64;
    }

    /// Uses and forgets all bytes.
    pub fn clear(&mut self) {
        self.consume(self.len());
    }

    /// Takes a whole line off the front, without its CRLF or LF; `None` until there is one.
    pub fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memchr(b'\n', self)?;
        let mut line = self[..end].to_vec();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        self.consume(end + 1);
        Some(line)
    }

    /// Appends bytes, as the server does on arrival and a test may.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.store.extend(bytes);
    }

    /// True when nothing more is read before something is consumed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= Self::LIMIT
    }

    /// How many bytes have ever been consumed.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Room for `count` bytes behind what is there, to be claimed with [`Input::add`].
    pub(crate) fn room(&mut self, count: usize) -> &mut [u8] {
        self.store.room(count)
    }

    /// Claims bytes that were read into [`Input::room`].
    pub(crate) fn add(&mut self, count: usize) {
        self.store.add(count);
    }

    /// Exchanges what it owns for a large spare storage, with its bytes.
    pub(crate) fn lend(&mut self, spare: &mut Vec<u8>) {
        self.store.lend(spare);
    }

    /// Gives the spare storage back; what is left over moves to one of its own size.
    pub(crate) fn give_back(&mut self, spare: &mut Vec<u8>) {
        self.store.give_back(spare);
    }
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.store.filled()
    }
}

#[cfg(test)]
mod tests {
    use super::Input;

    #[test]
    fn a_line_is_taken_only_when_it_is_whole() {
        let mut input = Input::default();
        input.extend(b"HELO a\r\nQU");
        assert_eq!(input.take_line().as_deref(), Some(&b"HELO a"[..]));
        assert_eq!(input.take_line(), None);
        input.extend(b"IT\n");
        assert_eq!(input.take_line().as_deref(), Some(&b"QUIT"[..]));
        assert!(input.is_empty());
        assert_eq!(input.consumed(), 13);
    }
}
