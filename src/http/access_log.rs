#![forbid(unsafe_code)]
//! The access log in the Combined format of Apache and nginx.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::Request;
use crate::session::Peer;

/// How often it is looked whether the file was moved away by a log rotation.
const LOOK: Duration = Duration::from_secs(1);

/// A file that each finished request is noted in, a line and a write each.
#[derive(Debug)]
pub(crate) struct AccessLog {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    looked: SystemTime,
}

impl AccessLog {
    /// The file is made by the first line.
    pub(crate) fn new(path: PathBuf) -> Self {
        AccessLog {
            path,
            open: Mutex::new(None),
        }
    }

    /// Appends a line. A log that cannot be written loses lines; requests are served all the same.
    fn append(&self, line: &str) {
        let now = SystemTime::now();
        let mut open = self.open.lock();
        let due = open.as_ref().is_none_or(|open| {
            now.duration_since(open.looked)
                .map_or(true, |age| age >= LOOK)
        });
        if due
            && open
                .as_ref()
                .is_none_or(|open| self.is_elsewhere(&open.file))
        {
            let opened = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.path);
            match opened {
                Ok(file) => *open = Some(Open { file, looked: now }),
                Err(error) => {
                    log::debug!("{}: {error}", self.path.display());
                    return;
                }
            }
        }
        if let Some(open) = open.as_mut() {
            if due {
                open.looked = now;
            }
            let _ = open.file.write_all(line.as_bytes());
        }
    }

    fn is_elsewhere(&self, file: &File) -> bool {
        let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(&self.path)) else {
            return true;
        };
        (ours.dev(), ours.ino()) != (there.dev(), there.ino())
    }
}

/// The line of one request; written when the request is finished or its connection breaks.
#[derive(Debug)]
pub(crate) struct Line {
    log: Arc<AccessLog>,
    begin: String,
    end: String,
    /// Bytes of the body so far.
    pub(crate) sent: u64,
}

impl Line {
    pub(crate) fn new(
        log: &Arc<AccessLog>,
        request: Option<&Request<'_, '_>>,
        peer: &Peer,
        wall: SystemTime,
    ) -> Self {
        let mut begin = format!("{} - ", peer.remote.ip());
        begin.push('\0');
        let _ = write!(begin, " [{}] \"", time(wall));
        let mut end = String::from(" \"");
        if let Some(request) = request {
            let line = [
                request.method,
                " ",
                request.target,
                if request.minor == 0 {
                    " HTTP/1.0"
                } else {
                    " HTTP/1.1"
                },
            ];
            line.iter()
                .for_each(|piece| escape(&mut begin, piece.as_bytes()));
            escape(&mut end, request.all("referer").next().unwrap_or(b"-"));
            end.push_str("\" \"");
            escape(&mut end, request.all("user-agent").next().unwrap_or(b"-"));
        } else {
            begin.push('-');
            end.push_str("-\" \"-");
        }
        begin.push('"');
        end.push_str("\"\n");
        Line {
            log: Arc::clone(log),
            begin,
            end,
            sent: 0,
        }
    }

    /// Adds what the answer says.
    pub(crate) fn answered(&mut self, status: u16, user: Option<&str>) {
        let mut name = String::new();
        escape(&mut name, user.unwrap_or("-").as_bytes());
        self.begin = self.begin.replacen('\0', &name.replace(' ', "\\x20"), 1);
        let _ = write!(self.begin, " {status} ");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The client went before there was an answer; nginx's number for it.
        if self.begin.contains('\0') {
            self.answered(499, None);
        }
        let line = format!("{}{}{}", self.begin, self.sent, self.end);
        self.log.append(&line);
    }
}

/// Quotes, backslashes and everything that is not plain ASCII as `\xHH`, so that a line is a line.
fn escape(into: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                let _ = write!(into, "\\x{byte:02X}");
            }
            byte => into.push(char::from(*byte)),
        }
    }
}

/// `24/Nov/2026:10:00:00 +0000`.
fn time(wall: SystemTime) -> String {
    // `Tue, 24 Nov 2026 10:00:00 GMT`
    let date = httpdate::fmt_http_date(wall);
    let mut words = date.split(' ').skip(1);
    let mut word = || words.next().unwrap_or_default();
    format!("{}/{}/{}:{} +0000", word(), word(), word(), word())
}

#[cfg(test)]
mod tests {
    use super::{AccessLog, Line};
    use crate::dialogue::test_peer;
    use crate::http::Request;
    use crate::http::head::room;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_line_is_combined_and_nothing_in_it_begins_another() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("access.log");
        let log = Arc::new(AccessLog::new(path.clone()));
        let head = b"GET /x?\"y HTTP/1.1\r\nHost: a\r\nUser-Agent: a\"\xffb\\\r\n\r\n";
        let mut room = room();
        let request = Request::parse(head, &mut room).unwrap();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400);
        let mut line = Line::new(&log, Some(&request), &test_peer(), wall);
        line.answered(200, Some("a b"));
        line.sent = 7;
        drop(line);
        let wanted = "192.0.2.1 - a\\x20b [24/Nov/2026:10:00:00 +0000] \"GET /x?\\x22y HTTP/1.1\" 200 7 \"-\" \"a\\x22\\xFFb\\x5C\"\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), wanted);
    }
}
