//! The map task: pieces of raw objects → runs.

use std::sync::Arc;

use eagleray_base::{Digest, Result};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};

use super::run_file::{DocumentHash, RunBuilder};
use super::{LongDocuments, MapTask, Settings, from_json, paths, to_json};
use crate::chat::{Chat, Rendered};
use crate::format::TokenType;
use crate::reader::{self, Piece, Record};
use crate::tokenizer::{self, Definition, Tokenizer};

/// Bytes held before a run is written; bounds a task's memory whatever the object's size.
const RUN_BYTES: usize = 64 << 20;
/// Bad records that one task lists; the others are counted.
const LISTED_MAX: usize = 1000;

/// A record that is not a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// The object's URL.
    pub object: String,
    /// Where the record begins, after decompression.
    pub offset: u64,
    /// What is wrong, to be read after the place.
    pub reason: String,
}

/// What a map task did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStats {
    /// The task's number.
    pub index: u32,
    /// Bytes of its pieces on their store.
    pub bytes: u64,
    /// Runs written.
    pub runs: u32,
    /// Documents that go into the dataset.
    pub documents: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Their tokens, the end of each document included.
    pub tokens: u64,
    /// Documents without text, left out.
    pub empty: u64,
    /// Documents with more tokens than a sample.
    pub long: u64,
    /// Long documents left out.
    pub long_dropped: u64,
    /// Long documents cut.
    pub long_truncated: u64,
    /// Bad records, left out.
    pub bad: u64,
    /// The first of them.
    pub bad_listed: Vec<BadRecord>,
}

/// Runs a map task, or finds that it was done.
///
/// # Errors
/// `Conflict` where an object is not the one that was planned with; as the store and the readers; `Internal`
/// where the tokenizer refuses a text.
pub fn run_map(task: &MapTask) -> Result<MapStats> {
    let work = Store::open(&task.work)?;
    let done = paths::map_done(task.index);
    if work.head(&done)?.is_some() {
        return from_json(&work.get(&done)?, &format!("`{}`", work.url_of(&done)));
    }
    let settings = &task.settings;
    let reading = match &settings.chat {
        None => {
            let (hash, engine) = (settings.tokenizer_hash, &settings.engine);
            Reading::Texts(tokenizer::cached(&work, paths::TOKENIZER, hash, engine)?)
        }
        Some(chat) => {
            let place = work.url_of(paths::TOKENIZER);
            let definition = Definition::parse(work.get(paths::TOKENIZER)?, &place)?;
            Reading::Conversations(Box::new(Chat::new(chat, &definition)?))
        }
    };
    let mut mapper = Mapper::new(work, task, &reading);
    for piece in &task.pieces {
        let store = Store::open(&piece.root)?;
        let read = mapper.piece(&store, piece);
        // Before what was read is told: an object that is written to is cut off or bad only by that.
        piece.check_unchanged(&store)?;
        read?;
    }
    mapper.finish(&done)
}

/// What records hold, and what makes ids of it.
enum Reading {
    Texts(Arc<dyn Tokenizer>),
    Conversations(Box<Chat>),
}

struct Mapper<'a> {
    work: Store,
    settings: &'a Settings,
    token_type: TokenType,
    reading: &'a Reading,
    key: [u8; 32],
    run: RunBuilder,
    ids: Vec<u32>,
    stats: MapStats,
}

impl<'a> Mapper<'a> {
    fn new(work: Store, task: &'a MapTask, reading: &'a Reading) -> Self {
        let settings = &task.settings;
        Self {
            work,
            settings,
            token_type: settings.token_type(),
            reading,
            key: *Digest::of(settings.shuffle_key.as_bytes()).as_bytes(),
            run: RunBuilder::new(settings.shards),
            ids: Vec::new(),
            stats: MapStats { index: task.index, bytes: task.bytes, ..MapStats::default() },
        }
    }

    fn piece(&mut self, store: &Store, piece: &Piece) -> Result<()> {
        let url = store.url_of(&piece.path);
        let reading = self.reading;
        let field = match reading {
            Reading::Texts(_) => &self.settings.text_field,
            Reading::Conversations(_) => reader::WHOLE_RECORD,
        };
        let mut reader = reader::open(store, piece, field)?;
        while let Some(record) = reader.next()? {
            match record {
                Record::Document { offset, text } => match reading {
                    Reading::Texts(tokenizer) => self.document(tokenizer.as_ref(), text)?,
                    Reading::Conversations(chat) => match chat.render(text) {
                        Ok(rendered) => self.conversation(chat, &rendered)?,
                        Err(reason) => self.bad(&url, offset, reason),
                    },
                },
                Record::Bad { offset, reason } => self.bad(&url, offset, reason),
            }
        }
        Ok(())
    }

    fn document(&mut self, tokenizer: &dyn Tokenizer, text: &str) -> Result<()> {
        if text.is_empty() {
            self.stats.empty += 1;
            return Ok(());
        }
        self.ids.clear();
        tokenizer.encode(text, &mut self.ids)?;
        self.take(text)
    }

    fn conversation(&mut self, chat: &Chat, rendered: &Rendered) -> Result<()> {
        self.ids.clear();
        chat.encode(rendered, &mut self.ids)?;
        self.take(&rendered.text)
    }

    /// Takes what `self.ids` hold of `text` into the run, and the end of the document behind it.
    fn take(&mut self, text: &str) -> Result<()> {
        let eod = self.token_type.end_of_document(self.settings.eod_id);
        self.ids.push(eod);
        let limit = self.settings.sequence_length as usize;
        if self.ids.len() > limit {
            self.stats.long += 1;
            match self.settings.long_documents {
                LongDocuments::Split => {}
                LongDocuments::Drop => {
                    self.stats.long_dropped += 1;
                    return Ok(());
                }
                LongDocuments::Truncate => {
                    self.stats.long_truncated += 1;
                    self.ids.truncate(limit.saturating_sub(1));
                    self.ids.push(eod);
                }
            }
        }
        self.stats.documents += 1;
        self.stats.text_bytes += text.len() as u64;
        self.stats.tokens += self.ids.len() as u64;
        let (token_type, ids) = (self.token_type, &self.ids);
        self.run.push(document_hash(&self.key, text), |bytes| token_type.encode(ids, bytes));
        if self.run.bytes() >= RUN_BYTES { self.spill() } else { Ok(()) }
    }

    fn bad(&mut self, url: &str, offset: u64, reason: String) {
        self.stats.bad += 1;
        if self.stats.bad_listed.len() < LISTED_MAX {
            self.stats.bad_listed.push(BadRecord { object: url.to_owned(), offset, reason });
        }
    }

    fn spill(&mut self) -> Result<()> {
        let path = paths::run(self.stats.index, self.stats.runs);
        self.stats.runs += 1;
        self.run.spill(&self.work, &path)
    }

    fn finish(mut self, done: &str) -> Result<MapStats> {
        if !self.run.is_empty() {
            self.spill()?;
        }
        self.work.put(done, to_json(&self.stats)?)?;
        Ok(self.stats)
    }
}

/// 128 bits of the keyed BLAKE3 of a text.
fn document_hash(key: &[u8; 32], text: &str) -> DocumentHash {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::keyed_hash(key, text.as_bytes()).as_bytes()[..16]);
    u128::from_be_bytes(bytes)
}
