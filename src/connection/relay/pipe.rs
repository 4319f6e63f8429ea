#![forbid(unsafe_code)]
//! Bytes that go from socket to socket through a pipe of the kernel's, without passing through us (splice(2)).
//!
//! Worth it for bulk alone: a copy of a few kilobytes costs less than the detour. So a way begins by copying,
//! turns to its pipe when a read filled the whole buffer, and back when little comes at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// The most bytes in a pipe. Of a GiB on loopback, 256 KiB cost a sixth more, and 64 KiB half as much again.
const CAPACITY: usize = 1024 * 1024;
/// The most bytes in a pipe while [`MUCH`] is in all of them.
const SMALL: usize = 64 * 1024;
/// Bounds what sides that do not take their bytes can make us keep.
const MUCH: usize = 64 * 1024 * 1024;
/// Less than this in one go is copied again from then on.
const LITTLE: usize = 16 * 1024;
/// Empty pipes that a worker keeps for its next bulk.
const SPARE: usize = 4;

/// Bytes in the pipes of all relays.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Empty pipes of a worker, lent to ways that carry bulk.
#[derive(Debug, Default)]
pub(crate) struct Pipes(Vec<Pipe>);

#[derive(Debug)]
struct Pipe {
    reads: OwnedFd,
    writes: OwnedFd,
}

/// One way of a relay as far as it goes through a pipe.
#[derive(Debug, Default)]
pub(super) struct Piped {
    /// Kept beyond the turn only with bytes in it.
    pipe: Option<Pipe>,
    held: Held,
    bulk: bool,
    /// The kernel cannot do it with these sockets, or has no pipes to give.
    unable: bool,
}

/// How many bytes a pipe has, counted with those of all others while they are there.
#[derive(Debug, Default)]
struct Held(usize);

impl Held {
    fn set(&mut self, count: usize) {
        HELD.fetch_add(count, Ordering::Relaxed);
        HELD.fetch_sub(self.0, Ordering::Relaxed);
        self.0 = count;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (reads, writes) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused where users may have few pages in pipes; 64 KiB do as well, then.
        let capacity = i32::try_from(CAPACITY).unwrap_or(i32::MAX);
        let _ = fcntl(&writes, FcntlArg::F_SETPIPE_SZ(capacity));
        Ok(Pipe { reads, writes })
    }
}

impl Piped {
    /// True while the pipe is the way to go.
    pub(super) fn is_bulk(&self) -> bool {
        self.bulk
    }

    /// True when bytes wait in the pipe.
    pub(super) fn is_holding(&self) -> bool {
        self.held.0 > 0
    }

    /// A read filled the whole buffer: there is likely more where that came from.
    pub(super) fn expect_bulk(&mut self) {
        self.bulk = !self.unable;
    }

    /// Moves what a socket has into the empty pipe: how many bytes, 0 at its end. `None` when it must be copied
    /// instead.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing; or it broke.
    pub(super) fn fill(&mut self, from: impl AsFd, pipes: &mut Pipes) -> io::Result<Option<usize>> {
        let pipe = match self.pipe.take().map_or_else(|| pipes.take(), Ok) {
            Ok(pipe) => self.pipe.insert(pipe),
            Err(_) => return Ok(self.give_up()),
        };
        let most = match HELD.load(Ordering::Relaxed) {
            ..MUCH => CAPACITY,
            _ => SMALL,
        };
        match moved(from, &pipe.writes, most) {
            Ok(count) => {
                self.held.set(count);
                self.bulk = count >= LITTLE;
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(self.give_up()),
            Err(error) => Err(error),
        }
    }

    /// Moves bytes from the pipe to a socket: how many.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes no more; or it broke.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let count = moved(&pipe.reads, to, self.held.0)?;
        self.held.set(self.held.0 - count);
        Ok(count)
    }

    /// Gives an empty pipe back to the worker.
    pub(super) fn give_back(&mut self, pipes: &mut Pipes) {
        if self.held.0 == 0
            && let Some(pipe) = self.pipe.take()
            && pipes.0.len() < SPARE
        {
            pipes.0.push(pipe);
        }
    }

    fn give_up(&mut self) -> Option<usize> {
        (self.bulk, self.unable) = (false, true);
        None
    }
}

fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from.as_fd(), None, to.as_fd(), None, most, flags) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}
