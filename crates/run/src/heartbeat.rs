//! The sign of life of an attempt's driver, for readers on other hosts.
//!
//! Events come only while ranks take steps; a driver also starts Ray, loads, waits for nodes. So a thread of
//! the driver puts a small object every few seconds, from claim to end, and looks for a newer claim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use eagleray_base::{Error, Result};
use eagleray_store::Store;

use crate::{claim, paths, stop};

/// How often a driver gives a sign of life.
pub const PERIOD: Duration = Duration::from_secs(5);

/// A beating heart; stops when dropped.
#[derive(Debug)]
pub struct Heartbeat {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    superseded: AtomicBool,
    stop_asked: AtomicBool,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Heartbeat {
    /// Gives the first sign of life of an attempt before it returns, then one every `period`.
    ///
    /// # Errors
    /// As the store, for the first sign; `Exhausted` where no thread can be had.
    pub fn start(store: &Store, attempt: u32, period: Duration) -> Result<Self> {
        store.put(&paths::alive(attempt), "alive\n")?;
        let shared = Arc::new(Shared::default());
        let (mine, store) = (Arc::clone(&shared), store.clone());
        let thread = std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || {
                while !mine.wait(period) {
                    // A store that is away for a while is told of by those who need it.
                    let _ = store.put(&paths::alive(attempt), "alive\n");
                    if matches!(claim::is_current(&store, attempt), Ok(false)) {
                        mine.superseded.store(true, Ordering::Relaxed);
                    }
                    if matches!(stop::is_asked(&store, attempt), Ok(true)) {
                        mine.stop_asked.store(true, Ordering::Relaxed);
                    }
                }
            })
            .map_err(|error| Error::exhausted("no thread for the heartbeat").with_source(error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether a newer attempt has claimed the run.
    pub fn superseded(&self) -> bool {
        self.shared.superseded.load(Ordering::Relaxed)
    }

    /// Whether somebody has asked this attempt to save and stop.
    pub fn stop_asked(&self) -> bool {
        self.shared.stop_asked.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Waits for the period to pass; true where the heart is to stop.
    fn wait(&self, period: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(stopped, period, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A beat that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}
