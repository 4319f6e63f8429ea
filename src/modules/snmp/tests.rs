#![forbid(unsafe_code)]
//! An agent without a socket: questions and answers, bad ones, and what version 3 refuses.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use rasn::types::{Any, ObjectIdentifier};
use tempfile::TempDir;

use super::engine::Engine;
use super::message::{
    AUTH, Binding, Community, END_OF_MIB_VIEW, Header, NO_SUCH_INSTANCE, NO_SUCH_OBJECT, NULL,
    PRIVACY, Pdu, Pdus, REPORTABLE, Scoped, ScopedData, Secured, UsmParameters,
};
use super::objects::System;
use super::usm::{Authentication, Privacy, User, iv};
use super::{Counters, Snmp};
use crate::control::{Commands, Link, Request, Response};
use crate::server::status::{ListenerStatus, Status, WorkerStatus};
use crate::session::Class;
use crate::session::datagram_bench::Bench;

/// A daemon with two listeners.
struct Daemon;

impl Commands for Daemon {
    fn execute(&self, _request: &Request) -> Response {
        let listener = |name: &str, transport: &str, accepted| ListenerStatus {
            name: name.to_owned(),
            transport: transport.to_owned(),
            accepted,
            rejected: [("denied".to_owned(), 7)].into(),
            ..ListenerStatus::default()
        };
        Response::of(&Status {
            listeners: vec![
                listener("echo", "tcp", u64::MAX),
                listener("snmp", "udp", 5),
            ],
            workers: WorkerStatus { total: 8, busy: 1 },
            overload: None,
            shared: None,
        })
    }
}

/// An agent, its surroundings, and what keeps them alive.
struct Agent {
    snmp: Snmp,
    bench: Bench,
    home: TempDir,
    _daemon: Arc<dyn Commands>,
}

fn user(name: &str, privacy: bool) -> User {
    let authentication = Authentication::Sha256("maplesyrup".to_owned());
    let privacy = privacy.then(|| Privacy::Aes128("sirupdérable".to_owned()));
    User::new(name.to_owned(), authentication, privacy)
}

impl Agent {
    fn new() -> Self {
        let daemon: Arc<dyn Commands> = Arc::new(Daemon);
        let link = Link::default();
        link.bind(Arc::downgrade(&daemon));
        let home = tempfile::tempdir().expect("a directory");
        Agent {
            snmp: Snmp {
                communities: vec!["public".to_owned()],
                users: vec![user("secret", true), user("plain", false)],
                system: System::default(),
                link,
                state_dir: home.path().to_path_buf(),
                counters: Counters::default(),
                latest: Mutex::default(),
            },
            bench: Bench::new(),
            home,
            _daemon: daemon,
        }
    }

    fn says(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let from = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let mut answers = self.bench.ask(&self.snmp, from, bytes);
        assert!(answers.len() <= 1, "{answers:?}");
        answers.pop()
    }

    fn asks(&mut self, version: i32, data: Pdus) -> Option<Pdu> {
        let message = Community {
            version,
            community: b"public".to_vec().into(),
            data,
        };
        let answer = self.says(&rasn::ber::encode(&message).expect("encodes"))?;
        let answer: Community = rasn::ber::decode(&answer).expect("decodes");
        assert_eq!(answer.version, version);
        match answer.data {
            Pdus::Response(pdu) => Some(pdu),
            other => panic!("{other:?}"),
        }
    }
}

fn pdu(names: &[&[u32]], status: i32, index: i32) -> Pdu {
    let binding = |name: &&[u32]| Binding {
        name: ObjectIdentifier::new_unchecked(name.to_vec().into()),
        value: Any::new(NULL.to_vec()),
    };
    Pdu {
        request_id: -5,
        status,
        index,
        bindings: names.iter().map(binding).collect(),
    }
}

fn words(pdu: &Pdu) -> Vec<String> {
    let word = |binding: &Binding| format!("{} {:02x?}", binding.name, binding.value.as_bytes());
    pdu.bindings.iter().map(word).collect()
}

const NAME: &[u32] = &[1, 3, 6, 1, 2, 1, 1, 5, 0];
const MIB: &[u32] = &[1, 3, 6, 1, 4, 1, 32473, 7007];

