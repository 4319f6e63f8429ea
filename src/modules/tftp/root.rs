#![forbid(unsafe_code)]
//! Files below a directory. The kernel resolves each name beneath it, so that neither `..` nor a symbolic
//! link leads out, whatever changes meanwhile (openat2 with RESOLVE_BENEATH, Linux 5.6).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};

use super::receiving::Sink;

/// What unfinished uploads are called; such names cannot be asked for.
const UNFINISHED: &[u8] = b".portreeve-upload-";

/// A directory whose files are served.
#[derive(Debug, Clone)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(path: PathBuf) -> Self {
        Root(path)
    }

    /// Opens a regular file for reading, and its size.
    pub(super) fn open(&self, name: &[u8]) -> io::Result<(File, u64)> {
        let name = relative(name)?;
        // Without NONBLOCK a FIFO would hold the thread.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(beneath(&self.directory()?, name, flags, Mode::empty())?);
        let data = file.metadata()?;
        match data.is_file() {
            true => Ok((file, data.len())),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    /// Begins a file that replaces what has its name once it is finished. Its directory must exist.
    pub(super) fn create(&self, name: &[u8]) -> io::Result<Upload> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = Path::new(OsStr::from_bytes(relative(name)?));
        let name_in = name.file_name().ok_or(io::ErrorKind::PermissionDenied)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = self.directory()?;
        let directory = match name.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                beneath(&root, parent.as_os_str().as_bytes(), flags, Mode::empty())?
            }
            _ => root,
        };
        match rustix::fs::statat(&directory, name_in, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() => {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut unfinished = UNFINISHED.to_vec();
        write!(unfinished, "{}-{number}", std::process::id())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = beneath(&directory, &unfinished, flags, mode)?;
        Ok(Upload {
            file: File::from(file),
            directory,
            unfinished: Some(OsString::from_vec(unfinished)),
            name: name_in.to_owned(),
        })
    }

    fn directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(CWD, &self.0, flags, Mode::empty())?)
    }
}

/// The name without the slashes that clients like to put before it.
fn relative(name: &[u8]) -> io::Result<&[u8]> {
    let start = name.iter().position(|byte| *byte != b'/');
    let name = &name[start.unwrap_or(name.len())..];
    let mut parts = name.split(|byte| *byte == b'/');
    match name.is_empty() || parts.any(|part| part.starts_with(UNFINISHED)) {
        true => Err(io::ErrorKind::PermissionDenied.into()),
        false => Ok(name),
    }
}

fn beneath(directory: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something below the directory was renamed meanwhile, so the kernel cannot tell.
    for _ in 0..16 {
        match rustix::fs::openat2(directory, name, flags, mode, resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            done => return Ok(done?),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// A file being received; without [`Sink::finish`] nothing is left of it. A crash leaves its unfinished
/// name, which is never served.
#[derive(Debug)]
pub(super) struct Upload {
    file: File,
    directory: OwnedFd,
    unfinished: Option<OsString>,
    name: OsString,
}

impl Sink for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(unfinished) = &self.unfinished {
            let directory = &self.directory;
            rustix::fs::renameat(directory, unfinished, directory, &self.name)?;
        }
        self.unfinished = None;
        Ok(rustix::fs::fsync(&self.directory)?)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            let _ = rustix::fs::unlinkat(&self.directory, unfinished, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{self, Read};
    use std::os::unix::fs::symlink;

    use super::super::receiving::Sink;
    use super::{Root, UNFINISHED};

    fn read(root: &Root, name: &str) -> Result<String, io::ErrorKind> {
        let (mut file, size) = root.open(name.as_bytes()).map_err(|error| error.kind())?;
        let mut text = String::new();
        file.read_to_string(&mut text).expect("a text");
        assert_eq!(size, text.len() as u64);
        Ok(text)
    }

    #[test]
    fn names_lead_to_files_below_the_root_and_nowhere_else() -> io::Result<()> {
        let home = tempfile::tempdir()?;
        let below = home.path().join("root");
        fs::create_dir_all(below.join("dir"))?;
        fs::write(home.path().join("secret"), "secret")?;
        fs::write(below.join("dir/file"), "text")?;
        symlink("dir/file", below.join("inside"))?;
        symlink("../secret", below.join("outside"))?;
        symlink(home.path().join("secret"), below.join("absolute"))?;
        symlink("..", below.join("up"))?;
        let _ = std::process::Command::new("mkfifo")
            .arg(below.join("fifo"))
            .status()?;
        let unfinished = format!("dir/{}1-2", String::from_utf8_lossy(UNFINISHED));
        fs::write(below.join(&unfinished), "half")?;
        let root = Root::new(below);
        for name in [
            "dir/file",
            "/dir/file",
            "///dir//file",
            "inside",
            "dir/../dir/./file",
        ] {
            assert_eq!(read(&root, name).as_deref(), Ok("text"), "{name}");
        }
        for name in [
            "../secret",
            "/../secret",
            "dir/../../secret",
            "outside",
            "absolute",
            "up/secret",
            "",
            "/",
            "dir",
            ".",
            "..",
            "fifo",
            "/etc/passwd",
            "nothing",
            &unfinished,
            "dir/file/",
            "/proc/self/root/etc/passwd",
        ] {
            assert!(read(&root, name).is_err(), "{name}");
        }
        assert_eq!(read(&root, "nothing"), Err(io::ErrorKind::NotFound));
        Ok(())
    }

    #[test]
    fn an_upload_appears_whole_or_not_at_all() -> io::Result<()> {
        let home = tempfile::tempdir()?;
        fs::create_dir(home.path().join("dir"))?;
        fs::write(home.path().join("dir/file"), "old")?;
        symlink("/tmp", home.path().join("out"))?;
        symlink("dir/file", home.path().join("link"))?;
        let root = Root::new(home.path().to_owned());
        let mut upload = root.create(b"/dir/file")?;
        upload.write(b"new")?;
        assert_eq!(read(&root, "dir/file").as_deref(), Ok("old"));
        upload.finish()?;
        drop(upload);
        assert_eq!(read(&root, "dir/file").as_deref(), Ok("new"));
        let mut upload = root.create(b"dir/other")?;
        upload.write(b"half")?;
        drop(upload);
        assert_eq!(fs::read_dir(home.path().join("dir"))?.count(), 1);
        for name in [
            "",
            "dir",
            "dir/..",
            "..",
            "../x",
            "none/x",
            "out/x",
            "link",
            ".portreeve-upload-1",
        ] {
            assert!(root.create(name.as_bytes()).is_err(), "{name}");
        }
        Ok(())
    }
}
