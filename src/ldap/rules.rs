#![forbid(unsafe_code)]
//! Matching rules (RFC 4517, 4.2): each makes a normal form of a value, and values are equal whose forms are. Forms
//! of ordered values are in order as bytes are.

use unicode_normalization::UnicodeNormalization;

use super::dn::Dn;
use super::schema::Schema;

/// How values are brought to their normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Letters of any case, white space squeezed (RFC 4518).
    CaseIgnore,
    /// White space squeezed.
    CaseExact,
    /// Blanks do not count.
    Numeric,
    /// Blanks, hyphens and case do not count.
    Telephone,
    Integer,
    Boolean,
    GeneralizedTime,
    Name,
    /// A name, maybe with a bit string behind `#`.
    UniqueMember,
    Identifier,
    /// The object identifier that a definition begins with.
    FirstIdentifier,
    Uuid,
    Octets,
}

/// What a rule of a name asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Equality,
    Ordering,
    Substrings,
}

/// A rule by its name and identifier, and the syntax of its assertions.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) oid: &'static str,
    pub(crate) syntax: u8,
    pub(crate) rule: Rule,
    pub(crate) asks: Asks,
}

const fn named(name: &'static str, oid: &'static str, syntax: u8, rule: Rule, asks: Asks) -> Named {
    Named {
        name,
        oid,
        syntax,
        rule,
        asks,
    }
}

use Asks::{Equality, Ordering, Substrings};

/// The rules that are known; `syntax` is the last number below 1.3.6.1.4.1.1466.115.121.1, 0 for UUID's own.
pub(crate) const RULES: &[Named] = &[
    named(
        "objectIdentifierMatch",
        "2.5.13.0",
        38,
        Rule::Identifier,
        Equality,
    ),
    named(
        "distinguishedNameMatch",
        "2.5.13.1",
        12,
        Rule::Name,
        Equality,
    ),
    named(
        "caseIgnoreMatch",
        "2.5.13.2",
        15,
        Rule::CaseIgnore,
        Equality,
    ),
    named(
        "caseIgnoreOrderingMatch",
        "2.5.13.3",
        15,
        Rule::CaseIgnore,
        Ordering,
    ),
    named(
        "caseIgnoreSubstringsMatch",
        "2.5.13.4",
        58,
        Rule::CaseIgnore,
        Substrings,
    ),
    named("caseExactMatch", "2.5.13.5", 15, Rule::CaseExact, Equality),
    named(
        "caseExactOrderingMatch",
        "2.5.13.6",
        15,
        Rule::CaseExact,
        Ordering,
    ),
    named(
        "caseExactSubstringsMatch",
        "2.5.13.7",
        58,
        Rule::CaseExact,
        Substrings,
    ),
    named(
        "numericStringMatch",
        "2.5.13.8",
        36,
        Rule::Numeric,
        Equality,
    ),
    named(
        "numericStringOrderingMatch",
        "2.5.13.9",
        36,
        Rule::Numeric,
        Ordering,
    ),
    named(
        "numericStringSubstringsMatch",
        "2.5.13.10",
        58,
        Rule::Numeric,
        Substrings,
    ),
    named(
        "caseIgnoreListMatch",
        "2.5.13.11",
        41,
        Rule::CaseIgnore,
        Equality,
    ),
    named(
        "caseIgnoreListSubstringsMatch",
        "2.5.13.12",
        58,
        Rule::CaseIgnore,
        Substrings,
    ),
    named("booleanMatch", "2.5.13.13", 7, Rule::Boolean, Equality),
    named("integerMatch", "2.5.13.14", 27, Rule::Integer, Equality),
    named(
        "integerOrderingMatch",
        "2.5.13.15",
        27,
        Rule::Integer,
        Ordering,
    ),
    named("bitStringMatch", "2.5.13.16", 6, Rule::Octets, Equality),
    named("octetStringMatch", "2.5.13.17", 40, Rule::Octets, Equality),
    named(
        "octetStringOrderingMatch",
        "2.5.13.18",
        40,
        Rule::Octets,
        Ordering,
    ),
    named(
        "telephoneNumberMatch",
        "2.5.13.20",
        50,
        Rule::Telephone,
        Equality,
    ),
    named(
        "telephoneNumberSubstringsMatch",
        "2.5.13.21",
        58,
        Rule::Telephone,
        Substrings,
    ),
    named(
        "uniqueMemberMatch",
        "2.5.13.23",
        34,
        Rule::UniqueMember,
        Equality,
    ),
    named(
        "generalizedTimeMatch",
        "2.5.13.27",
        24,
        Rule::GeneralizedTime,
        Equality,
    ),
    named(
        "generalizedTimeOrderingMatch",
        "2.5.13.28",
        24,
        Rule::GeneralizedTime,
        Ordering,
    ),
    named(
        "objectIdentifierFirstComponentMatch",
        "2.5.13.30",
        38,
        Rule::FirstIdentifier,
        Equality,
    ),
    named(
        "caseExactIA5Match",
        "1.3.6.1.4.1.1466.109.114.1",
        26,
        Rule::CaseExact,
        Equality,
    ),
    named(
        "caseIgnoreIA5Match",
        "1.3.6.1.4.1.1466.109.114.2",
        26,
        Rule::CaseIgnore,
        Equality,
    ),
    named(
        "caseIgnoreIA5SubstringsMatch",
        "1.3.6.1.4.1.1466.109.114.3",
        58,
        Rule::CaseIgnore,
        Substrings,
    ),
    named(
        "caseExactIA5SubstringsMatch",
        "1.3.6.1.4.1.4203.1.2.1",
        58,
        Rule::CaseExact,
        Substrings,
    ),
    named("UUIDMatch", "1.3.6.1.1.16.2", 0, Rule::Uuid, Equality),
    named(
        "UUIDOrderingMatch",
        "1.3.6.1.1.16.3",
        0,
        Rule::Uuid,
        Ordering,
    ),
];

