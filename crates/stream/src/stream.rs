//! A rank's stream: batches in order, read ahead of the one who asks for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eagleray_base::{Digest, Error, Result, limits};
use eagleray_order::{Order, OrderSpec, SourceSpec};
use eagleray_store::runtime;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::ahead::{Message, read_local, read_remote};
use crate::load::{Loaded, Loader, Timing};
use crate::slices::Slices;
use crate::source::Source;
use crate::{Batch, StreamConfig};

const FORMAT: &str = "eagleray.stream";
const VERSION: u32 = 1;

/// What `next` found.
#[derive(Debug)]
pub enum Next {
    /// The next micro batch.
    Batch(Batch),
    /// Nothing yet; ask again.
    Pending,
    /// The end position is reached.
    End,
}

/// Seconds that `next` waited, by what the batch it waited for was doing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Waits {
    /// Opening datasets.
    pub open: f64,
    /// The store had not answered.
    pub first_byte: f64,
    /// Between tries, after the store was unavailable.
    pub throttled: f64,
    /// Checking and widening.
    pub decode: f64,
    /// Reading ahead had not begun with it.
    pub queue_empty: f64,
}

/// Counters of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stats {
    /// Bytes read from stores, manifests included.
    pub bytes_read: u64,
    /// Reads.
    pub reads: u64,
    /// Samples ready in the queue.
    pub queue_samples: u64,
    /// Micro batches returned.
    pub batches: u64,
    /// Where waiting went.
    pub waits: Waits,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: String,
    format_version: u32,
    order: serde_json::Value,
    /// Where within the step, when it is not over.
    step: Option<Within>,
}

/// A place within a step; it has a meaning only for the same slices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Within {
    micro_index: u64,
    global_batch: u64,
    micro_batch: u64,
    rank: u64,
    world: u64,
}

/// A rank's stream of micro batches.
pub struct Stream {
    config: StreamConfig,
    loader: Arc<Loader>,
    /// Micro batch number n since the start comes from queue n modulo their number.
    queues: Vec<mpsc::Receiver<Message>>,
    turn: usize,
    /// What fills the queue of a remote store; local threads end with their queues.
    driver: Option<JoinHandle<()>>,
    pid: u32,
    waits: Waits,
    /// What is waited for since when, over calls of `next` that found nothing.
    waiting: Duration,
    position: u64,
    micro_index: u64,
    batches: u64,
    ended: bool,
}

/// Opens the datasets of a configuration, and the order over them.
///
/// # Errors
/// As [`eagleray_tokens::Dataset::open`] and [`Order::new`]; `Invalid` where tokenizers differ.
pub fn open_order(config: &StreamConfig) -> Result<Order> {
    open_sources(config).map(|(order, _)| order)
}

pub(crate) fn open_sources(config: &StreamConfig) -> Result<(Order, Vec<Source>)> {
    let mut configs: Vec<_> = config.sources.iter().collect();
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    let open = |source: &&crate::SourceConfig| {
        Source::open(&source.url, config.sequence_length)
            .map_err(|error| error.at(format_args!("source `{}`", source.name)))
    };
    let sources: Vec<Source> = configs.iter().map(open).collect::<Result<_>>()?;
    check_tokenizers(&configs, &sources)?;
    let spec = |(config_of, source): (&&crate::SourceConfig, &Source)| SourceSpec {
        name: config_of.name.clone(),
        dataset_hash: source.dataset().manifest().dataset_hash,
        num_samples: source.dataset().num_samples(config.sequence_length),
        weight: config_of.weight,
    };
    let order = Order::new(OrderSpec {
        seed: config.seed,
        sequence_length: config.sequence_length,
        packing: "concat".to_owned(),
        sources: configs.iter().zip(&sources).map(spec).collect(),
    })?;
    Ok((order, sources))
}