#[test]
fn names_have_values_exceptions_or_in_version_1_errors() {
    let mut agent = Agent::new();
    let names: &[&[u32]] = &[
        NAME,
        &[1, 3, 6, 1, 2, 1, 1, 5, 1],
        &[1, 3, 6, 1, 2, 1, 2, 1, 0],
    ];
    let answer = agent
        .asks(1, Pdus::Get(pdu(names, 0, 0)))
        .expect("an answer");
    assert_eq!((answer.request_id, answer.status), (-5, 0));
    let values: Vec<_> = answer
        .bindings
        .iter()
        .map(|binding| binding.value.as_bytes().to_vec())
        .collect();
    assert_eq!(values, [&[4, 0][..], &NO_SUCH_INSTANCE, &NO_SUCH_OBJECT]);
    let answer = agent
        .asks(0, Pdus::Get(pdu(names, 0, 0)))
        .expect("an answer");
    assert_eq!(
        (answer.status, answer.index, answer.bindings.len()),
        (2, 2, 3)
    );
    let answer = agent
        .asks(1, Pdus::Set(pdu(&[NAME], 0, 0)))
        .expect("an answer");
    assert_eq!((answer.status, answer.index), (17, 1));
    let answer = agent
        .asks(0, Pdus::Set(pdu(&[NAME], 0, 0)))
        .expect("an answer");
    assert_eq!((answer.status, answer.index), (2, 1));
    for silent in [
        Pdus::Response(pdu(&[NAME], 0, 0)),
        Pdus::Trap(pdu(&[NAME], 0, 0)),
        Pdus::Inform(pdu(&[], 0, 0)),
    ] {
        assert_eq!(agent.asks(1, silent), None);
    }
}

#[test]
fn a_walk_meets_every_listener_in_order_and_ends() {
    for (version, class) in [(1, Class::Client), (1, Class::Other), (0, Class::Client)] {
        let mut agent = Agent::new();
        agent.bench.class = class;
        let mut name = vec![1, 3];
        let mut seen = Vec::new();
        loop {
            let answer = agent
                .asks(version, Pdus::GetNext(pdu(&[&name], 0, 0)))
                .expect("an answer");
            if answer.status == 2 || answer.bindings[0].value.as_bytes() == END_OF_MIB_VIEW {
                break;
            }
            let next: &[u32] = answer.bindings[0].name.as_ref();
            assert!(next > name.as_slice(), "{next:?} after {name:?}");
            name = next.to_vec();
            seen.push((name.clone(), answer.bindings[0].value.as_bytes().to_vec()));
        }
        let value = |rest: &[u32]| {
            let name = [MIB, rest].concat();
            seen.iter()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| value.as_slice())
        };
        assert_eq!(value(&[1, 2, 1, 2, 1]), Some(&b"\x04\x04echo"[..]));
        assert_eq!(value(&[1, 2, 1, 3, 2]), Some(&[2, 1, 2][..]));
        let counters = [value(&[1, 2, 1, 7, 2]), value(&[1, 3, 1, 2, 2, 1])];
        match version {
            0 => assert_eq!(counters, [None, None], "64 bits in version 1"),
            _ => assert_eq!(counters, [Some(&[0x46, 1, 5][..]), Some(&[0x46, 1, 7])]),
        }
    }
}

#[test]
fn bulk_is_bounded_by_size_and_for_strangers_by_the_question() {
    let mut agent = Agent::new();
    let bulk = || Pdus::GetBulk(pdu(&[NAME, &[1, 3]], 1, i32::MAX));
    agent.bench.class = Class::Client;
    let answer = agent.asks(1, bulk()).expect("an answer");
    assert!(answer.bindings.len() > 20, "{}", answer.bindings.len());
    let size = rasn::ber::encode(&answer).expect("encodes").len();
    assert!((1200..=1472).contains(&size), "{size} bytes");
    agent.bench.class = Class::Other;
    let answer = agent.asks(1, bulk()).expect("an answer");
    assert!(
        (1..8).contains(&answer.bindings.len()),
        "{}",
        answer.bindings.len()
    );
    for (non_repeaters, repetitions, expected) in
        [(-1, 0, 0), (9, 5, 2), (1, -3, 1), (0, 1, 2), (1, 1, 2)]
    {
        let asked = Pdus::GetBulk(pdu(&[NAME, &[1, 3]], non_repeaters, repetitions));
        let answer = agent.asks(1, asked).expect("an answer");
        assert_eq!(
            answer.bindings.len(),
            expected,
            "{non_repeaters}, {repetitions}"
        );
    }
    assert_eq!(agent.asks(0, bulk()), None, "version 1 knows no bulk");
    agent.bench.class = Class::Client;
    let end = Pdus::GetBulk(pdu(&[&[2, 1]], 0, 9));
    let answer = agent.asks(1, end).expect("an answer");
    assert_eq!(words(&answer), ["2.1 [82, 00]"]);
}

