#![forbid(unsafe_code)]
//! The head of an upstream's answer, read, and written anew for the client.

use std::mem::MaybeUninit;

use super::ask::is_of_one_hop;
use crate::http::framing::Framing;
use crate::http::head::{MAX_FIELDS, MAX_HEAD};

/// How an answer's body ends (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// As a request's would.
    Framed(Framing),
    /// With the connection.
    Close,
}

/// What is told of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) ends: Ends,
    /// The upstream's connection may be used again.
    pub(super) keep_alive: bool,
    /// Field lines for the client, without those of one hop.
    pub(super) fields: Vec<u8>,
    reason: String,
    /// The protocol that was changed to.
    upgrade: Option<String>,
    /// Bytes of the head.
    pub(super) length: usize,
}

impl Head {
    /// Reads a head; `None` until it is whole.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub(super) fn read(bytes: &[u8], of_head: bool) -> Result<Option<Head>, &'static str> {
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut room)
        {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(None),
            Ok(_) => return Err("the head of its answer is too large"),
            Err(_) => return Err("its answer is not HTTP/1.1"),
        };
        let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
            return Err("its answer is not HTTP/1.1");
        };
        // RFC 9110, 15: below 100 there are none, and written anew it would have fewer than three digits.
        if status < 100 {
            return Err("its answer has no valid status");
        }
        let all = |name: &str| {
            let fields = parsed
                .headers
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case(name));
            fields
                .map(|field| field.value.trim_ascii())
                .collect::<Vec<_>>()
        };
        let connection = all("connection");
        let connection: Vec<&str> = connection
            .iter()
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(',').map(str::trim))
            .collect();
        let says = |word: &str| {
            connection
                .iter()
                .any(|option| option.eq_ignore_ascii_case(word))
        };
        let ends = ends(
            status,
            of_head,
            &all("transfer-encoding"),
            &all("content-length"),
        )?;
        let mut fields = Vec::with_capacity(length);
        for field in parsed
            .headers
            .iter()
            .filter(|field| !is_of_one_hop(field.name, &connection))
        {
            fields.extend_from_slice(field.name.as_bytes());
            fields.extend_from_slice(b": ");
            fields.extend_from_slice(field.value);
            fields.extend_from_slice(b"\r\n");
        }
        if let (true, [length]) = (of_head || status == 304, &all("content-length")[..])
            && number(length).is_some()
        {
            fields.extend_from_slice(b"Content-Length: ");
            fields.extend_from_slice(length);
            fields.extend_from_slice(b"\r\n");
        }
        let upgrade = all("upgrade")
            .first()
            .map(|value| String::from_utf8_lossy(value).into_owned());
        Ok(Some(Head {
            status,
            ends,
            keep_alive: ends != Ends::Close && !says("close") && (minor >= 1 || says("keep-alive")),
            fields,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            upgrade: upgrade.filter(|_| status == 101),
            length,
        }))
    }

    /// The head for the client, in its framing.
    pub(super) fn write(&self, framing: Framing, connection: Option<&str>) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, self.reason).into_bytes();
        head.extend_from_slice(&self.fields);
        match framing {
            Framing::Length(length) => {
                head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes())
            }
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::None => {}
        }
        let connection = if self.upgrade.is_some() {
            Some("upgrade")
        } else {
            connection
        };
        if let Some(connection) = connection {
            head.extend_from_slice(format!("Connection: {connection}\r\n").as_bytes());
        }
        if let Some(protocol) = &self.upgrade {
            head.extend_from_slice(format!("Upgrade: {protocol}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// RFC 9112, 6.3; what could be understood differently is refused.
fn ends(
    status: u16,
    of_head: bool,
    codings: &[&[u8]],
    lengths: &[&[u8]],
) -> Result<Ends, &'static str> {
    if of_head || (100..200).contains(&status) || status == 204 || status == 304 {
        return Ok(Ends::Framed(Framing::None));
    }
    match (codings, lengths) {
        ([], []) => Ok(Ends::Close),
        ([], [length]) => {
            let length = number(length).ok_or("its Content-Length is not a number")?;
            Ok(Ends::Framed(Framing::Length(length)))
        }
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Ends::Framed(Framing::Chunked))
        }
        _ => Err("the framing of its answer is not clear"),
    }
}

/// Digits and nothing else (RFC 9110, 8.6), no more than fit.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::{Ends, Head};
    use crate::http::framing::Framing;

    fn read(fields: &str) -> Result<Ends, &'static str> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        Head::read(text.as_bytes(), false).map(|head| head.unwrap().ends)
    }

    #[test]
    fn answers_end_where_the_rfc_says_or_are_refused() {
        assert_eq!(read(""), Ok(Ends::Close));
        assert_eq!(
            read("Content-Length: 7\r\n"),
            Ok(Ends::Framed(Framing::Length(7)))
        );
        assert_eq!(
            read("Transfer-Encoding: Chunked\r\n"),
            Ok(Ends::Framed(Framing::Chunked))
        );
        for bad in [
            "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 7\r\nContent-Length: 7\r\n",
            "Content-Length: +7\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "A b: c\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(
            Head::read(b"HTTP/1.1 200 OK\r\nA: b", false)
                .unwrap()
                .is_none()
        );
        let of_head = |length: &str| {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            Head::read(text.as_bytes(), true).unwrap().unwrap().fields
        };
        assert_eq!(of_head("7"), b"Content-Length: 7\r\n");
        assert_eq!(of_head("7, 8"), b"");
        assert!(Head::read(b"HTTP/1.1 099 no\r\n\r\n", false).is_err());
        assert!(Head::read(b"SSH-2.0-x\r\n", false).is_err());
        assert!(
            Head::read(
                &[b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; 40_000]].concat(),
                false
            )
            .is_err()
        );
    }
}