/// The rule of a name or an object identifier.
pub(crate) fn find(name: &str) -> Option<&'static Named> {
    let same = |rule: &&Named| rule.name.eq_ignore_ascii_case(name) || rule.oid == name;
    RULES.iter().find(same)
}

/// Where a piece of a value stands; white space at the value's own ends does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Initial,
    Any,
    Final,
}

impl Rule {
    /// The normal form of a value; `None` when it is no value of the rule's syntax.
    pub(crate) fn normal(self, value: &[u8], schema: &Schema) -> Option<Vec<u8>> {
        match self {
            Rule::CaseIgnore | Rule::CaseExact | Rule::Numeric | Rule::Telephone => {
                self.piece(value, Part::Whole)
            }
            Rule::Integer => integer(value),
            Rule::Boolean => matches!(value, b"TRUE" | b"FALSE").then(|| value.to_vec()),
            Rule::GeneralizedTime => generalized_time(std::str::from_utf8(value).ok()?),
            Rule::Name => Some(
                Dn::parse(std::str::from_utf8(value).ok()?, schema)
                    .ok()?
                    .key(),
            ),
            Rule::UniqueMember => unique_member(std::str::from_utf8(value).ok()?, schema),
            Rule::Identifier => identifier(std::str::from_utf8(value).ok()?, schema),
            Rule::FirstIdentifier => {
                let text = std::str::from_utf8(value).ok()?;
                let first = text.trim_start_matches(['(', ' ']).split(' ').next()?;
                identifier(first, schema)
            }
            Rule::Uuid => uuid(value),
            Rule::Octets => Some(value.to_vec()),
        }
    }

    /// The normal form of a piece of a value, for those that are strings; `None` for others.
    pub(crate) fn piece(self, value: &[u8], part: Part) -> Option<Vec<u8>> {
        match self {
            Rule::CaseIgnore => string(value, true, part),
            Rule::CaseExact => string(value, false, part),
            Rule::Numeric => {
                let digits = value.iter().filter(|byte| **byte != b' ');
                let digits: Vec<u8> = digits.copied().collect();
                digits.iter().all(u8::is_ascii_digit).then_some(digits)
            }
            Rule::Telephone => {
                let kept = string(value, true, Part::Whole)?;
                Some(
                    kept.into_iter()
                        .filter(|byte| !b" -".contains(byte))
                        .collect(),
                )
            }
            Rule::Octets => Some(value.to_vec()),
            _ => None,
        }
    }
}

