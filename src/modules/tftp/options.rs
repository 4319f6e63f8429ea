#![forbid(unsafe_code)]
//! What client and server agree on before a transfer (RFC 2347-2349, 7440). Pure.

use std::time::Duration;

use super::packet::{Mode, Request};

/// Most bytes under way at once in one transfer: what a window may hold.
const MOST_IN_WINDOW: usize = 256 * 1024;
/// Most blocks of a window. Larger ones gain nothing on a local network and lose more at once.
const MOST_BLOCKS: u64 = 64;

/// The agreed numbers of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Bytes of a block, 8 to 65,464 (RFC 2348).
    pub(super) block_size: usize,
    /// Blocks between two acknowledgements, 1 to 64 (RFC 7440).
    pub(super) window: usize,
    /// The retransmission interval, where the client has set one (RFC 2349, 2).
    pub(super) timeout: Option<Duration>,
    /// The size that a writing client announced, in bytes (RFC 2349, 3).
    pub(super) announced: Option<u64>,
}

/// Answers a request's options: the numbers, and what the OACK says; an empty one is not sent. An option
/// that is unknown, out of its bounds or not a number is left out, as RFC 2347, 3 has it; of one that is
/// given twice the first counts. `size` is that of the file asked for.
pub(super) fn agree(
    request: &Request<'_>,
    size: Option<u64>,
) -> (Agreed, Vec<(&'static str, u64)>) {
    let mut agreed = Agreed {
        block_size: 512,
        window: 1,
        timeout: None,
        announced: None,
    };
    let mut answer: Vec<(&'static str, u64)> = Vec::new();
    let mut wanted_window = 1;
    for (name, value) in &request.options {
        let Some(value) = number(value) else { continue };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let accepted = if is("blksize") && (8..=65_464).contains(&value) {
            ("blksize", value)
        } else if is("timeout") && (1..=255).contains(&value) {
            ("timeout", value)
        } else if is("windowsize") && (1..=65_535).contains(&value) {
            ("windowsize", value)
        } else if is("tsize") {
            match (request.write, size) {
                (true, _) => ("tsize", value),
                // As text a file has another length, which only reading it would tell.
                (false, Some(size)) if request.mode == Mode::Octet => ("tsize", size),
                (false, _) => continue,
            }
        } else {
            continue;
        };
        if answer.iter().any(|(name, _)| *name == accepted.0) {
            continue;
        }
        match accepted {
            ("blksize", size) => agreed.block_size = usize::try_from(size).unwrap_or(512),
            ("timeout", seconds) => agreed.timeout = Some(Duration::from_secs(seconds)),
            ("windowsize", blocks) => wanted_window = blocks,
            ("tsize", size) if request.write => agreed.announced = Some(size),
            _ => {}
        }
        answer.push(accepted);
    }
    let room = (MOST_IN_WINDOW / agreed.block_size).max(1);
    let window = wanted_window.min(MOST_BLOCKS);
    agreed.window = usize::try_from(window).unwrap_or(1).min(room);
    for (name, value) in &mut answer {
        if *name == "windowsize" {
            *value = agreed.window as u64;
        }
    }
    (agreed, answer)
}

/// Decimal digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::packet::{Mode, Request};
    use super::{Agreed, agree};

    const PLAIN: Agreed = Agreed {
        block_size: 512,
        window: 1,
        timeout: None,
        announced: None,
    };

    fn asked(write: bool, mode: Mode, options: &[(&str, &str)]) -> (Agreed, String) {
        let request = Request {
            write,
            file: b"f",
            mode,
            options: options
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                .collect(),
        };
        let (agreed, answer) = agree(&request, Some(777));
        let words = answer.iter().map(|(name, value)| format!("{name}={value}"));
        (agreed, words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_are_taken_cut_down_or_left_out() {
        for (options, expected, said) in [
            (vec![], PLAIN, ""),
            (
                vec![("BLKSIZE", "1428")],
                Agreed {
                    block_size: 1428,
                    ..PLAIN
                },
                "blksize=1428",
            ),
            (vec![("blksize", "7")], PLAIN, ""),
            (vec![("blksize", "65465")], PLAIN, ""),
            (vec![("blksize", "+512")], PLAIN, ""),
            (vec![("blksize", "99999999999999999999999")], PLAIN, ""),
            (
                vec![("blksize", "8"), ("blksize", "9")],
                Agreed {
                    block_size: 8,
                    ..PLAIN
                },
                "blksize=8",
            ),
            (vec![("timeout", "0"), ("timeout", "256")], PLAIN, ""),
            (
                vec![("timeout", "3")],
                Agreed {
                    timeout: Some(Duration::from_secs(3)),
                    ..PLAIN
                },
                "timeout=3",
            ),
            (vec![("tsize", "0")], PLAIN, "tsize=777"),
            (
                vec![("windowsize", "65535")],
                Agreed {
                    window: 64,
                    ..PLAIN
                },
                "windowsize=64",
            ),
            (
                vec![("windowsize", "16"), ("blksize", "65464")],
                Agreed {
                    window: 4,
                    block_size: 65_464,
                    ..PLAIN
                },
                "windowsize=4 blksize=65464",
            ),
            (vec![("windowsize", "0"), ("multicast", "")], PLAIN, ""),
        ] {
            let (agreed, answer) = asked(false, Mode::Octet, &options);
            assert_eq!((agreed, answer.as_str()), (expected, said), "{options:?}");
        }
    }

    #[test]
    fn tsize_is_told_for_octets_and_noted_for_writes() {
        assert_eq!(
            asked(false, Mode::Netascii, &[("tsize", "0")]),
            (PLAIN, String::new())
        );
        let announced = Agreed {
            announced: Some(5),
            ..PLAIN
        };
        assert_eq!(
            asked(true, Mode::Octet, &[("tsize", "5")]),
            (announced, "tsize=5".to_owned())
        );
    }
}
