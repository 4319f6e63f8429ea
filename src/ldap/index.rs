#![forbid(unsafe_code)]
//! The values of an attribute type in order, each with its entry: equality, order and beginnings are ranges.

use std::ops::Range;

/// Longer forms are kept by their beginning; who uses the index looks at the entries anyway.
const LONGEST: usize = 128;

/// A value's place in the arena, and its entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    start: u32,
    length: u8,
    pub(crate) id: u32,
}

/// An index of one attribute type.
#[derive(Debug, Default)]
pub(crate) struct Index {
    arena: Vec<u8>,
    rows: Vec<Row>,
    /// The entries that have a value, in order.
    holders: Vec<u32>,
    /// Its values have no order, or there are more than 4 GiB of them: only the holders are known.
    is_bare: bool,
}

impl Index {
    /// Entries come in order.
    pub(crate) fn hold(&mut self, id: u32) {
        if self.holders.last() != Some(&id) {
            self.holders.push(id);
        }
    }

    /// A value's normal form; `None` for an attribute type whose values cannot be compared.
    pub(crate) fn add(&mut self, form: Option<&[u8]>, id: u32) {
        let form = form.map(|form| &form[..form.len().min(LONGEST)]);
        match (form, u32::try_from(self.arena.len())) {
            (Some(form), Ok(start)) => {
                let length = u8::try_from(form.len()).unwrap_or(0);
                self.arena.extend_from_slice(form);
                self.rows.push(Row { start, length, id });
            }
            _ => self.is_bare = true,
        }
    }

    /// All values are there.
    pub(crate) fn finish(&mut self) {
        let arena = std::mem::take(&mut self.arena);
        let text =
            |row: &Row| &arena[row.start as usize..row.start as usize + usize::from(row.length)];
        self.rows
            .sort_unstable_by(|a, b| text(a).cmp(text(b)).then(a.id.cmp(&b.id)));
        self.arena = arena;
        self.arena.shrink_to_fit();
        self.rows.shrink_to_fit();
        self.holders.shrink_to_fit();
    }

    fn text(&self, row: &Row) -> &[u8] {
        &self.arena[row.start as usize..row.start as usize + usize::from(row.length)]
    }

    fn rows(&self, range: Range<usize>) -> Option<&[Row]> {
        (!self.is_bare).then(|| &self.rows[range.start..range.end.max(range.start)])
    }

    /// The entries with any value.
    pub(crate) fn holders(&self) -> &[u32] {
        &self.holders
    }

    /// Where a value that begins so may be; `None` where the values are not known.
    pub(crate) fn beginning(&self, form: &[u8]) -> Option<&[Row]> {
        let form = &form[..form.len().min(LONGEST)];
        let start = self.rows.partition_point(|row| self.text(row) < form);
        let count = self.rows[start..].partition_point(|row| self.text(row).starts_with(form));
        self.rows(start..start + count)
    }

    /// Where a value of this form may be.
    pub(crate) fn equal(&self, form: &[u8]) -> Option<&[Row]> {
        let form = &form[..form.len().min(LONGEST)];
        let start = self.rows.partition_point(|row| self.text(row) < form);
        let count = self.rows[start..].partition_point(|row| self.text(row) == form);
        self.rows(start..start + count)
    }

    /// Where values from this on may be.
    pub(crate) fn at_least(&self, form: &[u8]) -> Option<&[Row]> {
        let form = &form[..form.len().min(LONGEST)];
        let start = self.rows.partition_point(|row| self.text(row) < form);
        self.rows(start..self.rows.len())
    }

    /// Where values up to this may be.
    pub(crate) fn at_most(&self, form: &[u8]) -> Option<&[Row]> {
        let form = &form[..form.len().min(LONGEST)];
        let end = self.rows.partition_point(|row| self.text(row) <= form);
        self.rows(0..end)
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, Row};

    #[test]
    fn ranges_hold_every_value_that_a_scan_would_find() {
        let long = "x".repeat(200);
        let longer = format!("{long}y");
        let values = ["", "a", "ab", "abc", "b", "a", &long, &longer, "xx"];
        let mut index = Index::default();
        for (id, value) in (0..).zip(values) {
            index.hold(id);
            index.add(Some(value.as_bytes()), id);
        }
        index.finish();
        let ids = |rows: Option<&[Row]>| {
            let mut ids: Vec<usize> = rows.unwrap().iter().map(|row| row.id as usize).collect();
            ids.sort_unstable();
            ids
        };
        let scan = |test: &dyn Fn(&str) -> bool| -> Vec<usize> {
            (0..values.len()).filter(|id| test(values[*id])).collect()
        };
        for asked in ["", "a", "ab", "b", "c", "xx"] {
            let form = asked.as_bytes();
            assert_eq!(ids(index.equal(form)), scan(&|it| it == asked), "={asked}");
            assert_eq!(
                ids(index.beginning(form)),
                scan(&|it| it.starts_with(asked)),
                "{asked}*"
            );
            assert_eq!(
                ids(index.at_least(form)),
                scan(&|it| it >= asked),
                ">={asked}"
            );
            assert_eq!(
                ids(index.at_most(form)),
                scan(&|it| it <= asked),
                "<={asked}"
            );
        }
        // Those that are known by their beginning alone are among them.
        for form in [long.as_bytes(), longer.as_bytes()] {
            assert_eq!(ids(index.equal(form)), [6, 7]);
            assert!(ids(index.at_least(form)).ends_with(&[6, 7]));
            assert_eq!(ids(index.at_most(form)).len(), 9);
        }
        assert_eq!(index.holders().len(), 9);
        index.add(None, 9);
        assert!(index.equal(b"a").is_none());
    }
}
