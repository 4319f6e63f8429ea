#![forbid(unsafe_code)]
//! A program that runs on a connection: the socket itself is its standard input, output and error where the
//! bytes are clear; else it has one end of a socket pair, and a relay pumps between the other and TLS.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use crate::server::core::Core;
use crate::session::Program;

/// A program under way. Dropped, it is told to end, and killed when it does not.
pub(super) struct Running {
    /// Taken when the reaper gets it.
    child: Option<Child>,
    /// Readable once the program has ended (pidfd_open(2)).
    ended: OwnedFd,
    registered: bool,
    core: Arc<Core>,
}

impl Running {
    /// Starts a program on a clear socket. The program's descriptor is the same open socket as ours, so it
    /// blocks from now on, and nobody here may read it any more.
    pub(super) fn on_socket(
        program: &Program,
        stream: &TcpStream,
        core: &Arc<Core>,
    ) -> io::Result<Self> {
        // A peer that is gone without a word, or closed while the program never reads, is found out.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15));
        let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
        let stdio = stream.as_fd().try_clone_to_owned()?;
        SockRef::from(stream).set_nonblocking(false)?;
        Self::start(program, &stdio, core)
    }

    /// Starts a program on a socket pair; the other end comes back.
    pub(super) fn on_pair(program: &Program, core: &Arc<Core>) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let running = Self::start(program, &OwnedFd::from(theirs), core)?;
        Ok((running, ours))
    }

    fn start(program: &Program, stdio: &OwnedFd, core: &Arc<Core>) -> io::Result<Self> {
        let Some((file, arguments)) = program.command.split_first() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(file);
        command
            .args(arguments)
            .env_clear()
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(stdio.try_clone()?))
            .stdout(Stdio::from(stdio.try_clone()?))
            .stderr(Stdio::from(stdio.try_clone()?))
            // Its own group, so that what it starts ends with it.
            .process_group(0)
            .current_dir("/");
        if let Some(user) = &program.user {
            // The standard library drops our supplementary groups along with our number.
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK);
        match ended {
            Ok(ended) => Ok(Running {
                child: Some(child),
                ended,
                registered: false,
                core: Arc::clone(core),
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// True once the program has ended; it leaves no zombie.
    pub(super) fn has_ended(&mut self) -> bool {
        let ended = match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => true,
        };
        if ended {
            self.child = None;
        }
        ended
    }

    /// Lets the poll tell of the program's end, once.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if !self.registered {
            let fd = self.ended.as_raw_fd();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            self.registered = true;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            self.core.reap(child);
        }
    }
}
