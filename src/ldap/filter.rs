#![forbid(unsafe_code)]
//! Filters (RFC 4511, 4.5.1.7) made ready for a directory: types are looked up and values brought to their forms once.
//! What cannot be decided is Undefined, and three-valued logic carries that on.

use rasn_ldap::{
    AttributeValueAssertion, Filter as Asked, MatchingRuleAssertion, SubstringChoice,
    SubstringFilter,
};

use super::dn::Dn;
use super::rules::{self, Asks, Part, Rule};
use super::schema::{Kind, Schema};
use super::selection::{Description, Virtual};
use super::tree::Tree;

/// A filter has at most so many items. People write dozens; programs that list members, hundreds.
pub(crate) const MOST_ITEMS: usize = 4096;

/// A filter, ready.
#[derive(Debug)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    /// Neither true nor false, whatever the entry is.
    Undefined,
    Present(Description),
    /// A value that is equal, or stands in the order where it is asked for.
    Compare(Description, Rule, Order, Vec<u8>),
    Substrings(Description, Rule, Pieces),
    /// Any attribute that is compared by this rule.
    AnyOf(Rule, Order, Vec<u8>),
    /// The parts of the name, too: those of this type, or of any that is compared by the rule.
    InName(Option<Description>, Rule, Order, Vec<u8>),
}

/// How a value stands to the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    AtLeast,
    AtMost,
    Less,
}

impl Order {
    fn holds(self, value: &[u8], asked: &[u8]) -> bool {
        match self {
            Order::Equal => value == asked,
            Order::AtLeast => value >= asked,
            Order::AtMost => value <= asked,
            Order::Less => value < asked,
        }
    }
}

