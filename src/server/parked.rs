#![forbid(unsafe_code)]
//! Where silent residents wait: a table of slots with what each waits for and until when. No mio, no
//! socket; time is an argument.
//!
//! A slot belongs to one connection for its life, and the poll's token names slot and generation, so an
//! event for a slot that has changed hands is harmless. While its resident is away (queued or in a
//! worker), signals are kept in the slot, so nothing that happens between a read and the parking is lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use super::census::{Book, Card, Facts};
use crate::moment::Moment;
use crate::sync::Mutex;

/// Slots looked at under one lock.
const AT_A_LOOK: usize = 512;

/// What happened to a resident. A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Signals(u16);

impl Signals {
    pub(crate) const NONE: Signals = Signals(0);
    pub(crate) const READABLE: Signals = Signals(1);
    pub(crate) const WRITABLE: Signals = Signals(2);
    /// The peer finished sending, or the socket failed.
    pub(crate) const HANGUP: Signals = Signals(4);
    pub(crate) const WOKEN: Signals = Signals(8);
    /// The deadline given at parking has passed.
    pub(crate) const DUE: Signals = Signals(16);
    pub(crate) const SHUTDOWN: Signals = Signals(32);
    /// Work given away is finished.
    pub(crate) const DONE: Signals = Signals(64);
    /// The same of a relay's upstream.
    pub(crate) const FAR_READABLE: Signals = Signals(128);
    pub(crate) const FAR_WRITABLE: Signals = Signals(256);
    pub(crate) const FAR_HANGUP: Signals = Signals(512);
    /// A person wants it to end. Every resident waits for this.
    pub(crate) const CUT: Signals = Signals(1024);

    pub(crate) const fn and(self, other: Signals) -> Signals {
        Signals(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Signals) -> bool {
        self.0 & other.0 != 0
    }
}

/// Names a slot and which of its occupants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    /// Never 0, so that a key is never mistaken for a listening socket's token.
    pub(crate) generation: u32,
}

/// So many deadlines are never looked through for stale ones.
const FEW_DEADLINES: usize = 64;

/// A table of parked residents. All operations are O(log n) or better.
pub(crate) struct Parked<R> {
    table: Mutex<Table<R>>,
}

struct Table<R> {
    slots: Vec<Slot<R>>,
    free: Vec<u32>,
    /// What those that have the slots did; the same place for all that have one after the other.
    books: Vec<Arc<Book>>,
    /// At most one entry per slot in the common case; stale ones are dropped when they come up.
    deadlines: BinaryHeap<Reverse<(Moment, Key)>>,
    /// Until when the poll thread sleeps; `None` is for ever.
    sleeps_until: Option<Instant>,
    awake: bool,
    shutdown: bool,
}

struct Slot<R> {
    generation: u32,
    /// False between two that have it.
    is_taken: bool,
    signals: Signals,
    wants: Signals,
    resident: Option<R>,
    deadline: Option<Moment>,
    /// The earliest entry of this slot in the heap.
    queued: Option<Moment>,
    /// Who has the slot, where it is a connection.
    card: Option<Card>,
}

impl<R> Parked<R> {
    pub(crate) fn new() -> Self {
        Parked {
            table: Mutex::new(Table {
                slots: Vec::new(),
                free: Vec::new(),
                books: Vec::new(),
                deadlines: BinaryHeap::new(),
                sleeps_until: None,
                awake: false,
                shutdown: false,
            }),
        }
    }

    /// A slot whose resident is away, and where that notes what it does. Given back with [`Parked::release`].
    pub(crate) fn reserve(&self, card: Option<Card>) -> (Key, Arc<Book>) {
        let table = &mut *self.table.lock();
        let signals = if table.shutdown {
            Signals::SHUTDOWN
        } else {
            Signals::NONE
        };
        if let Some(index) = table.free.pop() {
            let slot = &mut table.slots[index as usize];
            slot.is_taken = true;
            slot.signals = signals;
            slot.card = card;
            let key = Key {
                index,
                generation: slot.generation,
            };
            let book = &table.books[Book::number(index)];
            book.facts(index).reset();
            return (key, Arc::clone(book));
        }
        let index = u32::try_from(table.slots.len()).expect("fewer slots than descriptors");
        table.slots.push(Slot {
            generation: 1,
            is_taken: true,
            signals,
            wants: Signals::NONE,
            resident: None,
            deadline: None,
            queued: None,
            card,
        });
        let key = Key {
            index,
            generation: 1,
        };
        if table.books.len() <= Book::number(index) {
            table.books.push(Arc::default());
        }
        (key, Arc::clone(&table.books[Book::number(index)]))
    }

