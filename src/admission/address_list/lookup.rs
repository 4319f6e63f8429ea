//! Disjoint ranges of one family, and the search for the one that holds an address. Pure.
#![forbid(unsafe_code)]

use super::compile::{Number, Span};
use super::origin::Origin;

/// Keys that one step of the search looks at: sixteen IPv4 addresses are one cache line. With a
/// million ranges a search takes five steps, of which the first three stay in the cache.
const FANOUT: usize = 16;

/// Ranges of one family, sorted by their first address. Three arrays rather than one of structs:
/// no padding, and the search touches first addresses only.
#[derive(Default)]
pub(super) struct Ranges<T> {
    firsts: Box<[T]>,
    lasts: Box<[T]>,
    origins: Box<[Origin]>,
    /// Every 16th key of `firsts`, every 16th of those, and so on up to at most 16 keys: what the
    /// inner nodes of a B-tree hold. Smallest level first. A fifteenth of `firsts` in all.
    levels: Vec<Box<[T]>>,
    listed: usize,
}

impl<T: Number> Ranges<T> {
    /// `spans` are sorted and disjoint.
    pub(super) fn new(spans: Vec<Span<T>>) -> Self {
        let firsts: Box<[T]> = spans.iter().map(|span| span.first).collect();
        let mut levels = Vec::new();
        let mut below = &firsts;
        while below.len() > FANOUT {
            levels.push(below.iter().step_by(FANOUT).copied().collect());
            below = levels.last().unwrap_or(&firsts);
        }
        levels.reverse();
        Self {
            lasts: spans.iter().map(|span| span.last).collect(),
            origins: spans.iter().map(|span| span.origin).collect(),
            listed: spans.iter().filter(|span| span.origin.listed()).count(),
            firsts,
            levels,
        }
    }

    /// The line that decides `address`, if one covers it. O(log n).
    pub(super) fn origin(&self, address: T) -> Option<Origin> {
        let mut found = 0;
        for keys in self.levels.iter().chain([&self.firsts]) {
            let block = found * FANOUT;
            found = block + rank(&keys[block..], address).checked_sub(1)?;
        }
        (address <= self.lasts[found]).then(|| self.origins[found])
    }

    /// The number of ranges that are not excluded.
    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    /// First and last address of the listed ranges, adjacent ones joined.
    pub(super) fn merged(&self) -> impl Iterator<Item = (T, T)> {
        let ends = self.firsts.iter().zip(&self.lasts);
        let mut listed = ends
            .zip(&self.origins)
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
        let keys: usize = self.levels.iter().map(|keys| keys.len()).sum();
        size_of::<T>() * (self.firsts.len() + self.lasts.len() + keys)
            + size_of_val(&*self.origins)
            + self.levels.capacity() * size_of::<Box<[T]>>()
    }
}

/// How many of the first 16 keys are not above `address`. Counted without a branch.
fn rank<T: Number>(keys: &[T], address: T) -> usize {
    let keys = &keys[..keys.len().min(FANOUT)];
    keys.iter().map(|key| usize::from(*key <= address)).sum()
}
