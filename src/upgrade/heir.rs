#![forbid(unsafe_code)]
//! The old process's part: it starts the new one, hears whether it can serve, and lets go.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};

use super::{MARK, names, word};
use crate::control::Parting;
use crate::{privileges, sandbox};

/// The first descriptor that is handed over: `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST: i32 = 3;
/// How long the new process may take to be ready: it reads lists of a million lines and all certificates.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to answer callers once it is told to.
const HASTE: Duration = Duration::from_secs(10);
/// A process that has stopped speaking is given this long to end by itself, so that its exit status is told.
const LAST_BREATH: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(5);

/// How this process was started, and what its successor gets besides the sockets.
pub(crate) struct Succession {
    program: PathBuf,
    arguments: Vec<OsString>,
    pub(crate) control: Arc<Parting>,
}

/// A listening socket to hand over.
pub(crate) struct Gift {
    pub(crate) listener: Arc<str>,
    pub(crate) transport: &'static str,
    pub(crate) port: u16,
    pub(crate) address: Option<IpAddr>,
    pub(crate) socket: OwnedFd,
}

/// The new process, until it serves. Dropped before that, it is ended.
pub(crate) struct Heir {
    child: Option<Child>,
    lines: BufReader<UnixStream>,
    pid: u32,
}

impl Succession {
    /// To be called at start: the program is looked for by the name it was called by, so that a package or a
    /// symbolic link that is replaced later leads to the new one. (`/proc/self/exe` would name the old file,
    /// with ` (deleted)` behind it.)
    pub(crate) fn of_this_process(control: Arc<Parting>) -> Self {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        Succession {
            program: program(Path::new(&name)),
            arguments: arguments.collect(),
            control,
        }
    }
}

