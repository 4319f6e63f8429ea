#![forbid(unsafe_code)]
//! `accounts.ron`: read with every error at its place, and changed without touching what else stands in it.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{Account, hash, local_part};
use crate::config::ConfigError;
use crate::config::field::{Field, Text};
use crate::files;

/// `{ "ann": (..), .. }`, in the file's order; a name that stands twice is there twice.
struct Rows<'a>(Vec<(Field<'a, String>, Field<'a, Entry<'a>>)>);

/// What stands behind a name.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow, default)]
    pub(super) password: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) secret: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) admin: Field<'a, bool>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Rows<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Rows<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of accounts: { \"name\": (password: \"..\"), .. }")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Rows<'de>, M::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The accounts of a file; `None` when there is no file.
pub(super) fn read(file: &Path) -> Result<Option<Vec<Account>>, Vec<ConfigError>> {
    match text_of(file)? {
        Some(text) => parse(file, &text).map(Some),
        None => Ok(None),
    }
}

fn text_of(file: &Path) -> Result<Option<String>, Vec<ConfigError>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(vec![ConfigError {
            file: file.to_path_buf(),
            line: 1,
            column: 1,
            message: format!("cannot read it: {error}"),
        }]),
    }
}

fn parse(file: &Path, text: &str) -> Result<Vec<Account>, Vec<ConfigError>> {
    let text = Text::new(file, text);
    let mut errors = Vec::new();
    let rows: Option<Rows<'_>> = text.read(text.text, &mut errors);
    let mut accounts: Vec<Account> = Vec::new();
    let mut names = HashMap::new();
    for (name, entry) in rows.map(|rows| rows.0).unwrap_or_default() {
        let local = text.map(name, &mut errors, |name| local_part(&name));
        if let Some(local) = &local
            && names.insert(local.clone(), ()).is_some()
        {
            let message = format!("there are two accounts named {local}");
            text.complain(name, &mut errors, message);
        }
        let account = account(text, local.unwrap_or_default(), entry, &mut errors);
        accounts.extend(account);
    }
    if errors.is_empty() {
        Ok(accounts)
    } else {
        Err(errors)
    }
}

fn account<'a>(
    text: Text<'a>,
    name: String,
    entry: Field<'a, Entry<'a>>,
    errors: &mut Vec<ConfigError>,
) -> Option<Account> {
    let entry: Entry<'a> = text.read(entry.raw()?, errors)?;
    let password = text.map(entry.password, errors, |password: String| {
        hash::check(&password).map(|()| password)
    });
    let secret = text.map(entry.secret, errors, |secret: String| {
        if secret.is_empty() {
            return Err("an empty secret is refused; leave the key out".to_owned());
        }
        Ok(Zeroizing::new(secret))
    });
    Some(Account {
        name: name.into(),
        password,
        secret,
        admin: text.get(entry.admin, errors).unwrap_or(false),
    })
}

/// What is to change of an account; `None` leaves what is there.
#[derive(Default, Clone, Copy)]
pub struct Change<'a> {
    /// The password, in clear; its hash is kept.
    pub password: Option<&'a [u8]>,
    /// The clear secret for CHAP and Digest.
    pub secret: Option<&'a str>,
    /// Whether it may administer the daemon.
    pub admin: Option<bool>,
}

/// Why an account was not changed. The file is as it was.
#[derive(Debug)]
pub enum EditError {
    /// The name, the password or the secret is not fit for an account.
    Unfit(String),
    /// The file is not fit to be changed.
    Config(Vec<ConfigError>),
    /// The system refuses.
    System(std::io::Error),
}

