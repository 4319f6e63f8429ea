#![forbid(unsafe_code)]
//! Bytes that arrived and were not consumed yet.

use std::ops::Deref;

/// Received bytes in order; dereferences to what is not consumed yet.
///
/// Bounded by its limit: at the limit nothing more is read from the peer.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Vec<u8>,
    start: usize,
    consumed: u64,
}

impl Input {
    /// The most bytes kept unconsumed: one TLS record or a long command line fits several times.
    pub const LIMIT: usize = 64 * 1024;

    /// Marks the first `count` bytes as used. More than there are uses them all.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len());
        self.start += count;
        self.consumed += count as u64;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
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
        self.compact();
        self.bytes.extend_from_slice(bytes);
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

    /// The buffer to read into, after what is there.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.compact();
        &mut self.bytes
    }

    /// Exchanges an empty buffer for a large spare one.
    pub(crate) fn lend(&mut self, spare: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, spare);
        }
    }

    /// Gives the spare buffer back; what is left over moves to a buffer of its own size.
    pub(crate) fn give_back(&mut self, spare: &mut Vec<u8>) {
        if self.bytes.capacity() > spare.capacity() {
            let kept = self[..].to_vec();
            std::mem::swap(&mut self.bytes, spare);
            spare.clear();
            self.bytes = kept;
            self.start = 0;
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
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

    #[test]
    fn a_lent_buffer_goes_back_and_the_rest_stays() {
        let mut spare = Vec::with_capacity(4096);
        let mut input = Input::default();
        input.lend(&mut spare);
        input.extend(b"abcdef");
        input.consume(2);
        input.give_back(&mut spare);
        assert_eq!(spare.capacity(), 4096);
        assert!(spare.is_empty());
        assert_eq!(&input[..], b"cdef");
        assert!(input.bytes.capacity() < 64);
    }
}
