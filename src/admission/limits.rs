#![forbid(unsafe_code)]
//! How many at once: a listener's channels and its counts per address. Pure; the lock is held for the
//! arithmetic and never across a system call.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::ladder::{Cleared, Reason};
use crate::session::Class;

/// The limits of a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// The most connections at once.
    pub channels: u32,
    /// The last so many channels are for clients only.
    pub reserve_for_clients: u32,
    /// The most connections of one client address, over all the listener's sockets. `None`: no limit.
    pub limit_per_address: Option<u32>,
    /// The same for other addresses. `None`: as `limit_per_address`.
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
    /// The most connections of one address of that class.
    #[must_use]
    pub fn of_class(&self, class: Class) -> Option<u32> {
        match class {
            Class::Client => self.limit_per_address,
            Class::Other => self.limit_non_clients.or(self.limit_per_address),
        }
    }

    /// The count rungs in their order: `active` and `of_address` are counted before the newcomer.
    pub(crate) fn refusal(&self, class: Class, cluster: bool, active: u32, of_address: u32) -> Option<Reason> {
        if active >= self.channels {
            Some(Reason::Full)
        } else if class == Class::Other
            && self.reserve_for_clients > 0
            && self.channels - active <= self.reserve_for_clients
        {
            Some(Reason::Reserved)
        } else if !cluster && self.of_class(class).is_some_and(|limit| of_address >= limit) {
            Some(Reason::AddressLimit)
        } else {
            None
        }
    }
}

/// Addresses that count as one: an IPv4 address (mapped), or an IPv6 prefix.
pub(crate) type CountKey = [u8; 16];

/// The key that an address is counted by.
pub(crate) fn count_key(address: IpAddr, ipv6_prefix: u8) -> CountKey {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            (u128::from(address) & mask).to_be_bytes()
        }
    }
}

/// The counts of one listener. Holds one entry per address that is connected now, so it is bounded by
/// the channels.
pub struct Limits {
    counts: Mutex<Counts>,
    /// Somebody waits for a slot to become free.
    waiting: AtomicBool,
    on_release: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Counts {
    settings: LimitSettings,
    active: u32,
    by_address: HashMap<CountKey, u32>,
}

impl Limits {
    /// Nobody is connected.
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        let counts = Counts { settings, active: 0, by_address: HashMap::new() };
        Limits {
            counts: Mutex::new(counts),
            waiting: AtomicBool::new(false),
            on_release: OnceLock::new(),
        }
    }

    /// The last three rungs of the ladder. A refused newcomer is given back, for a second look.
    ///
    /// # Errors
    /// The first rung that refuses.
    pub fn admit(self: &Arc<Self>, cleared: Cleared) -> Result<Admitted, (Reason, Cleared)> {
        let mut counts = self.counts.lock();
        let Counts { settings, active, by_address } = &mut *counts;
        let of_address = by_address.get(&cleared.key).copied().unwrap_or(0);
        if let Some(reason) = settings.refusal(cleared.class, cleared.cluster, *active, of_address) {
            return Err((reason, cleared));
        }
        *active += 1;
        by_address.insert(cleared.key, of_address + 1);
        drop(counts);
        Ok(Admitted { cleared, limits: Arc::clone(self) })
    }

    /// Connections at this moment.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.counts.lock().active
    }

    /// Connections of one address at this moment.
    #[must_use]
    pub fn of_address(&self, address: IpAddr, ipv6_prefix: u8) -> u32 {
        self.counts.lock().by_address.get(&count_key(address, ipv6_prefix)).copied().unwrap_or(0)
    }

    /// Distinct addresses that are counted at this moment.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.counts.lock().by_address.len()
    }

    /// The limits in force.
    #[must_use]
    pub fn settings(&self) -> LimitSettings {
        self.counts.lock().settings
    }

    /// New limits; counts survive.
    pub fn replace(&self, settings: LimitSettings) {
        self.counts.lock().settings = settings;
    }

    /// What to call when a slot is given back while somebody waits. Set once.
    pub fn set_release_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        let _ = self.on_release.set(hook);
    }

    /// Whether somebody waits for a slot.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Release);
    }

    fn release(&self, key: &CountKey) {
        {
            let mut counts = self.counts.lock();
            counts.active -= 1;
            if let Some(count) = counts.by_address.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.by_address.remove(key);
                }
            }
        }
        if self.waiting.load(Ordering::Acquire)
            && let Some(hook) = self.on_release.get()
        {
            hook();
        }
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.lock();
        write!(f, "Limits({} of {:?})", counts.active, counts.settings)
    }
}

/// Holds a slot; gives it back when dropped, exactly once.
#[derive(Debug)]
pub struct Admitted {
    cleared: Cleared,
    limits: Arc<Limits>,
}

impl Admitted {
    /// What the lists said of the address.
    #[must_use]
    pub fn cleared(&self) -> &Cleared {
        &self.cleared
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.limits.release(&self.cleared.key);
    }
}
