#![forbid(unsafe_code)]
//! This daemon among the others: a thread that tells, and one that listens.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use redis::{Client, Connection, RedisResult};

use super::news::{Ban, Counts, News, What};
use super::others::{LEASE, Others};

/// The channel of the news. The number is that of their form.
const CHANNEL: &str = "portreeve:1:news";
/// The set of bans in force, by their ends.
const BANS: &str = "portreeve:1:bans";
/// Names the server's memory: one that has lost it has another.
const EPOCH: &str = "portreeve:1:epoch";
/// How often something is told, if only that we are there.
const TICK: Duration = Duration::from_secs(1);
/// How long an answer of the server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before the server is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// News that wait to be told. Those that find no room are made good for by telling all once there is some.
const MOST_NEWS: usize = 10_000;
/// Counts in one message.
const MOST_COUNTS: usize = 5000;
/// How long the threads may take to end.
const PARTING: Duration = Duration::from_millis(500);

/// Counts by listener and address.
pub(crate) type ByAddress = HashMap<(Arc<str>, IpAddr), u32>;

/// The daemon, as the others' news concern it.
pub(crate) trait Around: Send + Sync {
    /// Keeps somebody out whom another daemon keeps out. False when the rules here exempt them.
    fn learn(&self, ban: Ban) -> bool;
    /// Takes back the ban of just this network.
    fn unlearn(&self, net: ipnet::IpNet);
    /// Whether just this ban is in force.
    fn knows(&self, ban: Ban) -> bool;
    /// All bans in force.
    fn bans(&self) -> Vec<Ban>;
    /// Connections of each address now.
    fn counts(&self) -> ByAddress;
    /// What other daemons have.
    fn set_elsewhere(&self, sums: HashMap<String, HashMap<IpAddr, u32>>);
}

/// How it stands with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The server, without its password.
    pub(crate) server: String,
    /// News come and go.
    pub(crate) is_there: bool,
    /// Other daemons that are alive.
    pub(crate) nodes: usize,
    /// Why it is away.
    pub(crate) error: Option<String>,
}

/// The two threads. Dropped, they end.
pub(crate) struct Node {
    inner: Arc<Inner>,
    outbox: Sender<What>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    name: String,
    client: Client,
    server: String,
    around: Arc<dyn Around>,
    others: Mutex<Others>,
    /// Bans that are in force here because another daemon told of them.
    learned: Mutex<HashSet<Ban>>,
    link: Mutex<Link>,
    /// The listener hears the channel.
    hears: AtomicBool,
    /// The set of bans is to be read.
    unsure: AtomicBool,
    /// All counts are to be told.
    asked: AtomicBool,
    /// Something was missed: others are to be asked.
    missed: AtomicBool,
    /// News that found no room.
    lost: AtomicU64,
    stop: AtomicBool,
}

#[derive(Default)]
struct Link {
    is_there: bool,
    error: Option<String>,
    was_said: Option<bool>,
}

