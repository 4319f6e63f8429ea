#![forbid(unsafe_code)]
//! Entries that the server makes of itself: the root DSE (RFC 4512, 5.1) and the subschema (4.2).

use std::sync::Arc;

use super::ldif::Record;
use super::rules::RULES;
use super::schema::Schema;
use super::tree::{Tree, made};

/// The name of the subschema's entry.
pub(crate) const SUBSCHEMA: &str = "cn=subschema";

/// StartTLS (RFC 4511, 4.14).
pub(crate) const START_TLS: &str = "1.3.6.1.4.1.1466.20037";
/// Who am I? (RFC 4532).
pub(crate) const WHO_AM_I: &str = "1.3.6.1.4.1.4203.1.11.3";
/// Cancel (RFC 3909), which is refused.
pub(crate) const CANCEL: &str = "1.3.6.1.1.8";
/// Paged results (RFC 2696).
pub(crate) const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";
/// ManageDsaIT (RFC 3296): referrals are entries like others here, with it or without.
pub(crate) const MANAGE_DSA_IT: &str = "2.16.840.1.113730.3.4.2";
/// "+" (RFC 3673), and filters that are always true or false (RFC 4526).
const FEATURES: [&str; 2] = ["1.3.6.1.4.1.4203.1.5.1", "1.3.6.1.4.1.4203.1.5.3"];

/// Syntaxes of RFC 4517, 3.3 by the last number of their identifiers.
const SYNTAXES: &[u8] = &[
    3, 6, 7, 11, 12, 14, 15, 16, 17, 21, 22, 23, 24, 25, 26, 27, 28, 30, 31, 34, 35, 36, 37, 38,
    39, 40, 41, 44, 50, 51, 52, 53, 54, 58,
];

/// The root DSE; its name is empty, which no other entry's may be, so it stands in its tree under another one.
pub(crate) fn root_dse<'a>(
    schema: &Arc<Schema>,
    contexts: impl Iterator<Item = &'a str>,
    may_start_tls: bool,
) -> Tree {
    let mut values = vec![
        made("objectClass", "top"),
        made("vendorName", "portreeve"),
        made("supportedLDAPVersion", "3"),
        made("supportedControl", PAGED_RESULTS),
        made("supportedControl", MANAGE_DSA_IT),
        made("supportedExtension", WHO_AM_I),
    ];
    if may_start_tls {
        values.push(made("supportedExtension", START_TLS));
    }
    values.extend(FEATURES.map(|oid| made("supportedFeatures", oid)));
    values.extend(contexts.map(|name| made("namingContexts", name)));
    let name = made("dn", "cn=root-dse");
    let mut tree = Tree::of(schema, [Record { name, values }]);
    if let Some(entry) = tree.entries.first_mut() {
        entry.name = "".into();
        // The value of the name it stood under.
        let cn = schema.kind("cn");
        let attributes = std::mem::take(&mut entry.attributes).into_vec();
        entry.attributes = attributes
            .into_iter()
            .filter(|attribute| Some(attribute.kind) != cn)
            .collect();
    }
    tree
}

/// The subschema's entry, with every definition that is known.
pub(crate) fn subschema(schema: &Arc<Schema>) -> Tree {
    let mut values: Vec<_> = ["top", "subentry", "subschema", "extensibleObject"]
        .map(|class| made("objectClass", class))
        .into();
    values.extend(
        schema
            .type_definitions
            .iter()
            .map(|line| made("attributeTypes", line.as_str())),
    );
    values.extend(
        schema
            .class_definitions
            .iter()
            .map(|line| made("objectClasses", line.as_str())),
    );
    values.extend(RULES.iter().map(|rule| {
        let syntax = match rule.syntax {
            0 => "1.3.6.1.1.16.1".to_owned(),
            number => format!("1.3.6.1.4.1.1466.115.121.1.{number}"),
        };
        made(
            "matchingRules",
            format!("( {} NAME '{}' SYNTAX {syntax} )", rule.oid, rule.name),
        )
    }));
    values.extend(SYNTAXES.iter().map(|number| {
        made(
            "ldapSyntaxes",
            format!("( 1.3.6.1.4.1.1466.115.121.1.{number} )"),
        )
    }));
    values.push(made("ldapSyntaxes", "( 1.3.6.1.1.16.1 )"));
    let name = made("dn", SUBSCHEMA);
    Tree::of(schema, [Record { name, values }])
}
