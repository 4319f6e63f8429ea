#![forbid(unsafe_code)]
//! Where a request's body ends (RFC 9112, 6 and 7).

use super::head::{Bad, Request};

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks.
    Chunked,
}

impl Framing {
    /// Decides, and refuses whatever two readers could decide differently.
    pub(crate) fn of(request: &Request<'_, '_>) -> Result<Framing, Bad> {
        let mut lengths = request.all("content-length");
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(Bad::request("more than one Content-Length"));
        }
        if request.all("transfer-encoding").next().is_none() {
            return length.map_or(Ok(Framing::None), by_length);
        }
        if length.is_some() {
            return Err(Bad::request("Content-Length beside Transfer-Encoding"));
        }
        if request.minor == 0 {
            return Err(Bad::request("Transfer-Encoding in HTTP/1.0"));
        }
        let mut codings = 0;
        let mut known = true;
        for value in request.all("transfer-encoding") {
            for coding in value.split(|byte| *byte == b',') {
                let coding = coding.trim_ascii();
                if coding.is_empty() {
                    return Err(Bad::request("an empty transfer coding"));
                }
                codings += 1;
                known &= coding.eq_ignore_ascii_case(b"chunked");
            }
        }
        match (known, codings) {
            (false, _) => Err(Bad::of(501, "the transfer coding is not known")),
            (true, 1) => Ok(Framing::Chunked),
            (true, _) => Err(Bad::request("chunked more than once")),
        }
    }
}

fn by_length(value: &[u8]) -> Result<Framing, Bad> {
    // 18 digits are below 2^63 whatever they are.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Bad::request("Content-Length is not a number"));
    }
    let length = value
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(if length == 0 {
        Framing::None
    } else {
        Framing::Length(length)
    })
}

/// The longest line that announces a chunk, extensions included.
const MAX_CHUNK_LINE: usize = 256;
/// The most bytes of trailer fields.
const MAX_TRAILERS: usize = 8 * 1024;

/// Takes a body apart as it arrives.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// How many bytes the body may still have.
    room: u64,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

const TOO_LARGE: Bad = Bad::of(413, "the body is too large");

impl Decoder {
    /// A decoder for a body of at most `most` bytes.
    pub(crate) fn new(framing: Framing, most: u64) -> Result<Decoder, Bad> {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) if length > most => return Err(TOO_LARGE),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
        };
        Ok(Decoder {
            state,
            room: most,
            trailers: 0,
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what it can off the bytes into the body; answers how many were used.
    pub(crate) fn take(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<usize, Bad> {
        let mut used = 0;
        while self.state != State::Done {
            let rest = &bytes[used..];
            let step = match self.state {
                State::Length(left) | State::Chunk(left) => self.data(left, rest, body)?,
                State::Size => self.size(rest)?,
                State::ChunkEnd => self.chunk_end(rest)?,
                State::Trailers => self.trailer(rest)?,
                State::Done => 0,
            };
            if step == 0 {
                break;
            }
            used += step;
        }
        Ok(used)
    }

    fn data(&mut self, left: u64, rest: &[u8], body: &mut Vec<u8>) -> Result<usize, Bad> {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        body.extend_from_slice(&rest[..count]);
        let left = left - count as u64;
        self.state = match (self.state, left) {
            (State::Length(_), 0) => State::Done,
            (State::Length(_), _) => State::Length(left),
            (_, 0) => State::ChunkEnd,
            _ => State::Chunk(left),
        };
        Ok(count)
    }

    fn size(&mut self, rest: &[u8]) -> Result<usize, Bad> {
        let Some(line) = line(rest, MAX_CHUNK_LINE)? else {
            return Ok(0);
        };
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (size, extensions) = line.split_at(digits);
        let extensions = extensions.trim_ascii_start();
        let plain = extensions
            .iter()
            .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
        // 15 digits are below 2^60 whatever they are.
        if size.is_empty()
            || size.len() > 15
            || !plain
            || !(extensions.is_empty() || extensions[0] == b';')
        {
            return Err(Bad::request("a chunk's size is not a number"));
        }
        let size = std::str::from_utf8(size)
            .ok()
            .and_then(|size| u64::from_str_radix(size, 16).ok())
            .ok_or(Bad::request("a chunk's size is not a number"))?;
        self.room = self.room.checked_sub(size).ok_or(TOO_LARGE)?;
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Chunk(size)
        };
        Ok(line.len() + 2)
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Result<usize, Bad> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.state = State::Size;
                Ok(2)
            }
            [] | [b'\r'] => Ok(0),
            _ => Err(Bad::request("a chunk is longer than its size")),
        }
    }

    /// Trailer fields are read and forgotten (RFC 9112, 7.1.2).
    fn trailer(&mut self, rest: &[u8]) -> Result<usize, Bad> {
        let Some(line) = line(rest, MAX_TRAILERS)? else {
            return Ok(0);
        };
        self.trailers += line.len() + 2;
        if line.is_empty() {
            self.state = State::Done;
        } else if self.trailers > MAX_TRAILERS {
            return Err(Bad::of(431, "the trailer fields are too large"));
        } else if line[0] == b' ' || line[0] == b'\t' || !line.contains(&b':') {
            return Err(Bad::request("a trailer is not a field"));
        }
        Ok(line.len() + 2)
    }
}

