//! A task: places of a corpus → outcomes, with the CPU time that each part took.

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use eagleray_base::{Error, Kind, Result};
use eagleray_store::Store;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use super::{Draw, Drawn, Fault, Outcome, Settings, Spot, Task};
use crate::reader::{
    CHUNK_BYTES, Compression, DocumentReader, Format, Jsonl, RangeReader, Record, Source, Text,
};
use crate::tokenizer::{self, Definition, Tokenizer};

/// Faults that one place lists; the others are counted.
const LISTED_MAX: usize = 50;
/// Characters of a sample that travel.
const TEXT_CHARS: usize = 240;
/// Ids of a sample that travel.
const IDS: usize = 32;
/// The least that is asked for at once.
const CHUNK_BYTES_MIN: u64 = 64 << 10;

/// What a decompressor is handed at once: it gives the text of a block as soon as it has the block, so that by so much
/// at most it has taken more than what it gave needed.
const HANDED_BYTES: usize = 4 << 10;

/// Reads the places of a task; `tokenizer` is the file that the trial was planned with.
///
/// # Errors
/// As the store; `Corrupt` where the tokenizer is another one. An object that is damaged is an outcome.
pub fn run(task: &Task, tokenizer: Option<&[u8]>) -> Result<Vec<Outcome>> {
    let engine = Engine::new(&task.settings, tokenizer)?;
    task.draws.iter().map(|draw| Reading::new(&task.settings, engine.as_ref(), draw).run()).collect()
}

/// A tokenizer, and its tokens of last resort.
struct Engine {
    tokenizer: Arc<dyn Tokenizer>,
    unknown: Option<u32>,
    fallback: HashSet<u32>,
}

impl Engine {
    fn new(settings: &Settings, bytes: Option<&[u8]>) -> Result<Option<Self>> {
        let (Some(used), Some(bytes)) = (&settings.tokenizer, bytes) else {
            return match &settings.tokenizer {
                None => Ok(None),
                Some(used) => Err(Error::internal(format!("`{}` did not come with the task", used.location))),
            };
        };
        let definition = Definition::parse(bytes.to_vec(), &used.location)?;
        let tokenizer = tokenizer::cached_definition(&definition, used.hash, &used.engine)?;
        Ok(Some(Self {
            tokenizer,
            unknown: definition.unknown_id(),
            fallback: definition.fallback_ids().into_iter().collect(),
        }))
    }
}

struct Reading<'a> {
    settings: &'a Settings,
    engine: Option<&'a Engine>,
    draw: &'a Draw,
    ids: Vec<u32>,
    /// Bytes that a decompressor has taken.
    taken: Arc<AtomicU64>,
    marks: Arc<Mutex<Marks>>,
    outcome: Outcome,
}

/// What a record turned out to be.
enum Noted {
    Bad(String),
    Empty,
    Document { hash: u64, sample: Option<Drawn> },
}

impl<'a> Reading<'a> {
    fn new(settings: &'a Settings, engine: Option<&'a Engine>, draw: &'a Draw) -> Self {
        let (taken, marks) = Default::default();
        Self { settings, engine, draw, ids: Vec::new(), taken, marks, outcome: Outcome::default() }
    }

    fn run(mut self) -> Result<Outcome> {
        let started = (Instant::now(), seconds(ClockId::ProcessCPUTime));
        let store = Store::open(&self.draw.piece.root)?;
        self.outcome.object = store.url_of(&self.draw.piece.path);
        match self.records(&store) {
            Err(error) if error.kind() == Kind::Corrupt => {
                self.outcome.damaged = Some(error.message().to_owned());
            }
            other => other?,
        }
        let outcome = &mut self.outcome;
        outcome.gets = store.counters().gets;
        outcome.wall_seconds = started.0.elapsed().as_secs_f64();
        let all = seconds(ClockId::ProcessCPUTime) - started.1;
        outcome.read_cpu_seconds = (all - outcome.tokenise_cpu_seconds).max(0.0);
        Ok(self.outcome)
    }

