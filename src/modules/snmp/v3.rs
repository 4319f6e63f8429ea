#![forbid(unsafe_code)]
//! Messages of version 3 (RFC 3412, 7; RFC 3414, 3). Pure but for salts.

use std::time::Instant;

use rasn::types::ObjectIdentifier;

use super::engine::Engine;
use super::message::{
    AUTH, Binding, Header, PRIVACY, Pdu, Pdus, REPORTABLE, Scoped, ScopedData, Secured,
    UsmParameters, Value,
};
use super::objects::{MPD_STATS, USM_STATS};
use super::respond::{AUTHORIZATION_ERROR, failed};
use super::usm::{User, iv};

/// Seconds that a message's time may differ from ours (RFC 3414, 2.2.3).
const WINDOW: u32 = 150;
/// The largest message that we take, in bytes.
pub(super) const MAX_SIZE: u16 = 65_507;
/// The user-based security model (RFC 3411, 5).
const USM: i32 = 3;
/// Head of a message around its bindings, at most: header, security parameters with 48 bytes of digest, names.
const OVERHEAD: usize = 256;

/// Counters of the message processing and of the security model, by their place in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stat {
    UnknownSecurityModels,
    InvalidMsgs,
    UnsupportedSecLevels,
    NotInTimeWindows,
    UnknownUserNames,
    UnknownEngineIds,
    WrongDigests,
    DecryptionErrors,
}

impl Stat {
    /// Its place in `snmpMPDStats` (false) or `usmStats` (true), from 0.
    pub(super) fn place(self) -> (bool, usize) {
        match self {
            Stat::UnknownSecurityModels => (false, 0),
            Stat::InvalidMsgs => (false, 1),
            Stat::UnsupportedSecLevels => (true, 0),
            Stat::NotInTimeWindows => (true, 1),
            Stat::UnknownUserNames => (true, 2),
            Stat::UnknownEngineIds => (true, 3),
            Stat::WrongDigests => (true, 4),
            Stat::DecryptionErrors => (true, 5),
        }
    }

    fn name(self) -> Vec<u32> {
        let (usm, place) = self.place();
        let group = if usm { &USM_STATS } else { &MPD_STATS };
        let object = u32::try_from(place + 1).unwrap_or(0);
        [&group[..], &[object, 0]].concat()
    }
}

/// What surrounds a message.
pub(super) struct Surroundings<'a> {
    pub(super) engine: &'a Engine,
    pub(super) users: &'a [User],
    pub(super) now: Instant,
    /// Counts one, and tells the new value.
    pub(super) count: &'a dyn Fn(Stat) -> u32,
    /// Answers a PDU of an authentic message, with room for so many bytes of bindings.
    pub(super) respond: &'a dyn Fn(&Pdus, usize) -> Option<Pdu>,
    /// The most bytes of an answer.
    pub(super) most: usize,
}

