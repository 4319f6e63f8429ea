#![forbid(unsafe_code)]
//! An upstream's answer under any bytes.

use super::answer::{Ends, Head};
use crate::http::framing::{Decoder, Framing};
use crate::http::head::{MAX_FIELDS, MAX_HEAD};

/// An answer, to HEAD where the first byte is odd: its head is decided once it is whole, and what is written for
/// the client is read the same. Its body is the same in one piece and in pieces as long as the second byte says.
///
/// # Panics
/// Otherwise.
pub fn http_answer(bytes: &[u8]) {
    let [kind, piece, bytes @ ..] = bytes else {
        return;
    };
    let of_head = kind & 1 == 1;
    let Ok(Some(head)) = Head::read(bytes, of_head) else {
        return;
    };
    assert!(head.length <= bytes.len());
    let before = Head::read(&bytes[..head.length - 1], of_head);
    assert!(matches!(before, Ok(None)), "decided too early: {before:?}");
    // The fields that we add would not go in.
    let fields = head.fields.iter().filter(|byte| **byte == b'\n').count();
    if fields + 2 > MAX_FIELDS || head.fields.len() + 256 > MAX_HEAD {
        return;
    }
    let framing = match head.ends {
        Ends::Framed(framing) => framing,
        // As for a client of HTTP/1.1.
        Ends::Close => Framing::Chunked,
    };
    let written = head.write(framing, None);
    let again = Head::read(&written, of_head);
    let again = again.expect("what we write is good").expect("and whole");
    assert_eq!(again.length, written.len(), "it ends where it says");
    assert_eq!(again.status, head.status);
    assert_eq!(again.ends, Ends::Framed(framing));
    // Fields of one hop, and those of the framing, are not among them, so they stay as they are.
    assert_eq!(again.fields, head.fields);
    let body = &bytes[head.length..];
    assert_eq!(
        decode(framing, body, usize::MAX),
        decode(framing, body, usize::from(*piece) + 1)
    );
}

/// The body, how many bytes it took, whether it is done, and whether it is bad.
fn decode(framing: Framing, bytes: &[u8], piece: usize) -> (Vec<u8>, usize, bool, bool) {
    let Ok(mut decoder) = Decoder::new(framing, u64::MAX) else {
        return (Vec::new(), 0, false, true);
    };
    let (mut body, mut waiting, mut total) = (Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
        waiting.extend_from_slice(piece);
        while !decoder.is_done() {
            match decoder.take(&waiting, &mut body) {
                Ok(0) => break,
                Ok(taken) => {
                    waiting.drain(..taken);
                    total += taken;
                }
                // How far a bad body was taken is nobody's business.
                Err(_) => return (Vec::new(), 0, false, true),
            }
        }
    }
    (body, total, decoder.is_done(), false)
}
