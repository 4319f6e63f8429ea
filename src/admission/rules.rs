#![forbid(unsafe_code)]
//! The rules of admission, one test for each sentence of the design. Pure: no socket, clock or thread.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bans::Bans;
use super::ladder::{Admitted, Reason, Restriction, Verdict, clear, explain};
use super::limits::{LimitSettings, Limits};
use super::testing::list;
use crate::config::plan::Network;

const CLIENT: &str = "10.0.0.1";
const OTHER: &str = "192.0.2.1";
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

struct Listener {
    network: Network,
    bans: Bans,
    restriction: Restriction,
    limits: Arc<Limits>,
}

impl Listener {
    fn new(settings: LimitSettings) -> Self {
        Listener {
            network: Network {
                clients: list("10.0.0.0/8"),
                ipv6_prefix: 64,
                ..Network::default()
            },
            bans: Bans::new(),
            restriction: Restriction::Open,
            limits: Arc::new(Limits::new(settings)),
        }
    }

    fn arrive(&self, address: &str) -> Result<Admitted, Reason> {
        let address = address.parse().unwrap();
        let cleared = clear(address, &self.network, &self.bans, &self.restriction, NOW)?;
        self.limits.admit(cleared).map_err(|(reason, _)| reason)
    }

    fn refusal(&self, address: &str) -> Option<Reason> {
        self.arrive(address).err()
    }

    /// `count` connections of clients with addresses of their own.
    fn fill(&self, count: u32) -> Vec<Admitted> {
        (0..count)
            .map(|n| self.arrive(&format!("10.1.0.{n}")).unwrap())
            .collect()
    }
}

fn settings(channels: u32, reserve_for_clients: u32) -> LimitSettings {
    LimitSettings {
        channels,
        reserve_for_clients,
        ..LimitSettings::default()
    }
}

fn per_address(clients: Option<u32>, others: Option<u32>) -> LimitSettings {
    LimitSettings {
        limit_per_address: clients,
        limit_non_clients: others,
        ..LimitSettings::default()
    }
}

#[test]
fn channels_and_reserve_count_those_before_the_newcomer() {
    use Reason::{Full, Reserved};
    for (channels, reserve, active, client, other) in [
        (10, 3, 6, None, None),
        (10, 3, 7, None, Some(Reserved)),
        (10, 3, 9, None, Some(Reserved)),
        (10, 3, 10, Some(Full), Some(Full)),
        // A reserve of 0 changes nothing.
        (10, 0, 9, None, None),
        (10, 0, 10, Some(Full), Some(Full)),
        // One as large as the channels, or larger, keeps every other out.
        (10, 10, 0, None, Some(Reserved)),
        (10, u32::MAX, 0, None, Some(Reserved)),
        (0, 0, 0, Some(Full), Some(Full)),
        (1, 0, 0, None, None),
    ] {
        let listener = Listener::new(settings(channels, reserve));
        let held = listener.fill(active);
        let case = format!("channels {channels}, reserve {reserve}, active {active}");
        assert_eq!(listener.refusal(CLIENT), client, "client, {case}");
        assert_eq!(listener.refusal(OTHER), other, "other, {case}");
        assert_eq!(listener.limits.active() as usize, held.len(), "{case}");
    }
}

#[test]
fn the_first_rung_that_refuses_names_the_reason() {
    let mut listener = Listener::new(LimitSettings {
        limit_per_address: Some(0),
        ..settings(0, 5)
    });
    listener.network.denied = list(OTHER);
    listener.bans.ban(
        OTHER.parse::<IpAddr>().unwrap().into(),
        NOW + Duration::from_secs(9),
    );
    listener.restriction = Restriction::Grant(list(""));
    assert_eq!(listener.refusal(OTHER), Some(Reason::Denied));
    listener.network.denied = list("");
    assert_eq!(listener.refusal(OTHER), Some(Reason::Banned));
    listener.bans = Bans::new();
    assert_eq!(listener.refusal(OTHER), Some(Reason::Restricted));
    listener.restriction = Restriction::Open;
    assert_eq!(listener.refusal(OTHER), Some(Reason::Full));
    let mut settings = listener.limits.settings();
    settings.channels = 1;
    listener.limits.replace(settings);
    assert_eq!(listener.refusal(OTHER), Some(Reason::Reserved));
    settings.reserve_for_clients = 0;
    listener.limits.replace(settings);
    assert_eq!(listener.refusal(OTHER), Some(Reason::AddressLimit));
}

#[test]
fn denied_beats_grant() {
    let mut listener = Listener::new(LimitSettings::default());
    listener.restriction = Restriction::Grant(list(CLIENT));
    assert_eq!(listener.refusal(CLIENT), None);
    listener.network.denied = list(CLIENT);
    assert_eq!(listener.refusal(CLIENT), Some(Reason::Denied));
}

#[test]
fn grant_lets_only_the_listed_in_and_deny_keeps_the_listed_out() {
    let refused = Some(Reason::Restricted);
    for (restriction, client, other) in [
        (Restriction::Open, None, None),
        (Restriction::Grant(list(CLIENT)), None, refused),
        (Restriction::Deny(list(CLIENT)), refused, None),
        // An empty Grant admits nobody; an empty Deny admits everybody.
        (Restriction::Grant(list("")), refused, refused),
        (Restriction::Deny(list("")), None, None),
    ] {
        let mut listener = Listener::new(LimitSettings::default());
        listener.restriction = restriction.clone();
        assert_eq!(listener.refusal(CLIENT), client, "{restriction:?}");
        assert_eq!(listener.refusal(OTHER), other, "{restriction:?}");
    }
}