/// That one tokenizer gave the tokens of all sources. Datasets may name different ones and still share one:
/// where tokens are equal, a dataset stays the one that was built first.
fn check_tokenizers(configs: &[&crate::SourceConfig], sources: &[Source]) -> Result<()> {
    let named = |source: &Source| source.dataset().manifest().tokenizer_hash;
    if sources.windows(2).all(|pair| named(&pair[0]) == named(&pair[1])) {
        return Ok(());
    }
    let mut shared: Option<Vec<Digest>> = None;
    for (number, source) in sources.iter().enumerate() {
        let mut all = source.dataset().tokenizers()?;
        all.retain(|tokenizer| shared.as_ref().is_none_or(|shared| shared.contains(tokenizer)));
        if all.is_empty() {
            let before: Vec<&str> = configs[..number].iter().map(|config| config.name.as_str()).collect();
            let (before, name) = (before.join("`, `"), &configs[number].name);
            return Err(Error::invalid(format!(
                "sources `{before}` and `{name}` were built with different tokenizers"
            ))
            .with_hint("build all with the tokenizer of the spec: `eagleray tokens build`"));
        }
        shared = Some(all);
    }
    Ok(())
}

impl Stream {
    /// Opens the datasets and starts to read ahead.
    ///
    /// # Errors
    /// As [`open_order`]; `Invalid` where a state is of another order.
    pub fn open(config: StreamConfig) -> Result<Self> {
        config.check()?;
        let began = Instant::now();
        let (order, sources) = open_sources(&config)?;
        let (position, micro_index) = start_of(&config, &order)?;
        let loader = Arc::new(Loader { order, sources, sequence_length: config.sequence_length });
        let waits = Waits { open: began.elapsed().as_secs_f64(), ..Waits::default() };
        let slices = Slices::new(&config, position, micro_index);
        let (queues, driver) = if loader.is_local() {
            (read_local(&loader, &slices, &config), None)
        } else {
            let (queue, driver) = read_remote(&loader, slices, &config);
            (vec![queue], Some(driver))
        };
        Ok(Self {
            config,
            loader,
            queues,
            turn: 0,
            driver,
            pid: std::process::id(),
            waits,
            waiting: Duration::ZERO,
            position,
            micro_index,
            batches: 0,
            ended: false,
        })
    }

