#![forbid(unsafe_code)]
//! Preconditions (RFC 9110, 13), in the order of 13.2.2.

use std::time::{Duration, SystemTime};

use super::Request;

/// What preconditions lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer as if there were none; `ranges` says whether Range counts (13.1.5).
    Go { ranges: bool },
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// What a file is compared by. `etag` is strong, with its quotes; `modified` has whole seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validators<'a> {
    pub(crate) etag: &'a str,
    pub(crate) modified: SystemTime,
}

/// Judges a GET or HEAD.
pub(crate) fn judge(request: &Request<'_, '_>, file: Validators<'_>, now: SystemTime) -> Verdict {
    if has(request, "if-match") {
        if !matches(request, "if-match", file.etag, false) {
            return Verdict::Failed;
        }
    } else if date(request, "if-unmodified-since").is_some_and(|date| file.modified > date) {
        return Verdict::Failed;
    }
    if has(request, "if-none-match") {
        if matches(request, "if-none-match", file.etag, true) {
            return Verdict::NotModified;
        }
    } else if date(request, "if-modified-since").is_some_and(|date| file.modified <= date) {
        return Verdict::NotModified;
    }
    let ranges = match request.get("if-range").map(str::trim) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == file.etag,
        // A date is a strong validator once the file has rested for a second (8.8.2.2).
        Some(date) => {
            let rested = now
                .duration_since(file.modified)
                .is_ok_and(|age| age >= Duration::from_secs(1));
            rested && httpdate::parse_http_date(date).is_ok_and(|date| date == file.modified)
        }
    };
    Verdict::Go { ranges }
}

fn has(request: &Request<'_, '_>, name: &str) -> bool {
    request.all(name).next().is_some()
}

/// True when the list has the tag or is `*`. Weak tags match only where a weak comparison will do (8.8.3.2).
fn matches(request: &Request<'_, '_>, name: &str, etag: &str, weak: bool) -> bool {
    // Tags of other servers may hold commas, which split them here; ours hold none, so none is missed.
    request.list(name).any(|tag| {
        let tag = if weak {
            tag.strip_prefix("W/").unwrap_or(tag)
        } else {
            tag
        };
        tag == "*" || tag == etag
    })
}

fn date(request: &Request<'_, '_>, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(request.get(name)?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::{Validators, Verdict, judge};
    use crate::http::Request;
    use crate::http::head::room;
    use std::time::{Duration, SystemTime};

    /// The verdict on a file of Tue, 24 Nov 2026 10:00:00 GMT with the tag "a-b".
    fn verdict(fields: &str) -> Verdict {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut room = room();
        let request = Request::parse(head.as_bytes(), &mut room).unwrap();
        let file = Validators {
            etag: "\"a-b\"",
            modified,
        };
        judge(&request, file, modified + Duration::from_secs(60))
    }

    #[test]
    fn preconditions_are_judged_in_the_order_of_the_rfc() {
        let same = "Tue, 24 Nov 2026 10:00:00 GMT";
        let before = "Tue, 24 Nov 2026 09:59:59 GMT";
        for (fields, wanted) in [
            (String::new(), Verdict::Go { ranges: true }),
            ("If-None-Match: \"a-b\"\r\n".into(), Verdict::NotModified),
            (
                "If-None-Match: \"x\", W/\"a-b\"\r\n".into(),
                Verdict::NotModified,
            ),
            ("If-None-Match: *\r\n".into(), Verdict::NotModified),
            ("If-Match: \"a-b\"\r\n".into(), Verdict::Go { ranges: true }),
            ("If-Match: W/\"a-b\"\r\n".into(), Verdict::Failed),
            ("If-Match: \"x\"\r\n".into(), Verdict::Failed),
            (
                format!("If-Modified-Since: {same}\r\n"),
                Verdict::NotModified,
            ),
            (
                format!("If-Modified-Since: {before}\r\n"),
                Verdict::Go { ranges: true },
            ),
            (
                "If-Modified-Since: yesterday\r\n".into(),
                Verdict::Go { ranges: true },
            ),
            // If-None-Match outdoes If-Modified-Since, If-Match outdoes If-Unmodified-Since.
            (
                format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {same}\r\n"),
                Verdict::Go { ranges: true },
            ),
            (
                format!("If-Match: *\r\nIf-Unmodified-Since: {before}\r\n"),
                Verdict::Go { ranges: true },
            ),
            (
                format!("If-Unmodified-Since: {before}\r\n"),
                Verdict::Failed,
            ),
            ("If-Range: \"a-b\"\r\n".into(), Verdict::Go { ranges: true }),
            (
                "If-Range: W/\"a-b\"\r\n".into(),
                Verdict::Go { ranges: false },
            ),
            (
                format!("If-Range: {same}\r\n"),
                Verdict::Go { ranges: true },
            ),
            (
                format!("If-Range: {before}\r\n"),
                Verdict::Go { ranges: false },
            ),
        ] {
            assert_eq!(verdict(&fields), wanted, "{fields}");
        }
    }
}
