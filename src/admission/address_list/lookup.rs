//! Disjoint ranges of one family, and the search for the one that holds an address. Pure.
#![forbid(unsafe_code)]

use super::compile::{Number, Span};
use super::origin::Origin;

/// Keys that one step of the search looks at: sixteen IPv4 addresses are one cache line. With a
/// million ranges a search takes five steps, of which the first three stay in the cache.
const FANOUT: usize = 16;

/// Ranges of one family, as a B-tree laid in arrays: it does not depend on how the addresses are
/// spread, and its inner nodes cost a fifteenth of the first addresses.
#[derive(Default)]
pub(super) struct Ranges<T> {
    /// The inner nodes: first addresses of the leaves, every 16th of those, and so on up to at most
    /// 16 keys. Topmost level first.
    levels: Vec<Box<[T]>>,
    leaves: Box<[Leaf<T>]>,
    len: usize,
    listed: usize,
}

/// Sixteen ranges side by side, so that a search ends in one page of memory. Places left over in the
/// last leaf repeat its last range.
struct Leaf<T> {
    firsts: [T; FANOUT],
    lasts: [T; FANOUT],
    origins: [Origin; FANOUT],
}

impl<T: Number> Ranges<T> {
    /// `spans` are sorted and disjoint.
    pub(super) fn new(spans: &[Span<T>]) -> Self {
        let leaves: Box<[Leaf<T>]> = spans.chunks(FANOUT).map(Leaf::new).collect();
        let mut levels: Vec<Box<[T]>> = Vec::new();
        let mut keys: Box<[T]> = leaves.iter().map(|leaf| leaf.firsts[0]).collect();
        while keys.len() > 1 {
            let above = keys.iter().step_by(FANOUT).copied().collect();
            levels.push(std::mem::replace(&mut keys, above));
        }
        levels.reverse();
        Self {
            levels,
            leaves,
            len: spans.len(),
            listed: spans.iter().filter(|span| span.origin.listed()).count(),
        }
    }

    /// The line that decides `address`, if one covers it. O(log n).
    pub(super) fn origin(&self, address: T) -> Option<Origin> {
        let mut found = 0;
        for keys in &self.levels {
            let node = found * FANOUT;
            let node = &keys[node..keys.len().min(node + FANOUT)];
            let below = count(node, |key| key <= address).checked_sub(1)?;
            found = found * FANOUT + below;
        }
        self.leaves.get(found)?.origin(address)
    }

    /// The number of ranges that are not excluded.
    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    /// First and last address of the listed ranges, adjacent ones joined.
    pub(super) fn merged(&self) -> impl Iterator<Item = (T, T)> {
        let mut listed = self
            .leaves
            .iter()
            .flat_map(|leaf| leaf.firsts.iter().zip(&leaf.lasts).zip(&leaf.origins))
            .take(self.len)
            .filter(|(_, origin)| origin.listed())
            .map(|((first, last), _)| (*first, *last))
            .peekable();
        std::iter::from_fn(move || {
            let (first, mut last) = listed.next()?;
            while let Some((_, next)) = listed.next_if(|next| last.next() == Some(next.0)) {
                last = next;
            }
            Some((first, last))
        })
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        let keys: usize = self.levels.iter().map(|keys| size_of_val(&**keys)).sum();
        size_of_val(&*self.leaves) + keys + self.levels.capacity() * size_of::<Box<[T]>>()
    }
}

impl<T: Number> Leaf<T> {
    /// From 1 to 16 spans.
    fn new(spans: &[Span<T>]) -> Self {
        let span = |place: usize| spans[place.min(spans.len() - 1)];
        Self {
            firsts: std::array::from_fn(|place| span(place).first),
            lasts: std::array::from_fn(|place| span(place).last),
            origins: std::array::from_fn(|place| span(place).origin),
        }
    }

    /// Counts on both sides rather than looking up one last address, so that the memory for both
    /// arrives at the same time.
    fn origin(&self, address: T) -> Option<Origin> {
        let begun = count(&self.firsts, |first| first <= address);
        let ended = count(&self.lasts, |last| last < address);
        (ended < begun).then(|| self.origins[begun - 1])
    }
}

/// How many of at most 16 keys pass, without a branch for each.
fn count<T: Copy>(keys: &[T], pass: impl Fn(T) -> bool) -> usize {
    keys.iter().map(|key| usize::from(pass(*key))).sum()
}