/// The answer to a message of version 3.
pub(super) fn answer(bytes: &[u8], around: &Surroundings<'_>) -> Option<Vec<u8>> {
    let (message, usm) = decode(bytes, around)?;
    let flags = message.header.flags.first().copied().unwrap_or(0);
    let engine = around.engine;
    let report = |stat: Stat, user: Option<&User>| {
        let request_id = match &message.data {
            ScopedData::Plain(scoped) => scoped.data.pdu().request_id,
            ScopedData::Encrypted(_) => 0,
        };
        let value = (around.count)(stat);
        // RFC 3412, 7.1, 3d: only what can be answered earns a report.
        (flags & REPORTABLE != 0).then_some(())?;
        let binding = Binding {
            name: ObjectIdentifier::new_unchecked(stat.name().into()),
            value: Value::Counter32(value).encode(0),
        };
        let pdu = Pdu {
            request_id,
            status: 0,
            index: 0,
            bindings: vec![binding],
        };
        let level = user.map(|user| (user, AUTH));
        write(&message, &usm, Pdus::Report(pdu), level, around)
    };
    if usm.engine != engine.id[..] {
        return report(Stat::UnknownEngineIds, None);
    }
    let user = around
        .users
        .iter()
        .find(|user| user.name.as_bytes() == &usm.user[..]);
    let Some(user) = user else {
        return report(Stat::UnknownUserNames, None);
    };
    if flags & AUTH == 0 {
        return unauthorized(&message, &usm, around);
    }
    if flags & PRIVACY != 0 && user.privacy.is_none() {
        return report(Stat::UnsupportedSecLevels, None);
    }
    if !is_authentic(bytes, &usm, user, engine) {
        return report(Stat::WrongDigests, None);
    }
    let (boots, time) = (engine.boots, engine.time(around.now));
    let theirs = u32::try_from(usm.time).unwrap_or(u32::MAX);
    if u32::try_from(usm.boots) != Ok(boots) || theirs.abs_diff(time) > WINDOW {
        return report(Stat::NotInTimeWindows, Some(user));
    }
    let scoped = match &message.data {
        ScopedData::Plain(scoped) if flags & PRIVACY == 0 => Some(scoped.clone()),
        ScopedData::Encrypted(bytes) if flags & PRIVACY != 0 => {
            decrypt(bytes, &usm, user, engine, boots, theirs)
        }
        _ => None,
    };
    let Some(scoped) = scoped else {
        return report(Stat::DecryptionErrors, Some(user));
    };
    // One context only, and that is ours.
    if scoped.engine != engine.id[..] || !scoped.name.is_empty() {
        return None;
    }
    let level = flags & (AUTH | PRIVACY);
    if user.privacy.is_some() && level & PRIVACY == 0 {
        // A user with a key for secrecy is not heard in clear.
        let answer = failed(scoped.data.pdu(), AUTHORIZATION_ERROR, 0);
        return write(
            &message,
            &usm,
            Pdus::Response(answer),
            Some((user, level)),
            around,
        );
    }
    let theirs = usize::try_from(message.header.max_size).unwrap_or(484);
    let most = around.most.min(theirs);
    let room = most.saturating_sub(OVERHEAD);
    let answer = (around.respond)(&scoped.data, room)?;
    write(
        &message,
        &usm,
        Pdus::Response(answer),
        Some((user, level)),
        around,
    )
}

fn decode(bytes: &[u8], around: &Surroundings<'_>) -> Option<(Secured, UsmParameters)> {
    let decoded = rasn::ber::decode::<Secured>(bytes).ok();
    let sound = decoded.filter(|message| {
        let flags = message.header.flags.first().copied().unwrap_or(0);
        // Secrecy without authenticity is no level (RFC 3412, 6.4), and 484 bytes everybody takes.
        message.header.flags.len() == 1
            && flags & (AUTH | PRIVACY) != PRIVACY
            && message.header.max_size >= 484
            && message.header.message_id >= 0
    });
    let Some(message) = sound else {
        (around.count)(Stat::InvalidMsgs);
        return None;
    };
    if message.header.model != USM {
        (around.count)(Stat::UnknownSecurityModels);
        return None;
    }
    match rasn::ber::decode::<UsmParameters>(&message.security) {
        Ok(usm) => Some((message, usm)),
        Err(_) => {
            (around.count)(Stat::InvalidMsgs);
            None
        }
    }
}

/// A known user without any proof: told that this is not enough, in clear (RFC 3413, 3.2).
fn unauthorized(
    message: &Secured,
    usm: &UsmParameters,
    around: &Surroundings<'_>,
) -> Option<Vec<u8>> {
    let ScopedData::Plain(scoped) = &message.data else {
        return None;
    };
    match &scoped.data {
        Pdus::Get(pdu) | Pdus::GetNext(pdu) | Pdus::GetBulk(pdu) | Pdus::Set(pdu) => {
            let mut answer = failed(pdu, AUTHORIZATION_ERROR, 0);
            answer.bindings.clear();
            write(message, usm, Pdus::Response(answer), None, around)
        }
        _ => None,
    }
}

