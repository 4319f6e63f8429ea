#![forbid(unsafe_code)]
//! Answers with files.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;

use super::Files;
use super::path::{Relative, encode, encode_name, relative};
use super::store::{Facts, Found};
use crate::http::conditional::{Validators, Verdict, judge};
use crate::http::encoding::{Coding, accepted};
use crate::http::page::{self, Row};
use crate::http::range::{Wanted, wanted};
use crate::http::response::{Body, Part, Parts, Source};
use crate::http::{Request, Response};

/// The most rows of a listing; a directory with more is cut, and its page says so.
const MOST_ROWS: usize = 10_000;

impl Files {
    /// Answers a GET or HEAD.
    pub(crate) fn answer(&self, request: &Request<'_, '_>, wall: SystemTime) -> Response {
        let mut relative = match relative(request.path) {
            Ok(relative) => relative,
            Err(bad) => return Response::error(bad.status, bad.why),
        };
        let answered = if relative.directory {
            self.directory(request, &mut relative, wall)
        } else {
            let found = self.find(request, &mut relative.bytes, wall);
            found.and_then(|found| self.reply(request, &relative.bytes, found, wall))
        };
        answered.unwrap_or_else(failed)
    }

    /// The file of this name, or its sibling in a coding that the client takes.
    fn find(
        &self,
        request: &Request<'_, '_>,
        name: &mut Vec<u8>,
        wall: SystemTime,
    ) -> Result<Found, Errno> {
        if self.precompressed {
            for coding in accepted(request) {
                if let Ok(found @ (Found::Stored(_) | Found::File(..))) =
                    self.in_coding(name, coding, wall)
                {
                    return Ok(found);
                }
            }
        }
        self.store.find(&self.root, name, None, wall)
    }

    fn in_coding(
        &self,
        name: &mut Vec<u8>,
        coding: Coding,
        wall: SystemTime,
    ) -> Result<Found, Errno> {
        self.store.find(&self.root, name, Some(coding), wall)
    }

    fn reply(
        &self,
        request: &Request<'_, '_>,
        name: &[u8],
        found: Found,
        wall: SystemTime,
    ) -> Result<Response, Errno> {
        let (facts, source) = match found {
            Found::Stored(stored) => {
                return Ok(match self.judged(request, &stored.facts, wall) {
                    Judged::Answer(response) => response,
                    Judged::Whole(mut response) => {
                        response.body = Body::Stored(stored);
                        response
                    }
                    Judged::Ranges(response, ranges) => {
                        let source = Source::Stored(Arc::clone(&stored));
                        with_ranges(response, &stored.facts, ranges, source)?
                    }
                });
            }
            Found::File(file, facts) => (facts, Source::File(file)),
            Found::Directory(_) => return Ok(to_directory(request, name)),
            Found::Other => return Ok(Response::error(403, "This is not a file.")),
        };
        Ok(match self.judged(request, &facts, wall) {
            Judged::Answer(response) => response,
            Judged::Whole(mut response) => {
                response.body = parts(source, [part(Vec::new(), 0..facts.size)]);
                response
            }
            Judged::Ranges(response, ranges) => with_ranges(response, &facts, ranges, source)?,
        })
    }

    /// What preconditions and ranges make of a request for a file.
    fn judged(&self, request: &Request<'_, '_>, facts: &Facts, wall: SystemTime) -> Judged {
        let validators = Validators {
            etag: &facts.etag,
            modified: facts.modified,
        };
        let ranges = match judge(request, validators, wall) {
            Verdict::NotModified => return Judged::Answer(self.described(304, facts, false)),
            Verdict::Failed => {
                return Judged::Answer(Response::error(412, "The file is another one by now."));
            }
            // RFC 9110, 14.2: of GET only.
            Verdict::Go { ranges } => ranges && !request.is_head(),
        };
        let range = request.get("range").filter(|_| ranges);
        match range.map_or(Wanted::Whole, |range| wanted(range, facts.size)) {
            Wanted::Whole => Judged::Whole(self.described(200, facts, true)),
            Wanted::Ranges(ranges) => {
                Judged::Ranges(self.described(206, facts, ranges.len() == 1), ranges)
            }
            Wanted::Unsatisfiable => {
                let response = Response::error(416, "The file is shorter than that.");
                Judged::Answer(response.field("Content-Range", &format!("bytes */{}", facts.size)))
            }
        }
    }

    /// An answer with the fields that tell about a file.
    fn described(&self, status: u16, facts: &Facts, typed: bool) -> Response {
        let mut response = Response::new(status);
        response.fields.reserve(320);
        if typed {
            response = response
                .field("Content-Type", &facts.content_type)
                .field("X-Content-Type-Options", "nosniff");
        }
        let _ = write!(
            response.fields,
            "Last-Modified: {}\r\n",
            httpdate::HttpDate::from(facts.modified)
        );
        response = response
            .field("ETag", &facts.etag)
            .field("Accept-Ranges", "bytes");
        if self.precompressed {
            response = response.field("Vary", "Accept-Encoding");
        }
        match facts.coding {
            Some(coding) if status != 304 => response.field("Content-Encoding", coding.name),
            _ => response,
        }
    }