    /// Says who has a slot.
    pub(crate) fn introduce(&self, key: Key, card: Card) {
        if let Some(slot) = self.table.lock().slot(key) {
            slot.card = Some(card);
        }
    }

    /// True until a slot is given back.
    pub(crate) fn is_live(&self, key: Key) -> bool {
        self.table.lock().slot(key).is_some()
    }

    /// Slots that somebody has.
    pub(crate) fn taken(&self) -> usize {
        let table = self.table.lock();
        table.slots.len() - table.free.len()
    }

    /// Looks at all connections, some hundreds at a time, so that nobody waits for the lock for long.
    pub(crate) fn each(&self, mut look: impl FnMut(Key, &Card, &Facts, bool)) {
        let mut from = 0;
        loop {
            let table = self.table.lock();
            let Some(slots) = table.slots.get(from..) else {
                return;
            };
            if slots.is_empty() {
                return;
            }
            for (index, slot) in (from..).zip(slots.iter().take(AT_A_LOOK)) {
                if let (Some(card), Ok(index)) = (&slot.card, u32::try_from(index)) {
                    let generation = slot.generation;
                    let key = Key { index, generation };
                    let facts = table.books[Book::number(index)].facts(index);
                    look(key, card, facts, slot.resident.is_some());
                }
            }
            from += AT_A_LOOK;
        }
    }

    /// Signals [`Signals::CUT`] to all slots that `chosen` names, and answers which they are, and their
    /// residents that are here.
    pub(crate) fn cut(
        &self,
        mut chosen: impl FnMut(Key, Option<&Card>, Option<&R>) -> bool,
    ) -> (Vec<Key>, Vec<(R, Signals)>) {
        let (mut keys, mut residents) = (Vec::new(), Vec::new());
        let table = &mut *self.table.lock();
        for (index, slot) in (0..).zip(&mut table.slots) {
            let generation = slot.generation;
            let key = Key { index, generation };
            if slot.is_taken && chosen(key, slot.card.as_ref(), slot.resident.as_ref()) {
                keys.push(key);
                // For one that never rests.
                table.books[Book::number(index)].facts(index).cut();
                slot.signals = slot.signals.and(Signals::CUT);
                residents.extend(slot.take());
            }
        }
        (keys, residents)
    }

    /// Frees a slot; later signals for `key` do nothing.
    pub(crate) fn release(&self, key: Key) {
        let resident = {
            let mut table = self.table.lock();
            let Some(slot) = table.slot(key) else { return };
            slot.generation = slot.generation.checked_add(1).unwrap_or(1);
            slot.queued = None;
            slot.deadline = None;
            slot.is_taken = false;
            let left = (slot.resident.take(), slot.card.take());
            table.free.push(key.index);
            left
        };
        drop(resident);
    }

    /// Puts a resident to rest until one of `wants` or the deadline. `Ok(true)` when the poll thread must
    /// be woken because it would sleep past the deadline. A signal that came meanwhile gives the resident
    /// back at once.
    pub(crate) fn park(
        &self,
        key: Key,
        resident: R,
        wants: Signals,
        deadline: Option<Instant>,
    ) -> Result<bool, (R, Signals)> {
        let mut table = self.table.lock();
        let Some(slot) = table.slot(key) else {
            return Err((resident, Signals::HANGUP));
        };
        if slot.signals.has(wants.and(Signals::CUT)) {
            return Err((resident, std::mem::take(&mut slot.signals)));
        }
        slot.wants = wants;
        slot.resident = Some(resident);
        slot.deadline = deadline.map(Moment::from);
        let (Some(deadline), Some(moment)) = (deadline, slot.deadline) else {
            return Ok(false);
        };
        if slot.queued.is_none_or(|queued| moment < queued) {
            slot.queued = Some(moment);
            table.deadlines.push(Reverse((moment, key)));
            table.forget_stale();
        }
        Ok(!table.awake && table.sleeps_until.is_none_or(|until| deadline < until))
    }

