//! The one async runtime of the process.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// Threads that drive requests; the bytes are hashed and copied by the callers.
const WORKER_THREADS: usize = 2;

static RUNTIME: Mutex<Option<(u32, Arc<Runtime>)>> = Mutex::new(None);

/// The process's runtime, made on first use. A forked child makes its own: threads do not survive fork,
/// and the parent's runtime is left alone there, never dropped.
///
/// # Panics
/// When the system refuses to start a thread.
pub fn runtime() -> Arc<Runtime> {
    let pid = std::process::id();
    let mut slot = RUNTIME.lock();
    if let Some((owner, runtime)) = slot.as_ref()
        && *owner == pid
    {
        return Arc::clone(runtime);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("eagleray-io")
        .enable_all()
        .build()
        .expect("the system can start the I/O threads");
    let runtime = Arc::new(runtime);
    if let Some(inherited) = slot.replace((pid, Arc::clone(&runtime))) {
        std::mem::forget(inherited);
    }
    runtime
}
