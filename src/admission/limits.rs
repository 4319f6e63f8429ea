#![forbid(unsafe_code)]
//! How many connections a listener serves, in all and per address. Pure: no socket, clock or thread.
//!
//! A slot is an [`Admitted`]: whoever owns it holds the place, and dropping it gives the place back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::ladder::{Cleared, CountKey, Reason};
use crate::session::Class;

/// The numbers of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// The most connections at once.
    pub channels: u32,
    /// Channels that only clients may take.
    pub reserve_for_clients: u32,
    /// The most connections of one client's address; `None` is no limit.
    pub limit_per_address: Option<u32>,
    /// The same for those who are no clients; `None` is what clients have.
    pub limit_non_clients: Option<u32>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            channels: 100,
            reserve_for_clients: 0,
            limit_per_address: None,
            limit_non_clients: None,
        }
    }
}

impl LimitSettings {
    /// The most connections of one address of this class.
    #[must_use]
    pub fn limit_of(&self, class: Class) -> Option<u32> {
        match class {
            Class::Client => self.limit_per_address,
            Class::Other => self.limit_non_clients.or(self.limit_per_address),
        }
    }

    /// Why a newcomer is refused beside `active` others, of which `of_address` have its address.
    #[must_use]
    pub fn refusal(
        &self,
        class: Class,
        cluster: bool,
        active: u32,
        of_address: u32,
    ) -> Option<Reason> {
        if self.is_full(active) {
            return Some(Reason::Full);
        }
        if self.is_reserved(class, active) {
            return Some(Reason::Reserved);
        }
        if self.is_at_limit(class, cluster, of_address) {
            return Some(Reason::AddressLimit);
        }
        None
    }

    pub(super) fn is_full(&self, active: u32) -> bool {
        active >= self.channels
    }

    pub(super) fn is_reserved(&self, class: Class, active: u32) -> bool {
        // Nothing reserved, nothing refused: asked alone, a full listener would look reserved.
        class != Class::Client
            && self.reserve_for_clients > 0
            && self.channels.saturating_sub(active) <= self.reserve_for_clients
    }

    pub(super) fn is_at_limit(&self, class: Class, cluster: bool, of_address: u32) -> bool {
        !cluster
            && self
                .limit_of(class)
                .is_some_and(|limit| of_address >= limit)
    }
}

/// A listener's counts. They survive a change of the settings.
pub struct Limits {
    table: Mutex<Table>,
    /// Someone was refused and waits for a release.
    waiting: AtomicBool,
    on_release: RwLock<Option<Arc<dyn Fn() + Send + Sync>>>,
}

/// `by_address` has an entry for each address with a connection and no other, so it is never larger
/// than the most channels that were set while its connections came.
struct Table {
    settings: LimitSettings,
    active: u32,
    by_address: HashMap<CountKey, u32>,
    /// What other daemons have, as far as they have told; they bound it.
    elsewhere: HashMap<CountKey, u32>,
}

impl Limits {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        Limits {
            table: Mutex::new(Table {
                settings,
                active: 0,
                by_address: HashMap::new(),
                elsewhere: HashMap::new(),
            }),
            waiting: AtomicBool::new(false),
            on_release: RwLock::new(None),
        }
    }

    /// Takes a slot, or says why not and gives the proof back, so that it may be tried again.
    pub fn admit(self: &Arc<Self>, cleared: Cleared) -> Result<Admitted, (Reason, Cleared)> {
        let refusal = self.table.lock().take(&cleared);
        match refusal {
            Some(reason) => Err((reason, cleared)),
            None => Ok(Admitted {
                limits: Arc::clone(self),
                cleared,
            }),
        }
    }

    /// Connections that hold a slot.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.table.lock().active
    }

    /// Connections of each address (for IPv6: each prefix) here.
    pub(crate) fn counts(&self) -> Vec<(IpAddr, u32)> {
        let table = self.table.lock();
        let counts = table.by_address.iter();
        counts.map(|(key, count)| (key.address(), *count)).collect()
    }

    /// How many connections addresses have on other daemons. They count for the limits per address.
    pub(crate) fn set_elsewhere(&self, counts: &HashMap<IpAddr, u32>) {
        let counts = counts.iter();
        let counts = counts
            .map(|(address, count)| (CountKey::new(*address, 128), *count))
            .collect();
        let old = std::mem::replace(&mut self.table.lock().elsewhere, counts);
        drop(old);
    }

    /// Connections counted with `address`, those on other daemons among them.
    #[must_use]
    pub fn count_of(&self, address: IpAddr, ipv6_prefix: u8) -> u32 {
        let key = CountKey::new(address, ipv6_prefix);
        let table = self.table.lock();
        table.of_address(key).saturating_add(table.elsewhere(key))
    }

    /// Distinct addresses (for IPv6: prefixes) with a connection.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.table.lock().by_address.len()
    }

    /// The numbers in force.
    #[must_use]
    pub fn settings(&self) -> LimitSettings {
        self.table.lock().settings
    }

    /// Other numbers from now on. Connections beyond them stay; newcomers find them taken.
    pub fn replace(&self, settings: LimitSettings) {
        self.table.lock().settings = settings;
    }

    /// What to call after a slot was given back while someone waits; replaces the one before.
    ///
    /// It runs on the thread that drops the slot, under no lock of this value, and must not panic.
    pub fn set_release_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        *self.on_release.write() = Some(Arc::from(hook));
    }

    /// Says whether someone waits for a slot.
    ///
    /// To miss no release, say `true` first and then try [`Limits::admit`] once more: a slot given
    /// back before that try is found by it, one given back after it calls the hook.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    /// Whether someone waits for a slot.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    fn release(&self, key: CountKey) {
        self.table.lock().give_back(key);
        if self.is_waiting() {
            let hook = self.on_release.read().clone();
            if let Some(hook) = hook {
                hook();
            }
        }
    }
}

