#![forbid(unsafe_code)]
//! A directory in memory (RFC 4512): entries from LDIF, their schema, and the search among them. No socket, no file.
//!
//! A [`tree::Tree`] holds entries in the order of the tree, so that a subtree is a range, and an index for every
//! attribute that can be compared. [`search::Search`] walks one or several of them, a piece at a time.

pub(crate) mod accounts;
pub(crate) mod ber;
pub(crate) mod directory;
pub(crate) mod dn;
pub(crate) mod filter;
pub(crate) mod index;
pub(crate) mod ldif;
pub(crate) mod password;
pub(crate) mod rules;
pub(crate) mod schema;
pub(crate) mod search;
pub(crate) mod selection;
pub(crate) mod special;
pub(crate) mod tree;

#[cfg(test)]
mod tests;
