#![forbid(unsafe_code)]
//! Exec: a program per connection, as inetd and tcpserver run it, with UCSPI's variables
//! (Bernstein, "UNIX Client-Server Program Interface", 1996; Hoffmann's UCSPI-SSL for those under TLS).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use serde::Deserialize;
use x509_parser::parse_x509_certificate;

use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::sandbox::What;
use crate::session::{
    Context, Event, Module, Next, Peer, Program, Security, Session, TlsFacts, User,
};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Exec",
    about: "runs a program per connection",
    keys: &["command", "user", "env"],
    tcp: Some(|settings| Some(Arc::new(Exec::configure(settings)?) as Arc<dyn Module>)),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    command: Field<'a, Vec<String>>,
    #[serde(borrow, default)]
    user: Field<'a, String>,
    #[serde(borrow, default)]
    env: Field<'a, BTreeMap<String, String>>,
}

/// What to run for each connection.
#[derive(Debug, Clone)]
struct Exec(Arc<Program>);

impl Exec {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        if !keys.command.is_set() {
            settings.complain("expected a command: command: [\"/path/to/program\"]");
        }
        let command = settings.map(keys.command, |command: Vec<String>| match command.first() {
            Some(_) if command.iter().any(|word| word.contains('\0')) => {
                Err("expected words without NUL".to_owned())
            }
            Some(file) => runnable(Path::new(file)).map(|()| command),
            None => Err("expected a program and its arguments, found none".to_owned()),
        });
        settings.need(keys.command, What::Programs);
        let user = match keys.user.is_set() {
            true => Some(settings.map(keys.user, |name: String| user(&name))?),
            false => None,
        };
        let mut env = base_environment(user.as_ref());
        for (name, value) in settings.map(keys.env, environment).unwrap_or_default() {
            env.retain(|(other, _)| *other != *name);
            env.push((name.into(), value.into()));
        }
        Some(Exec(Arc::new(Program {
            command: command?.into_iter().map(OsString::from).collect(),
            env,
            user,
        })))
    }
}

/// Variables that can be passed on as they are.
fn environment(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!(
                "expected a variable's name without = and NUL, found {name:?}"
            ));
        }
        if value.contains('\0') {
            return Err(format!("expected a value without NUL for {name}"));
        }
    }
    Ok(env)
}

/// Whether a file can be run as it seems.
fn runnable(file: &Path) -> Result<(), String> {
    if !file.is_absolute() {
        return Err(format!(
            "expected an absolute path, found {}",
            file.display()
        ));
    }
    match file.metadata() {
        Ok(data) if data.is_file() && data.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(format!("{} is no program", file.display())),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

/// The user of that name, if we may run programs as that user.
fn user(name: &str) -> Result<User, String> {
    let found = nix::unistd::User::from_name(name).map_err(|error| error.to_string())?;
    let user = found.ok_or_else(|| format!("this system has no user {name}"))?;
    let own = Uid::effective();
    if !own.is_root() && own != user.uid {
        return Err(format!(
            "only root may run programs as {name}, and this process is user {own}, as run_as may have it"
        ));
    }
    Ok(User {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        home: user.dir,
        shell: user.shell,
    })
}

/// Nothing of ours but the search path.
fn base_environment(user: Option<&User>) -> Vec<(OsString, OsString)> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let mut env = vec![("PATH".into(), path)];
    if let Some(user) = user {
        env.push(("HOME".into(), user.home.clone().into()));
        env.push(("SHELL".into(), user.shell.clone().into()));
        env.push(("USER".into(), user.name.clone().into()));
        env.push(("LOGNAME".into(), user.name.clone().into()));
    }
    env
}

impl Module for Exec {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(self.clone())
    }

    /// Only of programs under TLS: the others own their socket, and end when they please.
    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

impl Session for Exec {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => {
                let mut program = (*self.0).clone();
                let variables = variables(cx.peer()).into_iter();
                program
                    .env
                    .extend(variables.map(|(name, value)| (name.into(), value.into())));
                Next::Exec(program)
            }
            _ => Next::Close,
        }
    }
}

/// What the program is told of its connection.
fn variables(peer: &Peer) -> Vec<(String, String)> {
    let tls = match &peer.security {
        Security::Tls(facts) => Some(facts),
        Security::Clear | Security::External => None,
    };
    let proto = match (tls, peer.remote.is_ipv6()) {
        (Some(_), _) => "SSL",
        (None, true) => "TCP6",
        (None, false) => "TCP",
    };
    let mut variables = vec![("PROTO".to_owned(), proto.to_owned())];
    // Programs look for their protocol's names, and most only for TCP's.
    let prefixes: &[&str] = match proto {
        "SSL" => &["TCP", "SSL"],
        "TCP6" => &["TCP", "TCP6"],
        _ => &["TCP"],
    };
    for prefix in prefixes {
        let mut add =
            |name: &str, value: String| variables.push((format!("{prefix}{name}"), value));
        add("REMOTEIP", peer.remote.ip().to_string());
        add("REMOTEPORT", peer.remote.port().to_string());
        add("LOCALIP", peer.local.ip().to_string());
        add("LOCALPORT", peer.local.port().to_string());
    }
    if let Some(facts) = tls {
        variables.extend(tls_variables(facts));
    }
    variables
}

fn tls_variables(facts: &TlsFacts) -> Vec<(String, String)> {
    let mut variables = vec![
        ("SSL_PROTOCOL", facts.version.to_owned()),
        ("SSL_CIPHER", facts.cipher.clone()),
        ("SSL_SERVER_NAME", facts.domain.clone()),
    ];
    if let Some(name) = &facts.server_name {
        variables.push(("SSL_TLS_SNI", name.clone()));
    }
    let client = facts.client_certificate.as_deref();
    let verified = if client.is_some() { "SUCCESS" } else { "NONE" };
    variables.push(("SSL_CLIENT_VERIFY", verified.to_owned()));
    if let Some(Ok((_, client))) = client.map(parse_x509_certificate) {
        variables.push(("SSL_CLIENT_S_DN", client.subject().to_string()));
        variables.push(("SSL_CLIENT_I_DN", client.issuer().to_string()));
    }
    let owned = |(name, value): (&str, String)| (name.to_owned(), value);
    variables.into_iter().map(owned).collect()
}
