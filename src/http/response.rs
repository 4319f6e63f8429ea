#![forbid(unsafe_code)]
//! What is answered: a status, fields, and a body from memory or from a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use super::files::Stored;
use super::page;
use crate::session::Abuse;

/// An answer. Date, Connection and Content-Length are the writer's.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Field lines, each with its CRLF.
    pub(crate) fields: Vec<u8>,
    pub(crate) body: Body,
    /// The account that the request was made by, for the log.
    pub(crate) user: Option<Box<str>>,
    /// A misdeed that the request was.
    pub(crate) abuse: Option<Abuse>,
}

/// The bytes of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    Bytes(Vec<u8>),
    /// The whole of a small file.
    Stored(Arc<Stored>),
    /// Pieces of a file.
    Parts(Parts),
}

/// Pieces of a file, each with bytes that go ahead of it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) source: Source,
    pub(crate) parts: VecDeque<Part>,
}

/// Where pieces come from.
#[derive(Debug)]
pub(crate) enum Source {
    File(File),
    Stored(Arc<Stored>),
}

/// One piece of a file.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) ahead: Vec<u8>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Part {
    fn size(&self) -> u64 {
        self.ahead.len() as u64 + self.length
    }
}

impl Body {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stored(stored) => stored.bytes.len() as u64,
            Body::Parts(parts) => parts.parts.iter().map(Part::size).sum(),
        }
    }
}

impl Response {
    /// An answer without fields and body.
    pub(crate) fn new(status: u16) -> Response {
        Response {
            status,
            fields: Vec::new(),
            body: Body::Bytes(Vec::new()),
            user: None,
            abuse: None,
        }
    }

    /// An answer with a body in memory.
    pub(crate) fn with(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        let mut response = Response::new(status).field("Content-Type", content_type);
        response.body = Body::Bytes(body.into());
        response
    }

    /// A short page that says what is wrong.
    pub(crate) fn error(status: u16, why: &str) -> Response {
        let page = page::error(status, phrase(status), why);
        Response::with(status, "text/html; charset=utf-8", page)
            .field("X-Content-Type-Options", "nosniff")
    }

    /// Sends the client elsewhere.
    pub(crate) fn redirect(status: u16, location: &str) -> Response {
        Response::error(status, "The page is elsewhere.").field("Location", location)
    }

    /// Adds a field. Control characters in the value would begin a line of their own; they are left out.
    #[must_use]
    pub(crate) fn field(mut self, name: &str, value: &str) -> Response {
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        let plain = value.bytes().filter(|byte| *byte >= b' ' && *byte != 0x7f);
        self.fields.extend(plain);
        self.fields.extend_from_slice(b"\r\n");
        self
    }

    /// Writes the head.
    pub(crate) fn write_head(
        &self,
        out: &mut crate::session::Output,
        wall: std::time::SystemTime,
        connection: Option<&str>,
    ) {
        // An output takes all that is written to it.
        let _ = write!(
            out,
            "HTTP/1.1 {} {}\r\nDate: {}\r\n",
            self.status,
            phrase(self.status),
            httpdate::HttpDate::from(wall)
        );
        out.write(&self.fields);
        // RFC 9110, 8.6: none in a 204; in a 304 it would be the length of what was not sent.
        if self.status != 204 && self.status != 304 {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        if let Some(connection) = connection {
            let _ = write!(out, "Connection: {connection}\r\n");
        }
        out.write(b"\r\n");
    }
}

/// The phrase of a status (RFC 9110, 15).
pub(crate) fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        303 => "See Other",
        304 => "Not Modified",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