    fn records(&mut self, store: &Store) -> Result<()> {
        let (mut reader, lined) = self.open(store)?;
        let mut records = 0;
        loop {
            let record = match reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.outcome.raw_bytes = self.draw.piece.bytes;
                    return Ok(());
                }
                Err(error) => {
                    self.outcome.raw_bytes = self.taken.load(Ordering::Relaxed).min(self.draw.piece.bytes);
                    return Err(error);
                }
            };
            let (Record::Document { offset, .. } | Record::Bad { offset, .. }) = &record;
            let offset = *offset;
            let behind = self.raw_at(offset);
            // The first record is always taken: a place that holds nothing would say nothing.
            if records > 0 && (records >= self.draw.documents_max || behind >= self.draw.bytes_max) {
                self.outcome.raw_bytes = behind;
                return Ok(());
            }
            records += 1;
            let noted = match record {
                Record::Bad { reason, .. } => Noted::Bad(reason),
                Record::Document { text, .. } => self.document(text)?,
            };
            self.note(Spot { line: lined.then(|| reader.line()), offset }, noted);
        }
    }

    /// A reader that asks for no more than it needs, and whether its lines are the object's.
    fn open(&self, store: &Store) -> Result<(Box<dyn DocumentReader + Send>, bool)> {
        let Draw { piece, text_field, bytes_max, .. } = self.draw;
        let url = store.url_of(&piece.path);
        let chunk = (*bytes_max).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES);
        let from = |start| {
            Ok::<_, Error>(RangeReader::new(store.clone(), piece.path.clone(), start)?.in_chunks_of(chunk))
        };
        if let Some((start, end)) = piece.range {
            let source = Box::new(from(start.saturating_sub(1))?);
            return Ok((Box::new(Jsonl::ranged(source, url, text_field, start, end)), start == 0));
        }
        let source = self.counted(from(0)?)?;
        Ok(match piece.format {
            Format::Jsonl => (Box::new(Jsonl::new(source, url, text_field)), true),
            Format::Txt => (Box::new(Text::new(source, url)), true),
        })
    }

    fn counted(&self, source: RangeReader) -> Result<Source> {
        let taken =
            CountedIn { inner: BufReader::with_capacity(128 << 10, source), count: self.taken.clone() };
        let inner: Source = match self.draw.piece.compression {
            Compression::None => return Ok(Box::new(taken)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(taken)?),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(taken)),
        };
        Ok(Box::new(CountedOut { inner, taken: self.taken.clone(), marks: self.marks.clone() }))
    }

    /// Bytes on the store in front of a byte of text: of a compressed object as the decompressor came by them.
    fn raw_at(&self, offset: u64) -> u64 {
        let piece = &self.draw.piece;
        if piece.compression == Compression::None {
            return offset - piece.range.map_or(0, |(start, _)| start.min(offset));
        }
        self.marks.lock().raw_at(offset)
    }

    fn document(&mut self, text: &str) -> Result<Noted> {
        if text.is_empty() {
            return Ok(Noted::Empty);
        }
        let outcome = &mut self.outcome;
        self.ids.clear();
        let mut length = text.len() as u64;
        if let Some(engine) = self.engine {
            let before = seconds(ClockId::ThreadCPUTime);
            engine.tokenizer.encode(text, &mut self.ids)?;
            outcome.tokenise_cpu_seconds += seconds(ClockId::ThreadCPUTime) - before;
            // A dataset ends every document with a token.
            length = self.ids.len() as u64 + 1;
            outcome.tokens += length;
            outcome.long += u64::from(length > self.settings.sequence_length);
            if engine.unknown.is_some() || !engine.fallback.is_empty() {
                let ids = || self.ids.iter();
                outcome.unknown_tokens += ids().filter(|id| engine.unknown == Some(**id)).count() as u64;
                outcome.fallback_tokens += ids().filter(|id| engine.fallback.contains(id)).count() as u64;
            }
        }
        outcome.documents += 1;
        outcome.text_bytes += text.len() as u64;
        *outcome.lengths.entry(length).or_default() += 1;
        let hash = blake3::hash(text.as_bytes());
        let hash = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default());
        let wanted = self.settings.samples as usize;
        let low =
            outcome.samples.len() < wanted || outcome.samples.last().is_some_and(|last| hash < last.hash);
        let sample = (wanted > 0 && low).then(|| Drawn {
            hash,
            spot: Spot { line: None, offset: 0 },
            text: text.chars().take(TEXT_CHARS).collect(),
            bytes: text.len() as u64,
            tokens: if self.engine.is_some() { length } else { 0 },
            ids: self.ids.iter().take(IDS).copied().collect(),
        });
        Ok(Noted::Document { hash, sample })
    }

    fn note(&mut self, spot: Spot, noted: Noted) {
        let outcome = &mut self.outcome;
        match noted {
            Noted::Bad(reason) => {
                outcome.bad += 1;
                if outcome.bad_listed.len() < LISTED_MAX {
                    outcome.bad_listed.push(Fault { spot, reason });
                }
            }
            Noted::Empty => {
                outcome.empty += 1;
                if outcome.empty_listed.len() < LISTED_MAX {
                    outcome.empty_listed.push(Fault { spot, reason: "has no text".to_owned() });
                }
            }
            Noted::Document { hash, sample } => {
                outcome.seen.push((hash, spot));
                if let Some(sample) = sample {
                    let at = outcome.samples.partition_point(|other| other.hash <= hash);
                    outcome.samples.insert(at, Drawn { spot, ..sample });
                    outcome.samples.truncate(self.settings.samples as usize);
                }
            }
        }
    }
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Counts what is taken out of a buffer, not what is read ahead into it.
struct CountedIn {
    inner: BufReader<RangeReader>,
    count: Arc<AtomicU64>,
}

