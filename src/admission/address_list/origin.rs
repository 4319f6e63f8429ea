//! Which line a range comes from, in 4 bytes a range. Pure.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The top bit of an origin: the line begins with `!`.
const EXCLUDED: u32 = 1 << 31;

/// A number for one entry, rising in the order of reading over all files, and whether it lists
/// or excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin(u32);

impl Origin {
    pub(super) fn listed(self) -> bool {
        self.0 & EXCLUDED == 0
    }

    /// The later of two lines has the greater order.
    pub(super) fn order(self) -> u32 {
        self.0 & !EXCLUDED
    }
}

/// Names files and lines by origin. Consecutive lines of one file share a segment, so a file that
/// names no other costs one.
#[derive(Default)]
pub(super) struct Origins {
    files: Vec<PathBuf>,
    segments: Vec<Segment>,
    /// The order that the next entry gets at least.
    next: u32,
}

/// Orders from `base` up to the next segment's are the lines of `file` from `line` on.
struct Segment {
    base: u32,
    file: u32,
    line: u32,
}

impl Origins {
    /// Adds a file and answers its number for [`add`](Self::add).
    pub(super) fn add_file(&mut self, file: PathBuf) -> u32 {
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(file);
        number
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    pub(super) fn file(&self, number: u32) -> &Path {
        self.files
            .get(number as usize)
            .map_or(Path::new(""), PathBuf::as_path)
    }

    /// Adds an entry after all others; `None` when there are 2^31 already.
    pub(super) fn add(&mut self, file: u32, line: u32, listed: bool) -> Option<Origin> {
        let order = match self.continued(file, line) {
            Some(order) => order,
            None => {
                self.segments.push(Segment {
                    base: self.next,
                    file,
                    line,
                });
                self.next
            }
        };
        if order >= EXCLUDED {
            return None;
        }
        self.next = order + 1;
        Some(Origin(if listed { order } else { order | EXCLUDED }))
    }

    /// The order within the last segment, if the line lies behind its other lines in the same file.
    fn continued(&self, file: u32, line: u32) -> Option<u32> {
        let last = self.segments.last().filter(|last| last.file == file)?;
        let order = last.base.checked_add(line.checked_sub(last.line)?)?;
        (self.next..EXCLUDED).contains(&order).then_some(order)
    }

    /// File and line of an entry that was added.
    pub(super) fn place(&self, origin: Origin) -> (&Path, u32) {
        let order = origin.order();
        let behind = self.segments.partition_point(|next| next.base <= order);
        match self.segments.get(behind.wrapping_sub(1)) {
            Some(segment) => (
                self.file(segment.file),
                segment.line + (order - segment.base),
            ),
            None => (Path::new(""), 0),
        }
    }

    pub(super) fn shrink(&mut self) {
        self.files.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    pub(super) fn memory(&self) -> usize {
        let names: usize = self.files.iter().map(|file| file.as_os_str().len()).sum();
        names
            + self.files.capacity() * size_of::<PathBuf>()
            + self.segments.capacity() * size_of::<Segment>()
    }
}
