#![forbid(unsafe_code)]
//! Ranges of bytes (RFC 9110, 14).

use std::ops::Range;

/// The most ranges of one request that are served; whoever asks for more gets the whole (RFC 9110, 14.2
/// lets a server ignore the field, and many small ranges are an attack).
const MOST: usize = 16;

/// What a Range field asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: there is no range, or none that is understood or fair.
    Whole,
    /// These, in the order asked for; each is not empty and within the file.
    Ranges(Vec<Range<u64>>),
    /// None of what there is.
    Unsatisfiable,
}

/// Reads the field for a file of so many bytes.
pub(crate) fn wanted(field: &str, size: u64) -> Wanted {
    let Some((unit, set)) = field.split_once('=') else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let mut ranges = Vec::new();
    let mut asked = 0;
    for spec in set.split(',') {
        let spec = spec.trim_matches([' ', '\t']);
        if spec.is_empty() {
            continue;
        }
        asked += 1;
        match range(spec, size) {
            Some(Some(range)) => ranges.push(range),
            Some(None) => {}
            None => return Wanted::Whole,
        }
        if asked > MOST {
            return Wanted::Whole;
        }
    }
    if asked == 0 {
        return Wanted::Whole;
    }
    if ranges.is_empty() {
        return Wanted::Unsatisfiable;
    }
    // Ranges that overlap could be made to be more than the file.
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if ranges.len() > 1 && total > size {
        return Wanted::Whole;
    }
    Wanted::Ranges(ranges)
}

/// One range: `None` when it is not one, `Some(None)` when nothing of the file is in it.
fn range(spec: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let count = number(last)?;
        return Some((count > 0 && size > 0).then(|| size.saturating_sub(count)..size));
    }
    let first = number(first)?;
    let last = match last {
        "" => u64::MAX,
        last => number(last)?,
    };
    if last < first {
        return None;
    }
    Some((first < size).then(|| first..last.saturating_add(1).min(size)))
}

/// Digits only; a number beyond all files is taken as the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
mod tests {
    use super::{Wanted, wanted};

    #[test]
    fn ranges_are_those_of_the_rfc() {
        let ranges = |field| match wanted(field, 1000) {
            Wanted::Ranges(ranges) => ranges,
            other => panic!("{field}: {other:?}"),
        };
        assert_eq!(ranges("bytes=0-0"), [0..1]);
        assert_eq!(ranges("bytes=500-"), [500..1000]);
        assert_eq!(ranges("Bytes=-1"), [999..1000]);
        assert_eq!(ranges("bytes=-5000"), [0..1000]);
        assert_eq!(ranges("bytes=990-99999999999999999999"), [990..1000]);
        assert_eq!(ranges("bytes= 0-1 , 5-6,2000-"), [0..2, 5..7]);
    }

    #[test]
    fn what_is_no_range_gets_the_whole_and_what_is_beyond_the_end_nothing() {
        for field in [
            "bytes",
            "lines=0-1",
            "bytes=",
            "bytes=1-0",
            "bytes=a-b",
            "bytes=-",
            "bytes=0x1-2",
            "bytes=0-1,x",
        ] {
            assert_eq!(wanted(field, 1000), Wanted::Whole, "{field}");
        }
        assert_eq!(wanted("bytes=0-,0-", 1000), Wanted::Whole);
        assert_eq!(
            wanted(&format!("bytes={}", "0-0,".repeat(17)), 1000),
            Wanted::Whole
        );
        for (field, size) in [
            ("bytes=1000-", 1000),
            ("bytes=-0", 1000),
            ("bytes=0-", 0),
            ("bytes=-1", 0),
        ] {
            assert_eq!(wanted(field, size), Wanted::Unsatisfiable, "{field}");
        }
    }
}