impl Read for CountedIn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl BufRead for CountedIn {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.inner.fill_buf()?;
        Ok(&buffer[..buffer.len().min(HANDED_BYTES)])
    }

    fn consume(&mut self, count: usize) {
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        self.inner.consume(count);
    }
}

struct CountedOut {
    inner: Source,
    taken: Arc<AtomicU64>,
    marks: Arc<Mutex<Marks>>,
}

impl Read for CountedOut {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.marks.lock().put(count as u64, self.taken.load(Ordering::Relaxed));
        Ok(count)
    }
}

/// Which bytes of text came of which bytes on the store: (bytes given, bytes taken for them), rising.
#[derive(Default)]
struct Marks {
    /// Of text that no record has come out of yet, and the one in front of it.
    ahead: VecDeque<(u64, u64)>,
}

impl Marks {
    fn put(&mut self, count: u64, taken: u64) {
        let given = self.ahead.back().map_or(0, |(given, _)| *given) + count;
        self.ahead.push_back((given, taken));
    }

    /// Bytes taken in front of a byte of text; no byte in front of it is asked about again.
    fn raw_at(&mut self, offset: u64) -> u64 {
        while self.ahead.len() > 1 && self.ahead[1].0 <= offset {
            self.ahead.pop_front();
        }
        // In front of the first mark everything begins at nothing.
        let (before, behind) = match (self.ahead.front().copied(), self.ahead.get(1).copied()) {
            (Some(first), _) if first.0 > offset => ((0, 0), first),
            (Some(first), Some(second)) => (first, second),
            (Some(first), None) => return first.1,
            (None, _) => return 0,
        };
        let within = u128::from(offset - before.0) * u128::from(behind.1 - before.1);
        before.1 + (within / u128::from((behind.0 - before.0).max(1))) as u64
    }
}
