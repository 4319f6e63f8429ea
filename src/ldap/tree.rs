#![forbid(unsafe_code)]
//! Entries in the order of the tree: what stands below an entry follows it, so that a subtree is a range.

use std::collections::{HashMap, HashSet, hash_map};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dn::Dn;
use super::index::Index;
use super::ldif::{Mistake, Record, Value};
use super::schema::{Kind, Schema};

/// No parent.
pub(crate) const NOBODY: u32 = u32::MAX;

/// The values of one attribute, as they were written.
#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) kind: Kind,
    /// In lower case and in order; nearly always none.
    pub(crate) options: Box<[Box<str>]>,
    pub(crate) values: Box<[Box<[u8]>]>,
}

/// An entry. Its passwords are not among its attributes.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name as it was written.
    pub(crate) name: Box<str>,
    pub(crate) parent: u32,
    /// The first entry that does not stand below this one.
    pub(crate) end: u32,
    pub(crate) attributes: Box<[Attribute]>,
}

/// A part of the directory that does not change.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) schema: Arc<Schema>,
    pub(crate) entries: Vec<Entry>,
    by_key: HashMap<Box<[u8]>, u32>,
    passwords: HashMap<u32, Vec<Box<[u8]>>>,
    indices: HashMap<Kind, Index>,
    /// The entries that stand below no other.
    pub(crate) tops: Vec<u32>,
    pub(crate) has_aliases: bool,
    /// No other tree of this process has it.
    pub(crate) serial: u64,
}

/// Attributes that log-ins hang on: kept for them alone, or not at all. They are never shown, searched or compared.
const SECRET: &[&str] = &[
    "userpassword",
    "authpassword",
    "sambantpassword",
    "sambalmpassword",
    "krbprincipalkey",
    "ds-pwp-password",
    "unicodepwd",
];

/// True for an attribute that nobody is shown.
pub(crate) fn is_secret(name: &str) -> bool {
    SECRET.contains(&name.to_ascii_lowercase().as_str()) || name == "2.5.4.35"
}

/// Entries on their way into a tree.
pub(crate) struct Builder {
    /// Copied only where a type comes that nobody knows.
    schema: Arc<Schema>,
    drafts: Vec<Draft>,
    by_key: HashMap<Box<[u8]>, usize>,
}

/// A type with its options, and the values.
type Values = (Kind, Box<[Box<str>]>, Vec<Value>);

struct Draft {
    dn: Dn,
    name: Value,
    attributes: Vec<Values>,
    passwords: Vec<Box<[u8]>>,
}

fn mistake(at: &Value, message: impl Into<String>) -> Mistake {
    Mistake {
        line: at.line,
        column: at.column,
        message: message.into(),
    }
}

/// A value from nowhere, for entries that are made here.
pub(crate) fn made(description: &str, value: impl Into<Vec<u8>>) -> Value {
    Value {
        description: description.to_owned(),
        value: value.into(),
        line: 1,
        column: 1,
    }
}

impl Builder {
    pub(crate) fn new(schema: &Arc<Schema>) -> Self {
        Builder {
            schema: Arc::clone(schema),
            drafts: Vec::new(),
            by_key: HashMap::new(),
        }
    }

