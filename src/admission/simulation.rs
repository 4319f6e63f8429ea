#![forbid(unsafe_code)]
//! Arrivals and departures by seed, against a model too simple to be wrong. Pure: no socket, clock or thread.
//!
//! A failure prints its seed; `PORTREEVE_SEED=n` runs that one alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bans::Bans;
use super::ladder::{Admitted, Reason, Restriction, Rung, Verdict, clear, explain};
use super::limits::{LimitSettings, Limits};
use super::testing::{Random, seeds};
use crate::config::plan::Network;
use crate::session::Class;

const SEEDS: u64 = 300;
const STEPS: u64 = 200;

struct World {
    random: Random,
    network: Network,
    bans: Bans,
    now: SystemTime,
    limits: Arc<Limits>,
    /// Every connection there is; the model counts by walking it.
    held: Vec<Admitted>,
}

#[test]
fn the_ladder_agrees_with_a_naive_model() {
    let mut seen = HashSet::new();
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            let place = format!("PORTREEVE_SEED={seed}, step {step}");
            seen.insert(world.step(&place));
            world.check(&place);
        }
        while let Some(slot) = world.held.pop() {
            drop(slot);
            world.check(&format!("PORTREEVE_SEED={seed}, at the end"));
        }
        assert_eq!(world.limits.addresses(), 0, "PORTREEVE_SEED={seed}");
    }
    if std::env::var_os("PORTREEVE_SEED").is_none() {
        // Datagrams' rate is no rung of connections.
        let rungs = Reason::ALL
            .into_iter()
            .filter(|reason| *reason != Reason::Rate);
        let all = rungs.map(Some).chain([None]);
        assert_eq!(
            seen,
            all.collect(),
            "every rung must have refused, and someone must have got in"
        );
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        World {
            network: random.network(),
            bans: Bans::new(),
            now: SystemTime::UNIX_EPOCH,
            limits: Arc::new(Limits::new(settings(&mut random))),
            held: Vec::new(),
            random,
        }
    }

    /// Something happens; the reason if it was a refusal.
    fn step(&mut self, place: &str) -> Option<Reason> {
        self.now += Duration::from_secs(self.random.below(3));
        match self.random.below(20) {
            0 => self.limits.replace(settings(&mut self.random)),
            1 => {
                let until = self.now + Duration::from_secs(self.random.below(30));
                self.bans.ban(self.random.address().into(), until);
            }
            2..8 if !self.held.is_empty() => {
                let place = usize::try_from(self.random.next() % self.held.len() as u64).unwrap();
                drop(self.held.swap_remove(place));
            }
            _ => return self.arrive(place),
        }
        None
    }

    fn arrive(&mut self, place: &str) -> Option<Reason> {
        let address = self.random.address();
        let restriction = self.random.restriction();
        let settings = self.limits.settings();
        let of_address = self.naive_count(address);
        let expected = self.naive_reason(address, &restriction);

        let counts = Some((&settings, self.limits.active(), of_address));
        let told = explain(
            address,
            &self.network,
            &self.bans,
            &restriction,
            counts,
            self.now,
        );
        check_rungs(&told, expected, place);
        let told = explain(
            address,
            &self.network,
            &self.bans,
            &restriction,
            None,
            self.now,
        );
        check_datagram_rungs(&told, expected, place);

        let outcome = clear(address, &self.network, &self.bans, &restriction, self.now)
            .and_then(|cleared| self.limits.admit(cleared).map_err(|(reason, _)| reason));
        assert_eq!(
            outcome.as_ref().err().copied(),
            expected,
            "{place}: {address}"
        );
        self.held.extend(outcome.ok());
        expected
    }

    fn naive_count(&self, address: IpAddr) -> u32 {
        let group = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits())
                [..usize::from(self.network.ipv6_prefix)]
                .to_owned(),
        };
        let same = self
            .held
            .iter()
            .filter(|slot| group(slot.address()) == group(address));
        u32::try_from(same.count()).unwrap()
    }

    fn naive_reason(&self, address: IpAddr, restriction: &Restriction) -> Option<Reason> {
        let settings = self.limits.settings();
        let active = i64::try_from(self.held.len()).unwrap();
        let free = i64::from(settings.channels) - active;
        let is_client = self.network.clients.contains(address);
        let limit = if is_client {
            settings.limit_per_address
        } else {
            settings.limit_non_clients.or(settings.limit_per_address)
        };
        let rungs = [
            (Reason::Denied, self.network.denied.contains(address)),
            (Reason::Banned, self.bans.until(address, self.now).is_some()),
            (
                Reason::Restricted,
                match restriction {
                    Restriction::Open => false,
                    Restriction::Grant(list) => !list.contains(address),
                    Restriction::Deny(list) => list.contains(address),
                },
            ),
            (Reason::Full, free <= 0),
            (
                Reason::Reserved,
                !is_client && free <= i64::from(settings.reserve_for_clients),
            ),
            (
                Reason::AddressLimit,
                !self.network.cluster.contains(address)
                    && limit.is_some_and(|limit| self.naive_count(address) >= limit),
            ),
        ];
        rungs
            .into_iter()
            .find(|(_, refuses)| *refuses)
            .map(|(reason, _)| reason)
    }

    /// What must hold after every step.
    fn check(&self, place: &str) {
        assert_eq!(self.limits.active() as usize, self.held.len(), "{place}");
        let prefix = self.network.ipv6_prefix;
        for slot in &self.held {
            let address = slot.address();
            assert_eq!(address, address.to_canonical(), "{place}");
            assert_eq!(
                self.limits.count_of(address, prefix),
                self.naive_count(address),
                "{place}: {address}"
            );
            assert_eq!(
                slot.class() == Class::Client,
                self.network.clients.contains(address),
                "{place}"
            );
            assert_eq!(
                slot.cluster(),
                self.network.cluster.contains(address),
                "{place}"
            );
            assert_eq!(
                slot.blacklisted(),
                self.network.blacklist.contains(address),
                "{place}"
            );
        }
        assert!(self.limits.addresses() <= self.held.len(), "{place}");
    }
}

