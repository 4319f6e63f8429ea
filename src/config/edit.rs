#![forbid(unsafe_code)]
//! Forms of listeners and lists: what their files say, as texts for people, and files with other values in them
//! whose comments and layout are those of before.

use std::ops::Range;
use std::path::Path;

use super::field::{Field, Text};
use super::raw;
use super::scan::{Group, group};
use super::splice::Splices;
use crate::control::request::{LimitsForm, List, ListenerForm, Lists, Row};

/// The keys of [`LimitsForm`], in its order.
pub(crate) const LIMITS: [&str; 4] = [
    "channels",
    "reserve_for_clients",
    "limit_per_address",
    "limit_non_clients",
];

/// What `clients` is where the file has no such key.
pub(crate) const DEFAULT_CLIENTS: &str = "127.0.0.0/8\n::1";

/// A listener's file as a form. Rows of port 0 are left out. The message of the first error where it cannot
/// be read.
pub(crate) fn form(file: &Path, content: &str) -> Result<ListenerForm, String> {
    let text = Text::new(file, content);
    let mut errors = Vec::new();
    let made = read_form(text, &mut errors);
    match (made, errors.first()) {
        (Some(form), None) => Ok(form),
        (_, Some(error)) => Err(error.to_string()),
        (None, None) => Err(format!("{}: cannot be read", file.display())),
    }
}

fn read_form(text: Text<'_>, errors: &mut Vec<super::ConfigError>) -> Option<ListenerForm> {
    let raw: raw::Listener<'_> = text.read(text.text, errors)?;
    let (transport, module, sockets, limits) = match raw {
        raw::Listener::Tcp(tcp) => {
            let words = |field: Field<'_, u32>| field.raw().unwrap_or_default().to_owned();
            let limits = LimitsForm {
                channels: words(tcp.channels),
                reserve_for_clients: words(tcp.reserve_for_clients),
                limit_per_address: words(tcp.limit_per_address),
                limit_non_clients: words(tcp.limit_non_clients),
            };
            ("tcp", tcp.module, tcp.sockets, Some(limits))
        }
        raw::Listener::Udp(udp) => ("udp", udp.module, udp.sockets, None),
    };
    let module = module.raw().unwrap_or_default();
    let mut rows = Vec::new();
    for (index, field) in text.each(sockets, errors).into_iter().enumerate() {
        rows.extend(read_row(text, index, field, errors));
    }
    Some(ListenerForm {
        name: stem(text.file),
        transport: transport.to_owned(),
        module: module
            .split('(')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned(),
        file: text.file.display().to_string(),
        version: format!("{:016x}", super::version(text.text)),
        sockets: rows,
        limits,
        ..ListenerForm::default()
    })
}

fn read_row<'a>(
    text: Text<'a>,
    index: usize,
    field: Field<'a, raw::Socket<'a>>,
    errors: &mut Vec<super::ConfigError>,
) -> Option<Row> {
    let raw: raw::Socket<'a> = text.read(field.raw()?, errors)?;
    let port = text.get(raw.port, errors).filter(|port| *port != 0)?;
    let restriction: Option<raw::Restriction<'a>> =
        raw.restriction.raw().and_then(|raw| text.read(raw, errors));
    let mut list = |field| text.get(field, errors).map(|list: String| tidy(&list));
    let (kind, list_text) = match restriction {
        Some(raw::Restriction::Grant(field)) => ("Grant", list(field)),
        Some(raw::Restriction::Deny(field)) => ("Deny", list(field)),
        None => ("none", None),
    };
    let proxy_from = list(raw.proxy_from);
    let tls = match text.get(raw.tls, errors) {
        Some(raw::Tls::On) => "On",
        Some(raw::Tls::Ext) => "Ext",
        Some(raw::Tls::Off) | None => "Off",
    };
    Some(Row {
        index: Some(index),
        port: port.to_string(),
        address: text.get(raw.address, errors).unwrap_or_default(),
        tls: tls.to_owned(),
        restriction: kind.to_owned(),
        list: list_text.unwrap_or_default(),
        proxy_from,
        client_ca: text.get(raw.client_ca, errors),
    })
}

