#![forbid(unsafe_code)]
//! Accounts as entries below one that holds them. No hash or secret is among them.

use std::sync::Arc;

use super::dn::{Dn, escape};
use super::ldif::Record;
use super::schema::Schema;
use super::tree::{Tree, made};

/// The entry that holds the accounts, and one for each.
pub(crate) fn tree<'a>(
    holder: &str,
    names: impl Iterator<Item = &'a str>,
    schema: &Arc<Schema>,
) -> Tree {
    let mut values = Vec::new();
    if let Ok(dn) = Dn::parse(holder, schema)
        && let Some(pair) = dn.rdn().and_then(|rdn| rdn.pairs.first())
    {
        let class = match schema
            .kind(&pair.name)
            .map(|kind| schema.get(kind).name.as_str())
        {
            Some("ou") => "organizationalUnit",
            Some("o") => "organization",
            _ => "extensibleObject",
        };
        values.push(made("objectClass", "top"));
        values.push(made("objectClass", class));
    }
    let top = Record {
        name: made("dn", holder),
        values,
    };
    let entries = names.map(|name| Record {
        name: made("dn", format!("uid={},{holder}", escape(name))),
        values: vec![
            made("objectClass", "account"),
            made("uid", name),
            made("cn", name),
        ],
    });
    Tree::of(schema, std::iter::once(top).chain(entries))
}
