#![forbid(unsafe_code)]
//! The directory as a whole, without the protocol.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rasn::types::OctetString;
use rasn_ldap::{
    AttributeValueAssertion, Filter as Asked, MatchingRuleAssertion, SubstringChoice,
    SubstringFilter,
};

use super::dn::Dn;
use super::filter::{Filter, MOST_ITEMS};
use super::ldif::{self, Mistake};
use super::schema::Schema;
use super::search::{Found, Part, Scope, Search};
use super::selection::Selection;
use super::tree::{Builder, Tree};

fn read(text: &[u8]) -> Result<Tree, Vec<Mistake>> {
    let mut builder = Builder::new(&Schema::base());
    ldif::read(text, |record| builder.add(record))?;
    builder.finish()
}

const TEXT: &str = "version: 1\n\
    dn: uid=ann,ou=people,dc=org\nobjectClass: inetOrgPerson\nuid: ann\ncn: Ann Lee\nsn: Lee\nmail: ann@a.org\n\
    uidNumber: 5\ntelephoneNumber: +1 555-0100\ndescription;lang-de: Chefin\nuserPassword: secret\nuserPassword;x: y\nfrob: A b\n\n\
    dn: dc=org\nobjectClass: domain\ndc: org\n\n\
    dn: ou=people,dc=org\nobjectClass: organizationalUnit\n\n\
    dn: uid=bob,ou=people,dc=org\nobjectClass: inetOrgPerson\ncn: Bob\nsn: Lee\nuidNumber: 40\nmanager: UID=Ann, ou=People,dc=org\n\
    createTimestamp: 20260101000000Z\njpegPhoto:: //4=\nblob:: //4=\n\n\
    dn: ou=groups,dc=org\nobjectClass: organizationalUnit\n\n\
    dn: cn=link,ou=groups,dc=org\nobjectClass: alias\nobjectClass: extensibleObject\naliasedObjectName: uid=ann,ou=people,dc=org\n";

fn octets(text: &str) -> OctetString {
    OctetString::from(text.as_bytes().to_vec())
}

fn assertion(name: &str, value: &str) -> AttributeValueAssertion {
    AttributeValueAssertion::new(name.into(), octets(value))
}

fn equal(name: &str, value: &str) -> Asked {
    Asked::EqualityMatch(assertion(name, value))
}

fn substrings(name: &str, text: &str) -> Asked {
    let pieces: Vec<&str> = text.split('*').collect();
    let last = pieces.len() - 1;
    let choice = |(at, piece): (usize, &&str)| match at {
        0 => SubstringChoice::Initial(octets(piece)),
        _ if at == last => SubstringChoice::Final(octets(piece)),
        _ => SubstringChoice::Any(octets(piece)),
    };
    let pieces = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| !piece.is_empty())
        .map(choice);
    Asked::Substrings(SubstringFilter::new(name.into(), pieces.collect()))
}

fn extensible(rule: &str, name: &str, value: &str, in_name: bool) -> Asked {
    let some = |text: &str| (!text.is_empty()).then(|| text.into());
    Asked::ExtensibleMatch(MatchingRuleAssertion::new(
        some(rule),
        some(name),
        octets(value),
        in_name,
    ))
}

fn not(filter: Asked) -> Asked {
    Asked::Not(Box::new(filter))
}

fn all(filters: Vec<Asked>) -> Asked {
    Asked::And(filters.into())
}

fn any(filters: Vec<Asked>) -> Asked {
    Asked::Or(filters.into())
}

/// The first parts of the names found, and how many entries were looked at.
fn search(tree: &Arc<Tree>, base: &str, scope: Scope, asked: &Asked) -> (Vec<String>, u64) {
    let (filter, items) = Filter::of(asked, &tree.schema).unwrap();
    let base = tree
        .find(&Dn::parse(base, &tree.schema).unwrap().key())
        .expect(base);
    let part = Part::new(Arc::clone(tree), base, scope, &filter);
    let mut search = Search::new(VecDeque::from([part]), filter, items);
    let mut found = Vec::new();
    loop {
        match search.next(&mut 7) {
            Found::Entry(tree, id) => {
                let name = &tree.entry(id).name;
                found.push(name.split([',', '=']).nth(1).unwrap_or_default().to_owned());
            }
            Found::Spent => {}
            Found::Ended => return (found, search.visited),
        }
    }
}