/// Whether the digest is right; compared in constant time.
fn is_authentic(bytes: &[u8], usm: &UsmParameters, user: &User, engine: &Engine) -> bool {
    let digest = &usm.authentication;
    if digest.len() != user.authentication.length() {
        return false;
    }
    let mut zeroed = bytes.to_vec();
    // Where its digest stands twice, a message is not one that any user has signed.
    let Some(at) = memchr::memmem::find(&zeroed, digest) else {
        return false;
    };
    zeroed[at..at + digest.len()].fill(0);
    let expected = user.digest(&engine.id, &zeroed);
    aws_lc_rs::constant_time::verify_slices_are_equal(&expected, digest).is_ok()
}

fn decrypt(
    bytes: &[u8],
    usm: &UsmParameters,
    user: &User,
    engine: &Engine,
    boots: u32,
    time: u32,
) -> Option<Scoped> {
    let salt = <[u8; 8]>::try_from(&usm.privacy[..]).ok()?;
    let mut bytes = bytes.to_vec();
    user.decrypt(&engine.id, iv(boots, time, salt), &mut bytes)?;
    // RFC 3414, 8.1.1.2 lets padding follow.
    rasn::ber::decode_with_remainder::<Scoped>(&bytes)
        .ok()
        .map(|(scoped, _)| scoped)
}

/// A whole message back to the sender, at a user's level or with no security at all.
fn write(
    asked: &Secured,
    usm: &UsmParameters,
    data: Pdus,
    level: Option<(&User, u8)>,
    around: &Surroundings<'_>,
) -> Option<Vec<u8>> {
    let engine = around.engine;
    let (boots, time) = (engine.boots, engine.time(around.now));
    let scoped = Scoped {
        engine: engine.id.clone().into(),
        name: Vec::new().into(),
        data,
    };
    let mut parameters = UsmParameters {
        engine: engine.id.clone().into(),
        boots: i32::try_from(boots).ok()?,
        time: i32::try_from(time).ok()?,
        user: usm.user.clone(),
        authentication: Vec::new().into(),
        privacy: Vec::new().into(),
    };
    let (user, flags) = match level {
        Some((user, flags)) => (Some(user), flags),
        None => (None, 0),
    };
    let mut data = ScopedData::Plain(scoped);
    if let (Some(user), ScopedData::Plain(scoped)) = (user, &data)
        && flags & PRIVACY != 0
    {
        let salt = engine.salt();
        let mut bytes = rasn::ber::encode(scoped).ok()?;
        user.encrypt(&engine.id, iv(boots, time, salt), &mut bytes)?;
        parameters.privacy = salt.to_vec().into();
        data = ScopedData::Encrypted(bytes.into());
    }
    // Zeros hold the place of the digest until the rest of the message is known (RFC 3414, 6.3.1).
    let zeros = user.map_or(0, |user| user.authentication.length());
    parameters.authentication = vec![0; zeros].into();
    let security = rasn::ber::encode(&parameters).ok()?;
    let digest_at = digest_place(&parameters);
    let message = Secured {
        version: 3,
        header: Header {
            message_id: asked.header.message_id,
            max_size: MAX_SIZE.into(),
            flags: vec![flags].into(),
            model: USM,
        },
        security: security.clone().into(),
        data,
    };
    let mut bytes = rasn::ber::encode(&message).ok()?;
    if let Some(user) = user {
        let digest = user.digest(&engine.id, &bytes);
        let at = memchr::memmem::find(&bytes, &security)? + digest_at;
        bytes
            .get_mut(at..at + digest.len())?
            .copy_from_slice(&digest);
    }
    (bytes.len() <= around.most).then_some(bytes)
}

/// Where the digest begins in encoded parameters: they end with it and the salt.
fn digest_place(parameters: &UsmParameters) -> usize {
    let total = rasn::ber::encode(parameters).map_or(0, |bytes| bytes.len());
    let salt = parameters.privacy.len() + 2;
    total.saturating_sub(salt + parameters.authentication.len())
}
