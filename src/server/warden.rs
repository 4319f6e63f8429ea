#![forbid(unsafe_code)]
//! Bans at run time: those made by hand, those that misdeeds earn, and the file that keeps both over a restart.

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::admission::bans::{Ban, Bans, By};
use crate::admission::failures::Failures;
use crate::config::plan::{AutoBan, Network};
use crate::config::store;
use crate::shared::{self, Node};

/// The file below `state_dir`.
const FILE: &str = "bans.json";
/// What the file is written as; one of a later format is left alone.
const FORMAT: u32 = 1;
/// Automatic bans are written this long after the first of them, all at once.
const LATE: Duration = Duration::from_secs(1);
/// Of automatic bans one is spoken of in this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Who is kept out, and who will be.
pub(crate) struct Warden {
    pub(crate) bans: Bans,
    policy: ArcSwap<Policy>,
    failures: Mutex<Failures>,
    said: Mutex<Said>,
    path: PathBuf,
    /// Held while the file is written.
    writing: Mutex<()>,
    /// Something is not written yet.
    dirty: AtomicBool,
    /// The daemons that know the bans together with this one.
    pub(crate) node: OnceLock<Node>,
    /// The file is another process's now.
    retired: AtomicBool,
    wake: Sender<()>,
}

/// When misdeeds lead to bans, and who is exempt.
#[derive(Default)]
struct Policy {
    auto_ban: Option<AutoBan>,
    network: Arc<Network>,
}

#[derive(Default)]
struct Said {
    at: Option<Instant>,
    suppressed: u64,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    bans: Vec<SavedBan>,
}

#[derive(Serialize, Deserialize)]
struct SavedBan {
    net: IpNet,
    /// Seconds since 1970.
    until: u64,
    hand: bool,
}

