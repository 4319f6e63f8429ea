//! From lines that may cover each other to sorted disjoint ranges, each with the line that decides
//! it. Pure. O(n log n) whatever the order of the lines and of their `!`.
#![forbid(unsafe_code)]

use std::collections::BinaryHeap;

use super::origin::Origin;

/// An address of one family as a number.
pub(super) trait Number: Copy + Ord {
    /// The next address; `None` after the last one.
    fn next(self) -> Option<Self>;
    /// The address before; `None` before the first one.
    fn previous(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

/// The addresses from `first` to `last` inclusive, as one line has them. `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span<T> {
    pub(super) first: T,
    pub(super) last: T,
    pub(super) origin: Origin,
}

/// Sorts `spans` and cuts them so that none overlap and each address has the origin of the last line
/// that covers it. At most `2n - 1` come back.
pub(super) fn disjoint<T: Number>(mut spans: Vec<Span<T>>) -> Vec<Span<T>> {
    if !spans.is_sorted_by_key(|span| span.first) {
        spans.sort_unstable_by_key(|span| span.first);
    }
    let overlap = spans
        .array_windows()
        .any(|[left, right]| left.last >= right.first);
    if overlap { sweep(&spans) } else { spans }
}

/// Walks over the addresses from one first or last address to the next, with the lines that cover
/// the current address in a heap, the latest line on top.
fn sweep<T: Number>(sorted: &[Span<T>]) -> Vec<Span<T>> {
    let mut pieces = Vec::with_capacity(sorted.len());
    let mut ahead = sorted.iter().peekable();
    let mut covering = BinaryHeap::new();
    let mut at = ahead.peek().map(|span| span.first);
    while let Some(first) = at {
        while let Some(span) = ahead.next_if(|span| span.first <= first) {
            covering.push(ByOrder(*span));
        }
        while covering.peek().is_some_and(|top| top.0.last < first) {
            covering.pop();
        }
        let begins = ahead.peek().map(|span| span.first);
        let Some(ByOrder(top)) = covering.peek() else {
            at = begins;
            continue;
        };
        let last = match begins.and_then(T::previous) {
            Some(before) => top.last.min(before),
            None => top.last,
        };
        push(
            &mut pieces,
            Span {
                first,
                last,
                ..*top
            },
        );
        at = last.next();
    }
    pieces
}

/// Appends a piece, or lengthens the piece before when it is of the same line.
fn push<T: Number>(pieces: &mut Vec<Span<T>>, piece: Span<T>) {
    match pieces.last_mut() {
        Some(last) if last.origin == piece.origin && last.last.next() == Some(piece.first) => {
            last.last = piece.last;
        }
        _ => pieces.push(piece),
    }
}

/// Ordered by line alone. No two spans have the same.
struct ByOrder<T>(Span<T>);

impl<T> Ord for ByOrder<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.origin.order().cmp(&other.0.origin.order())
    }
}

impl<T> PartialOrd for ByOrder<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for ByOrder<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for ByOrder<T> {}