    /// Tells a slot what happened; its resident comes back if it waits for that.
    pub(crate) fn signal(&self, key: Key, signals: Signals) -> Option<(R, Signals)> {
        let mut table = self.table.lock();
        let slot = table.slot(key)?;
        slot.signals = slot.signals.and(signals);
        if !slot.signals.has(slot.wants.and(Signals::CUT)) {
            return None;
        }
        slot.take()
    }

    /// Takes what has happened to a resident that is away.
    pub(crate) fn collect(&self, key: Key) -> Signals {
        let mut table = self.table.lock();
        let slot = table.slot(key);
        slot.map_or(Signals::NONE, |slot| std::mem::take(&mut slot.signals))
    }

    /// The next resident whose deadline has passed.
    pub(crate) fn due(&self, now: Instant) -> Option<(R, Signals)> {
        let now = Moment::from(now);
        let mut table = self.table.lock();
        while let Some(&Reverse((at, key))) = table.deadlines.peek() {
            if at > now {
                return None;
            }
            table.deadlines.pop();
            let Some(slot) = table.slot(key) else {
                continue;
            };
            if slot.queued != Some(at) {
                continue;
            }
            slot.queued = None;
            if slot.resident.is_none() {
                continue;
            }
            match slot.deadline {
                Some(deadline) if deadline > now => {
                    slot.queued = Some(deadline);
                    table.deadlines.push(Reverse((deadline, key)));
                }
                Some(_) => {
                    slot.signals = slot.signals.and(Signals::DUE);
                    if let Some(taken) = slot.take() {
                        return Some(taken);
                    }
                }
                None => {}
            }
        }
        None
    }

