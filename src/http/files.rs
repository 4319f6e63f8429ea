#![forbid(unsafe_code)]
//! Static files below a root: found, opened, answered with. No symbolic link leads out of the root.

mod path;
mod serve;
mod store;

use std::path::PathBuf;

pub(crate) use store::Stored;

use store::Store;

/// A directory that is served.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    /// What is looked for in a directory, in order.
    pub(crate) index: Vec<String>,
    /// Whether directories without such a file are listed.
    pub(crate) listing: bool,
    /// Whether `.br`, `.zst` and `.gz` siblings are looked for.
    pub(crate) precompressed: bool,
    store: Store,
}

impl Files {
    /// Serves what is below `root`, with `index.html` for directories.
    pub(crate) fn new(root: PathBuf) -> Self {
        Files {
            root,
            index: vec!["index.html".to_owned()],
            listing: false,
            precompressed: true,
            store: Store::default(),
        }
    }
}