    /// Takes an entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn add(&mut self, record: Record) -> Result<(), Mistake> {
        let Record { name, values } = record;
        let text =
            std::str::from_utf8(&name.value).map_err(|_| mistake(&name, "a name is UTF-8"))?;
        let dn = Dn::parse(text, &self.schema).map_err(|error| mistake(&name, error))?;
        if dn.is_empty() {
            return Err(mistake(
                &name,
                "the entry without a name is the server's own",
            ));
        }
        let mut draft = Draft {
            dn,
            name,
            attributes: Vec::new(),
            passwords: Vec::new(),
        };
        for value in values {
            self.put(&mut draft, value)?;
        }
        self.complete(&mut draft)?;
        match self.by_key.entry(draft.dn.key().into_boxed_slice()) {
            hash_map::Entry::Occupied(other) => {
                let line = self.drafts[*other.get()].name.line;
                return Err(mistake(
                    &draft.name,
                    format!("this entry stands in line {line} already"),
                ));
            }
            hash_map::Entry::Vacant(place) => place.insert(self.drafts.len()),
        };
        self.drafts.push(draft);
        Ok(())
    }

    fn put(&mut self, draft: &mut Draft, value: Value) -> Result<(), Mistake> {
        let mut parts = value.description.split(';');
        let name = parts.next().unwrap_or_default();
        if is_secret(name) {
            let kind = self
                .schema
                .kind(name)
                .map(|kind| self.schema.get(kind).name.as_str());
            if kind == Some("userPassword") {
                draft.passwords.push(value.value.into_boxed_slice());
            }
            return Ok(());
        }
        let mut options: Vec<Box<str>> = parts
            .map(|option| option.to_ascii_lowercase().into())
            .collect();
        options.sort();
        options.dedup();
        let options = options.into_boxed_slice();
        let kind = self.schema.kind(name);
        let kind = kind.or_else(|| Arc::make_mut(&mut self.schema).kind_or_new(name));
        let Some(kind) = kind else {
            return Err(mistake(
                &value,
                "there are too many attribute types that nobody knows",
            ));
        };
        if std::str::from_utf8(&value.value).is_err() && !self.schema.is_known(kind) {
            Arc::make_mut(&mut self.schema).make_octets(kind);
        }
        let same = |row: &&mut Values| row.0 == kind && row.1 == options;
        match draft.attributes.iter_mut().find(same) {
            Some((.., values)) => values.push(value),
            None => draft.attributes.push((kind, options, vec![value])),
        }
        Ok(())
    }

    /// Adds what follows from the entry: the classes above its own (RFC 4512, 3.3) and the values of its name.
    fn complete(&mut self, draft: &mut Draft) -> Result<(), Mistake> {
        let class = self.schema.kind("objectClass").unwrap_or(0);
        let Some((.., classes)) = draft.attributes.iter_mut().find(|row| row.0 == class) else {
            return Err(mistake(&draft.name, "this entry has no objectClass"));
        };
        let mut above: Vec<String> = Vec::new();
        let is_there = |name: &str, values: &[Value]| {
            values
                .iter()
                .any(|value| value.value.eq_ignore_ascii_case(name.as_bytes()))
        };
        for value in classes.iter() {
            let Ok(name) = std::str::from_utf8(&value.value) else {
                continue;
            };
            for name in self.schema.classes_above(name) {
                if !is_there(name, classes) && !above.iter().any(|it| it == name) {
                    above.push(name.to_owned());
                }
            }
        }
        classes.extend(above.into_iter().map(|name| made("objectClass", name)));
        let pairs: Vec<(String, Vec<u8>)> = match draft.dn.rdn() {
            Some(rdn) => rdn
                .pairs
                .iter()
                .map(|pair| (pair.name.clone(), pair.value.clone()))
                .collect(),
            None => Vec::new(),
        };
        for (name, value) in pairs {
            if is_secret(&name) {
                return Err(mistake(
                    &draft.name,
                    format!("{name} cannot be part of a name"),
                ));
            }
            let kind = self.schema.kind(&name);
            let rule = kind.and_then(|kind| self.schema.get(kind).equality);
            let form = rule.and_then(|rule| rule.normal(&value, &self.schema));
            let has = draft
                .attributes
                .iter()
                .filter(|row| Some(row.0) == kind && row.1.is_empty())
                .any(|(.., values)| {
                    values.iter().any(|it| {
                        it.value == value
                            || (form.is_some()
                                && rule.and_then(|rule| rule.normal(&it.value, &self.schema))
                                    == form)
                    })
                });
            if !has {
                self.put(
                    draft,
                    Value {
                        description: name,
                        value,
                        ..draft.name.clone()
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Makes the tree.
    ///
    /// # Errors
    /// What is wrong between the entries, or with their values.
    pub(crate) fn finish(self) -> Result<Tree, Vec<Mistake>> {
        let Builder {
            schema,
            drafts,
            by_key,
        } = self;
        let mut mistakes = Vec::new();
        let mut below: Vec<Vec<u32>> = vec![Vec::new(); drafts.len()];
        let mut tops = Vec::new();
        for (at, draft) in (0_u32..).zip(&drafts) {
            match by_key.get(&draft.dn.key_above(1)[..]) {
                Some(parent) => below[*parent].push(at),
                None if (2..draft.dn.len())
                    .any(|skipped| by_key.contains_key(&draft.dn.key_above(skipped)[..])) =>
                {
                    mistakes.push(mistake(&draft.name, "the entry above this one is missing"));
                }
                None => tops.push(at),
            }
        }
        let mut tree = Tree {
            entries: Vec::with_capacity(drafts.len()),
            by_key: HashMap::with_capacity(drafts.len()),
            passwords: HashMap::new(),
            indices: HashMap::new(),
            tops: Vec::new(),
            has_aliases: false,
            serial: next_serial(),
            schema,
        };
        let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
        for top in tops {
            tree.tops
                .push(u32::try_from(tree.entries.len()).unwrap_or(NOBODY));
            tree.plant(top, &below, &mut drafts, &mut mistakes);
        }
        tree.indices.values_mut().for_each(Index::finish);
        let class = tree.schema.kind("objectClass").unwrap_or(0);
        let alias = tree.schema.oid_of("alias").unwrap_or_default();
        tree.has_aliases = tree
            .index(class)
            .and_then(|index| index.equal(alias.as_bytes()))
            .is_some_and(|rows| !rows.is_empty());
        mistakes.truncate(100);
        if mistakes.is_empty() {
            Ok(tree)
        } else {
            Err(mistakes)
        }
    }
}

fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

impl Tree {
    /// A tree of entries that are made here, and good.
    pub(crate) fn of(schema: &Arc<Schema>, records: impl IntoIterator<Item = Record>) -> Tree {
        let mut builder = Builder::new(schema);
        for record in records {
            let taken = builder.add(record);
            debug_assert!(taken.is_ok(), "{taken:?}");
        }
        builder.finish().unwrap_or_else(|mistakes| {
            debug_assert!(false, "{mistakes:?}");
            Tree::empty(schema)
        })
    }

    fn empty(schema: &Arc<Schema>) -> Tree {
        Tree {
            schema: Arc::clone(schema),
            entries: Vec::new(),
            by_key: HashMap::new(),
            passwords: HashMap::new(),
            indices: HashMap::new(),
            tops: Vec::new(),
            has_aliases: false,
            serial: next_serial(),
        }
    }

    /// The entry of a name's [`Dn::key`].
    pub(crate) fn find(&self, key: &[u8]) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn entry(&self, id: u32) -> &Entry {
        &self.entries[id as usize]
    }

    /// The entry's `userPassword` values.
    pub(crate) fn passwords(&self, id: u32) -> &[Box<[u8]>] {
        self.passwords.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn index(&self, kind: Kind) -> Option<&Index> {
        self.indices.get(&kind)
    }

    /// Adds an entry and all below it. Not by recursion: a file may be deep.
    fn plant(
        &mut self,
        top: u32,
        below: &[Vec<u32>],
        drafts: &mut [Option<Draft>],
        mistakes: &mut Vec<Mistake>,
    ) {
        enum Step {
            Enter(u32, u32),
            Leave(u32),
        }
        let mut steps = vec![Step::Enter(top, NOBODY)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(at, parent) => {
                    let id = u32::try_from(self.entries.len()).unwrap_or(NOBODY);
                    if let Some(draft) = drafts[at as usize].take() {
                        self.settle(draft, id, parent, mistakes);
                    }
                    steps.push(Step::Leave(id));
                    steps.extend(
                        below[at as usize]
                            .iter()
                            .rev()
                            .map(|child| Step::Enter(*child, id)),
                    );
                }
                Step::Leave(id) => {
                    let end = u32::try_from(self.entries.len()).unwrap_or(NOBODY);
                    if let Some(entry) = self.entries.get_mut(id as usize) {
                        entry.end = end;
                    }
                }
            }
        }
    }

    fn settle(&mut self, draft: Draft, id: u32, parent: u32, mistakes: &mut Vec<Mistake>) {
        let schema = Arc::clone(&self.schema);
        let mut attributes = Vec::with_capacity(draft.attributes.len());
        for (kind, options, values) in draft.attributes {
            let row = schema.get(kind);
            if row.is_single && values.len() > 1 {
                mistakes.push(mistake(&values[1], format!("{} has one value", row.name)));
            }
            let index = self.indices.entry(kind).or_default();
            index.hold(id);
            let mut forms = HashSet::new();
            for value in &values {
                let form = row.equality.map(|rule| rule.normal(&value.value, &schema));
                match form {
                    Some(None) => {
                        mistakes.push(mistake(value, format!("this is no value of {}", row.name)))
                    }
                    Some(Some(form)) => {
                        index.add(Some(&form), id);
                        // One value is the common case, and is equal to no other.
                        if values.len() > 1 && !forms.insert(form) {
                            mistakes.push(mistake(
                                value,
                                format!("this value of {} stands here twice", row.name),
                            ));
                        }
                    }
                    None => index.add(None, id),
                }
            }
            attributes.push(Attribute {
                kind,
                options,
                values: values
                    .into_iter()
                    .map(|value| value.value.into_boxed_slice())
                    .collect(),
            });
        }
        if !draft.passwords.is_empty() {
            self.passwords.insert(id, draft.passwords);
        }
        self.by_key.insert(draft.dn.key().into_boxed_slice(), id);
        self.entries.push(Entry {
            name: String::from_utf8_lossy(&draft.name.value).into(),
            parent,
            end: id + 1,
            attributes: attributes.into_boxed_slice(),
        });
    }
}
