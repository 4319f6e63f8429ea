#![forbid(unsafe_code)]
//! Writes the corpora that fuzzing starts from, below the folder named: the tables and files of `tests/data`,
//! and `conf`. Run at the top of the repository.

use std::fs;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let corpus = PathBuf::from(std::env::args_os().nth(1).expect("a folder"));
    for table in ["good", "bad"] {
        let text = fs::read_to_string(format!("tests/data/proxy_headers/{table}.txt"))?;
        let header = |line: &str| unescape(line.rsplit_once(" => ").map_or(line, |(header, _)| header));
        write(&corpus.join("proxy_header"), table, text.lines().map(header))?;
    }
    // The first byte is the length of the pieces, less one.
    let text = fs::read_to_string("tests/data/tls_openings/bad.txt")?;
    let opening = |line: &str| [&[6], &unescape(line)[..]].concat();
    write(&corpus.join("tls_opening"), "bad", text.lines().map(opening))?;

    let (mut texts, mut lists) = (Vec::new(), Vec::new());
    for file in files("tests/data/bad")? {
        // -- FILE -- lines between the files of one configuration.
        let text = fs::read_to_string(file)?;
        let mut parts = text.split("\n-- ").map(|part| part.split_once(" --\n").unwrap_or(("", part)).1);
        let server = parts.next().unwrap_or_default().to_owned();
        texts.extend(parts.map(|listener| [&server, "\0", listener].concat().into_bytes()));
    }
    let server = fs::read_to_string("conf/portreeve.ron")?;
    for file in files("conf/listeners")? {
        let text = fs::read_to_string(file)?;
        texts.push([&server, "\0", &text].concat().into_bytes());
    }
    for list in [
        "127.0.0.1 ; one\n10.0.0.0/8\n!10.66.0.0/16\n10.66.6.6\n192.168.1.10 - 192.168.1.99\n",
        "2001:db8::/32\n!2001:db8:1::/48\n[2001:db8:1::7]\n::ffff:192.0.2.0/120\n",
        "0.0.0.0/1\n128.0.0.0/1\n!255.255.255.255\n::/0\n!::1\n",
    ] {
        lists.push(list.as_bytes().to_vec());
    }
    write(&corpus.join("configuration"), "file", texts.into_iter())?;
    write(&corpus.join("address_list"), "list", lists.into_iter())?;
    let requests = ["{\"command\":\"status\"}", "{\"command\":\"metrics\"}", "{}", "[1,{\"a\":null}]"];
    let requests = requests.iter().map(|text| text.as_bytes().to_vec());
    write(&corpus.join("control_request"), "line", requests)?;
    let steps = [vec![3, 1, 17, 2, 18, 3, 19, 4, 130, 255, 1], (0..=255).collect()];
    write(&corpus.join("flows"), "steps", steps.into_iter())?;
    let scripts = [vec![1, 2, 128, 160, 31, 96, 159, 191, 192, 224, 200], (0..=255).collect()];
    write(&corpus.join("tls_records"), "script", scripts.into_iter())?;
    let inputs = (0..3).map(|module| [&[module, 2], &b"hello\r\nworld"[..]].concat());
    write(&corpus.join("session"), "input", inputs)?;
    let text = fs::read_to_string("tests/data/http/smuggling.txt")?;
    let requests = text.lines().filter_map(|line| line.split_once(" GET"));
    let requests = requests.map(|(_, rest)| [&[3, 6], &b"GET"[..], &unescape(rest)].concat());
    write(&corpus.join("session"), "request", requests)
}

fn files(folder: &str) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

fn write(folder: &Path, name: &str, seeds: impl Iterator<Item = Vec<u8>>) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for (number, seed) in seeds.enumerate() {
        fs::write(folder.join(format!("{name}-{number}")), seed)?;
    }
    Ok(())
}

/// A line of the tables: `\r`, `\n`, `\xNN`, `{V2}` for the signature of version 2, `{65*n}` for n times a byte.
fn unescape(line: &str) -> Vec<u8> {
    let line = line.replace("{V2}", "\\r\\n\\r\\n\\x00\\r\\nQUIT\\n");
    let mut bytes = Vec::new();
    let mut rest = line.as_str();
    while let Some(first) = rest.chars().next() {
        let (taken, made) = match rest.split_at_checked(2) {
            Some(("\\r", _)) => (2, vec![b'\r']),
            Some(("\\n", _)) => (2, vec![b'\n']),
            Some(("\\x", hex)) => (4, vec![u8::from_str_radix(&hex[..2], 16).expect("hex")]),
            _ if first == '{' => {
                let (repeat, _) = rest[1..].split_once('}').expect("a brace");
                let (byte, count) = repeat.split_once('*').expect("a star");
                let byte = u8::from_str_radix(byte, 16).expect("hex");
                (repeat.len() + 2, vec![byte; count.parse().expect("a number")])
            }
            _ => (first.len_utf8(), first.to_string().into_bytes()),
        };
        bytes.extend(made);
        rest = &rest[taken..];
    }
    bytes
}
