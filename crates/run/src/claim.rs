//! Attempts: who drives a run, decided by a conditional put.
//!
//! Before a driver claims the next attempt it looks at the newest. If that has not ended and its driver is
//! alive, the newcomer stops and says so: on the same host by looking for the process, from another host by
//! the age of its last sign of life. A newcomer that was told to, or that finds no life, takes over; the
//! older driver finds the newer claim at its next write and stops, and readers ignore what it wrote after.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::paths;

const FORMAT: &str = "eagleray.claim";
const VERSION: u32 = 1;

/// A driver on another host that has given a sign within this time is alive.
const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(15);
/// How long a newcomer waits for such a driver to fall silent.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first process, of a system or of a container.
const INIT: u32 = 1;
const POLL: Duration = Duration::from_secs(1);

/// Who asks for an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claimant {
    /// The host's name.
    pub host: String,
    /// The driver's process.
    pub pid: u32,
    /// Whether to take over from a driver that is alive.
    #[serde(default, skip_serializing)]
    pub take_over: bool,
    /// What else is to be written down: versions, nodes, overrides.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An attempt's claim as it lies on the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    format: String,
    format_version: u32,
    /// Its number, from 1.
    pub attempt: u32,
    /// When, in microseconds since the Unix epoch, by the claimant's clock.
    pub claimed_us: u64,
    /// When the claimant's process began, in its system's clock ticks since boot; tells a reused process id.
    pub pid_started: Option<u64>,
    /// The claimant's system since it was booted; tells two hosts of one name apart.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// When the first process of the claimant's system or container began; tells containers of one host name apart.
    #[serde(default)]
    pub init_started: Option<u64>,
    /// The folder of the commit it goes on from.
    pub resumed_from: Option<String>,
    /// Who claimed.
    #[serde(flatten)]
    pub claimant: Claimant,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// `completed`, `stopped`, `failed` or `superseded`.
    pub outcome: String,
    /// The last step done.
    #[serde(default)]
    pub step: u64,
    /// When, in microseconds since the Unix epoch.
    #[serde(default)]
    pub ended_us: u64,
}

impl Claimant {
    /// This process, on a host of this name.
    pub fn of_this_process(host: &str) -> Self {
        Self { host: host.to_owned(), pid: std::process::id(), take_over: false, other: Map::new() }
    }
}

/// Claims the next attempt of a run, which goes on from the commit in the folder that `resumed_from` names.
/// It is asked right before each try: while one waits for a driver to fall silent, that driver may commit.
///
/// # Errors
/// `Conflict` where another driver is alive, or claimed at the same moment and is; as `resumed_from`.
pub fn claim(
    store: &Store,
    claimant: &Claimant,
    resumed_from: impl Fn() -> Result<Option<String>>,
) -> Result<Claim> {
    loop {
        let newest = newest(store)?;
        if let Some(newest) = newest.as_ref().filter(|_| !claimant.take_over) {
            require_silence(store, newest, claimant)?;
        }
        let claim = Claim {
            format: FORMAT.to_owned(),
            format_version: VERSION,
            attempt: newest.map_or(1, |newest| newest.attempt + 1),
            claimed_us: unique_now_us(),
            pid_started: process_started(claimant.pid),
            boot_id: boot_id(),
            init_started: process_started(INIT),
            resumed_from: resumed_from()?,
            claimant: claimant.clone(),
        };
        let json = serde_json::to_vec_pretty(&claim)
            .map_err(|error| Error::internal(format!("a claim: {error}")))?;
        // Whoever loses the race looks at the winner; a put whose answer was lost finds its own claim.
        let path = paths::claim(claim.attempt);
        if store.put_if_absent(&path, json.clone())? || store.get(&path)? == json {
            return Ok(claim);
        }
    }
}

/// Whether no newer attempt than this has been claimed.
///
/// # Errors
/// As the store.
pub fn is_current(store: &Store, attempt: u32) -> Result<bool> {
    Ok(numbers(store)?.last().is_none_or(|&newest| newest <= attempt))
}

/// Writes down how an attempt ended.
///
/// # Errors
/// As the store.
pub fn finish(store: &Store, attempt: u32, end: &End) -> Result<()> {
    let end = End { ended_us: if end.ended_us == 0 { now_us() } else { end.ended_us }, ..end.clone() };
    let json = serde_json::to_vec(&end).map_err(|error| Error::internal(format!("an end: {error}")))?;
    store.put(&paths::end(attempt), json)
}

