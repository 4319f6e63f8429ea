#![forbid(unsafe_code)]
//! Opening files below the root, and small ones kept in memory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use parking_lot::RwLock;

use crate::http::encoding::Coding;

/// Files up to this size are kept: icons, styles and most pages. Above it sendfile is the cheaper way.
const SMALL: u64 = 32 * 1024;
/// The most bytes of all files kept.
const MOST_BYTES: usize = 16 << 20;
/// The most files kept.
const MOST_FILES: usize = 4096;
/// A file that changed so recently may change again without its times telling: their grain is that of the
/// kernel's clock tick, at most 10 ms.
const RESTED: Duration = Duration::from_millis(100);

/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// What distinguishes a file from the one that had its name before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What is told about a file beside its bytes.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) size: u64,
    /// Whole seconds.
    pub(crate) modified: SystemTime,
    /// Strong, with its quotes.
    pub(crate) etag: String,
    pub(crate) content_type: String,
    pub(crate) coding: Option<Coding>,
}

impl Facts {
    fn of(metadata: &Metadata, name: &[u8], coding: Option<Coding>) -> Self {
        // A Date has four digits for its year (RFC 9110, 5.6.7).
        let seconds = u64::try_from(metadata.mtime())
            .unwrap_or(0)
            .min(LAST_SECOND);
        let suffix = coding.map_or("", |coding| coding.suffix).replace('.', "-");
        Facts {
            size: metadata.size(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            etag: format!(
                "\"{:x}.{:x}-{:x}{suffix}\"",
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.size()
            ),
            content_type: content_type(name),
            coding,
        }
    }
}

/// A small file in memory.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) facts: Facts,
    identity: Identity,
    path: PathBuf,
}

/// What was found below the root.
#[derive(Debug)]
pub(super) enum Found {
    Stored(Arc<Stored>),
    File(File, Facts),
    Directory(File),
    /// Neither a file nor a directory.
    Other,
}

/// The files kept. When it is full it is emptied: what is asked for often is soon there again.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: RwLock<Kept>,
}

/// By the name of the plain file, and the coding.
type Key = (Vec<u8>, &'static str);

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<Key, Arc<Stored>>,
    bytes: usize,
}

impl Store {
    /// Finds a path below the root, in a coding.
    ///
    /// A kept file is served only if the path still leads to the same one. That look follows symbolic links,
    /// and needs no more: another file is not the same one.
    pub(super) fn find(
        &self,
        root: &Path,
        name: &mut Vec<u8>,
        coding: Option<Coding>,
        now: SystemTime,
    ) -> Result<Found, Errno> {
        let key = (
            std::mem::take(name),
            coding.map_or("", |coding| coding.name),
        );
        let kept = self.kept.read().files.get(&key).cloned();
        *name = key.0;
        if let Some(kept) = kept {
            if fs::metadata(&kept.path)
                .is_ok_and(|metadata| Identity::of(&metadata) == kept.identity)
            {
                return Ok(Found::Stored(kept));
            }
            self.forget(&(name.clone(), key.1));
        }
        let suffix = coding.map_or("", |coding| coding.suffix);
        let mut relative = name.clone();
        relative.extend_from_slice(suffix.as_bytes());
        let relative = Path::new(OsStr::from_bytes(&relative));
        let mut file = open_below(root, relative)?;
        let metadata = file.metadata().map_err(errno)?;
        if metadata.is_dir() {
            return Ok(Found::Directory(file));
        }
        if !metadata.is_file() {
            return Ok(Found::Other);
        }
        let facts = Facts::of(&metadata, name, coding);
        if metadata.size() > SMALL {
            return Ok(Found::File(file, facts));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.size()).unwrap_or(0) + 1);
        // One byte more would be a file that grew meanwhile.
        file.by_ref()
            .take(metadata.size() + 1)
            .read_to_end(&mut bytes)
            .map_err(errno)?;
        if bytes.len() as u64 != metadata.size() {
            return Err(Errno::EAGAIN);
        }
        let stored = Arc::new(Stored {
            bytes,
            facts,
            identity: Identity::of(&metadata),
            path: root.join(relative),
        });
        if rested(&metadata, now) {
            self.keep((name.clone(), key.1), Arc::clone(&stored));
        }
        Ok(Found::Stored(stored))
    }

    fn keep(&self, key: Key, file: Arc<Stored>) {
        let mut kept = self.kept.write();
        if kept.files.len() >= MOST_FILES || kept.bytes + file.bytes.len() > MOST_BYTES {
            *kept = Kept::default();
        }
        kept.bytes += file.bytes.len();
        if let Some(before) = kept.files.insert(key, file) {
            kept.bytes -= before.bytes.len();
        }
    }

    fn forget(&self, key: &Key) {
        let mut kept = self.kept.write();
        if let Some(file) = kept.files.remove(key) {
            kept.bytes -= file.bytes.len();
        }
    }
}

fn rested(metadata: &Metadata, now: SystemTime) -> bool {
    let since = |seconds: i64, nanos: i64| {
        let seconds = u64::try_from(seconds).ok()?;
        let nanos = u32::try_from(nanos).ok()?;
        now.duration_since(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos))
            .ok()
    };
    since(metadata.ctime(), metadata.ctime_nsec()).is_some_and(|age| age >= RESTED)
}

/// Opens a path below the root for reading. The root itself is opened anew, so that it may be a symbolic link
/// that is moved from one release to the next.
///
/// # Errors
/// `EXDEV` and `ELOOP` where a symbolic link leads out; else what the system says.
pub(super) fn open_below(root: &Path, relative: &Path) -> Result<File, Errno> {
    let root = open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    // O_NONBLOCK: opening a FIFO must not wait for its writer.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // A rename meanwhile gives EAGAIN (openat2(2)); a few tries will do.
    let mut tries = 0;
    loop {
        match openat2(&root, relative, how) {
            Ok(file) => return Ok(File::from(file)),
            Err(Errno::EAGAIN | Errno::EINTR) if tries < 8 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// By the name's extension; text is taken for UTF-8.
fn content_type(name: &[u8]) -> String {
    let path = Path::new(OsStr::from_bytes(name));
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    let kind = guess.essence_str();
    let textual = kind.starts_with("text/")
        || matches!(
            kind,
            "application/javascript" | "application/json" | "image/svg+xml"
        );
    if textual {
        format!("{kind}; charset=utf-8")
    } else {
        kind.to_owned()
    }
}
