#![forbid(unsafe_code)]
//! Replaces a file so that at every moment the old one or the new one is there, whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who may read what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The owner.
    Private,
    /// Whoever could read the file before.
    Kept,
}

/// Writes a new file beside the old one, and to the disk, then moves it in the old one's place.
///
/// # Errors
/// What the system says; the old file is untouched then.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    Prepared::write(path, bytes, mode)?.put(false)
}

/// A file that waits beside the one it is to replace. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Prepared {
    path: PathBuf,
    fresh: PathBuf,
    is_put: bool,
}

impl Prepared {
    /// Writes it, on the disk and under a name that nothing reads. A symbolic link stays one.
    pub(crate) fn write(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let prepared = Prepared {
            fresh: beside(&path, ".", ".new"),
            path,
            is_put: false,
        };
        let old = match mode {
            Mode::Kept => Some(fs::metadata(&prepared.path)?),
            Mode::Private => None,
        };
        // One that a crash has left behind.
        match fs::remove_file(&prepared.fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&prepared.fresh)?;
        if let Some(old) = old {
            // Only root may give a file away; for others it is their own before and after.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(prepared)
    }

    /// Moves it in its place; the old one is kept with `.bak` behind its name when asked for.
    pub(crate) fn put(mut self, keep_old: bool) -> io::Result<()> {
        if keep_old {
            self.keep_old()?;
        }
        fs::rename(&self.fresh, &self.path)?;
        self.is_put = true;
        sync_folder(&self.path)
    }

    fn keep_old(&self) -> io::Result<()> {
        let kept = beside(&self.path, "", ".bak");
        let link = beside(&self.path, ".", ".bak");
        let _ = fs::remove_file(&link);
        // A second name for the old file; where the file system knows none, a copy.
        if fs::hard_link(&self.path, &link).is_err() {
            fs::copy(&self.path, &link)?;
            File::open(&link)?.sync_all()?;
        }
        fs::rename(&link, kept)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.is_put {
            let _ = fs::remove_file(&self.fresh);
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// A name in the same directory.
fn beside(path: &Path, before: &str, behind: &str) -> PathBuf {
    let mut name = OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(behind);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::{Mode, Prepared, replace};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_its_old_text_is_kept_where_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("smtp.ron");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        // Left behind by a crash.
        fs::write(home.path().join(".smtp.ron.new"), "half").unwrap();
        let prepared = Prepared::write(&path, b"new", Mode::Kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        prepared.put(true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        let kept = home.path().join("smtp.ron.bak");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "old");
        replace(&path, b"newer", Mode::Kept).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "old");
        drop(Prepared::write(&path, b"never", Mode::Kept).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real.ron"), home.path().join("link.ron"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, b"new", Mode::Kept).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
