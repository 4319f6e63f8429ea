#![forbid(unsafe_code)]
//! A search under way: which entries are left to look at. It goes on in pieces, so that neither a large answer nor a
//! large directory holds anybody up.

use std::collections::VecDeque;
use std::sync::Arc;

use super::filter::{Filter, Posting};
use super::tree::Tree;

/// RFC 4511, 4.5.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Base,
    One,
    Subtree,
}

/// Where a search looks in one tree.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) tree: Arc<Tree>,
    left: Left,
    /// Only entries below this one are meant.
    parent: Option<u32>,
}

/// The entries to look at.
#[derive(Debug)]
enum Left {
    /// All of them, without what stands below each where only a level is meant.
    Range {
        next: u32,
        end: u32,
        one_level: bool,
    },
    /// Those that an index knows, in order.
    Listed { ids: Vec<u32>, at: usize },
}

impl Part {
    /// The entries of a scope that may be meant by a filter.
    pub(crate) fn new(tree: Arc<Tree>, base: u32, scope: Scope, filter: &Filter) -> Part {
        let end = tree.entry(base).end;
        let (next, end) = match scope {
            Scope::Base => (base, base + 1),
            Scope::One => (base + 1, end),
            Scope::Subtree => (base, end),
        };
        let one_level = scope == Scope::One;
        let left = match scope {
            Scope::Base => None,
            _ => listed(&tree, next, end, filter),
        };
        Part {
            left: left.unwrap_or(Left::Range {
                next,
                end,
                one_level,
            }),
            parent: one_level.then_some(base),
            tree,
        }
    }

    /// Passes over the entries before this one.
    fn skip_to(&mut self, id: u32) {
        match &mut self.left {
            Left::Range { next, .. } => *next = id.max(*next),
            Left::Listed { ids, at } => *at = ids.partition_point(|it| *it < id),
        }
    }

    fn next(&mut self) -> Option<u32> {
        match &mut self.left {
            Left::Range {
                next,
                end,
                one_level,
            } => {
                let id = *next;
                if id >= *end {
                    return None;
                }
                *next = if *one_level {
                    self.tree.entry(id).end
                } else {
                    id + 1
                };
                Some(id)
            }
            Left::Listed { ids, at } => {
                *at += 1;
                ids.get(*at - 1).copied()
            }
        }
    }
}

/// What an index knows, where that is much less than all.
fn listed(tree: &Tree, next: u32, end: u32, filter: &Filter) -> Option<Left> {
    let hints = filter.hints(tree)?;
    // A list has four bytes for each entry, and looking at an entry costs little.
    if hints.count > 64 && hints.count >= (end - next) as usize / 4 {
        return None;
    }
    let range = next..end;
    let mut ids: Vec<u32> = Vec::with_capacity(hints.count);
    for posting in &hints.postings {
        match posting {
            Posting::Rows(rows) => ids.extend(
                rows.iter()
                    .map(|row| row.id)
                    .filter(|id| range.contains(id)),
            ),
            Posting::Ids(all) => ids.extend(all.iter().copied().filter(|id| range.contains(id))),
            Posting::One(id) => ids.extend(range.contains(id).then_some(*id)),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Some(Left::Listed { ids, at: 0 })
}

/// A search among one or several trees.
#[derive(Debug)]
pub(crate) struct Search {
    parts: VecDeque<Part>,
    filter: Filter,
    /// What looking at one entry costs.
    items: usize,
    /// How many entries were looked at.
    pub(crate) visited: u64,
}

/// What a step of a search has found.
#[derive(Debug)]
pub(crate) enum Found {
    Entry(Arc<Tree>, u32),
    /// The work for now is done; there is more.
    Spent,
    Ended,
}

impl Search {
    pub(crate) fn new(parts: VecDeque<Part>, filter: Filter, items: usize) -> Self {
        Search {
            parts,
            filter,
            items,
            visited: 0,
        }
    }

    /// Goes on at an entry of a tree; false when the tree is not among those that are searched.
    pub(crate) fn resume(&mut self, serial: u64, id: u32) -> bool {
        while let Some(part) = self.parts.front_mut() {
            if part.tree.serial == serial {
                part.skip_to(id);
                return true;
            }
            self.parts.pop_front();
        }
        false
    }

    /// The next entry that is meant; what is looked at is taken off `budget`, in items of filters.
    pub(crate) fn next(&mut self, budget: &mut usize) -> Found {
        loop {
            let Some(part) = self.parts.front_mut() else {
                return Found::Ended;
            };
            if *budget == 0 {
                return Found::Spent;
            }
            let Some(id) = part.next() else {
                self.parts.pop_front();
                continue;
            };
            *budget = budget.saturating_sub(self.items);
            if part
                .parent
                .is_some_and(|parent| part.tree.entry(id).parent != parent)
            {
                continue;
            }
            self.visited += 1;
            if self.filter.holds(&part.tree, id) {
                return Found::Entry(Arc::clone(&part.tree), id);
            }
        }
    }
}
