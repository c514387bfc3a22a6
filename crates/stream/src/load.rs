//! Reading one micro batch: which samples, from where, verified, as arrays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eagleray_base::{Error, Kind, Result};
use eagleray_order::{Order, Sample};
use eagleray_tokens::format::blocks::{BlockRecord, RECORD_BYTES};
use eagleray_tokens::format::index::parse_lengths;
use futures::future::try_join_all;

use crate::Batch;
use crate::slices::MicroBatch;
use crate::source::{Piece, Request, Source};

/// Tries of a read whose store does not answer, on top of the store's own.
const ATTEMPTS: u32 = 6;
/// No try begins later than this after the first: an object store has by then tried again itself, for minutes
/// at most, and the other ranks wait in a collective whose limit is ten.
const RETRY_WITHIN: Duration = Duration::from_secs(30);
/// The first pause between tries; each further one is twice as long.
const BACKOFF: Duration = Duration::from_millis(50);

/// Order and sources: what turns positions into batches.
pub(crate) struct Loader {
    pub(crate) order: Order,
    /// In the order's order.
    pub(crate) sources: Vec<Source>,
    pub(crate) sequence_length: u64,
}

/// How long a micro batch took in the making, by what it was waiting for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// For the store to answer.
    pub(crate) read: Duration,
    /// Between tries.
    pub(crate) throttled: Duration,
    /// Checking and widening.
    pub(crate) decode: Duration,
}

pub(crate) struct Loaded {
    pub(crate) batch: Batch,
    pub(crate) timing: Timing,
    pub(crate) step_end: u64,
}

/// Buffers that samples of one micro batch share.
#[derive(Default)]
struct Scratch {
    pieces: Vec<Piece>,
    records: Vec<BlockRecord>,
    starts: Vec<u64>,
    piece_starts: Vec<u64>,
}

impl Loader {
    /// Whether every source is a local folder, whose reads are system calls.
    pub(crate) fn is_local(&self) -> bool {
        self.sources.iter().all(Source::is_local)
    }

    /// Loads on a thread that may block.
    pub(crate) fn load_blocking(&self, micro: &MicroBatch) -> Result<Loaded> {
        let began = Instant::now();
        let (mut batch, mut timing, mut scratch) = (self.begin(micro), Timing::default(), Scratch::default());
        let mut buffers = [Vec::new(), Vec::new()];
        for position in micro.positions.clone() {
            let (sample, source) = self.find(&mut batch, position);
            source.pieces(sample.index, &mut scratch.pieces);
            scratch.starts.clear();
            let mut offset = 0;
            for number in 0..scratch.pieces.len() {
                let piece = scratch.pieces[number];
                let mut read =
                    |request, into: &mut Vec<u8>| read_blocking(source, request, into, &mut timing);
                read(piece.tokens_request(), &mut buffers[0])?;
                read(piece.blocks_request(), &mut buffers[1])?;
                let mut fetch = |request| {
                    let mut bytes = Vec::new();
                    read(request, &mut bytes).map(|()| bytes)
                };
                let bytes = [&buffers[0][..], &buffers[1][..]];
                self.push_piece(source, &piece, bytes, offset, &mut fetch, &mut batch, &mut scratch)?;
                offset += piece.count;
            }
            batch.push_positions(&scratch.starts, self.sequence_length);
        }
        timing.decode = began.elapsed().saturating_sub(timing.read + timing.throttled);
        Ok(Loaded { batch, timing, step_end: micro.step.end })
    }

    /// Loads with all reads under way at once.
    pub(crate) async fn load_async(self: Arc<Self>, micro: MicroBatch) -> Result<Loaded> {
        let began = Instant::now();
        let mut batch = self.begin(&micro);
        let found: Vec<(Sample, &Source)> =
            micro.positions.clone().map(|position| self.find(&mut batch, position)).collect();
        let samples =
            try_join_all(found.iter().map(|(sample, source)| fetch_sample(source, sample.index))).await?;
        let elapsed = began.elapsed();
        let throttled = samples.iter().map(|fetched| fetched.throttled).max().unwrap_or_default();
        let mut timing =
            Timing { read: elapsed.saturating_sub(throttled), throttled, decode: Duration::ZERO };
        let began = Instant::now();
        let mut scratch = Scratch::default();
        for ((_, source), fetched) in found.iter().zip(samples) {
            scratch.starts.clear();
            let mut offset = 0;
            for part in fetched.pieces {
                let mut index = part.index;
                let mut fetch = |_| Ok(index.take().map(Vec::from).unwrap_or_default());
                self.push_piece(
                    source,
                    &part.piece,
                    [&part.blocks, &part.records],
                    offset,
                    &mut fetch,
                    &mut batch,
                    &mut scratch,
                )?;
                offset += part.piece.count;
            }
            batch.push_positions(&scratch.starts, self.sequence_length);
        }
        timing.decode = began.elapsed();
        Ok(Loaded { batch, timing, step_end: micro.step.end })
    }

    fn begin(&self, micro: &MicroBatch) -> Batch {
        let mut batch = Batch {
            micro_index: micro.index,
            micro_count: micro.count,
            step_position: micro.step.start,
            ..Batch::default()
        };
        let samples = (micro.positions.end - micro.positions.start) as usize;
        batch.reserve(samples, self.sequence_length as usize);
        batch
    }