/// All claims of a run, by number.
///
/// # Errors
/// As the store; `Corrupt` naming a claim that cannot be read.
pub fn all(store: &Store) -> Result<Vec<Claim>> {
    numbers(store)?.into_iter().map(|number| read(store, number)).collect()
}

/// How an attempt ended, if it did.
///
/// # Errors
/// As the store; `Corrupt` where the object cannot be read.
pub fn end_of(store: &Store, attempt: u32) -> Result<Option<End>> {
    let path = paths::end(attempt);
    if store.head(&path)?.is_none() {
        return Ok(None);
    }
    let damaged =
        |error| Error::corrupt(format!("`{}` is not the end of an attempt: {error}", store.url_of(&path)));
    serde_json::from_slice(&store.get(&path)?).map(Some).map_err(damaged)
}

/// Whether an attempt's driver is alive, as far as a reader on `host` can tell.
///
/// # Errors
/// As the store.
pub fn is_alive(store: &Store, claim: &Claim, host: &str) -> Result<bool> {
    if end_of(store, claim.attempt)?.is_some() {
        return Ok(false);
    }
    if is_here(claim, host) {
        let started = process_started(claim.claimant.pid);
        return Ok(started.is_some() && (claim.pid_started.is_none() || started == claim.pid_started));
    }
    let sign = store.head(&paths::alive(claim.attempt))?.map_or(0, |object| object.modified_us);
    let last_sign = sign.max(claim.claimed_us);
    Ok(now_us().saturating_sub(last_sign) < SIGN_OF_LIFE_MAX.as_micros() as u64)
}

/// Whether a claim was made where its process can be seen: on this system, whose host has that name.
fn is_here(claim: &Claim, host: &str) -> bool {
    claim.claimant.host == host
        && (claim.boot_id.is_none() || claim.boot_id == boot_id())
        && (claim.init_started.is_none() || claim.init_started == process_started(INIT))
}

fn newest(store: &Store) -> Result<Option<Claim>> {
    numbers(store)?.last().map(|&number| read(store, number)).transpose()
}

fn numbers(store: &Store) -> Result<Vec<u32>> {
    let objects = store.list(paths::ATTEMPTS)?;
    let mut numbers: Vec<u32> =
        objects.iter().filter_map(|object| paths::attempt_of_claim(&object.path)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn read(store: &Store, attempt: u32) -> Result<Claim> {
    let path = paths::claim(attempt);
    let place = || format!("`{}`", store.url_of(&path));
    let claim: Claim = serde_json::from_slice(&store.get(&path)?)
        .map_err(|error| Error::corrupt(format!("{} is not a claim: {error}", place())))?;
    if claim.format_version > VERSION {
        return Err(Error::invalid(format!(
            "{} has version {}: expected {VERSION} or older",
            place(),
            claim.format_version
        ))
        .with_hint("use the version of eagleray that wrote it, or a newer one"));
    }
    Ok(claim)
}

/// Returns once the newest attempt's driver shows no life; refuses if it goes on living.
fn require_silence(store: &Store, newest: &Claim, claimant: &Claimant) -> Result<()> {
    let began = now_us();
    while is_alive(store, newest, &claimant.host)? {
        let waited = now_us().saturating_sub(began);
        if is_here(newest, &claimant.host) || waited > PATIENCE.as_micros() as u64 {
            let Claimant { host, pid, .. } = &newest.claimant;
            let message = format!(
                "run `{}` is driven by attempt {} (host {host}, process {pid}), which is alive",
                store.url(),
                newest.attempt
            );
            return Err(Error::conflict(message).with_hint(
                "stop that driver first, or pass `--take-over` to make it stop at its next write",
            ));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a claim says when it was made, and life is told by age")]
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64)
}

/// The time, never twice the same within this process: two claims differ even where all else is equal.
fn unique_now_us() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = now_us();
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    before.map_or(now, |last| now.max(last + 1))
}

/// This system since it was booted.
fn boot_id() -> Option<String> {
    let id = Store::open("/proc/sys/kernel/random").ok()?.get("boot_id").ok()?;
    Some(String::from_utf8_lossy(&id).trim().to_owned())
}

/// When a process began, in clock ticks since boot; `None` where there is no such process. A zombie counts
/// as gone: it writes nothing any more.
fn process_started(pid: u32) -> Option<u64> {
    let stat = Store::open("/proc").ok()?.get(&format!("{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat).into_owned();
    // The command, in parentheses, may hold anything; what follows it is split by spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    // Field 22 of the whole line is the 20th after the command.
    fields.get(19)?.parse().ok()
}
