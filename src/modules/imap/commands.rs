#![forbid(unsafe_code)]
//! What each command does, once it is known to be allowed now.

use std::sync::Arc;

use imap_codec::imap_types::command::CommandBody;
use imap_codec::imap_types::core::Vec1;
use imap_codec::imap_types::extensions::enable::CapabilityEnable;
use imap_codec::imap_types::flag::{Flag, StoreResponse, StoreType};
use imap_codec::imap_types::mailbox::Mailbox;

use super::fetch::Fetch;
use super::folders::{changed, list, lsub, name, pattern, status};
use super::search::{Refusal, Search};
use super::selected::{Selected, Telling, trouble};
use super::session::{Done, Job, Then};
use super::set::{places, set};
use super::write::Out;
use crate::mail::flags::Flags;
use crate::mail::folder::{Change, How};
use crate::mail::folders::{Folders, Name, copy};

/// An answer that needs no look at the disk, or the work that makes one.
pub(super) enum Plan {
    Say(String),
    Work(Job),
}

const IMPOSSIBLE: &str = "NO [CANNOT] such a name is not possible";
const MISSING: &str = "BAD there is no message with that number";

fn work(job: impl FnOnce(Option<Selected>) -> Done + Send + 'static) -> Plan {
    Plan::Work(Box::new(job))
}

/// Work with the selected mailbox.
fn with(job: impl FnOnce(Selected) -> Done + Send + 'static) -> Plan {
    work(|selected| match selected {
        Some(selected) => job(selected),
        None => Done::bye("the mailbox is closed"),
    })
}

/// Work beside the selected mailbox, of which the client is told afterwards.
fn beside(job: impl FnOnce(&mut Out) -> String + Send + 'static) -> Plan {
    work(|selected| {
        let mut out = Out::default();
        let text = job(&mut out);
        let telling = Telling {
            expunges: true,
            uids: false,
        };
        match selected {
            Some(selected) => Done::synced(selected, out, telling, &text),
            None => Done::answer(None, out, &text),
        }
    })
}

/// The same with a folder's name.
fn named(
    mailbox: &Mailbox<'_>,
    job: impl FnOnce(Name, &mut Out) -> String + Send + 'static,
) -> Plan {
    match name(mailbox) {
        Some(name) => beside(move |out| job(name, out)),
        None => Plan::Say(IMPOSSIBLE.to_owned()),
    }
}

/// What a command of somebody who is logged in does; `selected` is the mailbox that is open.
pub(super) fn plan(
    body: CommandBody<'static>,
    folders: &Folders,
    selected: Option<&Selected>,
) -> Plan {
    let folders = folders.clone();
    match body {
        CommandBody::Noop | CommandBody::Check => beside(|_| "OK done".to_owned()),
        CommandBody::Namespace => beside(|out| {
            out.line("* NAMESPACE ((\"\" \"/\")) NIL NIL");
            "OK told".to_owned()
        }),
        CommandBody::Enable { capabilities } => enable(&capabilities),
        CommandBody::List {
            reference,
            mailbox_wildcard,
        } => match pattern(&reference, &mailbox_wildcard) {
            Some(pattern) => beside(move |out| list(&folders, &pattern, out)),
            None => Plan::Say("BAD the pattern is too long".to_owned()),
        },
        CommandBody::Lsub {
            reference,
            mailbox_wildcard,
        } => match pattern(&reference, &mailbox_wildcard) {
            Some(pattern) => beside(move |out| lsub(&folders, &pattern, out)),
            None => Plan::Say("BAD the pattern is too long".to_owned()),
        },
        CommandBody::Status {
            mailbox,
            item_names,
        } => named(&mailbox, move |name, out| {
            status(&folders, &name, &item_names, out)
        }),
        CommandBody::Create { mailbox } => {
            // RFC 3501, 6.3.3: a delimiter at the end tells that names below it will be made.
            let raw = super::folders::raw(&mailbox);
            match Name::of(raw.strip_suffix(b"/").unwrap_or(raw)) {
                Some(name) => beside(move |_| changed(folders.create(&name))),
                None => Plan::Say(IMPOSSIBLE.to_owned()),
            }
        }
        CommandBody::Delete { mailbox } => {
            named(&mailbox, move |name, _| changed(folders.delete(&name)))
        }
        CommandBody::Rename { from, to } => match name(&to) {
            Some(to) => named(&from, move |from, _| changed(folders.rename(&from, &to))),
            None => Plan::Say(IMPOSSIBLE.to_owned()),
        },
        CommandBody::Subscribe { mailbox } => named(&mailbox, move |name, _| {
            changed(folders.subscribe(&name, true))
        }),
        CommandBody::Unsubscribe { mailbox } => named(&mailbox, move |name, _| {
            changed(folders.subscribe(&name, false))
        }),
        CommandBody::Select { mailbox } => select(&mailbox, false, folders),
        CommandBody::Examine { mailbox } => select(&mailbox, true, folders),
        body => match selected {
            Some(selected) => of_selected(body, folders, selected),
            None => Plan::Say("BAD no mailbox is selected".to_owned()),
        },
    }
}