/// The pieces of a substrings filter, each in its form.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pub(crate) initial: Option<Vec<u8>>,
    any: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl Pieces {
    fn hold(&self, value: &[u8]) -> bool {
        let Some(mut rest) = value.strip_prefix(self.initial.as_deref().unwrap_or_default()) else {
            return false;
        };
        for piece in &self.any {
            match memchr::memmem::find(rest, piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(self.last.as_deref().unwrap_or_default())
    }
}

/// A filter with more items than are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Filter {
    /// Makes a filter ready; its depth was bounded when it was read. Also answers how many items it has.
    ///
    /// # Errors
    /// It has too many items.
    pub(crate) fn of(asked: &Asked, schema: &Schema) -> Result<(Filter, usize), TooLong> {
        let mut items = 0;
        let filter = ready(asked, schema, &mut items)?;
        Ok((filter, items))
    }

    /// Whether an entry is meant.
    pub(crate) fn holds(&self, tree: &Tree, id: u32) -> bool {
        self.decide(tree, id) == Some(true)
    }

    /// `None` is Undefined.
    fn decide(&self, tree: &Tree, id: u32) -> Option<bool> {
        match self {
            Filter::And(all) => some_decide(all, false, tree, id),
            Filter::Or(any) => some_decide(any, true, tree, id),
            Filter::Not(inner) => inner.decide(tree, id).map(|holds| !holds),
            Filter::Undefined => None,
            Filter::Present(description) => Some(description.any_value(tree, id, |_, _| true)),
            Filter::Compare(description, rule, order, asked) => {
                Some(description.any_value(tree, id, |_, value| {
                    let form = rule.normal(value, &tree.schema);
                    form.is_some_and(|form| order.holds(&form, asked))
                }))
            }
            Filter::Substrings(description, rule, pieces) => {
                Some(description.any_value(tree, id, |_, value| {
                    rule.piece(value, Part::Whole)
                        .is_some_and(|form| pieces.hold(&form))
                }))
            }
            Filter::AnyOf(rule, order, asked) => {
                Some(tree.entry(id).attributes.iter().any(|attribute| {
                    tree.schema.get(attribute.kind).equality == Some(*rule)
                        && attribute.values.iter().any(|value| {
                            rule.normal(value, &tree.schema)
                                .is_some_and(|form| order.holds(&form, asked))
                        })
                }))
            }
            Filter::InName(description, rule, order, asked) => Some(in_name(
                tree,
                id,
                description.as_ref(),
                *rule,
                *order,
                asked,
            )),
        }
    }
}

/// True where one is `wanted`; else Undefined where one is; else not.
fn some_decide(filters: &[Filter], wanted: bool, tree: &Tree, id: u32) -> Option<bool> {
    let mut is_undefined = false;
    for filter in filters {
        match filter.decide(tree, id) {
            Some(holds) if holds == wanted => return Some(wanted),
            Some(_) => {}
            None => is_undefined = true,
        }
    }
    (!is_undefined).then_some(!wanted)
}

fn in_name(
    tree: &Tree,
    id: u32,
    description: Option<&Description>,
    rule: Rule,
    order: Order,
    asked: &[u8],
) -> bool {
    let Ok(dn) = Dn::parse(&tree.entry(id).name, &tree.schema) else {
        return false;
    };
    dn.pairs().any(|pair| {
        let kind = tree.schema.kind(&pair.name);
        let is_meant = match (description, kind) {
            (Some(description), Some(kind)) => description.kinds.contains(&kind),
            (None, Some(kind)) => tree.schema.get(kind).equality == Some(rule),
            (_, None) => false,
        };
        is_meant
            && rule
                .normal(&pair.value, &tree.schema)
                .is_some_and(|form| order.holds(&form, asked))
    })
}

fn ready(asked: &Asked, schema: &Schema, items: &mut usize) -> Result<Filter, TooLong> {
    *items += 1;
    if *items > MOST_ITEMS {
        return Err(TooLong);
    }
    let mut each = |filters: &rasn::types::SetOf<Asked>| {
        filters
            .iter()
            .map(|filter| ready(filter, schema, items))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match asked {
        Asked::And(filters) => Filter::And(each(filters)?),
        Asked::Or(filters) => Filter::Or(each(filters)?),
        Asked::Not(filter) => Filter::Not(Box::new(ready(filter, schema, items)?)),
        // RFC 4511, 4.5.1.7.6: where nothing approximate is known, equality does.
        Asked::EqualityMatch(it) | Asked::ApproxMatch(it) => compare(it, Order::Equal, schema),
        Asked::GreaterOrEqual(it) => compare(it, Order::AtLeast, schema),
        Asked::LessOrEqual(it) => compare(it, Order::AtMost, schema),
        Asked::Present(name) => match Description::find(name, schema) {
            Some(description) => Filter::Present(description),
            None => Filter::Undefined,
        },
        Asked::Substrings(it) => substrings(it, schema).unwrap_or(Filter::Undefined),
        Asked::ExtensibleMatch(it) => extensible(it, schema).unwrap_or(Filter::Undefined),
        _ => Filter::Undefined,
    })
}

fn compare(asked: &AttributeValueAssertion, order: Order, schema: &Schema) -> Filter {
    let made = || {
        let description = Description::find(&asked.attribute_desc, schema)?;
        let row = schema.get(description.kind);
        let rule = match order {
            Order::Equal => row.equality?,
            _ => row.ordering?,
        };
        let form = rule.normal(&asked.assertion_value, schema)?;
        Some(Filter::Compare(description, rule, order, form))
    };
    made().unwrap_or(Filter::Undefined)
}

fn substrings(asked: &SubstringFilter, schema: &Schema) -> Option<Filter> {
    let description = Description::find(&asked.r#type, schema)?;
    let rule = schema.get(description.kind).substrings?;
    let mut pieces = Pieces::default();
    let last = asked.substrings.len().checked_sub(1)?;
    for (at, piece) in asked.substrings.iter().enumerate() {
        match piece {
            SubstringChoice::Initial(it) if at == 0 => {
                pieces.initial = Some(rule.piece(it, Part::Initial)?)
            }
            SubstringChoice::Any(it) => pieces.any.push(rule.piece(it, Part::Any)?),
            SubstringChoice::Final(it) if at == last => {
                pieces.last = Some(rule.piece(it, Part::Final)?)
            }
            _ => return None,
        }
    }
    Some(Filter::Substrings(description, rule, pieces))
}

fn extensible(asked: &MatchingRuleAssertion, schema: &Schema) -> Option<Filter> {
    let description = match &asked.r#type {
        Some(name) => Some(Description::find(name, schema)?),
        None => None,
    };
    let (rule, order) = match &asked.matching_rule {
        Some(name) => match rules::find(name)? {
            named if named.asks == Asks::Equality => (named.rule, Order::Equal),
            // RFC 4517, 4.2.4 and others: true where the value comes before the one asked for.
            named if named.asks == Asks::Ordering => (named.rule, Order::Less),
            _ => return None,
        },
        None => (
            schema.get(description.as_ref()?.kind).equality?,
            Order::Equal,
        ),
    };
    let form = rule.normal(&asked.match_value, schema)?;
    let in_name = asked
        .dn_attributes
        .then(|| Filter::InName(description.clone(), rule, order, form.clone()));
    let in_entry = match description {
        Some(description) => Filter::Compare(description, rule, order, form),
        None => Filter::AnyOf(rule, order, form),
    };
    Some(match in_name {
        Some(in_name) => Filter::Or(vec![in_entry, in_name]),
        None => in_entry,
    })
}

/// Where entries that are meant can be found without looking at all of them.
pub(crate) enum Posting<'a> {
    Rows(&'a [super::index::Row]),
    Ids(&'a [u32]),
    One(u32),
}

/// What an index knows of a filter.
#[derive(Default)]
pub(crate) struct Hints<'a> {
    pub(crate) postings: Vec<Posting<'a>>,
    /// At least as many as there are entries.
    pub(crate) count: usize,
}

impl<'a> Hints<'a> {
    fn add(&mut self, posting: Posting<'a>) {
        self.count += match &posting {
            Posting::Rows(rows) => rows.len(),
            Posting::Ids(ids) => ids.len(),
            Posting::One(_) => 1,
        };
        self.postings.push(posting);
    }
}

impl Filter {
    /// All entries that can be meant; `None` where only looking at each tells.
    pub(crate) fn hints<'a>(&self, tree: &'a Tree) -> Option<Hints<'a>> {
        match self {
            Filter::And(all) => all
                .iter()
                .filter_map(|it| it.hints(tree))
                .min_by_key(|hints| hints.count),
            Filter::Or(any) => any.iter().try_fold(Hints::default(), |mut sum, it| {
                let hints = it.hints(tree)?;
                sum.count += hints.count;
                sum.postings.extend(hints.postings);
                Some(sum)
            }),
            Filter::Undefined => Some(Hints::default()),
            Filter::Not(_) | Filter::InName(..) => None,
            Filter::Present(description) => each_index(description, tree, |index| {
                Some(Posting::Ids(index.holders()))
            }),
            Filter::Compare(description, rule, order, form) => {
                if description
                    .kinds
                    .iter()
                    .any(|kind| Virtual::of(*kind, &tree.schema) == Some(Virtual::EntryDn))
                {
                    let mut hints = Hints::default();
                    if *order == Order::Equal
                        && let Some(id) = tree.find(form)
                    {
                        hints.add(Posting::One(id));
                    }
                    return (*order == Order::Equal && *rule == Rule::Name).then_some(hints);
                }
                if description
                    .kinds
                    .iter()
                    .any(|kind| tree.schema.get(*kind).equality != Some(*rule))
                {
                    return None;
                }
                each_index(description, tree, |index| {
                    match order {
                        Order::Equal => index.equal(form),
                        Order::AtLeast => index.at_least(form),
                        Order::AtMost | Order::Less => index.at_most(form),
                    }
                    .map(Posting::Rows)
                })
            }
            Filter::Substrings(description, rule, pieces) => {
                let initial = pieces.initial.as_ref()?;
                if description
                    .kinds
                    .iter()
                    .any(|kind| tree.schema.get(*kind).equality != Some(*rule))
                {
                    return None;
                }
                each_index(description, tree, |index| {
                    index.beginning(initial).map(Posting::Rows)
                })
            }
            Filter::AnyOf(rule, order, form) => {
                let kinds: Vec<Kind> = tree.schema.with_equality(*rule).collect();
                if *order != Order::Equal {
                    return None;
                }
                let mut hints = Hints::default();
                for index in kinds.iter().filter_map(|kind| tree.index(*kind)) {
                    hints.add(Posting::Rows(index.equal(form)?));
                }
                Some(hints)
            }
        }
    }
}

fn each_index<'a>(
    description: &Description,
    tree: &'a Tree,
    ask: impl Fn(&'a super::index::Index) -> Option<Posting<'a>>,
) -> Option<Hints<'a>> {
    let mut hints = Hints::default();
    for kind in &description.kinds {
        if Virtual::of(*kind, &tree.schema).is_some() {
            return None;
        }
        if let Some(index) = tree.index(*kind) {
            hints.add(ask(index)?);
        }
    }
    Some(hints)
}
