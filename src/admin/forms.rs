#![forbid(unsafe_code)]
//! What a form sent (application/x-www-form-urlencoded).

use std::collections::HashMap;

use crate::control::request::{LimitsForm, Row};

/// The most fields of a form: 1000 rows of sockets, as many as a listener may have, with all their fields.
const MOST_FIELDS: usize = 8100;

/// Names and values.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// In their order.
    fields: Vec<(String, String)>,
    /// Where the first of each name stands.
    first: HashMap<String, usize>,
    /// There were more: the rest of them is not known.
    pub(super) is_cut: bool,
}

impl Form {
    pub(super) fn parse(body: &[u8]) -> Form {
        let mut all = form_urlencoded::parse(body).into_owned();
        let fields: Vec<(String, String)> = all.by_ref().take(MOST_FIELDS).collect();
        let mut first = HashMap::with_capacity(fields.len());
        for (at, (name, _)) in fields.iter().enumerate() {
            first.entry(name.clone()).or_insert(at);
        }
        Form {
            fields,
            first,
            is_cut: all.next().is_some(),
        }
    }

    /// The first value of a name; empty when there is none. Lines end with LF: browsers send CRLF.
    pub(super) fn get(&self, name: &str) -> String {
        self.raw(name).unwrap_or_default().replace("\r\n", "\n")
    }

    /// The first value of a name as it was sent.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        let at = *self.first.get(name)?;
        self.fields.get(at).map(|(_, value)| value.as_str())
    }

    /// Absent where the form has no such field; one that was emptied is empty, and takes its key away.
    fn optional(&self, name: &str) -> Option<String> {
        self.raw(name)?;
        Some(self.get(name))
    }

    /// The rows of the table of sockets: fields `port-0`, `address-0` and so on.
    pub(super) fn rows(&self) -> Vec<Row> {
        let numbers = self
            .fields
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("port-"));
        numbers
            .map(|number| Row {
                index: self.get(&format!("index-{number}")).parse().ok(),
                port: self.get(&format!("port-{number}")).trim().to_owned(),
                address: self.get(&format!("address-{number}")).trim().to_owned(),
                tls: self.get(&format!("tls-{number}")),
                restriction: self.get(&format!("restriction-{number}")),
                list: self.get(&format!("list-{number}")),
                proxy_from: self.optional(&format!("proxy_from-{number}")),
                client_ca: self.optional(&format!("client_ca-{number}")),
            })
            .collect()
    }

    /// The limits, where the form has them.
    pub(super) fn limits(&self) -> Option<LimitsForm> {
        self.raw("channels")?;
        let field = |name| self.get(name).trim().to_owned();
        Some(LimitsForm {
            channels: field("channels"),
            reserve_for_clients: field("reserve_for_clients"),
            limit_per_address: field("limit_per_address"),
            limit_non_clients: field("limit_non_clients"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, MOST_FIELDS};

    #[test]
    fn rows_are_put_together_by_their_number() {
        let form = Form::parse(
            b"csrf=x&index-0=3&port-0=+25+&address-0=&tls-0=On&list-0=a%0D%0Ab&port-1=0&port-%3Cb%3E=7&channels=5",
        );
        let rows = form.rows();
        assert_eq!(rows.len(), 3);
        assert_eq!(
            (rows[0].index, &*rows[0].port, &*rows[0].list),
            (Some(3), "25", "a\nb")
        );
        assert_eq!((rows[1].index, &*rows[2].port), (None, "7"));
        assert_eq!(form.limits().unwrap().channels, "5");
        assert_eq!(Form::parse(b"").limits(), None);
        assert!(!form.is_cut);
    }

    #[test]
    fn a_form_that_was_cut_says_so() {
        let whole = Form::parse(&b"port-1=1&".repeat(MOST_FIELDS));
        assert_eq!((whole.rows().len(), whole.is_cut), (MOST_FIELDS, false));
        let cut = Form::parse(&b"port-1=1&".repeat(MOST_FIELDS + 1));
        assert_eq!((cut.rows().len(), cut.is_cut), (MOST_FIELDS, true));
    }
}