/// The thread that writes automatic bans. Dropped, it writes what is left and ends.
pub(crate) struct Keeper {
    warden: Arc<Warden>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Warden {
    /// Reads the bans of `state_dir`. A file that cannot be used is put aside with a warning.
    pub(crate) fn open(state_dir: &Path) -> (Arc<Self>, Receiver<()>) {
        let (wake, woken) = bounded(1);
        let warden = Warden {
            bans: Bans::default(),
            policy: ArcSwap::default(),
            failures: Mutex::default(),
            said: Mutex::default(),
            path: state_dir.join(FILE),
            writing: Mutex::new(()),
            dirty: AtomicBool::new(false),
            node: OnceLock::new(),
            retired: AtomicBool::new(false),
            wake,
        };
        warden.read(SystemTime::now());
        (Arc::new(warden), woken)
    }

    fn read(&self, now: SystemTime) {
        let path = self.path.display();
        let saved: Result<Saved, String> = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(error.to_string()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        };
        match saved {
            Ok(saved) if saved.format == FORMAT => {
                for ban in saved.bans {
                    let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ban.until));
                    let by = if ban.hand { By::Hand } else { By::Rule };
                    if let Some(until) = until.filter(|until| *until > now) {
                        self.bans.put(ban.net, until, by);
                    }
                }
            }
            Ok(saved) => self.put_aside(&format!("it has format {}, not {FORMAT}", saved.format)),
            Err(error) => self.put_aside(&error),
        }
        let count = self.bans.list(now).len();
        if count > 0 {
            log::info!("{count} bans are in force, from {path}");
        }
    }

    /// Takes the bans of the file in place of those known so far: another process has written it last.
    pub(crate) fn read_again(&self) {
        let now = SystemTime::now();
        for ban in self.bans.list(now) {
            self.bans.unban(ban.net);
        }
        self.read(now);
    }

    /// Writes what is left, and never again: the file passes to another process.
    pub(crate) fn retire(&self) {
        self.write_late();
        self.retired.store(true, Ordering::Release);
    }

    fn put_aside(&self, why: &dyn Display) {
        let aside = self.path.with_extension("json.bad");
        let path = self.path.display();
        match fs::rename(&self.path, &aside) {
            Ok(()) => log::warn!(
                "{path} cannot be used, no ban of before is in force: {why}; it is kept as {}",
                aside.display()
            ),
            Err(error) => log::warn!("{path} cannot be used: {why}; nor moved: {error}"),
        }
    }

    /// Other rules from now on.
    pub(crate) fn set_policy(&self, auto_ban: Option<AutoBan>, network: Arc<Network>) {
        self.policy.store(Arc::new(Policy { auto_ban, network }));
    }

    /// Who is meant by an address: for IPv6 its whole prefix.
    pub(crate) fn net_of(&self, address: IpAddr) -> IpNet {
        net_of(address, self.policy.load().network.ipv6_prefix)
    }

    /// A ban by hand, written before it is answered for. It counts for clients, too.
    ///
    /// # Errors
    /// It cannot be written; then it is not in force.
    pub(crate) fn ban(&self, net: IpNet, until: SystemTime, now: SystemTime) -> io::Result<()> {
        let before = self.bans.of(net, now);
        self.bans.ban(net, until);
        self.write().inspect_err(|_| {
            self.bans.unban(net);
            if let Some(before) = before {
                self.bans.put(before.net, before.until, before.by);
            }
        })?;
        self.tell(net, until, By::Hand);
        Ok(())
    }

    /// Tells other daemons of a ban.
    fn tell(&self, net: IpNet, until: SystemTime, by: By) {
        if let Some(node) = self.node.get() {
            node.ban(news(&Ban { net, until, by }));
        }
    }

    /// Takes over a ban of another daemon. False for one that its rules made and ours would not.
    pub(crate) fn learn(&self, ban: shared::Ban) -> bool {
        let policy = self.policy.load();
        let address = ban.net.addr();
        let never = policy.auto_ban.as_ref().map(|rule| &rule.never);
        let exempt = policy.network.clients.contains(address)
            || never.is_some_and(|never| never.contains(address));
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ban.until));
        let Some(until) = until.filter(|_| ban.hand || !exempt) else {
            return false;
        };
        self.bans
            .put(ban.net, until, if ban.hand { By::Hand } else { By::Rule });
        self.write_soon();
        true
    }

    /// Takes back a ban that another daemon has taken back.
    pub(crate) fn unlearn(&self, net: IpNet) {
        if self.bans.unban(net) {
            self.failures.lock().forgive(net);
            self.write_soon();
        }
    }

    fn write_soon(&self) {
        self.dirty.store(true, Ordering::Release);
        // Full means that the writer is awake already.
        let _ = self.wake.try_send(());
    }

    /// Takes a ban back; the failures before it are forgiven.
    ///
    /// # Errors
    /// That cannot be written; then the ban is still in force.
    pub(crate) fn unban(&self, net: IpNet, now: SystemTime) -> io::Result<Option<Ban>> {
        let Some(ban) = self.bans.of(net, now) else {
            return Ok(None);
        };
        self.bans.unban(net);
        self.failures.lock().forgive(ban.net);
        self.write()
            .inspect_err(|_| self.bans.put(ban.net, ban.until, ban.by))?;
        if let Some(node) = self.node.get() {
            node.unban(ban.net);
        }
        Ok(Some(ban))
    }

    /// Counts a misdeed; the last of so many leads to a ban at once.
    pub(crate) fn report(&self, listener: &str, address: IpAddr) {
        let policy = self.policy.load();
        let Some(rule) = &policy.auto_ban else { return };
        let address = address.to_canonical();
        if policy.network.clients.contains(address) || rule.never.contains(address) {
            return;
        }
        let net = net_of(address, policy.network.ipv6_prefix);
        let now = Instant::now();
        let (most, within) = (rule.failures, rule.within);
        let tips = self.failures.lock().count(net, most, within, now);
        if !tips {
            return;
        }
        let until = SystemTime::now() + rule.lasts;
        self.bans.put(net, until, By::Rule);
        self.write_soon();
        self.tell(net, until, By::Rule);
        self.say(listener, net, rule, now);
    }

    fn say(&self, listener: &str, net: IpNet, rule: &AutoBan, now: Instant) {
        let mut said = self.said.lock();
        if said.at.is_some_and(|at| now < at + PAUSE) {
            said.suppressed += 1;
            return;
        }
        said.at = Some(now);
        let more = match std::mem::take(&mut said.suppressed) {
            0 => String::new(),
            more => format!(" (and {more} others since the last such line)"),
        };
        let failures = rule.failures;
        let lasts = humantime::format_duration(rule.lasts);
        log::warn!(
            target: listener,
            "banned {} for {lasts}: {failures} misdeeds within {}{more}",
            name(net),
            humantime::format_duration(rule.within),
        );
    }

    fn write(&self) -> io::Result<()> {
        let _writing = self.writing.lock();
        if self.retired.load(Ordering::Acquire) {
            return Err(io::Error::other("another process has taken over"));
        }
        self.dirty.store(false, Ordering::Release);
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| {
                since.as_secs() + u64::from(since.subsec_nanos() > 0)
            })
        };
        let saved = |ban: Ban| SavedBan {
            net: ban.net,
            until: seconds(ban.until),
            hand: ban.by == By::Hand,
        };
        let bans = self.bans.list(SystemTime::now());
        let saved = Saved {
            format: FORMAT,
            bans: bans.into_iter().map(saved).collect(),
        };
        let text = serde_json::to_string(&saved)?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        store::replace(&self.path, text.as_bytes(), store::Mode::Private)
            .inspect_err(|_| self.dirty.store(true, Ordering::Release))
    }

    fn write_late(&self) {
        if self.dirty.load(Ordering::Acquire)
            && !self.retired.load(Ordering::Acquire)
            && let Err(error) = self.write()
        {
            log::warn!("bans are not kept: {}: {error}", self.path.display());
        }
    }
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn start(warden: Arc<Warden>, woken: Receiver<()>) -> io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let kept = Arc::clone(&warden);
        let run = move || {
            loop {
                crossbeam_channel::select! {
                    recv(woken) -> woken => if woken.is_err() { return },
                    recv(stopped) -> _ => return,
                }
                match stopped.recv_timeout(LATE) {
                    Err(RecvTimeoutError::Timeout) => kept.write_late(),
                    _ => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("bans".into()).spawn(run)?;
        Ok(Keeper {
            warden,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.warden.write_late();
    }
}

/// A ban as other daemons are told of it.
pub(crate) fn news(ban: &Ban) -> shared::Ban {
    let since = ban.until.duration_since(SystemTime::UNIX_EPOCH);
    shared::Ban {
        net: ban.net,
        until: since.map_or(0, |since| since.as_secs()),
        hand: ban.by == By::Hand,
    }
}

/// A network as people write it: a single address without its length.
pub(crate) fn name(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

fn net_of(address: IpAddr, ipv6_prefix: u8) -> IpNet {
    let address = address.to_canonical();
    let length = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => ipv6_prefix.clamp(1, 128),
    };
    IpNet::new(address, length).map_or_else(|_| address.into(), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::address_list::{AddressList, Source};

    fn list(text: &str) -> AddressList {
        AddressList::parse(&Source::file(Path::new("list"), text)).unwrap()
    }

    fn warden(home: &Path) -> Arc<Warden> {
        let warden = Warden::open(home).0;
        let network = Network {
            clients: list("10.0.0.0/8"),
            ..Network::default()
        };
        let rule = AutoBan {
            failures: 3,
            within: Duration::from_secs(600),
            lasts: Duration::from_secs(3600),
            never: list("192.0.2.9"),
        };
        warden.set_policy(Some(rule), Arc::new(network));
        warden
    }

    fn is_banned(warden: &Warden, address: &str) -> bool {
        let address = address.parse().unwrap();
        warden.bans.until(address, SystemTime::now()).is_some()
    }

    #[test]
    fn misdeeds_lead_to_a_ban_of_others_but_not_of_clients_or_those_never_banned() {
        let home = tempfile::tempdir().unwrap();
        let warden = warden(home.path());
        for address in ["10.1.1.1", "192.0.2.9", "192.0.2.1", "2001:db8::1"] {
            for _ in 0..2 {
                warden.report("smtp", address.parse().unwrap());
            }
            assert!(!is_banned(&warden, address));
            warden.report("smtp", address.parse().unwrap());
        }
        assert!(!is_banned(&warden, "10.1.1.1") && !is_banned(&warden, "192.0.2.9"));
        assert!(is_banned(&warden, "192.0.2.1") && !is_banned(&warden, "192.0.2.2"));
        assert!(is_banned(&warden, "2001:db8::ffff") && !is_banned(&warden, "2001:db8:0:1::1"));
    }

    #[test]
    fn an_ipv6_prefix_fails_as_one() {
        let home = tempfile::tempdir().unwrap();
        let warden = warden(home.path());
        for address in ["2001:db8::1", "2001:db8::2", "2001:db8::3"] {
            warden.report("smtp", address.parse().unwrap());
        }
        assert!(is_banned(&warden, "2001:db8::4"));
    }

    #[test]
    fn bans_are_there_after_a_restart_until_they_end() {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let until = now + Duration::from_secs(60);
        {
            let (first, woken) = Warden::open(home.path());
            first.set_policy(None, Arc::default());
            let _keeper = Keeper::start(Arc::clone(&first), woken).unwrap();
            first
                .ban("192.0.2.0/24".parse().unwrap(), until, now)
                .unwrap();
            first
                .ban("198.51.100.1/32".parse().unwrap(), until, now)
                .unwrap();
            let short = now + Duration::from_millis(1);
            first
                .ban("203.0.113.1/32".parse().unwrap(), short, now)
                .unwrap();
            let undone = first
                .unban("198.51.100.1/32".parse().unwrap(), now)
                .unwrap();
            assert_eq!(undone.unwrap().by, By::Hand);
            first
                .bans
                .put("192.0.2.7/32".parse().unwrap(), until, By::Rule);
            first.dirty.store(true, Ordering::Release);
        }
        let second = Warden::open(home.path()).0;
        assert!(is_banned(&second, "192.0.2.7") && is_banned(&second, "192.0.2.8"));
        assert!(!is_banned(&second, "198.51.100.1"));
        let by: Vec<By> = second.bans.list(now).iter().map(|ban| ban.by).collect();
        assert!(by.contains(&By::Rule) && by.contains(&By::Hand));
    }

    #[test]
    fn a_file_that_is_no_list_of_bans_is_put_aside() {
        for bad in ["", "{\"format\":1", "{\"format\":9,\"bans\":[]}", "[]"] {
            let home = tempfile::tempdir().unwrap();
            fs::write(home.path().join(FILE), bad).unwrap();
            let warden = Warden::open(home.path()).0;
            assert!(warden.bans.list(SystemTime::now()).is_empty());
            assert_eq!(
                fs::read_to_string(home.path().join("bans.json.bad")).unwrap(),
                bad
            );
            let net = "192.0.2.0/24".parse().unwrap();
            let until = SystemTime::now() + Duration::from_secs(9);
            warden.ban(net, until, SystemTime::now()).unwrap();
            assert!(is_banned(&Warden::open(home.path()).0, "192.0.2.7"));
        }
    }

    #[test]
    fn a_ban_that_cannot_be_written_is_not_in_force() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        let warden = Warden::open(&file.join("below")).0;
        let until = SystemTime::now() + Duration::from_secs(9);
        let net = "192.0.2.0/24".parse().unwrap();
        assert!(warden.ban(net, until, SystemTime::now()).is_err());
        assert!(!is_banned(&warden, "192.0.2.7"));
    }
}
