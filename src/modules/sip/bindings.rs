#![forbid(unsafe_code)]
//! Who is where: an account's contacts (RFC 3261, 10.3). No clock and no disk: time is an argument, in seconds
//! of the epoch.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::flow::Flow;

/// One contact of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding {
    /// The URI as it was registered.
    pub(super) contact: String,
    /// The same for equivalent URIs.
    pub(super) key: String,
    /// Preference in thousandths (RFC 3261, 20.10).
    pub(super) q: u16,
    pub(super) expires: u64,
    pub(super) call_id: String,
    pub(super) cseq: u32,
    /// Where requests for it are sent.
    pub(super) flow: Flow,
}

/// What a REGISTER wants of a contact.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) binding: Binding,
    /// False for an expiry of zero.
    pub(super) stays: bool,
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// An older request than one that was heard.
    Order,
    /// More contacts than an account may have.
    Full,
}

/// Contacts as they are kept.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    accounts: HashMap<String, Vec<Binding>>,
}

impl Kept {
    pub(super) fn text(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// All contacts. Bounded: only accounts have any, and each at most so many as it may.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    accounts: HashMap<String, Vec<Binding>>,
    /// How many bindings have a contact of that key; for requests that name one.
    contacts: HashMap<String, Vec<String>>,
}

impl Bindings {
    /// From what was kept; none that has expired.
    pub(super) fn read(text: &[u8], now: u64) -> serde_json::Result<Self> {
        let kept: Kept = serde_json::from_slice(text)?;
        let mut bindings = Bindings {
            accounts: kept.accounts,
            contacts: HashMap::new(),
        };
        bindings.expire(now);
        Ok(bindings)
    }

    /// What is to be kept.
    pub(super) fn kept(&mut self, now: u64) -> Kept {
        self.expire(now);
        Kept {
            accounts: self.accounts.clone(),
        }
    }

    fn expire(&mut self, now: u64) {
        self.accounts.retain(|_, list| {
            list.retain(|binding| binding.expires > now);
            !list.is_empty()
        });
        self.contacts.clear();
        for (account, list) in &self.accounts {
            for binding in list {
                let owners = self.contacts.entry(binding.key.clone()).or_default();
                owners.push(account.clone());
            }
        }
    }

    /// An account's contacts, the preferred first, among equals the newest.
    pub(super) fn of(&self, account: &str, now: u64) -> Vec<&Binding> {
        let all = self.accounts.get(account).into_iter().flatten();
        let mut live: Vec<_> = all.filter(|binding| binding.expires > now).collect();
        live.sort_by_key(|binding| std::cmp::Reverse((binding.q, binding.expires)));
        live
    }

    /// Where a contact that is registered by anybody is reached.
    pub(super) fn flow_of(&self, key: &str, now: u64) -> Option<Flow> {
        let owners = self.contacts.get(key)?;
        let all = owners.iter().flat_map(|owner| self.of(owner, now));
        let mut found = all.filter(|binding| binding.key == key);
        found.next().map(|binding| binding.flow)
    }

    /// Puts all changes in force, or none.
    pub(super) fn change(
        &mut self,
        account: &str,
        changes: Vec<Change>,
        most: usize,
        now: u64,
    ) -> Result<(), Refused> {
        let mut list: Vec<Binding> = self.of(account, now).into_iter().cloned().collect();
        for Change { binding, stays } in changes {
            let known = list.iter().position(|known| known.key == binding.key);
            if let Some(at) = known {
                let known = &list[at];
                // RFC 3261, 10.3, step 7; but a request that comes again is answered as the first time.
                if known.call_id == binding.call_id && binding.cseq <= known.cseq {
                    if binding.cseq < known.cseq || !stays {
                        return Err(Refused::Order);
                    }
                    continue;
                }
                list.remove(at);
            }
            if stays {
                list.push(binding);
            }
        }
        if list.len() > most {
            return Err(Refused::Full);
        }
        self.put(account, list);
        Ok(())
    }