impl Node {
    /// Starts the threads; the server is looked for by them.
    ///
    /// # Errors
    /// There is no room for threads, or the URL is none.
    pub(crate) fn start(url: &str, around: Arc<dyn Around>) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| error.to_string())?;
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| error.to_string())?;
        let (outbox, news) = bounded(MOST_NEWS);
        let inner = Arc::new(Inner {
            name: format!("{:016x}", u64::from_be_bytes(name)),
            server: client.get_connection_info().addr().to_string(),
            client,
            around,
            others: Mutex::default(),
            learned: Mutex::default(),
            link: Mutex::default(),
            hears: AtomicBool::new(false),
            unsure: AtomicBool::new(true),
            asked: AtomicBool::new(true),
            missed: AtomicBool::new(true),
            lost: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut node = Node {
            inner: Arc::clone(&inner),
            outbox,
            threads: Vec::new(),
        };
        let (tells, listens) = (Arc::clone(&inner), inner);
        node.spawn("shared-tell", move || tells.tell(&news))?;
        node.spawn("shared-hear", move || listens.listen())?;
        Ok(node)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads
            .push(thread.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Tells of a ban, soon. Never waits.
    pub(crate) fn ban(&self, ban: Ban) {
        self.inner
            .learned
            .lock()
            .retain(|learned| learned.net != ban.net);
        self.tell(What::Ban(ban));
    }

    /// Tells of one that was taken back.
    pub(crate) fn unban(&self, net: ipnet::IpNet) {
        self.inner
            .learned
            .lock()
            .retain(|learned| learned.net != net);
        self.tell(What::Unban { net });
    }

    fn tell(&self, what: What) {
        if self.outbox.try_send(what).is_err() {
            self.inner.lost.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Standing {
        let link = self.inner.link.lock();
        Standing {
            server: self.inner.server.clone(),
            is_there: link.is_there,
            nodes: self.inner.others.lock().len(),
            error: link.error.clone(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Release);
        let _ = self.outbox.try_send(What::Bye);
        let until = Instant::now() + PARTING;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        // One that waits for a server which does not answer ends with the process.
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(PATIENCE)?;
        connection.set_write_timeout(Some(PATIENCE))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// Says it where it has changed.
    fn note(&self, outcome: Result<(), String>) {
        let mut link = self.link.lock();
        link.is_there = outcome.is_ok();
        link.error = outcome.err();
        if link.was_said == Some(link.is_there) {
            return;
        }
        link.was_said = Some(link.is_there);
        let server = &self.server;
        match &link.error {
            None => log::info!("shared: {server} is there: bans and counts are known together"),
            Some(why) => {
                log::warn!("shared: {server} is away: {why}; this daemon goes on by its own counts")
            }
        }
    }

    /// The thread that tells.
    fn tell(&self, news: &Receiver<What>) {
        let mut epoch = None;
        while !self.stops() {
            let told = self
                .connect()
                .and_then(|mut connection| self.converse(&mut connection, news, &mut epoch));
            match told {
                Ok(()) => return,
                Err(error) => self.note(Err(error.to_string())),
            }
            self.unsure.store(true, Ordering::Release);
            self.asked.store(true, Ordering::Release);
            let until = Instant::now() + PAUSE;
            while !self.stops() && Instant::now() < until {
                self.apply();
                std::thread::sleep(PAUSE / 10);
            }
        }
    }

    /// As long as the server answers.
    fn converse(
        &self,
        connection: &mut Connection,
        news: &Receiver<What>,
        epoch: &mut Option<String>,
    ) -> RedisResult<()> {
        let mut told = ByAddress::new();
        let mut number = 0;
        let mut next = Instant::now();
        loop {
            match news.recv_deadline(next) {
                Ok(What::Bye) => {
                    self.publish(connection, What::Bye)?;
                    return Ok(());
                }
                // One that cannot be told is told again by way of the set, in which it stands or does not.
                Ok(what) => self.change(connection, what).inspect_err(|_| {
                    self.lost.fetch_add(1, Ordering::AcqRel);
                })?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    next = Instant::now() + TICK;
                    // Not before the listener hears what changes meanwhile.
                    if self.hears.load(Ordering::Acquire)
                        && self.unsure.swap(false, Ordering::AcqRel)
                    {
                        self.agree(connection, epoch)
                            .inspect_err(|_| self.unsure.store(true, Ordering::Release))?;
                    }
                    if self.missed.swap(false, Ordering::AcqRel) {
                        self.publish(connection, What::Hello)?;
                    }
                    self.tell_counts(connection, &mut told, &mut number)?;
                    if self.hears.load(Ordering::Acquire) {
                        self.note(Ok(()));
                    }
                    self.apply();
                }
            }
        }
    }

    fn publish(&self, connection: &mut Connection, what: What) -> RedisResult<()> {
        let news = News {
            node: self.name.clone(),
            what,
        };
        let text = serde_json::to_string(&news).unwrap_or_default();
        redis::cmd("PUBLISH")
            .arg(CHANNEL)
            .arg(text)
            .query::<i64>(connection)?;
        Ok(())
    }

    /// Into the set, then to everybody: who reads the set later finds it there.
    fn change(&self, connection: &mut Connection, what: What) -> RedisResult<()> {
        match &what {
            What::Ban(ban) => put(connection, ban)?,
            What::Unban { net } => {
                let both = [true, false].map(|hand| {
                    Ban {
                        net: *net,
                        until: 0,
                        hand,
                    }
                    .member()
                });
                redis::cmd("ZREM")
                    .arg(BANS)
                    .arg(&both)
                    .query::<i64>(connection)?;
            }
            _ => {}
        }
        self.publish(connection, what)
    }

    /// Takes the bans in the set for those in force. A set that was lost is filled with what is known here.
    fn agree(&self, connection: &mut Connection, epoch: &mut Option<String>) -> RedisResult<()> {
        redis::cmd("SET")
            .arg(EPOCH)
            .arg(&self.name)
            .arg("NX")
            .query::<Option<String>>(connection)?;
        let now: Option<String> = redis::cmd("GET").arg(EPOCH).query(connection)?;
        let is_lost = epoch.is_some() && *epoch != now;
        if is_lost || self.lost.swap(0, Ordering::AcqRel) > 0 {
            for ban in self.around.bans() {
                put(connection, &ban)?;
            }
        }
        *epoch = now;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        redis::cmd("ZREMRANGEBYSCORE")
            .arg(BANS)
            .arg("-inf")
            .arg(seconds)
            .query::<i64>(connection)?;
        let set: Vec<(String, f64)> = redis::cmd("ZRANGE")
            .arg(BANS)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query(connection)?;
        let set: HashSet<Ban> = set
            .iter()
            .filter_map(|(member, until)| Ban::of(member, *until))
            .collect();
        for ban in &set {
            self.learn(*ban);
        }
        let nets: HashSet<ipnet::IpNet> = set.iter().map(|ban| ban.net).collect();
        let gone: Vec<Ban> = {
            let mut learned = self.learned.lock();
            learned.extract_if(|ban| !nets.contains(&ban.net)).collect()
        };
        gone.into_iter()
            .for_each(|ban| self.around.unlearn(ban.net));
        Ok(())
    }

    fn learn(&self, ban: Ban) {
        if !self.around.knows(ban) && self.around.learn(ban) {
            self.learned.lock().insert(ban);
        }
    }

    /// What has changed since it was told last, all where somebody asks.
    fn tell_counts(
        &self,
        connection: &mut Connection,
        told: &mut ByAddress,
        number: &mut u64,
    ) -> RedisResult<()> {
        let mut anew = self.asked.swap(false, Ordering::AcqRel);
        let now = self.around.counts();
        if anew {
            told.clear();
        }
        let mut changed: Vec<(String, IpAddr, u32)> = Vec::new();
        for (key, count) in &now {
            if told.get(key) != Some(count) {
                changed.push((key.0.to_string(), key.1, *count));
            }
        }
        for key in told.keys().filter(|key| !now.contains_key(*key)) {
            changed.push((key.0.to_string(), key.1, 0));
        }
        *told = now;
        let mut rest = changed.as_slice();
        loop {
            let (counts, more) = rest.split_at(rest.len().min(MOST_COUNTS));
            *number += 1;
            self.publish(
                connection,
                What::Counts(Counts {
                    number: *number,
                    anew,
                    counts: counts.to_vec(),
                }),
            )?;
            anew = false;
            rest = more;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Lets what is known of others count here.
    fn apply(&self) {
        let sums = {
            let mut others = self.others.lock();
            others.expire(Instant::now());
            others.sums()
        };
        if let Some(sums) = sums {
            self.around.set_elsewhere(sums);
        }
    }

    /// The thread that listens.
    fn listen(&self) {
        while !self.stops() {
            if let Err(error) = self.hear()
                && !self.stops()
            {
                self.note(Err(error.to_string()));
            }
            self.hears.store(false, Ordering::Release);
            let until = Instant::now() + PAUSE;
            while !self.stops() && Instant::now() < until {
                std::thread::sleep(PAUSE / 10);
            }
        }
    }

    fn hear(&self) -> RedisResult<()> {
        let mut connection = self.connect()?;
        // We hear ourselves each second: silence means that the server is away.
        connection.set_read_timeout(Some(LEASE))?;
        let mut channel = connection.as_pubsub();
        channel.subscribe(CHANNEL)?;
        self.unsure.store(true, Ordering::Release);
        self.missed.store(true, Ordering::Release);
        self.hears.store(true, Ordering::Release);
        while !self.stops() {
            let message = channel.get_message()?;
            match serde_json::from_slice::<News>(message.get_payload_bytes()) {
                Ok(news) if news.node != self.name => self.take(news),
                Ok(_) => {}
                Err(error) => log::debug!("shared: a message that is none: {error}"),
            }
        }
        Ok(())
    }

    fn take(&self, news: News) {
        match news.what {
            What::Hello => self.asked.store(true, Ordering::Release),
            What::Ban(ban) => self.learn(ban),
            What::Unban { net } => {
                self.learned.lock().retain(|learned| learned.net != net);
                self.around.unlearn(net);
            }
            What::Counts(counts) => {
                if !self.others.lock().hear(&news.node, counts, Instant::now()) {
                    self.missed.store(true, Ordering::Release);
                }
            }
            What::Bye => self.others.lock().part(&news.node),
        }
    }
}

fn put(connection: &mut Connection, ban: &Ban) -> RedisResult<()> {
    redis::cmd("ZADD")
        .arg(BANS)
        .arg(ban.until)
        .arg(ban.member())
        .query::<i64>(connection)?;
    Ok(())
}