/// The server-wide lists of the server's file.
pub(crate) fn lists(file: &Path, content: &str) -> Result<Lists, String> {
    let text = Text::new(file, content);
    let mut errors = Vec::new();
    let server: Option<raw::Server<'_>> = text.read(content, &mut errors);
    let network = server.and_then(|server| {
        let raw = server.network.raw()?;
        text.read::<raw::Network<'_>>(raw, &mut errors)
    });
    let network = network.unwrap_or_default();
    let mut list = |field| text.get(field, &mut errors).map(|list: String| tidy(&list));
    let lists = Lists {
        clients: list(network.clients).unwrap_or_else(|| DEFAULT_CLIENTS.to_owned()),
        denied: list(network.denied).unwrap_or_default(),
        blacklist: list(network.blacklist).unwrap_or_default(),
        cluster: list(network.cluster).unwrap_or_default(),
        version: format!("{:016x}", super::version(content)),
    };
    match errors.first() {
        None => Ok(lists),
        Some(error) => Err(error.to_string()),
    }
}

impl Lists {
    /// One of them.
    #[must_use]
    pub fn text(&self, which: List) -> &str {
        match which {
            List::Clients => &self.clients,
            List::Denied => &self.denied,
            List::Blacklist => &self.blacklist,
            List::Cluster => &self.cluster,
        }
    }
}

/// A file's text with other values. Each change finds its place anew; `None` is a text whose parts are not
/// found, and which is left to people.
pub(crate) struct Editor {
    pub(crate) text: String,
}

impl Editor {
    fn top(&self) -> Option<Group> {
        group(&self.text, 0..self.text.len(), b'(')
    }

    fn rows(&self) -> Option<Group> {
        let sockets = self.top()?.part("sockets")?.value.clone();
        group(&self.text, sockets, b'[')
    }

    /// How many rows there are, those of port 0 among them.
    pub(crate) fn rows_len(&self) -> usize {
        self.rows().map_or(0, |rows| rows.parts.len())
    }

    /// A key of the file's outermost group.
    pub(crate) fn set_key(&mut self, key: &str, value: Option<&str>) -> Option<()> {
        let top = self.top()?;
        self.set(&top, key, value);
        Some(())
    }

    /// Makes one row another.
    pub(crate) fn change_row(&mut self, index: usize, old: &Row, new: &Row) -> Option<()> {
        let indent = self.row_indent(index);
        for ((key, before), (_, after)) in
            values(old, &indent).into_iter().zip(values(new, &indent))
        {
            if before != after {
                let row = self.row(index)?;
                self.set(&row, key, after.as_deref());
            }
        }
        Some(())
    }

    pub(crate) fn remove_row(&mut self, index: usize) -> Option<()> {
        let rows = self.rows()?;
        let mut splices = Splices::of(&self.text);
        splices.remove(rows.parts.get(index)?);
        self.text = splices.apply();
        Some(())
    }

    /// Adds rows behind the others.
    pub(crate) fn append_rows(&mut self, rows: &[Row]) -> Option<()> {
        if rows.is_empty() {
            return Some(());
        }
        if self.top()?.part("sockets").is_none() {
            self.set_key("sockets", Some("[\n    ]"))?;
        }
        let group = self.rows()?;
        let indent = match group.parts.len() {
            0 => "        ".to_owned(),
            count => self.row_indent(count - 1),
        };
        let texts: Vec<String> = rows.iter().map(|row| write_row(row, &indent)).collect();
        let mut splices = Splices::of(&self.text);
        splices.append(&group, &texts);
        self.text = splices.apply();
        Some(())
    }

    /// One of the server-wide lists.
    pub(crate) fn set_list(&mut self, which: List, list: &str) -> Option<()> {
        if self.top()?.part("network").is_none() {
            self.set_key("network", Some("(\n    )"))?;
        }
        let network = self.top()?.part("network")?.value.clone();
        let network = group(&self.text, network, b'(')?;
        let literal = literal(list, "        ");
        self.set(&network, which.name(), Some(&literal));
        Some(())
    }

    /// Which row, and which key of it, an offset of the text lies in.
    pub(crate) fn place(&self, offset: usize) -> Option<(usize, Option<String>)> {
        let holds = |range: &Range<usize>| range.start <= offset && offset < range.end;
        let rows = self.rows()?;
        let index = rows.parts.iter().position(|part| holds(&part.whole))?;
        let row = self.row(index)?;
        let part = row.parts.into_iter().find(|part| holds(&part.whole));
        Some((index, part.map(|part| part.key)))
    }

    /// Which key of the outermost group an offset lies in.
    pub(crate) fn key(&self, offset: usize) -> Option<String> {
        let parts = self.top()?.parts.into_iter();
        let mut holding =
            parts.filter(|part| part.whole.start <= offset && offset < part.whole.end);
        holding.next().map(|part| part.key)
    }

    fn row(&self, index: usize) -> Option<Group> {
        let row = self.rows()?.parts.get(index)?.value.clone();
        group(&self.text, row, b'(')
    }

