#![forbid(unsafe_code)]
//! The way from a module to the daemon that runs it.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use super::{Commands, Request, Response};

/// Runs requests in this process, as the control socket does for others. Modules are built before there is
/// a server, so a link leads somewhere only once the server has bound it. A clone is cheap, and keeps no
/// server alive.
#[derive(Clone, Default)]
pub struct Link(Arc<OnceLock<Weak<dyn Commands>>>);

impl Link {
    /// Carries out a request and returns when it is in effect. It may wait (a reload reads files, binds
    /// sockets and waits for the poll thread): call it on [`Lane::Wait`](crate::session::Lane::Wait).
    #[must_use]
    pub fn execute(&self, request: &Request) -> Response {
        match self.0.get().and_then(Weak::upgrade) {
            Some(commands) => commands.execute(request),
            None => Response::Error("the daemon does not run".to_owned()),
        }
    }

    /// Leads to these commands from now on; the first call counts.
    pub fn bind(&self, commands: Weak<dyn Commands>) {
        let _ = self.0.set(commands);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() {
            "Link(bound)"
        } else {
            "Link"
        })
    }
}