#[test]
fn what_does_not_fit_is_said_to_be_too_big() {
    let mut agent = Agent::new();
    agent.bench.class = Class::Client;
    let about: &[u32] = &[1, 3, 6, 1, 2, 1, 1, 9, 1, 3, 1];
    let names = vec![about; 40];
    let answer = agent
        .asks(1, Pdus::Get(pdu(&names, 0, 0)))
        .expect("an answer");
    assert_eq!((answer.status, answer.bindings.len()), (1, 0));
    let answer = agent
        .asks(0, Pdus::Get(pdu(&names, 0, 0)))
        .expect("an answer");
    assert_eq!((answer.status, answer.bindings.len()), (1, 40));
    // The question itself would not fit.
    assert_eq!(agent.asks(0, Pdus::Get(pdu(&vec![about; 200], 0, 0))), None);
}

#[test]
fn a_wrong_community_and_noise_are_counted_in_silence() {
    let mut agent = Agent::new();
    let message = Community {
        version: 1,
        community: b"private".to_vec().into(),
        data: Pdus::Get(pdu(&[NAME], 0, 0)),
    };
    let mut bytes = rasn::ber::encode(&message).expect("encodes");
    assert_eq!(agent.says(&bytes), None);
    for end in 0..bytes.len() {
        assert_eq!(agent.says(&bytes[..end]), None, "cut at {end}");
    }
    bytes[4] = 2;
    assert_eq!(agent.says(&bytes), None);
    // Sequences in sequences, a thousand deep, and lengths that lie.
    assert_eq!(
        agent.says(
            &[
                b"\x30\x82\x07\xd0\x02\x01\x01".to_vec(),
                [0x30, 0x80].repeat(1000)
            ]
            .concat()
        ),
        None
    );
    for lie in [
        &b"\x30\x84\xff\xff\xff\xff\x02\x01\x01\x04\x84\xff\xff\xff\xff"[..],
        b"\x30\x80\x02\x01\x01\x04\x80",
    ] {
        assert_eq!(agent.says(lie), None);
    }
    let counts = agent.snmp.counters.sample();
    assert_eq!((counts.bad_communities, counts.bad_versions), (1, 1));
    assert!(counts.parse_errors > 40, "{counts:?}");
}

/// What a manager sends in version 3.
#[derive(Clone)]
struct Manager {
    user: &'static str,
    flags: u8,
    engine: Vec<u8>,
    boots: u32,
    time: u32,
}

impl Manager {
    fn writes(&self, data: Pdus) -> Vec<u8> {
        let key = user(self.user, self.user != "plain");
        let scoped = Scoped {
            engine: self.engine.clone().into(),
            name: Vec::new().into(),
            data,
        };
        let (mut data, mut salt) = (ScopedData::Plain(scoped.clone()), Vec::new());
        if self.flags & PRIVACY != 0 {
            let mut bytes = rasn::ber::encode(&scoped).expect("encodes");
            key.encrypt(&self.engine, iv(self.boots, self.time, [9; 8]), &mut bytes);
            data = ScopedData::Encrypted(bytes.into());
            salt = vec![9; 8];
        }
        // A holder that is found again.
        let holder = if self.flags & AUTH != 0 {
            vec![0xa5; 24]
        } else {
            Vec::new()
        };
        let parameters = UsmParameters {
            engine: self.engine.clone().into(),
            boots: i32::try_from(self.boots).expect("31 bits"),
            time: i32::try_from(self.time).expect("31 bits"),
            user: self.user.as_bytes().to_vec().into(),
            authentication: holder.clone().into(),
            privacy: salt.into(),
        };
        let message = Secured {
            version: 3,
            header: Header {
                message_id: 77,
                max_size: 1000,
                flags: vec![self.flags].into(),
                model: 3,
            },
            security: rasn::ber::encode(&parameters).expect("encodes").into(),
            data,
        };
        let mut bytes = rasn::ber::encode(&message).expect("encodes");
        if self.flags & AUTH != 0 {
            let at = memchr::memmem::find(&bytes, &holder).expect("is there");
            bytes[at..at + 24].fill(0);
            let digest = key.digest(&self.engine, &bytes);
            bytes[at..at + 24].copy_from_slice(&digest);
        }
        bytes
    }

