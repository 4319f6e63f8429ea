#![forbid(unsafe_code)]
//! The engine that v3 messages name (RFC 3411, 3.1.1; RFC 3414, 2.2): its identity, how often it was booted,
//! and for how long it has run. Identity and boots are kept in `state_dir`, so that no old message fits again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use aws_lc_rs::rand;
use parking_lot::Mutex;

use crate::files;

/// Engines of this process: a reload is no boot, and several listeners have the same one.
static ENGINES: LazyLock<Mutex<HashMap<PathBuf, Arc<Engine>>>> = LazyLock::new(Mutex::default);

/// The most boots (RFC 3414, 2.2.2); then an engine needs a new identity.
const MOST_BOOTS: u32 = 0x7fff_ffff;

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) id: Vec<u8>,
    pub(super) boots: u32,
    started: Instant,
    /// Never twice the same for one key (RFC 3826, 3.1.2.1).
    salt: AtomicU64,
}

impl Engine {
    /// The engine of a `state_dir`; the first call of a process boots it.
    ///
    /// # Errors
    /// Its file cannot be read or written.
    pub(super) fn of(state_dir: &Path, now: Instant) -> io::Result<Arc<Engine>> {
        let mut engines = ENGINES.lock();
        if let Some(engine) = engines.get(state_dir) {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Engine::boot(&state_dir.join("snmp-engine"), now)?);
        engines.insert(state_dir.to_path_buf(), Arc::clone(&engine));
        Ok(engine)
    }

    fn boot(file: &Path, now: Instant) -> io::Result<Engine> {
        let known = match std::fs::read_to_string(file) {
            Ok(text) => read(&text).filter(|(_, boots)| *boots < MOST_BOOTS),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (id, boots) = match known {
            Some((id, boots)) => (id, boots + 1),
            None => (fresh()?, 1),
        };
        files::replace_private(file, format!("{} {boots}\n", hex(&id)).as_bytes())?;
        let mut salt = [0; 8];
        random(&mut salt)?;
        Ok(Engine {
            id,
            boots,
            started: now,
            salt: AtomicU64::new(u64::from_ne_bytes(salt)),
        })
    }

    /// Seconds since the boot.
    pub(super) fn time(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        u32::try_from(seconds).unwrap_or(MOST_BOOTS).min(MOST_BOOTS)
    }

    /// The next salt.
    pub(super) fn salt(&self) -> [u8; 8] {
        self.salt.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }
}

/// A new identity: the enterprise number with its first bit set, 5 for octets, and random ones.
fn fresh() -> io::Result<Vec<u8>> {
    let mut id = vec![0x80, 0, 0x7e, 0xd9, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    random(&mut id[5..])?;
    Ok(id)
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    rand::fill(bytes).map_err(|_| io::Error::other("no random numbers"))
}

/// What the file says: the identity in hexadecimal digits, and the boots.
fn read(text: &str) -> Option<(Vec<u8>, u32)> {
    let (id, boots) = text.trim_end().split_once(' ')?;
    let digits = id.len() % 2 == 0 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes = (0..id.len() / 2).map(|at| u8::from_str_radix(&id[at * 2..at * 2 + 2], 16));
    // RFC 3411, 5: an identity has 5 to 32 octets.
    if !digits || !(10..=64).contains(&id.len()) {
        return None;
    }
    Some((bytes.collect::<Result<_, _>>().ok()?, boots.parse().ok()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::{Duration, Instant};

    use super::Engine;

    #[test]
    fn an_engine_keeps_its_identity_and_counts_its_boots() -> io::Result<()> {
        let home = tempfile::tempdir()?;
        let (file, now) = (home.path().join("snmp-engine"), Instant::now());
        let first = Engine::boot(&file, now)?;
        let second = Engine::boot(&file, now)?;
        assert_eq!((first.boots, second.boots), (1, 2));
        assert_eq!(first.id, second.id);
        assert_eq!(first.id.len(), 13);
        assert_eq!(second.time(now + Duration::from_secs(9)), 9);
        assert_ne!(second.salt(), second.salt());
        for bad in [
            "",
            "zz 1",
            "8000 1",
            "80007ed905 x",
            "80007ed90500 2147483647",
        ] {
            std::fs::write(&file, bad)?;
            assert_eq!(Engine::boot(&file, now)?.boots, 1, "{bad:?}");
        }
        Ok(())
    }
}
