#![forbid(unsafe_code)]
//! Files that are replaced as a whole, so that nobody ever reads half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Replaces a file that only its owner may read: all of it or nothing, and on disk when this returns. A file
/// that was there before keeps its owner where the system lets us; its mode becomes 0600.
///
/// # Errors
/// The directory or the disk refuses; the old file is still there then.
pub(crate) fn replace_private(file: &Path, text: &[u8]) -> io::Result<()> {
    // What a link points to is meant, not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let mut draft_name = file.file_name().unwrap_or_default().to_owned();
    draft_name.push(".new");
    let draft = file.with_file_name(draft_name);
    let _ = fs::remove_file(&draft);
    let written = write_new(&draft, text, fs::metadata(&file).ok().as_ref());
    if let Err(error) = written.and_then(|()| fs::rename(&draft, &file)) {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    sync_parent(&file)
}

fn write_new(draft: &Path, text: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
    let mut open = OpenOptions::new();
    let mut to = open.write(true).create_new(true).mode(0o600).open(draft)?;
    if let Some(old) = old {
        // Only root may; for others the file simply becomes theirs.
        let _ = fchown(&to, Some(old.uid()), Some(old.gid()));
    }
    to.write_all(text)?;
    to.sync_all()
}

/// Makes the entries of a file's directory durable.
pub(crate) fn sync_parent(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::replace_private;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_replaced_file_is_private_and_a_link_to_it_stays_a_link() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("a.ron"), home.path().join("link.ron"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        symlink("a.ron", &link).unwrap();
        replace_private(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(link.is_symlink());
        assert_eq!(
            home.path().read_dir().unwrap().count(),
            2,
            "no draft is left"
        );
    }
}
