#![forbid(unsafe_code)]
//! Attribute types and object classes (RFC 4512, 4.1), read from the definitions that the subschema shows, too.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::rules::{self, Asks, Rule};

/// An attribute type, by its place in the [`Schema`].
pub(crate) type Kind = u16;

/// What is known of an attribute type.
#[derive(Debug, Clone)]
pub(crate) struct AttributeType {
    pub(crate) oid: String,
    pub(crate) name: String,
    pub(crate) equality: Option<Rule>,
    pub(crate) ordering: Option<Rule>,
    pub(crate) substrings: Option<Rule>,
    pub(crate) is_single: bool,
    pub(crate) is_operational: bool,
    supertype: Option<Kind>,
}

/// The attribute types and object classes of a directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    types: Vec<AttributeType>,
    /// How many of them stand in `schema.txt`.
    known: usize,
    /// Of attribute types, in lower case; object identifiers are among them.
    by_name: HashMap<String, Kind>,
    /// A type and all below it.
    family: Vec<Vec<Kind>>,
    /// Of object classes, in lower case: the name as it is written, and the classes above.
    classes: HashMap<String, (String, Vec<String>)>,
    /// Of object classes and attribute types, in lower case.
    oids: HashMap<String, String>,
    pub(crate) type_definitions: Vec<String>,
    pub(crate) class_definitions: Vec<String>,
}

static BASE: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let mut schema = Schema::default();
    let text = include_str!("schema.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let (types, classes): (Vec<&str>, Vec<&str>) =
        lines.partition(|line| line.starts_with("attributeTypes: "));
    let definition = |line: &str| line.split_once(": ").unwrap_or_default().1.to_owned();
    let mut waiting: Vec<String> = types.into_iter().map(definition).collect();
    // A type may stand before the one above it.
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|line| !schema.define_type(line));
        assert!(
            waiting.len() < before,
            "types above are missing: {waiting:?}"
        );
    }
    for line in classes {
        schema.define_class(&definition(line));
    }
    schema.known = schema.types.len();
    Arc::new(schema)
});

impl Schema {
    /// The types and classes of `schema.txt`.
    pub(crate) fn base() -> Arc<Schema> {
        Arc::clone(&BASE)
    }

    pub(crate) fn get(&self, kind: Kind) -> &AttributeType {
        &self.types[usize::from(kind)]
    }

    /// The type of a name or an object identifier.
    pub(crate) fn kind(&self, name: &str) -> Option<Kind> {
        if let Some(kind) = self.by_name.get(name) {
            return Some(*kind);
        }
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    /// The same, only of those that stand in `schema.txt`: parts of names are compared by them alone, so that the
    /// form of a name does not hang on what was read before it.
    pub(crate) fn known(&self, name: &str) -> Option<&AttributeType> {
        self.kind(name)
            .filter(|kind| self.is_known(*kind))
            .map(|kind| self.get(kind))
    }

    /// True for a type that stands in `schema.txt`.
    pub(crate) fn is_known(&self, kind: Kind) -> bool {
        usize::from(kind) < self.known
    }

    /// The type of a name; one that nobody knows becomes a directory string. `None` when there are 65,536.
    pub(crate) fn kind_or_new(&mut self, name: &str) -> Option<Kind> {
        if let Some(kind) = self.kind(name) {
            return Some(kind);
        }
        if self.types.len() >= usize::from(Kind::MAX) {
            return None;
        }
        let oid = match name.starts_with(|first: char| first.is_ascii_digit()) {
            true => name.to_owned(),
            false => format!("{name}-oid"),
        };
        self.define_type(&format!(
            "( {oid} NAME '{name}' EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch \
             SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )"
        ));
        self.kind(name)
    }

    /// The values of a type that nobody knew are not text.
    pub(crate) fn make_octets(&mut self, kind: Kind) {
        let row = &mut self.types[usize::from(kind)];
        (row.equality, row.substrings) = (Some(Rule::Octets), None);
        let definition = format!(
            "( {} NAME '{}' EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )",
            row.oid, row.name
        );
        self.type_definitions[usize::from(kind)] = definition;
    }

    /// A type and all below it.
    pub(crate) fn family(&self, kind: Kind) -> &[Kind] {
        &self.family[usize::from(kind)]
    }

    /// All types with this rule for equality.
    pub(crate) fn with_equality(&self, rule: Rule) -> impl Iterator<Item = Kind> + '_ {
        (0..)
            .zip(&self.types)
            .filter(move |(_, row)| row.equality == Some(rule))
            .map(|(kind, _)| kind)
    }

    /// The object identifier of a type or class, by its name in lower case.
    pub(crate) fn oid_of(&self, name: &str) -> Option<&str> {
        self.oids.get(name).map(String::as_str)
    }

    /// The classes above an object class, those above them included.
    pub(crate) fn classes_above(&self, class: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        let mut waiting = vec![class.to_ascii_lowercase()];
        while let Some(class) = waiting.pop() {
            let Some((_, above)) = self.classes.get(&class) else {
                continue;
            };
            for above in above {
                let name = self.classes.get(&above.to_ascii_lowercase());
                let name = name.map_or(above.as_str(), |(name, _)| name.as_str());
                if !found.contains(&name) {
                    found.push(name);
                    waiting.push(name.to_ascii_lowercase());
                }
            }
        }
        found
    }