impl Table {
    fn of_address(&self, key: CountKey) -> u32 {
        self.by_address.get(&key).copied().unwrap_or(0)
    }

    fn elsewhere(&self, key: CountKey) -> u32 {
        if self.elsewhere.is_empty() {
            return 0;
        }
        self.elsewhere.get(&key).copied().unwrap_or(0)
    }

    fn take(&mut self, cleared: &Cleared) -> Option<Reason> {
        let of_address = self.of_address(cleared.key());
        let in_all = of_address.saturating_add(self.elsewhere(cleared.key()));
        let refusal =
            self.settings
                .refusal(cleared.class(), cleared.cluster(), self.active, in_all);
        if refusal.is_none() {
            // No overflow: active < channels, and no address has more than all have.
            self.active += 1;
            self.by_address.insert(cleared.key(), of_address + 1);
        }
        refusal
    }

    fn give_back(&mut self, key: CountKey) {
        debug_assert!(self.active > 0, "a slot was given back twice");
        self.active = self.active.saturating_sub(1);
        if let Entry::Occupied(mut entry) = self.by_address.entry(key) {
            if *entry.get() > 1 {
                *entry.get_mut() -= 1;
            } else {
                entry.remove();
            }
        }
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("settings", &self.settings())
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

/// Proof that a connection was admitted, and its slot. Only [`Limits::admit`] makes one; Drop gives
/// the slot back, exactly once because it can be neither copied nor cloned.
#[must_use = "dropping it gives the slot back"]
#[derive(Debug)]
pub struct Admitted {
    limits: Arc<Limits>,
    cleared: Cleared,
}

impl Admitted {
    /// The address; never an IPv4-mapped one.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.cleared.address()
    }

    /// Whether it stood on the Client list when it came.
    #[must_use]
    pub fn class(&self) -> Class {
        self.cleared.class()
    }

    /// Whether it stood on the Cluster list.
    #[must_use]
    pub fn cluster(&self) -> bool {
        self.cleared.cluster()
    }

    /// Whether it stood on the Black-list.
    #[must_use]
    pub fn blacklisted(&self) -> bool {
        self.cleared.blacklisted()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.limits.release(self.cleared.key());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::super::testing::cleared;
    use super::*;

    #[test]
    fn slots_taken_and_dropped_by_many_threads_end_at_zero() {
        let limits = Arc::new(Limits::new(LimitSettings {
            channels: 6,
            limit_per_address: Some(2),
            ..LimitSettings::default()
        }));
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let limits = &limits;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for step in 0..4000_u32 {
                        let address = format!("192.0.2.{}", (thread + step) % 5);
                        held.extend(limits.admit(cleared(&address)).ok());
                        assert!(limits.active() <= 6);
                        assert!(limits.count_of(address.parse().unwrap(), 64) <= 2);
                        if step % 3 != 0 {
                            held.pop();
                        }
                    }
                });
            }
        });
        assert_eq!((limits.active(), limits.addresses()), (0, 0));
    }

    #[test]
    fn a_release_calls_the_hook_only_while_someone_waits() {
        let limits = Arc::new(Limits::new(LimitSettings::default()));
        let calls = Arc::new(AtomicU32::new(0));
        let (seen, free) = (Arc::clone(&calls), Arc::downgrade(&limits));
        limits.set_release_hook(Box::new(move || {
            // The slot is free and no lock is held by now.
            assert_eq!(free.upgrade().unwrap().active(), 0);
            seen.fetch_add(1, Ordering::SeqCst);
        }));
        for (waiting, expected) in [(false, 0), (true, 1), (true, 2), (false, 2)] {
            limits.set_waiting(waiting);
            drop(limits.admit(cleared("192.0.2.1")).unwrap());
            assert_eq!(calls.load(Ordering::SeqCst), expected);
        }
    }

    #[test]
    fn a_slot_is_given_back_when_its_owner_panics() {
        let limits = Arc::new(Limits::new(LimitSettings::default()));
        let slot = limits.admit(cleared("192.0.2.1")).unwrap();
        let owner = std::thread::spawn(move || {
            let _slot = slot;
            std::panic::resume_unwind(Box::new("expected"));
        });
        assert!(owner.join().is_err());
        assert_eq!((limits.active(), limits.addresses()), (0, 0));
    }
}
