#![forbid(unsafe_code)]
//! Painted ranges to sorted disjoint ones, and the look-up in them. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An address as a number.
pub(super) trait Address: Copy + Ord + Default {
    /// The upper 16 bits, for the bucket index.
    fn bucket(self) -> usize;
    /// The next address, if there is one.
    fn next(self) -> Option<Self>;
    /// The address before; only asked of addresses that have one.
    fn previous(self) -> Self;
}

impl Address for u32 {
    fn bucket(self) -> usize {
        (self >> 16) as usize
    }
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Self {
        self - 1
    }
}

impl Address for u128 {
    fn bucket(self) -> usize {
        usize::try_from(self >> 112).unwrap_or(usize::MAX)
    }
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Self {
        self - 1
    }
}

/// One line's range. A later origin covers an earlier one; lines are numbered in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Painted<A> {
    pub(super) first: A,
    pub(super) last: A,
    pub(super) origin: u32,
    pub(super) excluded: bool,
}

/// Sorted disjoint ranges. 12 bytes each for IPv4 and 36 for IPv6: parallel arrays have no padding.
#[derive(Debug, Default)]
pub(super) struct Ranges<A> {
    firsts: Vec<A>,
    lasts: Vec<A>,
    origins: Vec<u32>,
    /// Where each value of the upper 16 bits begins in `firsts`; for long lists only.
    buckets: Vec<u32>,
}

/// From so many ranges on, a table of 256 KiB saves most of the search.
const BUCKETS_FROM: usize = 16 * 1024;

impl<A: Address> Ranges<A> {
    /// Paints the ranges in the order of their lines; the last one to cover an address stays.
    /// O(n log n) whatever the order of `!` lines.
    pub(super) fn compile(mut painted: Vec<Painted<A>>) -> Self {
        painted.sort_unstable_by_key(|range| (range.first, range.origin));
        let mut ranges = Ranges::default();
        ranges.reserve(painted.len());
        if painted.windows(2).all(|pair| pair[0].last < pair[1].first) {
            for range in &painted {
                ranges.push(range.first, range.last, range);
            }
        } else {
            ranges.sweep(&painted);
        }
        drop(painted);
        ranges.firsts.shrink_to_fit();
        ranges.lasts.shrink_to_fit();
        ranges.origins.shrink_to_fit();
        ranges.index();
        ranges
    }

    /// Goes through the ranges from left to right with those that cover the current address in a heap,
    /// the latest line on top.
    fn sweep(&mut self, painted: &[Painted<A>]) {
        let mut covering: BinaryHeap<(u32, Reverse<A>, usize)> = BinaryHeap::new();
        let mut coming = painted.iter().enumerate().peekable();
        let mut at = A::default();
        loop {
            while let Some((index, range)) = coming.next_if(|(_, range)| range.first <= at) {
                covering.push((range.origin, Reverse(range.last), index));
            }
            while covering.peek().is_some_and(|(_, Reverse(last), _)| *last < at) {
                covering.pop();
            }
            let upcoming = coming.peek().map(|(_, range)| range.first);
            let Some(&(_, Reverse(last), index)) = covering.peek() else {
                match upcoming {
                    Some(first) => at = first,
                    None => return,
                }
                continue;
            };
            let end = match upcoming {
                Some(first) if first <= last => first.previous(),
                _ => last,
            };
            self.push(at, end, &painted[index]);
            match end.next() {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    fn push(&mut self, first: A, last: A, range: &Painted<A>) {
        let origin = if range.excluded { range.origin | super::EXCLUDED } else { range.origin };
        if let (Some(end), Some(from)) = (self.lasts.last_mut(), self.origins.last())
            && *from == origin
            && end.next() == Some(first)
        {
            *end = last;
            return;
        }
        self.firsts.push(first);
        self.lasts.push(last);
        self.origins.push(origin);
    }

    fn reserve(&mut self, count: usize) {
        self.firsts.reserve_exact(count);
        self.lasts.reserve_exact(count);
        self.origins.reserve_exact(count);
    }

    fn index(&mut self) {
        if self.firsts.len() < BUCKETS_FROM {
            return;
        }
        let mut at = 0;
        self.buckets = (0..=1 << 16)
            .map(|bucket| {
                while at < self.firsts.len() && self.firsts[at].bucket() < bucket {
                    at += 1;
                }
                u32::try_from(at).unwrap_or(u32::MAX)
            })
            .collect();
    }

    /// The origin of the range that holds an address.
    pub(super) fn find(&self, address: A) -> Option<u32> {
        let (from, to) = match self.buckets.get(address.bucket()..) {
            Some([from, to, ..]) => (*from as usize, *to as usize),
            _ => (0, self.firsts.len()),
        };
        let within = self.firsts[from..to].partition_point(|first| *first <= address);
        let index = (from + within).checked_sub(1)?;
        (address <= self.lasts[index]).then(|| self.origins[index])
    }

    pub(super) fn len(&self) -> usize {
        self.firsts.len()
    }

    pub(super) fn memory(&self) -> usize {
        (self.firsts.capacity() + self.lasts.capacity()) * size_of::<A>()
            + (self.origins.capacity() + self.buckets.capacity()) * size_of::<u32>()
    }
}