fn settings(random: &mut Random) -> LimitSettings {
    let mut limit = |most| Some(random.upto(most)).filter(|limit| *limit > 0);
    let (limit_per_address, limit_non_clients) = (limit(4), limit(3));
    LimitSettings {
        channels: random.upto(12),
        reserve_for_clients: random.upto(6).saturating_sub(2),
        limit_per_address,
        limit_non_clients,
    }
}

fn check_rungs(told: &[Rung], expected: Option<Reason>, place: &str) {
    // The rate is of the moment and no rung to be told.
    assert_eq!(told.len(), Reason::Rate.index(), "{place}");
    let stop = expected.map_or(Reason::ALL.len(), Reason::index);
    for (index, rung) in told.iter().enumerate() {
        let verdict = match index.cmp(&stop) {
            std::cmp::Ordering::Less => Verdict::Pass,
            std::cmp::Ordering::Equal => Verdict::Refuse,
            std::cmp::Ordering::Greater => Verdict::NotReached,
        };
        assert_eq!(
            (rung.name, rung.verdict),
            (Reason::ALL[index].name(), verdict),
            "{place}: {told:?}"
        );
        assert!(!rung.because.is_empty(), "{place}");
    }
}

fn check_datagram_rungs(told: &[Rung], expected: Option<Reason>, place: &str) {
    let refused = told.iter().position(|rung| rung.verdict == Verdict::Refuse);
    let expected = expected.map(Reason::index).filter(|index| *index < 3);
    assert_eq!(refused, expected, "{place}: {told:?}");
    assert!(
        told[3..]
            .iter()
            .all(|rung| rung.verdict == Verdict::NotApplicable),
        "{place}"
    );
}