fn enable(_wanted: &Vec1<CapabilityEnable<'_>>) -> Plan {
    // Nothing that we have needs it (RFC 5161, 3.1).
    beside(|out| {
        out.line("* ENABLED");
        "OK nothing more".to_owned()
    })
}

fn select(mailbox: &Mailbox<'_>, is_read_only: bool, folders: Folders) -> Plan {
    let Some(name) = name(mailbox) else {
        return work(|_| Done::answer(None, Out::default(), IMPOSSIBLE));
    };
    work(move |_| {
        let mut out = Out::default();
        let Some(folder) = folders.open(&name) else {
            return Done::answer(None, out, "NO [NONEXISTENT] there is no such mailbox");
        };
        match Selected::open(folder, is_read_only, &mut out) {
            Ok(selected) => {
                let text = match is_read_only {
                    true => "OK [READ-ONLY] selected",
                    false => "OK [READ-WRITE] selected",
                };
                Done::answer(Some(selected), out, text)
            }
            Err(error) => Done::answer(None, Out::default(), &trouble(&error)),
        }
    })
}

fn of_selected(body: CommandBody<'static>, folders: Folders, selected: &Selected) -> Plan {
    let rows = &selected.rows;
    match body {
        CommandBody::Unselect => work(|_| Done::answer(None, Out::default(), "OK unselected")),
        CommandBody::Close => with(|selected| {
            let done = match selected.is_read_only {
                true => 0,
                false => expunge(&selected, None),
            };
            let text = if done == 0 {
                "OK closed"
            } else {
                "OK closed, some messages stay"
            };
            Done::answer(None, Out::default(), text)
        }),
        CommandBody::Expunge => expunging(None, selected),
        CommandBody::ExpungeUid { sequence_set } => match places(&sequence_set, true, rows) {
            Ok(places) => expunging(Some(places), selected),
            Err(_) => Plan::Say(MISSING.to_owned()),
        },
        CommandBody::Search {
            charset,
            criteria,
            uid,
        } => match Search::new(charset.as_ref(), criteria.as_ref(), uid, rows) {
            Ok(search) => with(move |selected| search.run(selected)),
            Err(Refusal::Charset) => {
                Plan::Say("NO [BADCHARSET (US-ASCII UTF-8)] the charset is not known".to_owned())
            }
            Err(Refusal::NoSuchMessage) => Plan::Say(MISSING.to_owned()),
            Err(Refusal::NoText) => Plan::Say("NO [CANNOT] the text is not UTF-8".to_owned()),
        },
        CommandBody::Fetch {
            sequence_set,
            macro_or_item_names,
            uid,
        } => {
            let Ok(places) = places(&sequence_set, uid, rows) else {
                return Plan::Say(MISSING.to_owned());
            };
            match Fetch::new(macro_or_item_names, places, uid) {
                Some((fetch, sees)) => with(move |selected| fetch.run(selected, sees)),
                None => Plan::Say("BAD something of that is not offered".to_owned()),
            }
        }
        CommandBody::Store {
            sequence_set,
            kind,
            response,
            flags,
            uid,
        } => {
            if selected.is_read_only {
                return Plan::Say("NO [READ-ONLY] the mailbox is only examined".to_owned());
            }
            let Ok(places) = places(&sequence_set, uid, rows) else {
                return Plan::Say(MISSING.to_owned());
            };
            let how = match kind {
                StoreType::Replace => How::Replace,
                StoreType::Add => How::Add,
                StoreType::Remove => How::Remove,
            };
            let is_silent = response == StoreResponse::Silent;
            with(move |selected| store(selected, &places, how, &flags, is_silent, uid))
        }
        CommandBody::Copy {
            sequence_set,
            mailbox,
            uid,
        } => copying(&sequence_set, &mailbox, uid, false, folders, selected),
        CommandBody::Move {
            sequence_set,
            mailbox,
            uid,
        } => match selected.is_read_only {
            true => Plan::Say("NO [READ-ONLY] the mailbox is only examined".to_owned()),
            false => copying(&sequence_set, &mailbox, uid, true, folders, selected),
        },
        _ => Plan::Say("BAD that is not offered".to_owned()),
    }
}