#[test]
fn clients_and_others_have_their_own_limits_per_address() {
    for (clients, others, client_gets, other_gets) in [
        (Some(3), Some(1), 3, 1),
        (Some(2), Some(2), 2, 2),
        // Others have what clients have unless told otherwise.
        (Some(2), None, 2, 2),
        // Absent means no limit.
        (None, None, 20, 20),
        (None, Some(1), 20, 1),
    ] {
        for (address, gets) in [(CLIENT, client_gets), (OTHER, other_gets)] {
            let listener = Listener::new(per_address(clients, others));
            let held: Vec<_> = (0..20)
                .map_while(|_| listener.arrive(address).ok())
                .collect();
            assert_eq!(held.len(), gets, "{address} of {clients:?}, {others:?}");
        }
    }
}

#[test]
fn cluster_members_skip_only_the_per_address_rung() {
    let mut listener = Listener::new(LimitSettings {
        limit_per_address: Some(1),
        ..settings(4, 1)
    });
    listener.network.cluster = list(OTHER);
    let held: Vec<_> = (0..3).map(|_| listener.arrive(OTHER).unwrap()).collect();
    assert_eq!(
        listener.limits.count_of(held[0].address(), 64),
        3,
        "counted all the same"
    );
    assert_eq!(listener.refusal(OTHER), Some(Reason::Reserved));
    listener.limits.replace(settings(3, 0));
    assert_eq!(listener.refusal(OTHER), Some(Reason::Full));
    listener.restriction = Restriction::Deny(list(OTHER));
    assert_eq!(listener.refusal(OTHER), Some(Reason::Restricted));
    listener.network.denied = list(OTHER);
    assert_eq!(listener.refusal(OTHER), Some(Reason::Denied));
}

#[test]
fn mapped_ipv4_is_ipv4_in_lists_counts_and_answers() {
    let mut listener = Listener::new(per_address(Some(1), None));
    let held = listener.arrive("::ffff:10.0.0.1").unwrap();
    assert_eq!(held.address(), CLIENT.parse::<IpAddr>().unwrap());
    assert_eq!(held.class().name(), "client");
    assert_eq!(listener.refusal(CLIENT), Some(Reason::AddressLimit));
    listener.network.denied = list(OTHER);
    assert_eq!(listener.refusal("::ffff:192.0.2.1"), Some(Reason::Denied));
}

#[test]
fn ipv6_is_counted_by_prefix() {
    let refused = Some(Reason::AddressLimit);
    for (prefix, same_64, next_64) in [
        (64, refused, None),
        (128, None, None),
        (48, refused, refused),
        (1, refused, refused),
    ] {
        let mut listener = Listener::new(per_address(Some(1), None));
        listener.network.ipv6_prefix = prefix;
        let _held = listener.arrive("2001:db8::1").unwrap();
        assert_eq!(listener.refusal("2001:db8::2"), same_64, "/{prefix}");
        assert_eq!(listener.refusal("2001:db8:0:1::1"), next_64, "/{prefix}");
    }
}

#[test]
fn a_refused_connection_takes_nothing_and_its_proof_can_be_tried_again() {
    let listener = Listener::new(settings(1, 0));
    let held = listener.arrive(OTHER).unwrap();
    let address = CLIENT.parse().unwrap();
    let cleared = clear(
        address,
        &listener.network,
        &listener.bans,
        &Restriction::Open,
        NOW,
    )
    .unwrap();
    let (reason, cleared) = listener.limits.admit(cleared).unwrap_err();
    assert_eq!(reason, Reason::Full);
    assert_eq!(
        (listener.limits.active(), listener.limits.addresses()),
        (1, 1)
    );
    drop(held);
    assert_eq!(listener.limits.admit(cleared).unwrap().address(), address);
}

#[test]
fn counts_survive_new_settings_and_a_new_prefix() {
    let mut listener = Listener::new(settings(5, 0));
    let mut held = listener.fill(5);
    held.pop();
    held.push(listener.arrive("2001:db8::1").unwrap());
    listener.limits.replace(settings(3, 0));
    listener.network.ipv6_prefix = 128;
    held.drain(..2);
    assert_eq!(listener.refusal(CLIENT), Some(Reason::Full));
    drop(held);
    assert_eq!(
        (listener.limits.active(), listener.limits.addresses()),
        (0, 0)
    );
}

#[test]
fn explain_cites_the_line_that_decided() {
    let mut listener = Listener::new(LimitSettings::default());
    listener.network.denied = list("192.0.2.0/24\n!192.0.2.1");
    listener.restriction = Restriction::Grant(list("10.9.0.0/16"));
    let limits = LimitSettings::default();
    let rungs = |address: &str| {
        let (network, counts) = (&listener.network, Some((&limits, 4, 0)));
        explain(
            address.parse().unwrap(),
            network,
            &listener.bans,
            &listener.restriction,
            counts,
            NOW,
        )
    };
    assert_eq!(rungs("192.0.2.2")[0].because, "listed by list:1");
    assert_eq!(rungs("192.0.2.2")[1].verdict, Verdict::NotReached);
    assert_eq!(rungs(OTHER)[0].because, "taken out by list:2");
    assert_eq!(rungs(OTHER)[2].because, "Grant: on no line");
    assert_eq!(rungs("10.9.0.1")[3].because, "4 of 100 channels taken");
    listener.bans.ban(
        "10.0.0.0/8".parse().unwrap(),
        NOW + Duration::from_millis(61_500),
    );
    let told = explain(
        CLIENT.parse().unwrap(),
        &listener.network,
        &listener.bans,
        &Restriction::Open,
        None,
        NOW,
    );
    assert_eq!(told[1].because, "banned for another 1m 2s");
}
