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

/// A load under way that ends when nobody holds it any more, so that a closed stream reads nothing on.
struct Job(JoinHandle<Result<Loaded>>);

impl Job {
    fn begin(load: impl Future<Output = Result<Loaded>> + Send + 'static) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the job owns the task")]
        Self(tokio::spawn(load))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
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
            begun.push_back(Job::begin(Arc::clone(&loader).load_async(micro)));
        }
        let Some(mut job) = begun.pop_front() else {
            // Whether anyone still listens does not matter.
            let _ = queue.send(Message::End).await;
            return;
        };
        let message = match (&mut job.0).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stopped_task_had_under_way_is_cancelled() {
        runtime().block_on(async {
            let (held, mut load) = mpsc::channel(1);
            let driver = runtime().spawn(async move {
                let mut job = Job::begin(async move {
                    held.send("begun").await.unwrap();
                    let result = std::future::pending().await;
                    drop(held);
                    result
                });
                (&mut job.0).await.map(drop)
            });
            assert_eq!(load.recv().await, Some("begun"));
            driver.abort();
            assert_eq!(load.recv().await, None, "the load is gone");
        });
    }
}