#[test]
fn filters_mean_what_rfc_4511_says() {
    let tree = Arc::new(read(TEXT.as_bytes()).unwrap());
    let lee = || equal("sn", "LEE");
    let unknown = || equal("nobody-knows", "x");
    for (asked, found) in [
        (lee(), &["ann", "bob"][..]),
        (equal("surname", " lee "), &["ann", "bob"]),
        (equal("2.5.4.4", "lee"), &["ann", "bob"]),
        // A type stands for those below it.
        (equal("name", "people"), &["people"]),
        (
            Asked::Present("name".into()),
            &["people", "ann", "bob", "groups", "link"],
        ),
        (
            not(Asked::Present("mail".into())),
            &["org", "people", "bob", "groups", "link"],
        ),
        (Asked::ApproxMatch(assertion("cn", "ann lee")), &["ann"]),
        (equal("objectClass", "person"), &["ann", "bob"]),
        (equal("objectClass", "2.5.6.6"), &["ann", "bob"]),
        (equal("uidNumber", "05"), &["ann"]),
        (Asked::GreaterOrEqual(assertion("uidNumber", "6")), &["bob"]),
        (Asked::LessOrEqual(assertion("uidNumber", "39")), &["ann"]),
        (
            Asked::LessOrEqual(assertion("createTimestamp", "202601010000Z")),
            &["bob"],
        ),
        (equal("telephoneNumber", "+15550100"), &["ann"]),
        (equal("manager", "uid=ANN,ou=people,DC=org"), &["bob"]),
        (substrings("cn", "an*"), &["ann"]),
        (substrings("cn", "*n l*"), &["ann"]),
        (substrings("cn", "a*n*e*e"), &["ann"]),
        (substrings("cn", "ann lee*e"), &[]),
        (substrings("mail", "*@A.org"), &["ann"]),
        (substrings("telephoneNumber", "+1555*"), &["ann"]),
        (equal("frob", "a B"), &["ann"]),
        (equal("description", "chefin"), &["ann"]),
        (equal("description;lang-de", "chefin"), &["ann"]),
        (equal("description;lang-en", "chefin"), &[]),
        (equal("entryDN", "uid=bob,ou=people,dc=org"), &["bob"]),
        (
            equal("hasSubordinates", "TRUE"),
            &["org", "people", "groups"],
        ),
        (
            Asked::Present("subschemaSubentry".into()),
            &["org", "people", "ann", "bob", "groups", "link"],
        ),
        (extensible("caseExactMatch", "cn", "ann lee", false), &[]),
        (extensible("2.5.13.5", "cn", "Ann Lee", false), &["ann"]),
        (extensible("", "cn", "ann lee", false), &["ann"]),
        (
            extensible("caseIgnoreMatch", "", "ann lee", false),
            &["ann"],
        ),
        (
            extensible("", "ou", "people", true),
            &["people", "ann", "bob"],
        ),
        (extensible("caseIgnoreMatch", "", "bob", true), &["bob"]),
        (
            extensible("integerOrderingMatch", "uidNumber", "6", false),
            &["ann"],
        ),
        // What cannot be decided is neither true nor false.
        (unknown(), &[]),
        (not(unknown()), &[]),
        (all(vec![lee(), unknown()]), &[]),
        (any(vec![lee(), unknown()]), &["ann", "bob"]),
        (
            not(all(vec![equal("sn", "x"), unknown()])),
            &["org", "people", "ann", "bob", "groups", "link"],
        ),
        (not(any(vec![equal("sn", "x"), unknown()])), &[]),
        (not(equal("uidNumber", "no number")), &[]),
        (substrings("uidNumber", "4*"), &[]),
        (Asked::GreaterOrEqual(assertion("manager", "cn=a")), &[]),
        (not(extensible("no such rule", "cn", "x", false)), &[]),
        (not(extensible("", "", "x", false)), &[]),
        // RFC 4526.
        (
            all(vec![]),
            &["org", "people", "ann", "bob", "groups", "link"],
        ),
        (any(vec![]), &[]),
        // Passwords are nobody's business.
        (equal("userPassword", "secret"), &[]),
        (Asked::Present("userPassword".into()), &[]),
        (not(Asked::Present("2.5.4.35".into())), &[]),
    ] {
        let (mut names, _) = search(&tree, "dc=org", Scope::Subtree, &asked);
        assert_eq!(names, found, "{asked:?}");
        // An index finds what looking at each finds.
        let (filter, _) = Filter::of(&asked, &tree.schema).unwrap();
        names.retain(|_| false);
        for id in (0..6).filter(|id| filter.holds(&tree, *id)) {
            names.push(
                tree.entry(id)
                    .name
                    .split([',', '='])
                    .nth(1)
                    .unwrap()
                    .to_owned(),
            );
        }
        assert_eq!(names, found, "{asked:?}");
    }
}