/// Sets an account in a file, which is made when it is not there: atomically, with mode 0600, and with all
/// else that stands in it left as it is. Several at once wait for each other.
///
/// # Errors
/// See [`EditError`].
pub fn set(file: &Path, name: &str, change: &Change<'_>) -> Result<(), EditError> {
    let name = local_part(name).map_err(EditError::Unfit)?;
    if change.secret.is_some_and(str::is_empty) {
        return Err(EditError::Unfit("an empty secret is refused".to_owned()));
    }
    let hash = change.password.map(hash::hash).transpose();
    let hash = hash.map_err(EditError::Unfit)?;
    let keys: Vec<(&str, String)> = [
        ("password", hash.as_deref().map(quoted)),
        ("secret", change.secret.map(quoted)),
        ("admin", change.admin.map(|admin| admin.to_string())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect();

    // The directory is what two writers have in common: the file itself is replaced.
    let parent = file.parent().filter(|parent| *parent != Path::new(""));
    let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(EditError::System)?;
    directory.lock().map_err(EditError::System)?;
    let text = text_of(file).map_err(EditError::Config)?;
    let text = text.unwrap_or_else(|| NEW.to_owned());
    let before = parse(file, &text).map_err(EditError::Config)?;
    let edited = edit(file, &text, &name, &keys);
    let as_meant = |text: &String| {
        let after = parse(file, text).unwrap_or_default();
        is_as_meant(&before, &after, &name, hash.as_deref(), change)
    };
    let Some(edited) = edited.into_iter().find(as_meant) else {
        return Err(EditError::Config(vec![ConfigError {
            file: file.to_path_buf(),
            line: 1,
            column: 1,
            message: "this file's form is too unusual to be changed by a program".to_owned(),
        }]));
    };
    files::replace_private(file, edited.as_bytes()).map_err(EditError::System)
}

const NEW: &str = "\
// Accounts: who may log in and has a mailbox. `portreeve account set NAME` writes here.
{
}
";

/// The text with an account's keys set, in the ways that may fit its form; the first that reads as meant does.
fn edit(file: &Path, text: &str, name: &str, keys: &[(&str, String)]) -> Vec<String> {
    let read = Text::new(file, text);
    let mut errors = Vec::new();
    let rows: Option<Rows<'_>> = read.read(text, &mut errors);
    let rows = rows.map(|rows| rows.0).unwrap_or_default();
    let is_it = |field: &Field<'_, String>| {
        let found = read.get(*field, &mut Vec::new());
        found.is_some_and(|found| local_part(&found).as_deref() == Ok(name))
    };
    if let Some((_, entry)) = rows.iter().find(|(field, _)| is_it(field)) {
        return change_entry(read, *entry, keys).into_iter().collect();
    }
    let list: Vec<String> = keys
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let row = format!("    {}: ({}),\n", quoted(name), list.join(", "));
    let Some(end) = text.rfind('}') else {
        return Vec::new();
    };
    let newline = if text[..end].trim_end_matches([' ', '\t']).ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let mut ways = vec![splice(text, end..end, &format!("{newline}{row}"))];
    // The last entry may lack its comma; which parenthesis closes it shows when the text is read.
    if let Some(raw) = rows.last().and_then(|(_, entry)| entry.raw()) {
        for (at, _) in raw.match_indices(')') {
            let close = read.offset(raw) + at + 1;
            let with_comma = splice(text, close..close, ",");
            let row = format!("{newline}{row}");
            ways.push(splice(&with_comma, end + 1..end + 1, &row));
        }
    }
    ways
}

fn change_entry<'a>(
    read: Text<'a>,
    entry: Field<'a, Entry<'a>>,
    keys: &[(&str, String)],
) -> Option<String> {
    let raw = entry.raw()?;
    let fields: Entry<'a> = read.read(raw, &mut Vec::new())?;
    let mut changes = Vec::new();
    let inside = read.offset(raw) + raw.find('(')? + 1;
    for (key, value) in keys {
        let old = match *key {
            "password" => fields.password.raw(),
            "secret" => fields.secret.raw(),
            _ => fields.admin.raw(),
        };
        changes.push(match old {
            Some(old) => (
                read.offset(old)..read.offset(old) + old.len(),
                value.clone(),
            ),
            None => (inside..inside, format!("{key}: {value}, ")),
        });
    }
    // From the end, so that the earlier places stay where they are.
    changes.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = read.text.to_owned();
    for (range, value) in changes {
        text = splice(&text, range, &value);
    }
    Some(text)
}

fn splice(text: &str, range: std::ops::Range<usize>, with: &str) -> String {
    [&text[..range.start], with, &text[range.end..]].concat()
}

/// A RON string literal.
fn quoted(text: &str) -> String {
    ron::to_string(text).unwrap_or_default()
}

