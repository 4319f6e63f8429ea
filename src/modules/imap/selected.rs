#![forbid(unsafe_code)]
//! A mailbox as one session sees it: numbered messages, which change only when the client is told (RFC 3501, 5.2, 7.4.1).

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::write::Out;
use crate::mail::flags::{Flags, Keywords};
use crate::mail::folder::{Folder, State};

/// One message as the client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) uid: u32,
    pub(super) flags: Flags,
    pub(super) is_recent: bool,
}

/// A selected mailbox.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) folder: Arc<Folder>,
    pub(super) rows: Vec<Row>,
    pub(super) is_read_only: bool,
    version: u64,
    /// Messages are gone that the client was not told of.
    is_behind: bool,
    /// How many keywords the client was told of.
    keywords: usize,
}

/// What the client may be told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Telling {
    /// Not while a command's numbers must stay what they are.
    pub(super) expunges: bool,
    /// With the command's own answers (RFC 3501, 6.4.8).
    pub(super) uids: bool,
}

impl Selected {
    /// Opens a mailbox; what the client is told of it goes to `out`.
    pub(super) fn open(folder: Arc<Folder>, is_read_only: bool, out: &mut Out) -> io::Result<Self> {
        let mut selected = Selected {
            folder,
            rows: Vec::new(),
            is_read_only,
            version: 0,
            is_behind: false,
            keywords: 0,
        };
        let mut quiet = Out::default();
        let telling = Telling {
            expunges: true,
            uids: false,
        };
        selected.sync(telling, &mut quiet)?;
        let (validity, next) = {
            let folder = Arc::clone(&selected.folder);
            let state = folder.known();
            selected.tell_flags(&state.keywords, out);
            (state.validity, state.next)
        };
        selected.tell_count(out);
        let unseen = selected
            .rows
            .iter()
            .position(|row| !row.flags.has(Flags::SEEN));
        if let Some(at) = unseen {
            out.line(&format!("* OK [UNSEEN {}] the first unseen", at + 1));
        }
        out.line(&format!("* OK [UIDVALIDITY {validity}] UIDs are valid"));
        out.line(&format!("* OK [UIDNEXT {next}] the next UID"));
        Ok(selected)
    }

    fn tell_flags(&mut self, keywords: &Keywords, out: &mut Out) {
        let all = keywords.all();
        self.keywords = all.len();
        let all = all.join(" ");
        out.line(&format!("* FLAGS ({all})"));
        let permanent = match (self.is_read_only, keywords.may_grow()) {
            (true, _) => String::new(),
            (false, true) => format!("{all} \\*"),
            (false, false) => all,
        };
        out.line(&format!(
            "* OK [PERMANENTFLAGS ({permanent})] these are kept"
        ));
    }

    fn tell_count(&self, out: &mut Out) {
        let recent = self.rows.iter().filter(|row| row.is_recent).count();
        out.line(&format!("* {} EXISTS", self.rows.len()));
        out.line(&format!("* {recent} RECENT"));
    }

    /// The names of a message's flags, in parentheses.
    pub(super) fn flags(&self, row: &Row, keywords: &Keywords) -> String {
        let mut names = keywords.names(row.flags);
        if row.is_recent {
            names.push("\\Recent");
        }
        format!("({})", names.join(" "))
    }

    /// Looks whether anything has changed, and tells it.
    pub(super) fn sync(&mut self, telling: Telling, out: &mut Out) -> io::Result<()> {
        let folder = Arc::clone(&self.folder);
        drop(folder.look()?);
        let claimed = match self.is_read_only {
            true => Vec::new(),
            false => folder.claim(),
        };
        let state = folder.known();
        self.follow(&state, &claimed, telling, out);
        Ok(())
    }

    /// The same where that needs no look at the disk; false where it does.
    pub(super) fn glance(&mut self, telling: Telling, out: &mut Out) -> bool {
        let folder = Arc::clone(&self.folder);
        let Some(state) = folder.glance() else {
            return false;
        };
        if state.entries().iter().any(|entry| entry.message.is_new) && !self.is_read_only {
            return false;
        }
        self.follow(&state, &[], telling, out);
        true
    }

    fn follow(&mut self, state: &State, claimed: &[u32], telling: Telling, out: &mut Out) {
        let is_new = state.version() != self.version;
        if !is_new && claimed.is_empty() && !(self.is_behind && telling.expunges) {
            return;
        }
        self.version = state.version();
        self.is_behind = false;
        self.tell_keywords(state, out);
        let rows = std::mem::take(&mut self.rows);
        let before = rows.len();
        let mut entries = state.entries().iter().peekable();
        let mut kept: Vec<Row> = Vec::with_capacity(state.entries().len());
        let mut expunged = 0;
        for mut row in rows {
            while entries.next_if(|entry| entry.uid < row.uid).is_some() {}
            let number = kept.len() + 1;
            match entries.next_if(|entry| entry.uid == row.uid) {
                Some(entry) => {
                    if entry.flags != row.flags {
                        row.flags = entry.flags;
                        self.tell_row(number, &row, &state.keywords, telling.uids, out);
                    }
                }
                None if telling.expunges => {
                    out.line(&format!("* {number} EXPUNGE"));
                    expunged += 1;
                    continue;
                }
                None => self.is_behind = true,
            }
            kept.push(row);
        }
        kept.extend(entries.map(|entry| Row {
            uid: entry.uid,
            flags: entry.flags,
            is_recent: claimed.binary_search(&entry.uid).is_ok()
                || (self.is_read_only && entry.message.is_new),
        }));
        self.rows = kept;
        if self.rows.len() > before - expunged {
            self.tell_count(out);
        }
    }

    /// Tells the names of flags, if there are new ones.
    pub(super) fn tell_keywords(&mut self, state: &State, out: &mut Out) {
        if state.keywords.all().len() != self.keywords {
            self.tell_flags(&state.keywords, out);
        }
    }

    /// Tells a message's flags.
    pub(super) fn tell_row(
        &self,
        number: usize,
        row: &Row,
        keywords: &Keywords,
        uid: bool,
        out: &mut Out,
    ) {
        let flags = self.flags(row, keywords);
        match uid {
            true => out.line(&format!("* {number} FETCH (UID {} FLAGS {flags})", row.uid)),
            false => out.line(&format!("* {number} FETCH (FLAGS {flags})")),
        }
    }

    /// The flags of a message are what they are now, without a word of it; false when it is gone.
    pub(super) fn update(&mut self, place: usize, state: &State) -> bool {
        let entry = state.entry(self.rows[place].uid);
        if let Some(entry) = entry {
            self.rows[place].flags = entry.flags;
        }
        entry.is_some()
    }

    pub(super) fn uids(&self, places: &[usize]) -> Vec<u32> {
        places.iter().map(|place| self.rows[*place].uid).collect()
    }
}

/// What a refused look at the disk is answered with.
pub(super) fn trouble(error: &io::Error) -> String {
    log::debug!(target: "imap", "a mailbox cannot be used: {error}");
    match error.kind() {
        ErrorKind::NotFound => "NO [NONEXISTENT] there is no such mailbox".to_owned(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "NO [OVERQUOTA] the disk is full".to_owned()
        }
        _ => "NO [UNAVAILABLE] the mailbox cannot be used now".to_owned(),
    }
}
