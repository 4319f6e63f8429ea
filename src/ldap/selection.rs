#![forbid(unsafe_code)]
//! Attribute descriptions (RFC 4512, 2.5), which of them a search wants (RFC 4511, 4.5.1.8), and an entry's answer.

use std::borrow::Cow;

use super::ber;
use super::schema::{Kind, Schema};
use super::special::SUBSCHEMA;
use super::tree::{Tree, is_secret};

/// A type with options, and the types below it.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    pub(crate) kind: Kind,
    pub(crate) kinds: Vec<Kind>,
    /// In lower case; a value is meant that has at least these.
    options: Vec<Box<str>>,
}

impl Description {
    /// `None` for a type that nobody knows, and for one that is kept secret.
    pub(crate) fn find(text: &str, schema: &Schema) -> Option<Description> {
        let mut parts = text.split(';');
        let kind = schema.kind(parts.next()?)?;
        if is_secret(&schema.get(kind).name) {
            return None;
        }
        Some(Description {
            kind,
            kinds: schema.family(kind).to_vec(),
            options: parts
                .map(|option| option.to_ascii_lowercase().into())
                .collect(),
        })
    }

    fn means(&self, kind: Kind, options: &[Box<str>]) -> bool {
        self.kinds.contains(&kind) && self.options.iter().all(|option| options.contains(option))
    }

    /// True where `test` holds for one of the values that an entry has.
    pub(crate) fn any_value(
        &self,
        tree: &Tree,
        id: u32,
        mut test: impl FnMut(Kind, &[u8]) -> bool,
    ) -> bool {
        let stored = tree.entry(id).attributes.iter();
        let mut stored = stored.filter(|attribute| self.means(attribute.kind, &attribute.options));
        if stored.any(|attribute| {
            attribute
                .values
                .iter()
                .any(|value| test(attribute.kind, value))
        }) {
            return true;
        }
        self.options.is_empty()
            && self.kinds.iter().any(|kind| {
                let found = Virtual::of(*kind, &tree.schema);
                found.is_some_and(|found| test(*kind, found.value(tree, id).as_bytes()))
            })
    }
}

/// Attributes that are not kept, since they follow from the entry's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Virtual {
    /// RFC 5020.
    EntryDn,
    /// RFC 4512, 4.2.
    Subschema,
    /// X.501.
    HasSubordinates,
}

const VIRTUAL: [(&str, Virtual); 3] = [
    ("entryDN", Virtual::EntryDn),
    ("subschemaSubentry", Virtual::Subschema),
    ("hasSubordinates", Virtual::HasSubordinates),
];

impl Virtual {
    pub(crate) fn of(kind: Kind, schema: &Schema) -> Option<Virtual> {
        let row = schema.get(kind);
        if !row.is_operational {
            return None;
        }
        VIRTUAL
            .iter()
            .find(|(name, _)| *name == row.name)
            .map(|(_, it)| *it)
    }

    pub(crate) fn value(self, tree: &Tree, id: u32) -> Cow<'_, str> {
        let entry = tree.entry(id);
        match self {
            Virtual::EntryDn => Cow::Borrowed(&entry.name),
            Virtual::Subschema => Cow::Borrowed(SUBSCHEMA),
            Virtual::HasSubordinates if entry.end > id + 1 => Cow::Borrowed("TRUE"),
            Virtual::HasSubordinates => Cow::Borrowed("FALSE"),
        }
    }
}

/// What a search wants to see of the entries it finds.
#[derive(Debug)]
pub(crate) struct Selection {
    all_user: bool,
    all_operational: bool,
    named: Vec<Description>,
    types_only: bool,
}

impl Selection {
    /// No names, or `*`, are all user attributes; `+` is all operational ones (RFC 3673); `1.1` is none. Names that
    /// nobody knows are passed over.
    pub(crate) fn of<'a>(
        names: impl ExactSizeIterator<Item = &'a str>,
        types_only: bool,
        schema: &Schema,
    ) -> Selection {
        let mut selection = Selection {
            all_user: names.len() == 0,
            all_operational: false,
            named: Vec::new(),
            types_only,
        };
        for name in names {
            match name {
                "*" => selection.all_user = true,
                "+" => selection.all_operational = true,
                _ => selection.named.extend(Description::find(name, schema)),
            }
        }
        selection
    }

    fn wants(&self, kind: Kind, options: &[Box<str>], schema: &Schema) -> bool {
        let all = match schema.get(kind).is_operational {
            true => self.all_operational,
            false => self.all_user,
        };
        all || self
            .named
            .iter()
            .any(|description| description.means(kind, options))
    }

    /// Writes an entry as a SearchResultEntry (RFC 4511, 4.5.2).
    pub(crate) fn write(&self, out: &mut Vec<u8>, tree: &Tree, id: u32) {
        const SEARCH_RESULT_ENTRY: u8 = 0x64;
        let entry = tree.entry(id);
        ber::wrap(out, SEARCH_RESULT_ENTRY, |out| {
            ber::octets(out, ber::OCTETS, entry.name.as_bytes());
            ber::wrap(out, ber::SEQUENCE, |out| {
                for attribute in &entry.attributes {
                    if self.wants(attribute.kind, &attribute.options, &tree.schema) {
                        let values = attribute.values.iter().map(|value| &**value);
                        self.attribute(out, tree, attribute.kind, &attribute.options, values);
                    }
                }
                for (name, found) in VIRTUAL {
                    if let Some(kind) = tree
                        .schema
                        .kind(name)
                        .filter(|kind| self.wants(*kind, &[], &tree.schema))
                    {
                        let has = |attribute: &super::tree::Attribute| attribute.kind == kind;
                        if !entry.attributes.iter().any(has) {
                            let value = found.value(tree, id);
                            self.attribute(out, tree, kind, &[], std::iter::once(value.as_bytes()));
                        }
                    }
                }
            });
        });
    }

    fn attribute<'a>(
        &self,
        out: &mut Vec<u8>,
        tree: &Tree,
        kind: Kind,
        options: &[Box<str>],
        values: impl Iterator<Item = &'a [u8]>,
    ) {
        ber::wrap(out, ber::SEQUENCE, |out| {
            let name = tree.schema.get(kind).name.as_str();
            match options {
                [] => ber::octets(out, ber::OCTETS, name.as_bytes()),
                _ => ber::octets(
                    out,
                    ber::OCTETS,
                    format!("{name};{}", options.join(";")).as_bytes(),
                ),
            }
            ber::wrap(out, ber::SET, |out| {
                if !self.types_only {
                    values.for_each(|value| ber::octets(out, ber::OCTETS, value));
                }
            });
        });
    }
}