    /// When the poll thread has to look at [`Parked::due`] again, given until when it would sleep.
    pub(crate) fn sleep_until(&self, other: Option<Instant>) -> Option<Instant> {
        let mut table = self.table.lock();
        let first = table
            .deadlines
            .peek()
            .map(|Reverse((at, _))| Instant::from(*at));
        let until = match (first, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        table.sleeps_until = until;
        table.awake = false;
        until
    }

    /// The poll thread is up: it asks [`Parked::sleep_until`] before it sleeps again, so nobody needs to wake it.
    pub(crate) fn wakes(&self) {
        self.table.lock().awake = true;
    }

    /// Signals every slot, also those whose residents are away, and returns those that wait for it.
    pub(crate) fn shutdown(&self) -> Vec<(R, Signals)> {
        let mut table = self.table.lock();
        table.shutdown = true;
        table
            .slots
            .iter_mut()
            .filter_map(|slot| {
                slot.signals = slot.signals.and(Signals::SHUTDOWN);
                if slot.signals.has(slot.wants) {
                    slot.take()
                } else {
                    None
                }
            })
            .collect()
    }

    /// Takes out all residents, whatever they wait for.
    pub(crate) fn empty(&self) -> Vec<R> {
        self.table
            .lock()
            .slots
            .iter_mut()
            .filter_map(|slot| slot.resident.take())
            .collect()
    }

    #[cfg(test)]
    fn heap_len(&self) -> usize {
        self.table.lock().deadlines.len()
    }
}

impl<R> Table<R> {
    /// Drops the deadlines of those that are gone once they are the most: short connections would leave one
    /// each, for as long as an idle one may last.
    fn forget_stale(&mut self) {
        if self.deadlines.len() <= 2 * self.slots.len() + FEW_DEADLINES {
            return;
        }
        let slots = &self.slots;
        self.deadlines.retain(|Reverse((at, key))| {
            let slot = slots.get(key.index as usize);
            slot.is_some_and(|slot| slot.generation == key.generation && slot.queued == Some(*at))
        });
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<R>> {
        self.slots
            .get_mut(key.index as usize)
            .filter(|slot| slot.generation == key.generation)
    }
}

impl<R> Slot<R> {
    fn take(&mut self) -> Option<(R, Signals)> {
        let resident = self.resident.take()?;
        Some((resident, std::mem::take(&mut self.signals)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Parked, Signals};
    use std::time::{Duration, Instant};

    const READ: Signals = Signals::READABLE.and(Signals::HANGUP);

    #[test]
    fn a_signal_that_came_while_away_gives_the_resident_back_at_once() {
        let parked = Parked::new();
        let key = parked.reserve(None).0;
        assert!(parked.signal(key, Signals::READABLE).is_none());
        let (resident, signals) = parked.park(key, "a", READ, None).unwrap_err();
        assert_eq!((resident, signals), ("a", Signals::READABLE));
        assert!(parked.park(key, "a", READ, None).is_ok());
        assert!(
            parked.signal(key, Signals::WRITABLE).is_none(),
            "not waited for"
        );
        assert!(parked.signal(key, Signals::READABLE).is_some());
    }

    #[test]
    fn a_late_signal_for_a_reused_slot_does_nothing() {
        let parked = Parked::new();
        let old = parked.reserve(None).0;
        parked.release(old);
        let new = parked.reserve(None).0;
        assert_eq!(old.index, new.index);
        assert!(parked.park(new, "new", READ, None).is_ok());
        assert!(parked.signal(old, Signals::READABLE).is_none());
        assert!(parked.signal(new, Signals::READABLE).is_some());
    }

    #[test]
    fn a_deadline_that_moves_on_keeps_one_entry_in_the_heap() {
        let parked = Parked::new();
        let start = Instant::now();
        let key = parked.reserve(None).0;
        let second = Duration::from_secs(1);
        for turn in 1..100 {
            assert!(
                parked
                    .park(key, (), READ.and(Signals::DUE), Some(start + second * turn))
                    .is_ok()
            );
            assert!(parked.signal(key, Signals::READABLE).is_some());
        }
        assert_eq!(parked.heap_len(), 1);
        assert!(
            parked
                .park(key, (), READ, Some(start + second * 100))
                .is_ok()
        );
        assert!(parked.due(start + second * 99).is_none());
        assert_eq!(parked.due(start + second * 100), Some(((), Signals::DUE)));
    }

    #[test]
    fn short_connections_leave_no_deadlines_behind() {
        let parked = Parked::new();
        let start = Instant::now();
        let (stays, _) = parked.reserve(None);
        let hour = start + Duration::from_secs(3600);
        assert!(parked.park(stays, 0, READ, Some(hour)).is_ok());
        for _ in 0..10_000 {
            let (key, _) = parked.reserve(None);
            let deadline = Some(start + Duration::from_secs(300));
            assert!(parked.park(key, 1, READ, deadline).is_ok());
            assert!(parked.signal(key, Signals::READABLE).is_some());
            parked.release(key);
        }
        assert!(parked.heap_len() < 100, "{}", parked.heap_len());
        assert_eq!(parked.due(hour), Some((0, Signals::DUE)));
    }

    #[test]
    fn the_poll_thread_is_woken_only_for_an_earlier_deadline() {
        let parked = Parked::new();
        let start = Instant::now();
        let (a, b) = (parked.reserve(None).0, parked.reserve(None).0);
        parked.sleep_until(None);
        assert_eq!(
            parked.park(a, (), READ, Some(start + Duration::from_secs(5))),
            Ok(true)
        );
        parked.sleep_until(None);
        assert_eq!(
            parked.park(b, (), READ, Some(start + Duration::from_secs(6))),
            Ok(false)
        );
    }

    #[test]
    fn a_cut_reaches_those_at_rest_and_those_away_and_no_later_owner_of_the_slot() {
        let parked = Parked::new();
        let (here, away) = (parked.reserve(None).0, parked.reserve(None).0);
        let old = parked.reserve(None).0;
        parked.release(old);
        assert!(parked.park(here, "here", Signals::DONE, None).is_ok());
        let (keys, residents) = parked.cut(|_, _, _| true);
        assert_eq!(keys, [here, away]);
        assert_eq!(residents, [("here", Signals::CUT)]);
        let (_, signals) = parked.park(away, "away", READ, None).unwrap_err();
        assert_eq!(signals, Signals::CUT);
        let new = parked.reserve(None).0;
        assert!(parked.park(new, "new", READ, None).is_ok());
        assert!(!parked.is_live(old) && parked.is_live(new));
    }
}
