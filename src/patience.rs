#![forbid(unsafe_code)]
//! Polling that outlives a system which is short of something for a while.

use std::io;
use std::time::Duration;

use mio::{Events, Poll};
use nix::errno::Errno;

/// How long to wait before a call that failed for want of memory is made again.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Polls; a signal, or a system short of memory, is a poll that heard nothing.
///
/// # Errors
/// The poll itself is unfit, which does not pass.
pub(crate) fn poll(
    poll: &mut Poll,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) if is_shortage(&error) => {
            std::thread::sleep(PAUSE);
            Ok(())
        }
        polled => polled,
    }
}

/// True for errors that say that the system lacks something now: memory, descriptors, buffers.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