/// Prepares a string (RFC 4518): compatible forms are made one, white space is squeezed, controls are dropped.
fn string(value: &[u8], fold: bool, part: Part) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut out = String::with_capacity(text.len());
    let mut push = |letter: char| {
        if letter.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
        } else if !letter.is_control() && letter != '\u{ad}' {
            match fold {
                true => out.extend(letter.to_lowercase()),
                false => out.push(letter),
            }
        }
    };
    match text.is_ascii() {
        true => text.chars().for_each(&mut push),
        false => text.nfkc().for_each(&mut push),
    }
    let mut squeezed = out.as_str();
    if matches!(part, Part::Whole | Part::Initial) {
        squeezed = squeezed.trim_start();
    }
    if matches!(part, Part::Whole | Part::Final) {
        squeezed = squeezed.trim_end();
    }
    Some(squeezed.as_bytes().to_vec())
}

/// A sign, the count of the digits and the digits, so that numbers are in order as their bytes are.
fn integer(value: &[u8]) -> Option<Vec<u8>> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    let digits = &digits[leading.min(digits.len() - 1)..];
    let count = u32::try_from(digits.len()).ok()?;
    if digits == b"0" {
        return Some([&[b'+'][..], &count.to_be_bytes(), digits].concat());
    }
    if !negative {
        return Some([&[b'+'][..], &count.to_be_bytes(), digits].concat());
    }
    // The longer a negative number, the less it is: '!' comes before '+'.
    let digits: Vec<u8> = digits.iter().map(|digit| 255 - digit).collect();
    Some([&[b'!'][..], &(u32::MAX - count).to_be_bytes(), &digits].concat())
}

/// UTC as `YYYYMMDDHHMMSS` and a fraction (RFC 4517, 3.3.13); differences to UTC are taken into account.
fn generalized_time(text: &str) -> Option<Vec<u8>> {
    let zone = text.find(['Z', '+', '-'])?;
    let (stamp, zone) = text.split_at(zone);
    let (whole, fraction) = match stamp.find(['.', ',']) {
        Some(at) => (&stamp[..at], &stamp[at + 1..]),
        None => (stamp, ""),
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole)
        || !is_number(fraction)
        || (stamp.len() != whole.len() && fraction.is_empty())
    {
        return None;
    }
    if !matches!(whole.len(), 10 | 12 | 14) || fraction.len() > 9 {
        return None;
    }
    let number = |at: usize, count: usize| match whole.get(at..at + count) {
        Some(digits) => digits.parse::<i64>().ok(),
        None => Some(0),
    };
    let (year, month, day) = (number(0, 4)?, number(4, 2)?, number(6, 2)?);
    let (hour, minute, second) = (number(8, 2)?, number(10, 2)?, number(12, 2)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse::<i64>().ok()?;
    let unit = match whole.len() {
        10 => 3600,
        12 => 60,
        _ => 1,
    };
    let ahead = match zone.as_bytes() {
        b"Z" => 0,
        [sign, digits @ ..] if matches!(digits.len(), 2 | 4) && is_number(&zone[1..]) => {
            let part = |at: usize| zone[1..].get(at..at + 2).map_or(Ok(0), str::parse::<i64>);
            let minutes = part(0).ok()? * 60 + part(2).ok()?;
            if *sign == b'+' {
                minutes * 60
            } else {
                -minutes * 60
            }
        }
        _ => return None,
    };
    let days = days(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - ahead;
    let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos) * unit;
    // From the year 0 on it is positive, but for its first hours.
    let offset = nanos + 100_000_000_000_000_000_000;
    Some(u128::try_from(offset).ok()?.to_be_bytes().to_vec())
}

/// Days since 1970 of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn unique_member(text: &str, schema: &Schema) -> Option<Vec<u8>> {
    if let Some((name, bits)) = text.rsplit_once('#')
        && bits.starts_with('\'')
        && bits.ends_with("'B")
        && let Ok(name) = Dn::parse(name, schema)
    {
        return Some([&name.key()[..], b"#", bits.as_bytes()].concat());
    }
    Some(Dn::parse(text, schema).ok()?.key())
}

/// A known name becomes its identifier; an unknown one is compared without case.
fn identifier(text: &str, schema: &Schema) -> Option<Vec<u8>> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_;".contains(&byte);
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(plain) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    Some(
        schema
            .oid_of(&lower)
            .map_or(lower, str::to_owned)
            .into_bytes(),
    )
}

