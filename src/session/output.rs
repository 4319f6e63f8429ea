#![forbid(unsafe_code)]
//! What a session wants written: bytes and pieces of files, in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

/// Pending output of a connection. Grows with what a session writes in one event, so a session with a
/// long answer writes a part and returns [`Next::Drain`](super::Next::Drain).
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    start: usize,
    /// Segments behind `bytes`. Nearly no connection ever has any, so they take no room until there are.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes instead of 32 in every idle connection"
    )]
    behind: Option<Box<VecDeque<Segment>>>,
}

/// One piece of output.
#[derive(Debug)]
#[non_exhaustive]
pub enum Segment {
    /// Bytes from memory.
    Bytes(Vec<u8>),
    /// `length` bytes of a file from `offset` on.
    File {
        /// An open regular file.
        file: File,
        /// Where to read next.
        offset: u64,
        /// How many bytes are still to be sent.
        length: u64,
    },
}

impl Output {
    /// Above this many pending bytes nothing more is read from the peer.
    pub const HIGH_WATER: usize = 64 * 1024;

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        match self.behind.as_mut().and_then(|behind| behind.back_mut()) {
            None => self.bytes.extend_from_slice(bytes),
            Some(Segment::Bytes(last)) => last.extend_from_slice(bytes),
            Some(Segment::File { .. }) => self.append(Segment::Bytes(bytes.to_vec())),
        }
    }

    /// Appends `length` bytes of `file` from `offset`; read as the peer takes them.
    pub fn write_file(&mut self, file: File, offset: u64, length: u64) {
        if length > 0 {
            self.append(Segment::File {
                file,
                offset,
                length,
            });
        }
    }

    /// True when all has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len() && !self.has_segments()
    }

    /// True when the peer must take some before more input is handled.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.bytes.len() - self.start >= Self::HIGH_WATER || self.has_segments()
    }

    fn has_segments(&self) -> bool {
        self.behind
            .as_ref()
            .is_some_and(|behind| !behind.is_empty())
    }

    fn append(&mut self, segment: Segment) {
        self.behind.get_or_insert_default().push_back(segment);
    }

    /// The bytes at the front; empty when a file is next or nothing is left.
    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Marks bytes of the front as written.
    pub(crate) fn advance(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
            if let Some(behind) = &mut self.behind
                && let Some(Segment::Bytes(_)) = behind.front()
                && let Some(Segment::Bytes(next)) = behind.pop_front()
            {
                self.bytes = next;
            }
        }
    }

    /// The file that is next, when no bytes stand before it.
    pub(crate) fn front_file(&mut self) -> Option<(&File, &mut u64, &mut u64)> {
        if self.start < self.bytes.len() {
            return None;
        }
        match self.behind.as_mut().and_then(|behind| behind.front_mut()) {
            Some(Segment::File {
                file,
                offset,
                length,
            }) => Some((file, offset, length)),
            _ => None,
        }
    }

    /// Drops the file at the front once it has been sent.
    pub(crate) fn pop_file(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.pop_front();
        }
        self.advance(0);
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
            let kept = self.front().to_vec();
            std::mem::swap(&mut self.bytes, spare);
            spare.clear();
            self.bytes = kept;
            self.start = 0;
        }
    }

    /// Takes all bytes, as the dialogue tester does.
    ///
    /// # Errors
    /// A file segment that cannot be read.
    pub(crate) fn take_all(&mut self) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut all = Vec::new();
        while !self.is_empty() {
            let front = self.front();
            all.extend_from_slice(front);
            let count = front.len();
            self.advance(count);
            if let Some((file, offset, length)) = self.front_file() {
                let mut piece = vec![0; usize::try_from(*length).map_err(io::Error::other)?];
                file.read_exact_at(&mut piece, *offset)?;
                all.append(&mut piece);
                self.pop_file();
            }
        }
        Ok(all)
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Output::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Output;
    use std::io::Write as _;

    #[test]
    fn bytes_and_files_leave_in_the_order_they_were_written() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut output = Output::default();
        output.write(b"head ");
        output.write_file(file, 2, 3);
        output.write(b" tail");
        output.write(b"!");
        assert!(output.is_high());
        assert_eq!(output.take_all().unwrap(), b"head 234 tail!");
        assert!(output.is_empty());
    }
}