    /// False when the type above is not known yet.
    fn define_type(&mut self, definition: &str) -> bool {
        let words = words(definition);
        let supertype = match first(&words, "SUP") {
            None => None,
            Some(above) => match self.kind(above) {
                Some(kind) => Some(kind),
                None => return false,
            },
        };
        let above = supertype.map(|kind| self.get(kind).clone());
        let rule = |word: &str, asks: Asks, above: Option<Rule>| match first(&words, word) {
            Some(name) => {
                let named = rules::find(name).filter(|named| named.asks == asks);
                named.map(|named| named.rule)
            }
            None => above,
        };
        let above = above.as_ref();
        let names = all(&words, "NAME");
        let oid = words.get(1).cloned().unwrap_or_default();
        let kind = Kind::try_from(self.types.len()).unwrap_or(Kind::MAX);
        self.types.push(AttributeType {
            name: names.first().cloned().unwrap_or_else(|| oid.clone()),
            equality: rule(
                "EQUALITY",
                Asks::Equality,
                above.and_then(|above| above.equality),
            ),
            ordering: rule(
                "ORDERING",
                Asks::Ordering,
                above.and_then(|above| above.ordering),
            ),
            substrings: rule(
                "SUBSTR",
                Asks::Substrings,
                above.and_then(|above| above.substrings),
            ),
            is_single: words.iter().any(|word| word == "SINGLE-VALUE"),
            is_operational: first(&words, "USAGE").is_some_and(|usage| usage != "userApplications"),
            supertype,
            oid: oid.clone(),
        });
        for name in names.into_iter().chain([oid.clone()]) {
            let name = name.to_ascii_lowercase();
            self.oids.insert(name.clone(), oid.clone());
            let before = self.by_name.insert(name, kind);
            debug_assert!(before.is_none() || before == Some(kind), "{definition}");
        }
        self.family.push(vec![kind]);
        let mut above = supertype;
        while let Some(kind_above) = above {
            self.family[usize::from(kind_above)].push(kind);
            above = self.get(kind_above).supertype;
        }
        self.type_definitions.push(definition.to_owned());
        true
    }

    fn define_class(&mut self, definition: &str) {
        let words = words(definition);
        let above = all(&words, "SUP");
        let names = all(&words, "NAME");
        let oid = words.get(1).cloned().unwrap_or_default();
        let shown = names.first().cloned().unwrap_or_else(|| oid.clone());
        for name in names.into_iter().chain([oid.clone()]) {
            let name = name.to_ascii_lowercase();
            self.oids.insert(name.clone(), oid.clone());
            self.classes.insert(name, (shown.clone(), above.clone()));
        }
        self.class_definitions.push(definition.to_owned());
    }
}

/// The words of a definition, without their quotes.
fn words(definition: &str) -> Vec<String> {
    definition
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

/// What stands behind a keyword: one word, or several in parentheses.
fn all(words: &[String], keyword: &str) -> Vec<String> {
    let Some(at) = words.iter().position(|word| word == keyword) else {
        return Vec::new();
    };
    match words.get(at + 1).map(String::as_str) {
        Some("(") => {
            let inside = words[at + 2..].iter().take_while(|word| *word != ")");
            inside.filter(|word| *word != "$").cloned().collect()
        }
        Some(word) => vec![word.to_owned()],
        None => Vec::new(),
    }
}

fn first<'a>(words: &'a [String], keyword: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == keyword)?;
    words.get(at + 1).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::Schema;
    use crate::ldap::rules::Rule;

    #[test]
    fn types_take_from_above_what_they_do_not_say() {
        let schema = Schema::base();
        let cn = schema.get(schema.kind("CommonName").unwrap());
        assert_eq!(
            (cn.name.as_str(), cn.equality),
            ("cn", Some(Rule::CaseIgnore))
        );
        assert_eq!(cn.substrings, Some(Rule::CaseIgnore));
        let name = schema.kind("2.5.4.41").unwrap();
        let family: Vec<_> = schema
            .family(name)
            .iter()
            .map(|kind| schema.get(*kind).name.as_str())
            .collect();
        assert!(
            ["name", "cn", "sn", "ou", "o", "l"]
                .iter()
                .all(|it| family.contains(it)),
            "{family:?}"
        );
        assert_eq!(
            schema.classes_above("INETORGPERSON"),
            ["organizationalPerson", "person", "top"]
        );
        assert!(
            schema
                .get(schema.kind("createTimestamp").unwrap())
                .is_operational
        );
        assert!(schema.get(schema.kind("uidNumber").unwrap()).is_single);
    }

    #[test]
    fn a_type_that_nobody_knows_is_a_string() {
        let mut schema = Schema::clone(&Schema::base());
        assert_eq!(schema.kind("frob"), None);
        let kind = schema.kind_or_new("Frob").unwrap();
        assert_eq!(schema.kind_or_new("FROB"), Some(kind));
        assert_eq!(schema.get(kind).equality, Some(Rule::CaseIgnore));
        schema.make_octets(kind);
        assert_eq!(schema.get(kind).equality, Some(Rule::Octets));
    }
}
