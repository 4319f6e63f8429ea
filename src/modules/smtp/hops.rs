#![forbid(unsafe_code)]
//! How many servers a message has passed: its Received lines, counted as it comes in (RFC 5321, 6.3).

/// More than any way that leads somewhere: RFC 5321, 6.3 asks for at least 100.
pub(super) const MOST: u32 = 100;

const NAME: &[u8] = b"received:";

/// Counts the fields of a header that is read in pieces.
#[derive(Debug, Default)]
pub(super) struct Hops {
    count: u32,
    /// Bytes of the line so far.
    column: usize,
    /// The line is no Received, or has been counted.
    settled: bool,
    in_body: bool,
}

impl Hops {
    /// Takes text whose lines all end with CRLF; what follows the first empty line is no header.
    pub(super) fn read(&mut self, text: &[u8]) {
        for byte in text {
            if self.in_body {
                return;
            }
            match byte {
                b'\r' => {}
                b'\n' => {
                    self.in_body = self.column == 0;
                    (self.column, self.settled) = (0, false);
                }
                other => self.letter(*other),
            }
        }
    }

    fn letter(&mut self, letter: u8) {
        if !self.settled {
            let fits = NAME.get(self.column) == Some(&letter.to_ascii_lowercase());
            let whole = fits && self.column + 1 == NAME.len();
            self.count += u32::from(whole);
            self.settled = !fits || whole;
        }
        self.column += 1;
    }

    /// True for a message that goes round in circles.
    pub(super) fn are_many(&self) -> bool {
        self.count > MOST
    }
}

#[cfg(test)]
mod tests {
    use super::Hops;

    #[test]
    fn received_lines_of_the_header_are_counted_at_every_chunk_size() {
        let text = b"Received: a\r\n\tReceived: folded\r\nRECEIVED:b\r\nX-Received: c\r\nReceive: d\r\nReceived\r\n\r\n\
            Received: in the body\r\n";
        for chunk in 1..=text.len() {
            let mut hops = Hops::default();
            text.chunks(chunk).for_each(|piece| hops.read(piece));
            assert_eq!(hops.count, 2, "in chunks of {chunk}");
        }
        let mut hops = Hops::default();
        hops.read(b"\r\nReceived: x\r\n");
        assert_eq!(hops.count, 0);
    }

    #[test]
    fn a_hundred_are_a_long_way_and_one_more_is_a_circle() {
        let mut hops = Hops::default();
        (0..100).for_each(|_| hops.read(b"Received: x\r\n"));
        assert!(!hops.are_many());
        hops.read(b"Received: x\r\n");
        assert!(hops.are_many());
    }
}