/// The file behind the name that this program was called by.
fn program(name: &Path) -> PathBuf {
    if name.components().count() > 1 {
        return std::path::absolute(name).unwrap_or_else(|_| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = places
        .filter(|place| !name.as_os_str().is_empty() && place.is_file())
        .find_map(|place| std::path::absolute(place).ok());
    found
        .or_else(|| std::env::current_exe().ok())
        .unwrap_or_else(|| name.to_owned())
}

impl Heir {
    /// Starts it. It has the sockets and nothing else of ours.
    ///
    /// # Errors
    /// There is no such program, or the system is out of something.
    pub(crate) fn start(succession: &Succession, gifts: Vec<Gift>) -> Result<Self, String> {
        let program = succession.program.display().to_string();
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => sandbox::hint(),
                _ => "",
            };
            format!("cannot start {program}: {error}{hint}")
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut named = Vec::new();
        let mut mappings = Vec::new();
        let mut hand = |name: String, parent_fd: OwnedFd, child_fd: i32| {
            named.push(name);
            mappings.push(FdMapping {
                parent_fd,
                child_fd,
            });
        };
        let mut child_fd = FIRST..;
        for (gift, place) in gifts.into_iter().zip(&mut child_fd) {
            let name = names::socket(&gift.listener, gift.transport, gift.port, gift.address);
            hand(name, gift.socket, place);
        }
        if let Some((socket, path)) = succession.control.socket().map_err(failed)? {
            hand(
                names::control(&path),
                socket,
                child_fd.next().unwrap_or(FIRST),
            );
        }
        let mut command = Command::new(&succession.program);
        command
            .args(&succession.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .env(MARK, std::process::id().to_string())
            .env("LISTEN_FDS", named.len().to_string())
            .env("LISTEN_FDNAMES", named.join(":"))
            // Its id is not known before it exists: the mark stands for it.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS_FIRST_FD")
            .envs([sandbox::for_successor()])
            .envs(privileges::for_successor())
            .fd_mappings(mappings)
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        let child = privileges::handing_on(|| command.spawn()).map_err(failed)?;
        Ok(Heir {
            pid: child.id(),
            child: Some(child),
            lines: BufReader::new(ours),
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it could serve.
    ///
    /// # Errors
    /// Why it could not; it is ended.
    pub(crate) fn wait_until_ready(&mut self, patience: Duration) -> Result<(), String> {
        let why = match self.line(Instant::now() + patience) {
            Ok(line) if line == word::READY => return Ok(()),
            Ok(line) => match line.strip_prefix(word::FAILED) {
                Some(why) => why.replace('\t', "\n"),
                None => format!("the new process spoke out of turn: {line:?}"),
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let patience = humantime::format_duration(patience);
                format!("the new process was not ready within {patience}")
            }
            Err(_) => self.last_words(),
        };
        self.end();
        Err(why)
    }

    /// Tells it that the sockets are its own, and waits until it answers callers. From here on it is on its own.
    ///
    /// # Errors
    /// It does not answer; there is no way back.
    pub(crate) fn let_go(mut self) -> Result<(), String> {
        let told = writeln!(self.lines.get_mut(), "{}", word::YOURS);
        let heard = told.and_then(|()| self.line(Instant::now() + HASTE));
        let mut child = self.child.take();
        // It is our child as long as we are there: were nobody to wait for it, it would look alive when it is not.
        let waits = std::thread::Builder::new()
            .name("heir".into())
            .spawn(move || {
                if let Some(Ok(status)) = child.as_mut().map(Child::wait) {
                    let level = match status.success() {
                        true => log::Level::Info,
                        false => log::Level::Error,
                    };
                    log::log!(level, "the process that took over has ended: {status}");
                }
            });
        if let Err(error) = waits {
            log::warn!("nobody waits for the end of the process that took over: {error}");
        }
        match heard {
            Ok(line) if line == word::SERVING => Ok(()),
            Ok(line) => Err(format!("the new process spoke out of turn: {line:?}")),
            Err(error) => Err(format!(
                "the new process has the sockets and is silent: {error}"
            )),
        }
    }

    /// Its next line without the end.
    fn line(&mut self, until: Instant) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.lines.get_mut().set_read_timeout(Some(left))?;
            match self.lines.read_until(b'\n', &mut line) {
                Ok(_) if line.last() == Some(&b'\n') => {
                    line.pop();
                    return Ok(String::from_utf8_lossy(&line).into_owned());
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How a process ended that said nothing.
    fn last_words(&mut self) -> String {
        let until = Instant::now() + LAST_BREATH;
        let Some(child) = &mut self.child else {
            return "the new process has ended".to_owned();
        };
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    let hint = match status.code() {
                        None if status.signal().is_some() => "",
                        _ => "; is that file a portreeve that can be upgraded to?",
                    };
                    return format!("the new process ended before it was ready: {status}{hint}");
                }
                Ok(None) if Instant::now() < until => std::thread::sleep(STEP),
                _ => return "the new process closed its standard input: it is no portreeve that can be upgraded to".to_owned(),
            }
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a program that does this in the place of a new daemon.
    fn verdict(script: &str) -> String {
        let succession = Succession {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            control: Arc::default(),
        };
        let mut heir = Heir::start(&succession, Vec::new()).unwrap();
        let pid = heir.pid();
        let said = heir.wait_until_ready(Duration::from_millis(400));
        drop(heir);
        let gone = !Path::new("/proc").join(pid.to_string()).exists();
        assert!(gone, "it is ended and waited for");
        match said {
            Ok(()) => "ready".to_owned(),
            Err(why) => why,
        }
    }

    #[test]
    fn a_new_process_that_cannot_serve_is_ended_and_its_reason_told() {
        // Its standard input is the way to us, in both directions.
        assert_eq!(verdict("echo ready >&0; exec sleep 60"), "ready");
        assert_eq!(verdict("printf 'failed one\\ttwo\\n' >&0"), "one\ntwo");
        assert!(verdict("exit 3").contains("exit status: 3"));
        assert!(verdict("kill -KILL $$").contains("signal: 9"));
        assert!(verdict("exec sleep 60").contains("not ready within 400ms"));
        assert!(verdict("printf rea >&0; exec sleep 60").contains("not ready within 400ms"));
        assert!(verdict("exec sleep 60 <&-").contains("closed its standard input"));
        assert!(verdict("echo hello >&0").contains("out of turn"));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_name() {
        let succession = Succession {
            program: "/nowhere/portreeve".into(),
            arguments: Vec::new(),
            control: Arc::default(),
        };
        let refused = Heir::start(&succession, Vec::new()).err().unwrap();
        assert!(refused.contains("/nowhere/portreeve"), "{refused}");
    }

    #[test]
    fn a_program_called_by_a_path_is_that_path_and_no_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("portreeve");
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert_eq!(program(&link), link);
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            program(Path::new("./x/portreeve")),
            here.join("x/portreeve")
        );
    }

    #[test]
    fn a_program_called_by_its_name_is_looked_for_where_the_shell_found_it() {
        assert!(program(Path::new("sh")).is_absolute());
        let found = program(Path::new("sh"));
        assert!(found.ends_with("sh") && found.is_file());
        let own = std::env::current_exe().unwrap();
        assert_eq!(program(Path::new("no-such-program-anywhere")), own);
        assert_eq!(program(Path::new("")), own);
    }
}