fn is_as_meant(
    before: &[Account],
    after: &[Account],
    name: &str,
    hash: Option<&str>,
    change: &Change<'_>,
) -> bool {
    let mut wanted = before.to_vec();
    if !wanted.iter().any(|account| *account.name == *name) {
        wanted.push(Account {
            name: name.into(),
            password: None,
            secret: None,
            admin: false,
        });
    }
    for account in wanted.iter_mut().filter(|account| *account.name == *name) {
        if let Some(hash) = hash {
            account.password = Some(hash.to_owned());
        }
        if let Some(secret) = change.secret {
            account.secret = Some(Zeroizing::new(secret.to_owned()));
        }
        account.admin = change.admin.unwrap_or(account.admin);
    }
    wanted == after
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{Change, EditError, parse, read, set};

    const HASH: &str = "$6$saltstring$x";

    fn password(password: &[u8]) -> Change<'_> {
        Change {
            password: Some(password),
            ..Change::default()
        }
    }

    #[test]
    fn a_new_account_goes_to_the_end_of_any_file_and_the_rest_stays() {
        for before in [
            "{}",
            "{\n}\n",
            "// all of us\n{\n    \"bob\": (password: \"$6$saltstring$x\"), // the boss\n}\n// end\n",
            "{\"bob\": (password: \"$6$saltstring$x\")}",
            "{\"bob\": (password: \"$6$saltstring$x\") /* (here) */ }",
            "#![enable(implicit_some)]\n{ \"bob\": (), // no comma behind (him)\n }",
            "{ \"a}b\": (), }",
        ] {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join("accounts.ron");
            fs::write(&file, before).unwrap();
            let result = set(&file, "Ann@example.org", &password(b"secret"));
            if before.contains("a}b") {
                assert!(matches!(result, Err(EditError::Config(_))));
                assert_eq!(fs::read_to_string(&file).unwrap(), before);
                continue;
            }
            result.unwrap_or_else(|error| panic!("{before}: {error:?}"));
            let text = fs::read_to_string(&file).unwrap();
            let accounts = read(&file).unwrap().unwrap();
            let ann = accounts.last().unwrap();
            assert_eq!(&*ann.name, "ann");
            assert_eq!(accounts.len(), 1 + usize::from(before.contains("bob")));
            // With the blank behind, since a hash may hold the rest.
            let comments = |text: &str| text.matches("// ").count() + text.matches("/* ").count();
            assert_eq!(comments(&text), comments(before), "{text}");
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_change_touches_only_what_it_is_about() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("accounts.ron");
        let text = format!(
            "{{\n  \"Ann\": ( // me\n    password: \"{HASH}\", /* old */ admin: true,\n  ),\n}}\n"
        );
        fs::write(&file, &text).unwrap();
        let change = Change {
            secret: Some("a \"clear\" one"),
            ..Change::default()
        };
        set(&file, "ann", &change).unwrap();
        let after = fs::read_to_string(&file).unwrap();
        let wanted = text.replace("( // me", "(secret: \"a \\\"clear\\\" one\",  // me");
        assert_eq!(after, wanted);
        set(&file, "ANN", &password(b"new")).unwrap();
        let changed = fs::read_to_string(&file).unwrap();
        assert!(
            changed.contains("/* old */ admin: true") && !changed.contains(HASH),
            "{changed}"
        );
        let account = &read(&file).unwrap().unwrap()[0];
        assert!(account.is_admin() && account.secret() == Some("a \"clear\" one"));
        let change = Change {
            admin: Some(false),
            ..Change::default()
        };
        set(&file, "ann", &change).unwrap();
        assert!(!read(&file).unwrap().unwrap()[0].is_admin());
    }

    #[test]
    fn what_is_unfit_is_refused_and_makes_no_file() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("accounts.ron");
        for (name, secret) in [("../ann", b"x".as_slice()), ("", b"x"), ("ann", b"")] {
            let result = set(&file, name, &password(secret));
            assert!(matches!(result, Err(EditError::Unfit(_))), "{name}");
        }
        assert_eq!(home.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn every_error_has_its_place() {
        let text = "{\n  \"ann\": (password: \"letmein\"),\n  \"Ann\": (),\n  \"b/b\": (secret: \"\"),\n  \"c\": (pass: 1),\n}";
        let errors = parse(Path::new("accounts.ron"), text).unwrap_err();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let starts = [
            "accounts.ron:2:21: expected a password hash",
            "accounts.ron:3:3: there are two accounts named ann",
            "accounts.ron:4:3: expected a name",
            "accounts.ron:4:19: an empty secret",
            "accounts.ron:5:9: Unexpected field named `pass`",
        ];
        assert_eq!(said.len(), starts.len(), "{said:#?}");
        for (said, start) in said.iter().zip(starts) {
            assert!(said.starts_with(start), "{said} instead of {start}");
        }
    }
}