#[test]
fn scopes_are_the_entry_its_children_or_all_below() {
    let tree = Arc::new(read(TEXT.as_bytes()).unwrap());
    let every = all(vec![]);
    let people = any(vec![equal("sn", "lee"), equal("ou", "people")]);
    for (base, scope, asked, found) in [
        ("dc=org", Scope::Base, &every, &["org"][..]),
        ("dc=org", Scope::One, &every, &["people", "groups"]),
        ("ou=People,dc=org", Scope::One, &every, &["ann", "bob"]),
        (
            "ou=people,dc=org",
            Scope::Subtree,
            &every,
            &["people", "ann", "bob"],
        ),
        ("uid=bob,ou=people,dc=org", Scope::One, &every, &[]),
        ("dc=org", Scope::One, &people, &["people"]),
        ("ou=groups,dc=org", Scope::Subtree, &people, &[]),
    ] {
        assert_eq!(
            search(&tree, base, scope, asked).0,
            found,
            "{base} {scope:?}"
        );
    }
}

#[test]
fn passwords_are_among_no_entrys_attributes() {
    let tree = read(TEXT.as_bytes()).unwrap();
    let ann = tree
        .find(
            &Dn::parse("uid=ann,ou=people,dc=org", &tree.schema)
                .unwrap()
                .key(),
        )
        .unwrap();
    assert_eq!(tree.passwords(ann).len(), 2);
    let selection = Selection::of(
        ["*", "+", "userPassword", "2.5.4.35"].into_iter(),
        false,
        &tree.schema,
    );
    let mut out = Vec::new();
    selection.write(&mut out, &tree, ann);
    assert!(
        memchr::memmem::find(&out, b"Password").is_none()
            && memchr::memmem::find(&out, b"secret").is_none()
    );
    assert!(memchr::memmem::find(&out, b"entryDN").is_some());
}

#[test]
fn mistakes_between_entries_are_told_with_their_lines() {
    for (text, line, column, words) in [
        (
            "dn: dc=a\nobjectClass: domain\n\ndn: DC=A\nobjectClass: domain\n",
            4,
            5,
            "line 1",
        ),
        (
            "dn: dc=a\nobjectClass: domain\n\ndn: cn=x,ou=y,dc=a\nobjectClass: device\n",
            4,
            5,
            "above this one is missing",
        ),
        ("dn: dc=a\ndc: a\n", 1, 5, "no objectClass"),
        ("dn: nonsense\nobjectClass: top\n", 1, 5, "TYPE=VALUE"),
        ("dn:\nobjectClass: top\n", 1, 4, "without a name"),
        (
            "dn: cn=a\nobjectClass: top\nuidNumber: many\n",
            3,
            12,
            "no value of uidNumber",
        ),
        (
            "dn: cn=a\nobjectClass: top\nuidNumber: 1\nuidNumber: 2\n",
            4,
            12,
            "one value",
        ),
        ("dn: cn=a\nobjectClass: top\nsn: b\nsn: B \n", 4, 5, "twice"),
        (
            "dn: userPassword=a\nobjectClass: top\n",
            1,
            5,
            "part of a name",
        ),
    ] {
        let mistakes = read(text.as_bytes()).unwrap_err();
        let mistake = &mistakes[0];
        assert_eq!(
            (mistake.line, mistake.column),
            (line, column),
            "{text:?}: {mistake:?}"
        );
        assert!(mistake.message.contains(words), "{mistake:?}");
    }
}