    /// Takes all contacts of an account away.
    pub(super) fn clear(
        &mut self,
        account: &str,
        call_id: &str,
        cseq: u32,
        now: u64,
    ) -> Result<(), Refused> {
        let list = self.of(account, now);
        // RFC 3261, 10.3, step 6.
        let older = |known: &&Binding| known.call_id == call_id && cseq <= known.cseq;
        if list.iter().any(older) {
            return Err(Refused::Order);
        }
        self.put(account, Vec::new());
        Ok(())
    }

    fn put(&mut self, account: &str, list: Vec<Binding>) {
        let new: Vec<String> = list.iter().map(|binding| binding.key.clone()).collect();
        let old = match list.is_empty() {
            true => self.accounts.remove(account),
            false => self.accounts.insert(account.to_owned(), list),
        };
        for binding in old.into_iter().flatten() {
            if let Some(owners) = self.contacts.get_mut(&binding.key) {
                owners.retain(|owner| owner != account);
                if owners.is_empty() {
                    self.contacts.remove(&binding.key);
                }
            }
        }
        for key in new {
            self.contacts
                .entry(key)
                .or_default()
                .push(account.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Binding, Bindings, Change, Refused};
    use crate::modules::sip::flow::{Flow, Transport};

    fn change(contact: &str, q: u16, expires: u64, cseq: u32) -> Change {
        let end = "192.0.2.1:5060".parse().unwrap();
        let flow = Flow {
            transport: Transport::Udp,
            remote: end,
            local: end,
        };
        let binding = Binding {
            contact: contact.into(),
            key: contact.into(),
            q,
            expires,
            call_id: "id".into(),
            cseq,
            flow,
        };
        Change {
            binding,
            stays: expires > 0,
        }
    }

    fn all(bindings: &Bindings, now: u64) -> Vec<String> {
        let all = bindings.of("ann", now).into_iter();
        all.map(|binding| binding.contact.clone()).collect()
    }

    #[test]
    fn the_preferred_contact_is_first_and_an_expired_one_is_none() {
        let mut bindings = Bindings::default();
        let changes = vec![
            change("a", 500, 200, 1),
            change("b", 1000, 100, 1),
            change("c", 500, 300, 1),
        ];
        bindings.change("ann", changes, 10, 0).unwrap();
        assert_eq!(all(&bindings, 50), ["b", "c", "a"]);
        assert_eq!(all(&bindings, 100), ["c", "a"]);
        assert!(bindings.flow_of("b", 50).is_some() && bindings.flow_of("b", 100).is_none());
        let kept = bindings.kept(150).text().unwrap();
        let mut again = Bindings::read(&kept, 250).unwrap();
        assert_eq!(all(&again, 250), ["c"]);
        assert!(again.flow_of("c", 250).is_some() && again.flow_of("a", 250).is_none());
        again.clear("ann", "other", 1, 250).unwrap();
        assert!(all(&again, 250).is_empty() && again.contacts.is_empty());
    }

    #[test]
    fn an_older_request_and_one_too_many_change_nothing() {
        let mut bindings = Bindings::default();
        let mut put = |changes| bindings.change("ann", changes, 2, 0);
        put(vec![change("a", 0, 10, 5), change("b", 0, 10, 5)]).unwrap();
        assert_eq!(put(vec![change("a", 0, 0, 5)]), Err(Refused::Order));
        assert_eq!(put(vec![change("a", 0, 0, 4)]), Err(Refused::Order));
        assert_eq!(put(vec![change("c", 0, 10, 6)]), Err(Refused::Full));
        assert_eq!(put(vec![change("a", 0, 10, 5)]), Ok(()));
        put(vec![change("a", 0, 0, 6), change("c", 0, 11, 6)]).unwrap();
        assert_eq!(all(&bindings, 0), ["c", "b"]);
        assert_eq!(bindings.clear("ann", "id", 6, 0), Err(Refused::Order));
        bindings.clear("ann", "id", 7, 0).unwrap();
        assert!(all(&bindings, 0).is_empty());
    }
}