    /// The next micro batch, or [`Next::Pending`] when there is none within `patience`.
    ///
    /// # Errors
    /// `Corrupt` naming the shard, block and bytes that are not what was written; as the store.
    pub fn next(&mut self, patience: Duration) -> Result<Next> {
        if self.ended {
            return Ok(Next::End);
        }
        if self.pid != std::process::id() {
            return Err(Error::invalid("the stream was opened before this process was forked off")
                .with_hint("open the stream in the process that reads it"));
        }
        let queue = &mut self.queues[self.turn];
        let message = match queue.try_recv() {
            Ok(message) => Some(message),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                let began = Instant::now();
                let received =
                    runtime().block_on(async { tokio::time::timeout(patience, queue.recv()).await });
                self.waiting += began.elapsed();
                match received {
                    Ok(message) => message,
                    Err(_) => return Ok(Next::Pending),
                }
            }
        };
        match message {
            Some(Message::Loaded(loaded)) => Ok(Next::Batch(self.deliver(*loaded))),
            Some(Message::Failed(error)) => Err(error),
            Some(Message::End) => {
                self.ended = true;
                Ok(Next::End)
            }
            None => Err(Error::internal("the stream ended early: it was closed, or failed before")),
        }
    }

    /// The next micro batch, however long it takes; `None` at the end.
    ///
    /// # Errors
    /// As [`Stream::next`].
    pub fn wait(&mut self) -> Result<Option<Batch>> {
        loop {
            match self.next(Duration::from_secs(1))? {
                Next::Batch(batch) => return Ok(Some(batch)),
                Next::End => return Ok(None),
                Next::Pending => {}
            }
        }
    }

    /// The order that the stream follows.
    pub fn order(&self) -> &Order {
        &self.loader.order
    }

    /// Whether a dataset has a loss mask, so that samples may have labels that no loss counts.
    pub fn is_masked(&self) -> bool {
        self.loader.sources.iter().any(|source| source.dataset().manifest().loss_mask)
    }

    /// The configuration.
    pub const fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// The state behind the last batch returned, below 4 KB of JSON.
    ///
    /// # Errors
    /// `Exhausted` where it does not fit.
    pub fn state(&self) -> Result<String> {
        let internal = |error: serde_json::Error| Error::internal(error.to_string());
        let order = serde_json::to_value(self.loader.order.state(self.position)).map_err(internal)?;
        let step = (self.micro_index > 0).then(|| Within::of(&self.config, self.micro_index));
        let state = State { format: FORMAT.to_owned(), format_version: VERSION, order, step };
        let json = serde_json::to_string(&state).map_err(internal)?;
        if json.len() > limits::STATE_BYTES_MAX {
            let (bytes, limit) = (json.len(), limits::STATE_BYTES_MAX);
            return Err(Error::exhausted(format!("the stream's state has {bytes} bytes, more than {limit}")));
        }
        Ok(json)
    }

    /// Counters so far.
    pub fn stats(&self) -> Stats {
        let counters: Vec<_> =
            self.loader.sources.iter().map(|source| source.dataset().store().counters()).collect();
        let queued: usize = self.queues.iter().map(mpsc::Receiver::len).sum();
        Stats {
            bytes_read: counters.iter().map(|counters| counters.bytes_read).sum(),
            reads: counters.iter().map(|counters| counters.gets).sum(),
            queue_samples: queued as u64 * self.config.micro_batch,
            batches: self.batches,
            waits: self.waits,
        }
    }

    /// Stops reading ahead.
    pub fn close(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
        for queue in &mut self.queues {
            queue.close();
            while queue.try_recv().is_ok() {}
        }
    }

    fn deliver(&mut self, loaded: Loaded) -> Batch {
        self.waits.add(std::mem::take(&mut self.waiting), &loaded.timing);
        let batch = loaded.batch;
        self.batches += 1;
        self.turn = (self.turn + 1) % self.queues.len();
        (self.position, self.micro_index) = if batch.micro_index + 1 == batch.micro_count {
            (loaded.step_end, 0)
        } else {
            (batch.step_position, batch.micro_index + 1)
        };
        batch
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take_if(|_| self.pid == std::process::id()) {
            driver.abort();
        }
    }
}

impl Waits {
    /// Shares a wait out from its end backwards: the batch was decoded last, read before, and not begun
    /// before that.
    fn add(&mut self, waited: Duration, timing: &Timing) {
        let mut left = waited;
        let mut take = |most: Duration| {
            let part = left.min(most);
            left = left.saturating_sub(part);
            part.as_secs_f64()
        };
        self.decode += take(timing.decode);
        self.throttled += take(timing.throttled);
        self.first_byte += take(timing.read);
        self.queue_empty += left.as_secs_f64();
    }
}

impl Within {
    fn of(config: &StreamConfig, micro_index: u64) -> Self {
        let StreamConfig { global_batch, micro_batch, rank, world, .. } = *config;
        Self { micro_index, global_batch, micro_batch, rank, world }
    }
}

/// Where to start: the state's place where there is one, else the configured position.
fn start_of(config: &StreamConfig, order: &Order) -> Result<(u64, u64)> {
    let Some(state) = &config.state else {
        return Ok((config.position, 0));
    };
    let wrong = |error: serde_json::Error| Error::invalid(format!("not the state of a stream: {error}"));
    let state: State = serde_json::from_value(state.clone()).map_err(wrong)?;
    if state.format != FORMAT || state.format_version != VERSION {
        let (format, version) = (state.format, state.format_version);
        return Err(Error::invalid(format!(
            "the state is `{format}` version {version}: expected `{FORMAT}` version {VERSION}"
        )));
    }
    let position = order.restore(&state.order.to_string())?;
    match state.step {
        None => Ok((position, 0)),
        Some(within) if within == Within::of(config, within.micro_index) => {
            Ok((position, within.micro_index))
        }
        Some(within) => {
            let ours = Within::of(config, within.micro_index);
            Err(Error::invalid(format!(
                "the state was taken within a step: expected {ours:?}, found {within:?}"
            ))
            .with_hint("take states between steps when world or batch may change"))
        }
    }
}