    /// The PDU of an answer at the level that it must have.
    fn reads(&self, bytes: &[u8], flags: u8) -> Pdus {
        let message: Secured = rasn::ber::decode(bytes).expect("decodes");
        assert_eq!(
            (message.header.message_id, &message.header.flags[..]),
            (77, &[flags][..])
        );
        let usm: UsmParameters = rasn::ber::decode(&message.security).expect("decodes");
        let key = user(self.user, true);
        if flags & AUTH != 0 {
            let at = memchr::memmem::find(bytes, &usm.authentication).expect("is there");
            let mut zeroed = bytes.to_vec();
            zeroed[at..at + 24].fill(0);
            assert_eq!(
                key.digest(&usm.engine, &zeroed),
                usm.authentication.to_vec()
            );
        }
        match message.data {
            ScopedData::Plain(scoped) => scoped.data,
            ScopedData::Encrypted(bytes) => {
                let mut bytes = bytes.to_vec();
                let salt = usm.privacy[..].try_into().expect("8 bytes");
                let (boots, time) = (u32::try_from(usm.boots), u32::try_from(usm.time));
                let iv = iv(boots.expect("31 bits"), time.expect("31 bits"), salt);
                key.decrypt(&usm.engine, iv, &mut bytes).expect("a key");
                rasn::ber::decode::<Scoped>(&bytes).expect("decodes").data
            }
        }
    }
}

/// The last numbers of a report's name: group and object.
fn reported(data: &Pdus) -> Vec<u32> {
    let Pdus::Report(pdu) = data else {
        panic!("no report: {data:?}");
    };
    let name: &[u32] = pdu.bindings[0].name.as_ref();
    name[6..].to_vec()
}

const GET: fn() -> Pdus = || Pdus::Get(pdu(&[NAME], 0, 0));

impl Agent {
    fn manager(&self, user: &'static str, flags: u8) -> Manager {
        let engine = Engine::of(self.home.path(), self.bench.now).expect("an engine");
        Manager {
            user,
            flags: flags | REPORTABLE,
            engine: engine.id.clone(),
            boots: engine.boots,
            time: engine.time(self.bench.now),
        }
    }
}

#[test]
fn version_3_answers_at_the_level_of_the_question() {
    let mut agent = Agent::new();
    for (user, flags) in [("secret", AUTH | PRIVACY), ("plain", AUTH)] {
        let manager = agent.manager(user, flags);
        let answer = agent.says(&manager.writes(GET())).expect("an answer");
        let Pdus::Response(answer) = manager.reads(&answer, flags) else {
            panic!("no response");
        };
        assert_eq!(
            (answer.status, answer.bindings[0].value.as_bytes()),
            (0, &[4, 0][..])
        );
    }
}

#[test]
fn version_3_says_what_is_wrong() {
    let mut agent = Agent::new();
    let good = agent.manager("secret", AUTH | PRIVACY);
    let usm = |object| vec![15, 1, 1, object, 0];
    let stranger = Manager {
        engine: b"another".to_vec(),
        flags: REPORTABLE,
        ..good.clone()
    };
    let unknown = Manager {
        user: "nobody",
        ..good.clone()
    };
    let late = Manager {
        boots: good.boots + 1,
        ..good.clone()
    };
    let early = Manager {
        time: good.time + 151,
        ..good.clone()
    };
    let too_secret = Manager {
        user: "plain",
        ..good.clone()
    };
    for (manager, flags, expected) in [
        (stranger, 0, usm(4)),
        (unknown, 0, usm(3)),
        (late, AUTH, usm(2)),
        (early, AUTH, usm(2)),
        (too_secret, 0, usm(1)),
    ] {
        let answer = agent.says(&manager.writes(GET())).expect("a report");
        assert_eq!(reported(&manager.reads(&answer, flags)), expected);
        let silent = Manager {
            flags: manager.flags & !REPORTABLE,
            ..manager
        };
        assert_eq!(agent.says(&silent.writes(GET())), None, "{expected:?}");
    }
    let mut forged = good.writes(GET());
    *forged.last_mut().expect("bytes") ^= 1;
    let answer = agent.says(&forged).expect("a report");
    assert_eq!(reported(&good.reads(&answer, 0)), usm(5));
    // A user with a key for secrecy gets nothing without it.
    for (flags, level) in [(REPORTABLE, 0), (REPORTABLE | AUTH, AUTH)] {
        let clear = Manager {
            flags,
            ..good.clone()
        };
        let answer = agent.says(&clear.writes(GET())).expect("an answer");
        assert_eq!(clear.reads(&answer, level).pdu().status, 16);
    }
}