fn uuid(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let is_hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    (lengths == [8, 4, 4, 4, 12] && text.bytes().all(is_hex))
        .then(|| text.to_ascii_lowercase().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Part, Rule};
    use crate::ldap::schema::Schema;

    #[test]
    fn values_are_equal_where_the_rules_say_so() {
        let schema = Schema::base();
        for (rule, one, other, equal) in [
            (Rule::CaseIgnore, "  Ann   Lee ", "ann lee", true),
            (Rule::CaseIgnore, "JÜRG", "jürg", true),
            (Rule::CaseIgnore, "ﬁx", "fix", true),
            (Rule::CaseIgnore, "annlee", "ann lee", false),
            (Rule::CaseExact, "Ann  Lee", "Ann Lee", true),
            (Rule::CaseExact, "Ann", "ann", false),
            (Rule::Telephone, "+1 555-01 00", "+15550100", true),
            (Rule::Numeric, "12 34", "1234", true),
            (Rule::Integer, "007", "7", true),
            (Rule::Integer, "-0", "0", true),
            (
                Rule::Name,
                "CN=Ann + uid=a, DC=Example",
                "UID=A+cn=ann,dc=example",
                true,
            ),
            (Rule::Name, "cn=a\\2Cb", "cn=a\\,b", true),
            (Rule::UniqueMember, "cn=A#'01'B", "CN=a#'01'B", true),
            (Rule::UniqueMember, "cn=a#'01'B", "cn=a", false),
            (Rule::Identifier, "CN", "2.5.4.3", true),
            (
                Rule::GeneralizedTime,
                "20260101120000Z",
                "202601011300+01",
                true,
            ),
            (
                Rule::GeneralizedTime,
                "2026010112.5Z",
                "202601011230Z",
                true,
            ),
            (
                Rule::GeneralizedTime,
                "20260101120000Z",
                "20260101120001Z",
                false,
            ),
            (Rule::FirstIdentifier, "( 2.5.4.3 NAME 'cn' )", "cn", true),
            (
                Rule::Uuid,
                "550E8400-e29b-41d4-a716-446655440000",
                "550e8400-E29b-41d4-a716-446655440000",
                true,
            ),
        ] {
            let normal = |text: &str| rule.normal(text.as_bytes(), &schema).expect(text);
            assert_eq!(
                normal(one) == normal(other),
                equal,
                "{rule:?} {one} {other}"
            );
        }
    }

    #[test]
    fn what_is_no_value_of_the_syntax_has_no_form() {
        let schema = Schema::base();
        for (rule, value) in [
            (Rule::Integer, "1x"),
            (Rule::Integer, ""),
            (Rule::Integer, "-"),
            (Rule::Boolean, "true"),
            (Rule::GeneralizedTime, "2026"),
            (Rule::GeneralizedTime, "20261301120000Z"),
            (Rule::GeneralizedTime, "20260101120000"),
            (Rule::GeneralizedTime, "20260101120000.Z"),
            (Rule::GeneralizedTime, "20260101120000+é"),
            (Rule::Name, "no name"),
            (Rule::Identifier, "a b"),
            (Rule::Uuid, "550e8400"),
            (Rule::Numeric, "12a"),
        ] {
            assert_eq!(
                rule.normal(value.as_bytes(), &schema),
                None,
                "{rule:?} {value}"
            );
        }
        assert_eq!(Rule::CaseIgnore.normal(b"\xff", &schema), None);
    }

    #[test]
    fn forms_are_in_order_as_what_they_stand_for() {
        let schema = Schema::base();
        for (rule, rising) in [
            (
                Rule::Integer,
                &[
                    "-100",
                    "-99",
                    "-1",
                    "0",
                    "1",
                    "9",
                    "10",
                    "99999999999999999999",
                ][..],
            ),
            (
                Rule::GeneralizedTime,
                &[
                    "00010101000000Z",
                    "19691231235959Z",
                    "19700101000000Z",
                    "20240229000000Z",
                    "20240301000000Z",
                ],
            ),
            (Rule::CaseIgnore, &["", "A", "b", "Ca"]),
        ] {
            let forms: Vec<_> = rising
                .iter()
                .map(|text| rule.normal(text.as_bytes(), &schema).expect(text))
                .collect();
            assert!(forms.is_sorted(), "{rule:?}");
        }
    }

    #[test]
    fn blanks_within_a_value_count_in_a_piece() {
        let piece = |text: &str, part| Rule::CaseIgnore.piece(text.as_bytes(), part).expect(text);
        assert_eq!(piece("  Ann  ", Part::Initial), b"ann ");
        assert_eq!(piece("  Ann  ", Part::Any), b" ann ");
        assert_eq!(piece("  Ann  ", Part::Final), b" ann");
        assert_eq!(Rule::Integer.piece(b"1", Part::Any), None);
    }
}
