#![forbid(unsafe_code)]
//! The way from a module to the daemon that runs it.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::{Commands, Request, Response};

/// Runs requests in this process, as the control socket does for others. Modules are built before there is
/// a server, so a link leads somewhere only once the server has bound it. A clone is cheap, and keeps no
/// server alive.
#[derive(Clone, Default)]
pub struct Link(Arc<Inner>);

type Begin = Box<dyn FnOnce(&Link) + Send>;

#[derive(Default)]
struct Inner {
    commands: OnceLock<Weak<dyn Commands>>,
    /// What begins with the server. Modules start no thread before.
    waiting: Mutex<Vec<Begin>>,
}

impl Link {
    /// Carries out a request and returns when it is in effect. It may wait (a reload reads files, binds
    /// sockets and waits for the poll thread): call it on [`Lane::Wait`](crate::session::Lane::Wait).
    #[must_use]
    pub fn execute(&self, request: &Request) -> Response {
        match self.0.commands.get().and_then(Weak::upgrade) {
            Some(commands) => commands.execute(request),
            None => Response::Error("the daemon does not run".to_owned()),
        }
    }

    /// Leads to these commands from now on; the first call counts.
    pub fn bind(&self, commands: Weak<dyn Commands>) {
        let _ = self.0.commands.set(commands);
        let waiting = std::mem::take(&mut *self.0.waiting.lock());
        waiting.into_iter().for_each(|begin| begin(self));
    }

    /// Calls `begin` once there is a server, which may be now.
    pub(crate) fn when_bound(&self, begin: impl FnOnce(&Link) + Send + 'static) {
        let mut waiting = self.0.waiting.lock();
        if self.0.commands.get().is_none() {
            waiting.push(Box::new(begin));
            return;
        }
        drop(waiting);
        begin(self);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.commands.get().is_some() {
            "Link(bound)"
        } else {
            "Link"
        })
    }
}