    /// The first index file of a directory, or its listing.
    fn directory(
        &self,
        request: &Request<'_, '_>,
        relative: &mut Relative,
        wall: SystemTime,
    ) -> Result<Response, Errno> {
        let length = relative.bytes.len();
        for index in &self.index {
            if length > 0 {
                relative.bytes.push(b'/');
            }
            relative.bytes.extend_from_slice(index.as_bytes());
            match self.find(request, &mut relative.bytes, wall) {
                Ok(Found::Directory(_) | Found::Other) | Err(Errno::ENOENT) => {}
                Ok(found) => return self.reply(request, &relative.bytes, found, wall),
                Err(error) => return Err(error),
            }
            relative.bytes.truncate(length);
        }
        match self
            .store
            .find(&self.root, &mut relative.bytes, None, wall)?
        {
            Found::Directory(directory) if self.listing => self.list(&relative.bytes, &directory),
            Found::Directory(_) => Ok(Response::error(403, "This directory is not listed.")),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Names that are not served are not listed: those with a dot ahead, and links that lead out.
    fn list(&self, path: &[u8], directory: &File) -> Result<Response, Errno> {
        use std::os::fd::AsRawFd as _;
        // The directory that was opened, whatever its path leads to by now.
        let opened = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let entries = std::fs::read_dir(opened).map_err(|_| Errno::EACCES)?;
        let mut rows = Vec::new();
        let mut more = false;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            if rows.len() == MOST_ROWS {
                more = true;
                break;
            }
            // Of the link itself, where it is one: nothing is told of what is elsewhere.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let is_file = !metadata.is_dir();
            let mut link = format!("./{}", encode_name(name.as_bytes()));
            if !is_file {
                link.push('/');
            }
            rows.push(Row {
                is_file,
                name: name.to_string_lossy().into_owned(),
                link,
                size: metadata.len(),
                modified: u64::try_from(metadata.mtime()).unwrap_or(0),
            });
        }
        rows.sort();
        let path = format!("/{}", String::from_utf8_lossy(path));
        let page = page::listing(&path, &rows, more);
        Ok(Response::with(200, "text/html; charset=utf-8", page))
    }
}

enum Judged {
    Answer(Response),
    Whole(Response),
    Ranges(Response, Vec<Range<u64>>),
}

/// A directory's path ends with a slash, or the relative references of its page would lead elsewhere.
fn to_directory(request: &Request<'_, '_>, name: &[u8]) -> Response {
    let mut location = encode(name);
    location.push('/');
    if let Some(query) = request.query {
        location.push('?');
        location.push_str(query);
    }
    Response::redirect(301, &location)
}

/// One range, or several as multipart/byteranges (RFC 9110, 14.6).
fn with_ranges(
    mut response: Response,
    facts: &Facts,
    ranges: Vec<Range<u64>>,
    source: Source,
) -> Result<Response, Errno> {
    let place =
        |range: &Range<u64>| format!("bytes {}-{}/{}", range.start, range.end - 1, facts.size);
    if let [range] = &ranges[..] {
        response = response.field("Content-Range", &place(range));
        response.body = parts(source, [part(Vec::new(), range.clone())]);
        return Ok(response);
    }
    // It must not occur in the file: 128 random bits do not.
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Errno::EIO)?;
    let boundary = format!("{:032x}", u128::from_ne_bytes(random));
    let mut pieces = Vec::new();
    for range in ranges {
        let ahead = format!(
            "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            facts.content_type,
            place(&range)
        );
        pieces.push(part(ahead.into_bytes(), range));
    }
    pieces.push(part(format!("\r\n--{boundary}--\r\n").into_bytes(), 0..0));
    response = response.field(
        "Content-Type",
        &format!("multipart/byteranges; boundary={boundary}"),
    );
    response.body = parts(source, pieces);
    Ok(response)
}

fn parts(source: Source, parts: impl IntoIterator<Item = Part>) -> Body {
    Body::Parts(Parts {
        source,
        parts: parts.into_iter().collect::<VecDeque<_>>(),
    })
}

fn part(ahead: Vec<u8>, range: Range<u64>) -> Part {
    Part {
        ahead,
        offset: range.start,
        length: range.end - range.start,
    }
}

fn failed(error: Errno) -> Response {
    match error {
        Errno::EACCES | Errno::EPERM => Response::error(403, "The file may not be read."),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN => {
            Response::error(503, "The server is short of means.").field("Retry-After", "1")
        }
        Errno::EIO | Errno::ENOSYS | Errno::EBADF => {
            Response::error(500, "The file cannot be read.")
        }
        // Links that lead out (EXDEV, ELOOP) are as absent as what is not there.
        _ => Response::error(404, "There is no such page."),
    }
}
