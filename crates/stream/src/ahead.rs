//! Reading ahead: what fills a stream's queues.

use std::collections::VecDeque;
use std::sync::Arc;

use eagleray_base::{Error, Result};
use eagleray_store::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::StreamConfig;
use crate::load::{Loaded, Loader};
use crate::slices::Slices;

/// Bytes that a token takes in a batch: three arrays of i64.
const BATCH_TOKEN_BYTES: u64 = 24;
/// Micro batches ahead, at least: one in hand and one in the making.
const DEPTH_MIN: u64 = 2;
const DEPTH_MAX: u64 = 4096;
/// Threads that read local files: enough to hide a disk, few enough to leave cores to training.
const LOCAL_THREADS_MAX: u64 = 4;
/// Samples being read at once from a store that answers in tens of milliseconds.
const REMOTE_SAMPLES: u64 = 64;

/// What comes through a queue.
pub(crate) enum Message {
    Loaded(Box<Loaded>),
    Failed(Error),
    End,
}

fn depth(config: &StreamConfig) -> u64 {
    let bytes = config.micro_batch * config.sequence_length * BATCH_TOKEN_BYTES;
    (config.prefetch_bytes / bytes.max(1)).clamp(DEPTH_MIN, DEPTH_MAX)
}

/// Starts threads that take turns at the micro batches, each with a queue of its own.
pub(crate) fn read_local(
    loader: &Arc<Loader>,
    slices: &Slices,
    config: &StreamConfig,
) -> Vec<mpsc::Receiver<Message>> {
    let depth = depth(config);
    let threads = LOCAL_THREADS_MAX.min(depth) as usize;
    let start = |number: usize| {
        // A thread holds one batch more while its queue is full.
        let (sender, queue) = mpsc::channel((depth as usize / threads - 1).max(1));
        let mine = slices.clone().skip(number).step_by(threads);
        let loader = Arc::clone(loader);
        runtime().spawn_blocking(move || {
            for micro in mine {
                let message = Message::of(loader.load_blocking(&micro));
                let failed = matches!(message, Message::Failed(_));
                if sender.blocking_send(message).is_err() || failed {
                    return;
                }
            }
            // Whether anyone still listens does not matter.
            let _ = sender.blocking_send(Message::End);
        });
        queue
    };
    (0..threads).map(start).collect()
}

/// Starts a task that keeps many reads under way and hands micro batches over in order.
pub(crate) fn read_remote(
    loader: &Arc<Loader>,
    slices: Slices,
    config: &StreamConfig,
) -> (mpsc::Receiver<Message>, JoinHandle<()>) {
    let depth = depth(config);
    let jobs = REMOTE_SAMPLES.div_ceil(config.micro_batch).max(DEPTH_MIN).min(depth);
    // A job holds its batch while it waits for its turn, so the queue holds the rest of the depth.
    let (sender, queue) = mpsc::channel((depth - jobs).max(1) as usize);
    let driver = runtime().spawn(drive(Arc::clone(loader), slices, jobs as usize, sender));
    (queue, driver)
}

async fn drive(loader: Arc<Loader>, mut slices: Slices, jobs: usize, queue: mpsc::Sender<Message>) {
    let mut begun = VecDeque::with_capacity(jobs);
    loop {
        while begun.len() < jobs
            && let Some(micro) = slices.next()
        {
            #[expect(clippy::disallowed_methods, reason = "the queue of begun loads owns the task")]
            begun.push_back(tokio::spawn(Arc::clone(&loader).load_async(micro)));
        }
        let Some(job) = begun.pop_front() else {
            // Whether anyone still listens does not matter.
            let _ = queue.send(Message::End).await;
            return;
        };
        let message = match job.await {
            Ok(result) => Message::of(result),
            Err(panic) => Message::Failed(Error::internal(format!("a read failed: {panic}"))),
        };
        let failed = matches!(message, Message::Failed(_));
        if queue.send(message).await.is_err() || failed {
            return;
        }
    }
}

impl Message {
    fn of(result: Result<Loaded>) -> Self {
        match result {
            Ok(loaded) => Self::Loaded(Box::new(loaded)),
            Err(error) => Self::Failed(error),
        }
    }
}