#[test]
fn version_3_cut_or_changed_anywhere_tells_nothing() {
    let mut agent = Agent::new();
    let whole = agent.manager("secret", AUTH | PRIVACY).writes(GET());
    for end in 0..whole.len() {
        assert_eq!(agent.says(&whole[..end]), None, "cut at {end}");
        let mut changed = whole.clone();
        changed[end] ^= 0x55;
        if let Some(answer) = agent.says(&changed) {
            let message: Secured = rasn::ber::decode(&answer).expect("decodes");
            let ScopedData::Plain(scoped) = message.data else {
                panic!("a secret answer to a changed question, at {end}");
            };
            let refused = matches!(scoped.data, Pdus::Report(_)) || scoped.data.pdu().status == 16;
            assert!(refused, "changed at {end}: {:?}", scoped.data);
        }
    }
}

#[test]
fn every_message_cut_at_every_byte_is_dropped_in_silence() {
    let mut agent = Agent::new();
    let own = || pdu(&[NAME, MIB], 0, 0);
    for (version, data) in [
        (0, Pdus::Get(own())),
        (0, Pdus::GetNext(own())),
        (1, Pdus::GetBulk(pdu(&[NAME, MIB], 1, 5))),
        (1, Pdus::Set(own())),
        (1, Pdus::Inform(own())),
        (1, Pdus::Trap(own())),
        (1, Pdus::Response(own())),
        (1, Pdus::Report(own())),
    ] {
        let message = Community {
            version,
            community: b"public".to_vec().into(),
            data,
        };
        let whole = rasn::ber::encode(&message).expect("encodes");
        for end in 0..whole.len() {
            assert_eq!(agent.says(&whole[..end]), None, "{message:?} cut at {end}");
        }
    }
}

/// A length of BER in front of what it counts, or claims to.
fn tagged(tag: u8, length: &[u8], content: &[u8]) -> Vec<u8> {
    [&[tag], length, content].concat()
}

#[test]
fn nested_and_lying_ber_is_dropped_in_silence() {
    let mut agent = Agent::new();
    // As deep as a datagram goes: sequences in sequences, of a definite length and without an end.
    let mut nested = Vec::new();
    while nested.len() < 60_000 {
        let length = u16::try_from(nested.len()).expect("fits").to_be_bytes();
        nested = tagged(0x30, &[0x82, length[0], length[1]], &nested);
    }
    assert_eq!(agent.says(&nested), None);
    assert_eq!(agent.says(&[0x30, 0x80].repeat(30_000)), None);
    // Where a value belongs.
    let head = [&b"\x02\x01\x01\x04\x06public"[..]].concat();
    let inside = [&head[..], &[0xa0, 0x82, 0x70, 0], &nested[..20_000]].concat();
    assert_eq!(
        agent.says(&tagged(0x30, &[0x82, 0x75, 0x30], &inside)),
        None
    );
    let message = Community {
        version: 1,
        community: b"public".to_vec().into(),
        data: GET(),
    };
    let whole = rasn::ber::encode(&message).expect("encodes");
    assert!(agent.says(&whole).is_some());
    // Each byte in turn as the length it may be: too short, too long, of many bytes, or of none.
    for place in 0..whole.len() {
        for length in [
            &[0][..],
            &[1],
            &[0x7f],
            &[0x80],
            &[0x81, 0xff],
            &[0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x88; 9],
            &[0xff; 128],
        ] {
            let lying = [&whole[..place], length, &whole[place + 1..]].concat();
            if let Some(answer) = agent.says(&lying) {
                assert!(answer.len() <= 1472, "{length:02x?} at {place}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_datagram_breaks_the_agent(bytes in proptest::collection::vec(any::<u8>(), 0..200), places in proptest::collection::vec((0..100_usize, any::<u8>()), 1..6)) {
        let mut agent = Agent::new();
        agent.says(&bytes);
        let message = Community { version: 1, community: b"public".to_vec().into(), data: Pdus::GetBulk(pdu(&[NAME, MIB], 1, 5)) };
        for mut question in [rasn::ber::encode(&message).expect("encodes"), agent.manager("secret", AUTH | PRIVACY).writes(GET())] {
            for (place, byte) in &places {
                let place = place % question.len();
                question[place] = *byte;
            }
            if let Some(answer) = agent.says(&question) {
                prop_assert!(answer.len() <= 1472);
            }
        }
    }
}
