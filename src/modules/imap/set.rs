#![forbid(unsafe_code)]
//! Sets of messages (RFC 3501, 9: `sequence-set`) in a selected mailbox.

use imap_codec::imap_types::sequence::{SeqOrUid, Sequence, SequenceSet};

use super::selected::Row;

/// Names a message that is not there (numbers in a set that are no UIDs must be there).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoSuchMessage;

/// The places in `rows`, in order and each once, of the messages that a set names. Unknown UIDs are passed over.
pub(super) fn places(
    set: &SequenceSet,
    is_uid: bool,
    rows: &[Row],
) -> Result<Vec<usize>, NoSuchMessage> {
    let last = match is_uid {
        true => rows.last().map_or(0, |row| row.uid),
        false => u32::try_from(rows.len()).unwrap_or(u32::MAX),
    };
    let mut ranges = Vec::new();
    for part in set.0.as_ref() {
        let (from, to) = match part {
            Sequence::Single(one) => (number(one, last), number(one, last)),
            Sequence::Range(from, to) => (number(from, last), number(to, last)),
        };
        let (from, to) = (from.min(to), from.max(to));
        if !is_uid && to > last && !(rows.is_empty() && from <= 1) {
            return Err(NoSuchMessage);
        }
        let range = match is_uid {
            true => {
                rows.partition_point(|row| row.uid < from)
                    ..rows.partition_point(|row| row.uid <= to)
            }
            false => (from.max(1) as usize - 1).min(rows.len())..(to as usize).min(rows.len()),
        };
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    ranges.sort_by_key(|range| range.start);
    let (mut places, mut next) = (Vec::new(), 0);
    for range in ranges {
        places.extend(range.start.max(next)..range.end);
        next = next.max(range.end);
    }
    Ok(places)
}

fn number(one: &SeqOrUid, last: u32) -> u32 {
    match one {
        SeqOrUid::Value(number) => number.get(),
        SeqOrUid::Asterisk => last,
    }
}

/// Numbers as a set, with ranges (RFC 4315, 3), in the order given.
pub(super) fn set(numbers: &[u32]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < numbers.len() {
        let mut end = at;
        while end + 1 < numbers.len() && numbers[end].checked_add(1) == Some(numbers[end + 1]) {
            end += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&numbers[at].to_string());
        if end > at {
            text.push_str(&format!(":{}", numbers[end]));
        }
        at = end + 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use imap_codec::imap_types::sequence::SequenceSet;

    use super::{NoSuchMessage, places, set};
    use crate::mail::flags::Flags;
    use crate::modules::imap::selected::Row;

    #[test]
    fn sets_name_each_message_once_and_in_order() {
        let row = |uid| Row {
            uid,
            flags: Flags::default(),
            is_recent: false,
        };
        let rows = [row(2), row(5), row(9)];
        let find =
            |text: &str, is_uid| places(&SequenceSet::try_from(text).unwrap(), is_uid, &rows);
        assert_eq!(find("3,1:2,2:*", false), Ok(vec![0, 1, 2]));
        assert_eq!(find("*:2", false), Ok(vec![1, 2]));
        assert_eq!(find("1:4", false), Err(NoSuchMessage));
        assert_eq!(find("1:4,9,7", true), Ok(vec![0, 2]));
        // RFC 3501, 6.4.8: the last message is always in it.
        assert_eq!(find("4294967294:*", true), Ok(vec![2]));
        assert_eq!(
            places(&SequenceSet::try_from("1:*").unwrap(), false, &[]),
            Ok(vec![])
        );
        assert_eq!(
            places(&SequenceSet::try_from("2").unwrap(), false, &[]),
            Err(NoSuchMessage)
        );
        assert_eq!(set(&[1, 2, 3, 5, 9, 10]), "1:3,5,9:10");
    }
}