/// A whole line without its CRLF; `None` until there is one.
fn line(bytes: &[u8], most: usize) -> Result<Option<&[u8]>, Bad> {
    match memchr::memchr2(b'\r', b'\n', bytes) {
        Some(end) if end > most => Err(Bad::request("a line of the body's framing is too long")),
        Some(end) => match (bytes[end], bytes.get(end + 1)) {
            (b'\r', Some(b'\n')) => Ok(Some(&bytes[..end])),
            (b'\r', None) => Ok(None),
            _ => Err(Bad::request(
                "a line of the body's framing does not end with CRLF",
            )),
        },
        None if bytes.len() > most => Err(Bad::request("a line of the body's framing is too long")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Framing};

    /// The body of these chunks however they are cut, and what is left behind them; or the status.
    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, usize), u16> {
        let whole = |chunk: usize| {
            let mut decoder = Decoder::new(Framing::Chunked, 100).map_err(|bad| bad.status)?;
            let (mut waiting, mut body) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(chunk) {
                waiting.extend_from_slice(piece);
                let used = decoder
                    .take(&waiting, &mut body)
                    .map_err(|bad| bad.status)?;
                waiting.drain(..used);
            }
            Ok((
                body,
                if decoder.is_done() {
                    waiting.len()
                } else {
                    usize::MAX
                },
            ))
        };
        let wanted = whole(bytes.len());
        for chunk in 1..bytes.len() {
            assert_eq!(whole(chunk), wanted, "in chunks of {chunk}");
        }
        wanted
    }

    #[test]
    fn chunks_are_joined_and_trailers_forgotten() {
        assert_eq!(
            decode(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\nGET"),
            Ok((b"abcde".to_vec(), 3))
        );
        assert_eq!(decode(b"0\r\n\r\n"), Ok((Vec::new(), 0)));
        assert_eq!(decode(b"3\r\nab"), Ok((b"ab".to_vec(), usize::MAX)));
    }

    #[test]
    fn bad_chunks_are_refused() {
        for (bytes, status) in [
            (&b"\r\n"[..], 400),
            (b"g\r\n", 400),
            (b"0x3\r\nabc\r\n", 400),
            (b"-1\r\n", 400),
            (b"+3\r\nabc\r\n", 400),
            (b"3\nabc\r\n", 400),
            (b"3\r\nabcd\r\n0\r\n\r\n", 400),
            (b"3\r\nabc\n0\r\n\r\n", 400),
            (b"3 x\r\nabc\r\n", 400),
            (b"3;\x00\r\nabc\r\n", 400),
            (b"fffffffffffffffff\r\n", 400),
            (b"65\r\n", 413),
            (b"0\r\n A: b\r\n\r\n", 400),
            (b"0\r\nno field\r\n\r\n", 400),
        ] {
            assert_eq!(decode(bytes), Err(status), "{}", bytes.escape_ascii());
        }
    }
}
