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
    let tftp = [
        &b"\x00\x01f\0octet\0blksize\x0016\0windowsize\x004\0tsize\x000\0\xff\x04\0\x04\0\0\x04\0\x04\0\x04"[..],
        b"\x00\x02f\0netascii\0timeout\x003\0\xff\x06\0\x03\0\x01ab\x05\0\x05\0\0\0",
    ];
    write(&corpus.join("tftp"), "transfer", tftp.into_iter().map(<[u8]>::to_vec))?;
    let get = b"\x30\x29\x02\x01\x01\x04\x06public\xa0\x1c\x02\x04\x12\x34\x56\x78\x02\x01\0\x02\x01\0\x30\x0e\x30\x0c\x06\x08\x2b\x06\x01\x02\x01\x01\x03\0\x05\0";
    let snmp = [0xa0, 0xa1, 0xa3, 0xa5].map(|kind| {
        let mut message = get.to_vec();
        message[13] = kind;
        message
    });
    write(&corpus.join("snmp"), "request", snmp.into_iter())?;
    let ldap = [
        // A bind, a search with a filter of each kind, Who am I?, and Unbind.
        &b"\x07\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"[..],
        b"\x07\x30\x2a\x02\x01\x02\x63\x25\x04\x06dc=org\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\xa3\x09\x04\x02cn\x04\x03ann\x30\x03\x04\x01*",
        b"\x01\x30\x2d\x02\x01\x02\x63\x28\x04\x06dc=org\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\xa0\x0f\xa2\x04\x87\x02cn\xa4\x07\x04\x02sn\x30\x01\x81\x30\x00",
        b"\x03\x30\x1e\x02\x01\x03\x77\x19\x80\x171.3.6.1.4.1.4203.1.11.3\x30\x05\x02\x01\x04\x42\x00",
    ];
    write(&corpus.join("ldap"), "client", ldap.into_iter().map(<[u8]>::to_vec))?;
    let ldif = [fs::read("conf/directory.ldif")?, b"version: 1\ndn:: ZGM9YQ==\nobjectClass: top\nsn;x:< y\n z\n\n#\n".to_vec()];
    write(&corpus.join("ldif"), "file", ldif.into_iter())?;
    let head = |code: u8, length: u8| [&[code, 1, 0, length][..], &[7; 16]].concat();
    let radius = [
        [&head(1, 44)[..], b"\x01\x06nemo\x02\x12sixteen bytes ok"].concat(),
        [&head(4, 26)[..], b"\x28\x06\0\0\0\x01"].concat(),
        [&head(12, 38)[..], b"\x50\x12sixteen bytes ok"].concat(),
        [&head(1, 78)[..], b"\x1a\x3a\0\0\x01\x37\x19\x34", &[3; 50]].concat(),
    ];
    write(&corpus.join("radius"), "packet", radius.into_iter())?;
    let torture = fs::read_to_string("tests/data/sip/torture.txt")?;
    let messages = torture.split("\n== ").skip(1).map(|piece| {
        let (_, message) = piece.split_once('\n').expect("a message");
        let message = message.replace("example.com", "example.org").replace("sip:user@", "sip:ann@");
        message.replace('\n', "\r\n").into_bytes()
    });
    write(&corpus.join("sip"), "torture", messages)?;
    let inputs = (0..3).map(|module| [&[module, 2], &b"hello\r\nworld"[..]].concat());
    let smtp = b"EHLO a\r\nMAIL FROM:<a@b> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<a@a.test>\r\nDATA\r\nBDAT 3 LAST\r\nabcQUIT\r\n";
    let pop = b"CAPA\r\nUSER a\r\nPASS b\r\nAUTH PLAIN AGEAYg==\r\nSTLS\r\nQUIT\r\n";
    let inputs = inputs.chain([[&[3, 2], &smtp[..]].concat(), [&[4, 2], &pop[..]].concat()]);
    let imap = b"a CAPABILITY\r\nb LOGIN {1}\r\na {2+}\r\nbc\r\nc AUTHENTICATE PLAIN\r\n*\r\nd ID NIL\r\ne STARTTLS\r\n";
    let inputs = inputs.chain([[&[6, 2], &imap[..]].concat()]);
    write(&corpus.join("session"), "input", inputs)?;
    let mut talks = vec![
        b"a SELECT INBOX\r\nb FETCH 1:* (FULL BODYSTRUCTURE BODY[1.2.MIME]<0.9> BODY[HEADER.FIELDS (DATE)])\r\n".to_vec(),
        b"a EXAMINE inbox\r\nb UID SEARCH OR (NOT TEXT x) HEADER a b SINCE 1-Jan-2000\r\nc IDLE\r\nDONE\r\n".to_vec(),
        b"a CREATE a/b\r\nb APPEND a/b (\\Seen $x) {4+}\r\nx: y\r\nc SELECT a/b\r\nd MOVE 1 INBOX\r\ne RENAME a b\r\n".to_vec(),
        b"a SELECT INBOX\r\nb STORE 1 +FLAGS (\\Deleted)\r\nc COPY 1 INBOX\r\nd EXPUNGE\r\ne LIST \"\" *%\r\n".to_vec(),
    ];
    let message = b"\0From: a <b@c>, d: e@f;\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: message/rfc822\n\nS: t\n\n--x--\n";
    talks.iter_mut().for_each(|talk| talk.extend(message));
    write(&corpus.join("imap"), "talk", talks.into_iter())?;
    let mails = [
        &b"\0\x05DATA\r\nSubject: x\r\n\r\n..\r\n.\r\nRSET\r\nQUIT\r\n"[..],
        b"\0\x02BDAT 3\r\na\r\nBDAT 0 LAST\r\nMAIL FROM:<> SIZE=3\r\nRCPT TO:<ann@a.test>\r\nDATA\r\n.\r\n",
        b"\x01\x03a\n.\nb\r.\r\n.\r\nAUTH LOGIN\r\nYW5u\r\nc2VjcmV0\r\n",
        b"\x02\x04LIST\r\nUIDL 1\r\nTOP 2 1\r\nRETR 2\r\nDELE 1\r\nRSET\r\nDELE 3\r\nSTAT\r\nQUIT\r\n",
    ];
    write(&corpus.join("mail"), "conversation", mails.into_iter().map(<[u8]>::to_vec))?;
    let answers = [
        &b"\0\x02HTTP/1.1 200 OK\r\nConnection: close, X-Y\r\nX-Y: z\r\nContent-Length: 2\r\n\r\nab"[..],
        b"\0\x01HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\nT: x\r\n\r\n",
        b"\x01\x01HTTP/1.0 304 \r\nContent-Length: 7\r\n\r\n",
        b"\0\x01HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    write(&corpus.join("http_answer"), "answer", answers.into_iter().map(<[u8]>::to_vec))?;
    let text = fs::read_to_string("tests/data/http/smuggling.txt")?;
    let requests = text.lines().filter_map(|line| line.split_once(" GET"));
    let requests = requests.map(|(_, rest)| [&[5, 6], &b"GET"[..], &unescape(rest)].concat());
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