#[test]
fn a_long_filter_is_not_looked_at() {
    let schema = Schema::base();
    let filter = |count: usize| any((0..count).map(|_| equal("cn", "x")).collect());
    assert!(Filter::of(&filter(MOST_ITEMS - 1), &schema).is_ok());
    assert!(Filter::of(&filter(MOST_ITEMS), &schema).is_err());
}

#[test]
fn a_deep_file_is_read() {
    let mut text = "dn: dc=a\nobjectClass: domain\n\n".to_owned();
    let mut name = "dc=a".to_owned();
    for _ in 0..500 {
        name = format!("ou=x,{name}");
        text += &format!("dn: {name}\nobjectClass: organizationalUnit\n\n");
    }
    let tree = Arc::new(read(text.as_bytes()).unwrap());
    assert_eq!(
        search(&tree, "dc=a", Scope::Subtree, &all(vec![])).0.len(),
        501
    );
}

fn large(count: usize) -> Arc<Tree> {
    let mut text = "dn: dc=org\nobjectClass: domain\n\ndn: ou=people,dc=org\nobjectClass: organizationalUnit\n\n".to_owned();
    for number in 0..count {
        text += &format!(
            "dn: uid=user{number},ou=people,dc=org\nobjectClass: inetOrgPerson\nuid: user{number}\ncn: User {number}\n\
             sn: Name{}\nmail: user{number}@example.org\nemployeeNumber: {number}\n\n",
            number % 1000
        );
    }
    Arc::new(read(text.as_bytes()).unwrap())
}

#[test]
fn an_equality_search_looks_at_what_it_finds_alone() {
    let tree = large(2000);
    for (asked, found, visited) in [
        (equal("uid", "USER777"), 1, 1),
        (equal("mail", "user777@example.org"), 1, 1),
        (equal("sn", "name7"), 2, 2),
        (equal("uid", "nobody"), 0, 0),
        (
            all(vec![equal("objectClass", "person"), equal("sn", "name7")]),
            2,
            2,
        ),
        (
            all(vec![
                not(equal("cn", "x")),
                any(vec![equal("uid", "user1"), equal("uid", "user2")]),
            ]),
            2,
            2,
        ),
        (substrings("mail", "user77*"), 11, 11),
        (equal("nobody-knows", "x"), 0, 0),
        (all(vec![equal("objectClass", "*"), equal("sn", "x")]), 0, 0),
        (Asked::Present("telephoneNumber".into()), 0, 0),
    ] {
        let (names, looked) = search(&tree, "dc=org", Scope::Subtree, &asked);
        assert_eq!((names.len(), looked), (found, visited), "{asked:?}");
    }
}

/// `cargo test --release -- --ignored --nocapture how_long`
#[test]
#[ignore = "a measurement, to be run in a release build"]
fn how_long_searches_among_100_000_entries_take() {
    let began = Instant::now();
    let tree = large(100_000);
    println!("read: {:?}", began.elapsed());
    for asked in [
        equal("uid", "user77777"),
        equal("sn", "name7"),
        substrings("mail", "user7777*"),
        substrings("mail", "*7777@*"),
    ] {
        let began = Instant::now();
        let mut count = 0;
        let rounds = 20;
        for _ in 0..rounds {
            count = search(&tree, "dc=org", Scope::Subtree, &asked).0.len();
        }
        println!("{count} found in {:?}: {asked:?}", began.elapsed() / rounds);
    }
}