    fn row_indent(&self, index: usize) -> String {
        let indent = || {
            let start = self.rows()?.parts.get(index)?.whole.start;
            Splices::of(&self.text).indent(start).map(str::to_owned)
        };
        indent().unwrap_or_else(|| "        ".to_owned())
    }

    fn set(&mut self, group: &Group, key: &str, value: Option<&str>) {
        let mut splices = Splices::of(&self.text);
        splices.set(group, key, value);
        self.text = splices.apply();
    }
}

/// The keys of a row and their values as a file has them.
fn values(row: &Row, indent: &str) -> Vec<(&'static str, Option<String>)> {
    let quoted = |text: &str| literal(text, indent);
    let filled = |text: &str| (!text.is_empty()).then(|| quoted(text));
    let restriction = match row.restriction.as_str() {
        kind @ ("Grant" | "Deny") => Some(format!("{kind}({})", quoted(&tidy(&row.list)))),
        _ => None,
    };
    let tls = Some(row.tls.clone()).filter(|tls| !matches!(tls.as_str(), "" | "Off"));
    vec![
        ("port", Some(row.port.clone())),
        ("address", filled(&row.address)),
        ("tls", tls),
        ("restriction", restriction),
        (
            "proxy_from",
            row.proxy_from.as_deref().map(|list| quoted(&tidy(list))),
        ),
        ("client_ca", row.client_ca.as_deref().and_then(filled)),
    ]
}

fn write_row(row: &Row, indent: &str) -> String {
    let set = values(row, indent).into_iter();
    let set = set.filter_map(|(key, value)| Some(format!("{key}: {}", value?)));
    format!("({})", set.collect::<Vec<_>>().join(", "))
}

/// A list as people edit it: without the white space that the file's layout puts before its lines.
pub(crate) fn tidy(list: &str) -> String {
    let list = list.replace("\r\n", "\n");
    let lines: Vec<&str> = list.lines().map(str::trim_end).collect();
    let first = lines.iter().position(|line| !line.is_empty());
    let last = lines.iter().rposition(|line| !line.is_empty());
    let (Some(first), Some(last)) = (first, last) else {
        return String::new();
    };
    let lines = &lines[first..=last];
    let blank = |line: &&&str| !line.is_empty();
    let depth = lines
        .iter()
        .filter(blank)
        .map(|line| line.len() - line.trim_start_matches([' ', '\t']).len())
        .min()
        .unwrap_or(0);
    let bare = lines
        .iter()
        .map(|line| line.get(depth..).unwrap_or_default());
    bare.collect::<Vec<_>>().join("\n")
}

/// A string literal; one of several lines stands indented below its key.
fn literal(text: &str, indent: &str) -> String {
    let mut made = String::from("\"");
    let lines: Vec<&str> = text.split('\n').collect();
    for line in &lines {
        if lines.len() > 1 {
            made.push('\n');
            if !line.is_empty() {
                made.push_str(indent);
                made.push_str("    ");
            }
        }
        for sign in line.chars() {
            match sign {
                '"' | '\\' => made.extend(['\\', sign]),
                '\t' => made.push(sign),
                sign if sign.is_control() => {
                    made.push_str(&format!("\\u{{{:x}}}", u32::from(sign)))
                }
                sign => made.push(sign),
            }
        }
    }
    if lines.len() > 1 {
        made.push('\n');
        made.push_str(indent);
    }
    made.push('"');
    made
}

fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"// printf 'hi\n' | nc -N 127.0.0.1 7007
Tcp(
    module: Exec(command: ["/bin/cat"], env: {"A": "(,"}),   // the ( program
    channels: 200,
    reserve_for_clients: 20,                // the last 20 are for clients
    sockets: [
        (port: 7007, address: "127.0.0.1"),     // clear
        (port: 0),
        // openssl s_client
        (port: 7207, address: "127.0.0.1", /* secure */ tls: On),
        (port: 7107, restriction: Deny("
            127.0.0.66                      ; a \"bad\" script
              !127.0.0.75
        ")),
    ],
)
"#;

    fn read(text: &str) -> ListenerForm {
        form(Path::new("listeners/echo.ron"), text).unwrap()
    }

    #[test]
    fn a_file_is_a_form_of_texts() {
        let form = read(FILE);
        assert_eq!((form.name.as_str(), form.module.as_str()), ("echo", "Exec"));
        let indexes: Vec<_> = form.sockets.iter().map(|row| row.index.unwrap()).collect();
        assert_eq!(indexes, [0, 2, 3]);
        let deny = &form.sockets[2];
        assert_eq!(deny.restriction, "Deny");
        assert_eq!(
            deny.list,
            "127.0.0.66                      ; a \"bad\" script\n  !127.0.0.75"
        );
        let limits = form.limits.unwrap();
        assert_eq!(
            (limits.channels.as_str(), limits.limit_per_address.as_str()),
            ("200", "")
        );
        assert!(super::form(Path::new("x.ron"), "Tcp(").is_err());
    }

    #[test]
    fn an_edit_changes_what_it_is_about_and_leaves_every_other_byte_alone() {
        let old = read(FILE).sockets;
        let mut editor = Editor {
            text: FILE.to_owned(),
        };
        let mut secure = old[0].clone();
        secure.tls = "Ext".to_owned();
        editor.change_row(0, &old[0], &secure).unwrap();
        let mut everywhere = old[1].clone();
        everywhere.address.clear();
        editor.change_row(2, &old[1], &everywhere).unwrap();
        let expected = FILE
            .replace(
                "127.0.0.1\"),     // clear",
                "127.0.0.1\", tls: Ext),     // clear",
            )
            .replace(
                "(port: 7207, address: \"127.0.0.1\", /* secure */",
                "(port: 7207, /* secure */",
            );
        assert_eq!(editor.text, expected);
        let mut open = old[2].clone();
        open.restriction = "Grant".to_owned();
        open.list = "10.0.0.0/8 ; \\ \"us\"\n192.0.2.1".to_owned();
        editor.change_row(3, &old[2], &open).unwrap();
        editor.set_key("channels", Some("5")).unwrap();
        editor.set_key("reserve_for_clients", None).unwrap();
        editor.set_key("limit_per_address", Some("3")).unwrap();
        let new = Row {
            port: "7999".to_owned(),
            address: "::1".to_owned(),
            ..Row::default()
        };
        editor.append_rows(&[new]).unwrap();
        editor.remove_row(0).unwrap();
        let made = read(&editor.text);
        assert_eq!(made.sockets[1].list, open.list);
        assert_eq!(made.sockets.len(), 3);
        assert_eq!(made.sockets[2].port, "7999");
        let limits = made.limits.unwrap();
        assert_eq!(
            [
                limits.channels.as_str(),
                &limits.reserve_for_clients,
                &limits.limit_per_address
            ],
            ["5", "", "3"]
        );
        for kept in [
            "// the ( program",
            "// openssl s_client",
            "/* secure */",
            "(port: 0),",
        ] {
            assert!(editor.text.contains(kept), "{kept} in\n{}", editor.text);
        }
    }

    #[test]
    fn sockets_come_where_there_were_none() {
        for text in [
            "Tcp(module: Echo)",
            "Tcp(\n    module: Echo,\n)\n",
            "Tcp(module: Echo, sockets: [])",
        ] {
            let mut editor = Editor {
                text: text.to_owned(),
            };
            let new = Row {
                port: "7".to_owned(),
                ..Row::default()
            };
            editor.append_rows(&[new]).unwrap();
            assert_eq!(read(&editor.text).sockets[0].port, "7", "{}", editor.text);
        }
    }

    #[test]
    fn lists_are_put_into_the_servers_file() {
        for text in [
            "()",
            "(\n    workers: 8, // threads\n)\n",
            "(network: (clients: \"10.0.0.1\"), workers: 8)",
            "",
        ] {
            let mut editor = Editor {
                text: text.to_owned(),
            };
            let made = editor.set_list(List::Denied, "192.0.2.1 ; him\n192.0.2.2");
            assert_eq!(made.is_some(), !text.is_empty());
            if made.is_some() {
                let lists = lists(Path::new("portreeve.ron"), &editor.text).unwrap();
                assert_eq!(
                    lists.denied, "192.0.2.1 ; him\n192.0.2.2",
                    "{}",
                    editor.text
                );
            }
        }
    }

    #[test]
    fn the_demo_can_be_edited() {
        for entry in std::fs::read_dir("conf/listeners").unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let old = form(&path, &text).unwrap();
            let mut editor = Editor { text };
            let new = Row {
                port: "64999".to_owned(),
                ..Row::default()
            };
            editor.append_rows(std::slice::from_ref(&new)).unwrap();
            let made = form(&path, &editor.text).unwrap();
            assert_eq!(made.sockets.len(), old.sockets.len() + 1, "{}", editor.text);
            editor
                .remove_row(made.sockets.last().unwrap().index.unwrap())
                .unwrap();
            assert_eq!(form(&path, &editor.text).unwrap().sockets, old.sockets);
        }
    }
}