    /// Notes which sample stands at a position.
    fn find(&self, batch: &mut Batch, position: u64) -> (Sample, &Source) {
        let sample = self.order.sample(position);
        batch.positions.push(position);
        batch.source.push(self.order.source_key(sample.source));
        batch.epoch.push(sample.epoch);
        batch.index.push(sample.index);
        (sample, &self.sources[sample.source])
    }

    /// Checks a piece's bytes and appends its tokens; its document starts go to `scratch.starts`.
    #[expect(clippy::too_many_arguments, reason = "one step of a pipeline; the buffers are the caller's")]
    fn push_piece(
        &self,
        source: &Source,
        piece: &Piece,
        [blocks, records]: [&[u8]; 2],
        offset: u64,
        fetch: &mut dyn FnMut(Request) -> Result<Vec<u8>>,
        batch: &mut Batch,
        scratch: &mut Scratch,
    ) -> Result<()> {
        piece.verify(source, blocks, records, &mut scratch.records)?;
        let lengths = match piece.index_request(&scratch.records) {
            Some((request, from)) => Some((from, parse_lengths(&fetch(request)?))),
            None => None,
        };
        let lengths = lengths.as_ref().map(|(from, lengths)| (*from, &lengths[..]));
        scratch.piece_starts.clear();
        piece.starts(source, blocks, &scratch.records, lengths, &mut scratch.piece_starts)?;
        scratch.starts.extend(scratch.piece_starts.iter().map(|start| start + offset));
        let bytes = piece.cut(source, blocks);
        batch.push_tokens(source.token_type(), bytes, offset as usize, self.sequence_length as usize);
        Ok(())
    }
}

struct FetchedPiece {
    piece: Piece,
    blocks: Bytes,
    records: Bytes,
    index: Option<Bytes>,
}

struct FetchedSample {
    pieces: Vec<FetchedPiece>,
    throttled: Duration,
}

/// All bytes of a sample: its blocks and their records at once, then the index where a block is crowded.
async fn fetch_sample(source: &Source, index: u64) -> Result<FetchedSample> {
    let mut pieces = Vec::new();
    source.pieces(index, &mut pieces);
    let mut fetched = FetchedSample { pieces: Vec::with_capacity(pieces.len()), throttled: Duration::ZERO };
    for piece in pieces {
        let (tokens, records) = futures::try_join!(
            read_async(source, piece.tokens_request()),
            read_async(source, piece.blocks_request())
        )?;
        fetched.throttled += tokens.1.max(records.1);
        let parsed: Result<Vec<BlockRecord>> =
            records.0.chunks(RECORD_BYTES).map(BlockRecord::parse).collect();
        let index = match piece.index_request(&parsed?) {
            Some((request, _)) => {
                let (bytes, throttled) = read_async(source, request).await?;
                fetched.throttled += throttled;
                Some(bytes)
            }
            None => None,
        };
        fetched.pieces.push(FetchedPiece { piece, blocks: tokens.0, records: records.0, index });
    }
    Ok(fetched)
}

fn read_blocking(source: &Source, request: Request, into: &mut Vec<u8>, timing: &mut Timing) -> Result<()> {
    into.resize(request.length as usize, 0);
    let first = Instant::now();
    let mut attempt = 1;
    loop {
        let began = Instant::now();
        let result = source
            .handle(request.shard, request.part)
            .and_then(|handle| handle.read_into(request.start, into));
        timing.read += began.elapsed();
        match result {
            Err(error) if is_worth_another(&error, attempt, first.elapsed()) => {
                std::thread::sleep(backoff(attempt));
                timing.throttled += backoff(attempt);
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn read_async(source: &Source, request: Request) -> Result<(Bytes, Duration)> {
    let handle = source.handle(request.shard, request.part)?;
    let first = Instant::now();
    let mut throttled = Duration::ZERO;
    let mut attempt = 1;
    loop {
        match handle.read_async(request.start, request.length).await {
            Err(error) if is_worth_another(&error, attempt, first.elapsed()) => {
                let pause = backoff(attempt);
                tokio::time::sleep(pause).await;
                throttled += pause;
                attempt += 1;
            }
            other => return other.map(|bytes| (bytes, throttled)),
        }
    }
}

fn is_worth_another(error: &Error, attempt: u32, since_first: Duration) -> bool {
    error.kind() == Kind::Unavailable && attempt < ATTEMPTS && since_first < RETRY_WITHIN
}

fn backoff(attempt: u32) -> Duration {
    BACKOFF * 2_u32.pow(attempt - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_tried_again_only_while_its_store_fails_quickly() {
        let (silent, wrong) = (Error::unavailable("x"), Error::corrupt("x"));
        assert!(is_worth_another(&silent, 1, Duration::from_secs(1)));
        assert!(!is_worth_another(&silent, 1, Duration::from_mins(2)), "the store has tried long enough");
        assert!(!is_worth_another(&silent, ATTEMPTS, Duration::from_secs(1)));
        assert!(!is_worth_another(&wrong, 1, Duration::from_secs(1)));
        let pauses: Duration = (1..ATTEMPTS).map(backoff).sum();
        assert!(pauses < RETRY_WITHIN);
    }
}