fn expunging(places: Option<Vec<usize>>, selected: &Selected) -> Plan {
    if selected.is_read_only {
        return Plan::Say("NO [READ-ONLY] the mailbox is only examined".to_owned());
    }
    with(move |selected| {
        let text = match expunge(&selected, places.as_deref()) {
            0 => "OK expunged",
            _ => "NO [UNAVAILABLE] some messages could not be removed",
        };
        let telling = Telling {
            expunges: true,
            uids: false,
        };
        Done::synced(selected, Out::default(), telling, text)
    })
}

/// Removes what is marked as deleted, of those at these places or of all. How many could not be.
fn expunge(selected: &Selected, places: Option<&[usize]>) -> usize {
    let marked = |uid: &u32| {
        let state = selected.folder.known();
        state
            .entry(*uid)
            .is_some_and(|entry| entry.flags.has(Flags::DELETED))
    };
    let uids = match places {
        Some(places) => selected.uids(places),
        None => selected.rows.iter().map(|row| row.uid).collect(),
    };
    let uids: Vec<u32> = uids.into_iter().filter(marked).collect();
    match uids.is_empty() {
        true => 0,
        false => selected.folder.remove(&uids),
    }
}

fn store(
    mut selected: Selected,
    places: &[usize],
    how: How,
    flags: &[Flag<'_>],
    is_silent: bool,
    uid: bool,
) -> Done {
    let names: Vec<String> = flags
        .iter()
        .filter(|flag| !matches!(flag, Flag::Extension(_)))
        .map(ToString::to_string)
        .collect();
    let folder = Arc::clone(&selected.folder);
    let mut out = Out::default();
    // What has changed before is told first, and then what this changes.
    let telling = Telling {
        expunges: false,
        uids: uid,
    };
    if let Err(error) = selected.sync(telling, &mut out) {
        return Done::lost(&error, out);
    }
    let uids = selected.uids(places);
    let flags = match how {
        // What nobody has needs no place among the keywords.
        How::Remove => {
            let state = folder.known();
            let known = names.iter().filter_map(|name| state.keywords.find(name));
            Ok(known.fold(Flags::default(), Flags::with))
        }
        _ => folder.flags_of(names.iter().map(String::as_str)),
    };
    let done = flags.and_then(|flags| folder.store(&uids, Change { how, flags }));
    if let Err(error) = done {
        return Done::synced(selected, out, telling, &trouble(&error));
    }
    if is_silent {
        let state = folder.known();
        for place in places {
            selected.update(*place, &state);
        }
    } else {
        let state = folder.known();
        selected.tell_keywords(&state, &mut out);
        for place in places {
            if selected.update(*place, &state) {
                let row = selected.rows[*place];
                selected.tell_row(place + 1, &row, &state.keywords, uid, &mut out);
            }
        }
    }
    Done::synced(selected, out, telling, "OK stored")
}

fn copying(
    sequence_set: &imap_codec::imap_types::sequence::SequenceSet,
    mailbox: &Mailbox<'_>,
    uid: bool,
    moves: bool,
    folders: Folders,
    selected: &Selected,
) -> Plan {
    let Ok(places) = places(sequence_set, uid, &selected.rows) else {
        return Plan::Say(MISSING.to_owned());
    };
    let Some(name) = name(mailbox) else {
        return Plan::Say(IMPOSSIBLE.to_owned());
    };
    with(move |selected| {
        let telling = Telling {
            expunges: true,
            uids: uid,
        };
        let mut out = Out::default();
        let Some(target) = folders.open(&name) else {
            return Done::synced(
                selected,
                out,
                telling,
                "NO [TRYCREATE] there is no such mailbox",
            );
        };
        let uids = selected.uids(&places);
        let (folder, validity) = (
            Arc::clone(&selected.folder),
            target.look().map(|state| state.validity),
        );
        let copied = validity.and_then(|validity| Ok((validity, copy(&folder, &target, &uids)?)));
        let (validity, pairs) = match copied {
            Ok(copied) => copied,
            Err(error) => return Done::synced(selected, out, telling, &trouble(&error)),
        };
        if pairs.is_empty() {
            return Done::synced(selected, out, telling, "OK nothing was there");
        }
        let (from, to): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
        let code = format!("[COPYUID {validity} {} {}]", set(&from), set(&to));
        if !moves {
            return Done::synced(selected, out, telling, &format!("OK {code} copied"));
        }
        // RFC 6851, 4.3: told before the messages go.
        out.line(&format!("* OK {code} moved"));
        let text = match folder.remove(&from) {
            0 => "OK moved",
            _ => "NO [UNAVAILABLE] some messages are in both mailboxes now",
        };
        Done::synced(selected, out, telling, text)
    })
}

impl Done {
    /// The client is told what comes then.
    pub(super) fn more(
        selected: Option<Selected>,
        out: Out,
        job: impl FnOnce(Option<Selected>) -> Done + Send + 'static,
    ) -> Self {
        Done {
            selected,
            out,
            then: Then::More(Box::new(job)),
        }
    }

    /// The command is answered.
    pub(super) fn answer(selected: Option<Selected>, out: Out, text: &str) -> Self {
        Done {
            selected,
            out,
            then: Then::Answer(text.to_owned()),
        }
    }

    /// The session ends.
    pub(super) fn bye(text: &str) -> Self {
        Done {
            selected: None,
            out: Out::default(),
            then: Then::Bye(text.to_owned()),
        }
    }

    /// The selected mailbox cannot be used any more, or not now.
    pub(super) fn lost(error: &std::io::Error, out: Out) -> Self {
        log::debug!(target: "imap", "a selected mailbox cannot be read: {error}");
        Done {
            selected: None,
            out,
            then: Then::Bye("the mailbox is gone or cannot be read".to_owned()),
        }
    }

    /// The command is answered, and the client is told what else has changed.
    pub(super) fn synced(
        mut selected: Selected,
        mut out: Out,
        telling: Telling,
        text: &str,
    ) -> Self {
        match selected.sync(telling, &mut out) {
            Ok(()) => Done::answer(Some(selected), out, text),
            Err(error) => Done::lost(&error, out),
        }
    }
}
