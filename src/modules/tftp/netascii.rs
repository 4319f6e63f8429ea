#![forbid(unsafe_code)]
//! Text as it travels (RFC 1350, 1, after RFC 764): a line ends with CR LF, a CR alone is CR NUL.

use std::io::{self, Read};

/// Reads a file of LF lines as netascii.
pub(super) struct Encoder<R> {
    source: R,
    buffer: Vec<u8>,
    at: usize,
    /// The second byte of a pair whose first had the last place.
    owed: Option<u8>,
}

impl<R: Read> Encoder<R> {
    pub(super) fn new(source: R) -> Self {
        Encoder {
            source,
            buffer: Vec::new(),
            at: 0,
            owed: None,
        }
    }

    fn next(&mut self) -> io::Result<Option<u8>> {
        if self.at == self.buffer.len() {
            self.buffer.resize(8192, 0);
            let count = self.source.read(&mut self.buffer)?;
            self.buffer.truncate(count);
            self.at = 0;
        }
        let byte = self.buffer.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        Ok(byte)
    }
}

impl<R: Read> Read for Encoder<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        for (at, place) in room.iter_mut().enumerate() {
            let byte = match self.owed.take() {
                Some(owed) => owed,
                None => match self.next()? {
                    None => return Ok(at),
                    Some(b'\n') => {
                        self.owed = Some(b'\n');
                        b'\r'
                    }
                    Some(b'\r') => {
                        self.owed = Some(0);
                        b'\r'
                    }
                    Some(byte) => byte,
                },
            };
            *place = byte;
        }
        Ok(room.len())
    }
}

/// Turns netascii into LF lines, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The last piece ended with a CR.
    after_cr: bool,
}

impl Decoder {
    /// One more piece. A CR before anything but LF and NUL, which no sender may send, is kept.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            match (std::mem::take(&mut self.after_cr), byte) {
                (true, b'\n') => text.push(b'\n'),
                (true, 0) => text.push(b'\r'),
                (true, b'\r') => {
                    text.push(b'\r');
                    self.after_cr = true;
                }
                (true, byte) => text.extend([b'\r', byte]),
                (false, b'\r') => self.after_cr = true,
                (false, byte) => text.push(byte),
            }
        }
        text
    }

    /// What is left at the end of the file.
    pub(super) fn finish(&mut self) -> &'static [u8] {
        match std::mem::take(&mut self.after_cr) {
            true => b"\r",
            false => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::{Decoder, Encoder};

    fn encode(text: &[u8], chunk: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(text);
        let (mut all, mut room) = (Vec::new(), vec![0; chunk]);
        loop {
            match encoder.read(&mut room).expect("memory can be read") {
                0 => return all,
                count => all.extend_from_slice(&room[..count]),
            }
        }
    }

    #[test]
    fn lines_and_returns_are_written_as_pairs() {
        assert_eq!(encode(b"a\nb\r\n\r", 3), b"a\r\nb\r\0\r\n\r\0");
    }

    #[test]
    fn what_no_sender_may_send_is_kept() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(b"a\rb\r\r\nc\r"), b"a\rb\r\nc");
        assert_eq!(decoder.finish(), b"\r");
    }

    proptest! {
        #[test]
        fn text_comes_back_however_it_is_cut(text in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), any::<u8>()], 0..200), chunk in 1..20_usize) {
            let sent = encode(&text, chunk);
            prop_assert_eq!(&sent, &encode(&text, 1000));
            let mut decoder = Decoder::default();
            let mut back: Vec<u8> = sent.chunks(chunk).flat_map(|piece| decoder.decode(piece)).collect();
            back.extend_from_slice(decoder.finish());
            prop_assert_eq!(back, text);
        }
    }
}
