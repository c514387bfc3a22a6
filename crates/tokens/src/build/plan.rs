//! Planning: what goes in, its build key, and the tasks.

use eagleray_base::{Digest, Error, Result};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};

use super::finish;
use super::inputs::{self, Input};
use super::resolved::{Data, Resolved, Source};
use super::{
    BUILD_VERSION, LongDocuments, MapTask, Plan, RawObject, ReduceTask, Settings, from_json, paths, to_json,
};
use crate::Dataset;
use crate::chat;
use crate::format::manifest;
use crate::reader::{Compression, Format, Piece};
use crate::tokenizer::{self, Definition};

/// Text that one map task reads.
pub(crate) const MAP_BYTES: u64 = 32 << 20;
/// Objects that one map task reads.
const MAP_PIECES_MAX: usize = 4096;
/// Text that goes into one shard.
const SHARD_BYTES: u64 = 64 << 20;
/// Shards of a dataset.
const SHARDS_MAX: u64 = 65_536;
/// What a compressed object is taken to hold: the plan must not read it to know.
const COMPRESSION_RATIO: u64 = 4;

/// What a dataset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A source of the mixture.
    Train,
    /// A validation set.
    Validation,
}

/// What `<built>/keys/<build key>` holds.
#[derive(Serialize, Deserialize)]
pub(super) struct KeyEntry {
    pub(super) dataset: Digest,
}

/// Everything that decides the bytes of a dataset, as it is hashed.
#[derive(Serialize)]
struct KeyParts<'a> {
    build_version: u32,
    /// How work is cut into tasks and shards: a half-finished build is taken up only by its like.
    layout: [u64; 5],
    tokenizer: Digest,
    eod_id: u32,
    shuffle_key: &'a str,
    text_field: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat: Option<&'a chat::Settings>,
    format: Option<&'a str>,
    long_documents: LongDocuments,
    /// Only where it matters: documents kept whole do not depend on it.
    sequence_length: Option<u64>,
    objects: Vec<&'a RawObject>,
}

/// Plans the build of one source of a resolved run, or finds its dataset.
///
/// # Errors
/// `NotFound` for a pattern that matches nothing or a tokenizer that is not there; `Invalid` for a spec
/// that asks for what cannot be done.
pub fn plan(resolved_json: &str, name: &str, role: Role) -> Result<Plan> {
    let resolved = Resolved::parse(resolved_json)?;
    let data = &resolved.spec.data;
    let (sources, key) = match role {
        Role::Train => (&data.sources, "sources"),
        Role::Validation => (&data.validation, "validation"),
    };
    let source =
        sources.get(name).ok_or_else(|| Error::invalid(format!("the run has no `data.{key}.{name}`")))?;
    let definition = Definition::read(&data.tokenizer)?;
    let model = resolved.spec.model.as_ref().and_then(|model| model.config.as_ref());
    if let Some(vocab_size) = model.and_then(|config| config.vocab_size)
        && vocab_size < definition.vocab_size()
    {
        return Err(Error::invalid(format!(
            "the vocabulary of `{}` is larger than the model's: {} tokens, the model has {vocab_size}",
            data.tokenizer,
            definition.vocab_size()
        ))
        .with_hint("leave `model.config.vocab_size` out to take the tokenizer's, or name the tokenizer that the model was made with"));
    }
    match &source.tokens {
        Some(tokens) => existing(tokens, name, role, &definition, data),
        None => documents(source, name, role, &definition, data),
    }
    .map_err(|error| error.at(format_args!("data.{key}.{name}")))
}

/// A source that is a token dataset already: it must fit the tokenizer.
fn existing(url: &str, name: &str, role: Role, definition: &Definition, data: &Data) -> Result<Plan> {
    let dataset = Dataset::open(&Store::open(url)?)?;
    let manifest = dataset.manifest();
    if !dataset.is_of(definition.hash())? {
        let (found, expected) = (manifest.tokenizer_hash, definition.hash());
        return Err(Error::invalid(format!(
            "`{url}` was built with another tokenizer: its hash is {found}, `{}` has {expected}",
            data.tokenizer
        ))
        .with_hint(
            "name the tokenizer that lies beside the dataset's manifest, or build the dataset again",
        ));
    }
    let mut settings =
        settings(data, &data.text_default, definition, manifest.eod_id, manifest.engine.clone());
    settings.shards = manifest.shards.len() as u32;
    Ok(Plan {
        source: name.to_owned(),
        role,
        built: data.built.clone(),
        build_key: manifest.dataset_hash,
        work: String::new(),
        done: Some(manifest.dataset_hash),
        dataset: Some(dataset.store().url().to_owned()),
        settings,
        total_bytes: 0,
        objects: Vec::new(),
        map: Vec::new(),
        reduce: Vec::new(),
    })
}

fn documents(source: &Source, name: &str, role: Role, definition: &Definition, data: &Data) -> Result<Plan> {
    source.refuse_unavailable(name)?;
    let eod_id = definition.end_of_document(data.end_of_document.as_deref())?;
    let built = Store::open(&data.built)?;
    let inputs = inputs::find(&source.documents, source.format.as_deref(), &built)?;
    let text_field = source.text.as_ref().unwrap_or(&data.text_default);
    let mut settings = settings(data, text_field, definition, eod_id, String::new());
    settings.shards = num_shards(&inputs);
    settings.chat = match &source.chat {
        Some(field) => Some(chat::Settings::read(field, &data.tokenizer, data.chat_template.as_deref())?),
        None => None,
    };
    let build_key = build_key(&inputs, source, &settings, data)?;
    let done = find_done(&built, build_key)?;
    settings.engine = match (done, &settings.chat) {
        (Some(_), _) => String::new(),
        // Where each token begins in the text is known to this one alone.
        (None, Some(_)) => tokenizer::TOKENIZERS.to_owned(),
        (None, None) => choose_engine(definition)?,
    };
    let work = built.child(&paths::work(build_key, &settings.engine));
    let mut plan = Plan {
        source: name.to_owned(),
        role,
        built: built.url().to_owned(),
        build_key,
        work: work.url().to_owned(),
        done,
        dataset: done.map(|hash| built.url_of(&hash.to_string())),
        settings,
        total_bytes: inputs.iter().map(|input| input.object.bytes).sum(),
        objects: Vec::new(),
        map: Vec::new(),
        reduce: Vec::new(),
    };
    if let Some(hash) = done {
        Dataset::open(&built.child(&hash.to_string()))?
            .add_tokenizer(definition.hash(), definition.bytes())?;
        finish::sweep(&built, build_key);
    } else {
        work.put(paths::TOKENIZER, definition.bytes())?;
        plan.map = map_tasks(&inputs, &plan);
        let map_tasks = plan.map.len() as u32;
        plan.reduce = (0..plan.settings.shards)
            .map(|shard| ReduceTask {
                work: plan.work.clone(),
                settings: plan.settings.clone(),
                shard,
                map_tasks,
            })
            .collect();
    }
    plan.objects = inputs.into_iter().map(|input| input.object).collect();
    Ok(plan)
}

/// The engine of a new build; it stays loaded for the tasks that this process may run.
fn choose_engine(definition: &Definition) -> Result<String> {
    let tokenizer = definition.load()?;
    let engine = tokenizer.engine().to_owned();
    tokenizer::remember(definition.hash(), tokenizer);
    Ok(engine)
}

fn settings(data: &Data, text_field: &str, definition: &Definition, eod_id: u32, engine: String) -> Settings {
    Settings {
        tokenizer_hash: definition.hash(),
        engine,
        vocab_size: definition.vocab_size(),
        eod_id,
        shuffle_key: data.shuffle_key.clone(),
        text_field: text_field.to_owned(),
        chat: None,
        long_documents: data.long_documents,
        sequence_length: data.sequence_length,
        bad_fraction_max: data.bad_records.max_fraction,
        shards: 1,
    }
}

fn build_key(inputs: &[Input], source: &Source, settings: &Settings, data: &Data) -> Result<Digest> {
    let parts = KeyParts {
        build_version: BUILD_VERSION,
        layout: [MAP_BYTES, MAP_PIECES_MAX as u64, SHARD_BYTES, SHARDS_MAX, COMPRESSION_RATIO],
        tokenizer: settings.tokenizer_hash,
        eod_id: settings.eod_id,
        shuffle_key: &data.shuffle_key,
        text_field: &settings.text_field,
        chat: settings.chat.as_ref(),
        format: source.format.as_deref(),
        long_documents: data.long_documents,
        sequence_length: (data.long_documents != LongDocuments::Split).then_some(data.sequence_length),
        objects: inputs.iter().map(|input| &input.object).collect(),
    };
    Ok(Digest::of(&to_json(&parts)?))
}

/// The dataset of a build key, where it was finished and still lies there.
pub(super) fn find_done(built: &Store, build_key: Digest) -> Result<Option<Digest>> {
    let path = format!("keys/{build_key}");
    if built.head(&path)?.is_none() {
        return Ok(None);
    }
    let entry: KeyEntry = from_json(&built.get(&path)?, &format!("`{}`", built.url_of(&path)))?;
    let manifest = built.head(&format!("{}/{}", entry.dataset, manifest::NAME))?;
    Ok(manifest.map(|_| entry.dataset))
}

/// What an object is taken to hold, from its size on the store alone.
fn text_bytes(input: &Input) -> u64 {
    match input.compression {
        Compression::None => input.object.bytes,
        Compression::Zstd | Compression::Gzip => input.object.bytes * COMPRESSION_RATIO,
    }
}

fn num_shards(inputs: &[Input]) -> u32 {
    let bytes: u64 = inputs.iter().map(text_bytes).sum();
    bytes.div_ceil(SHARD_BYTES).clamp(1, SHARDS_MAX) as u32
}

/// Cuts large plain JSON lines into ranges, and puts small objects together.
fn map_tasks(inputs: &[Input], plan: &Plan) -> Vec<MapTask> {
    let mut tasks = Tasks { plan, done: Vec::new(), pieces: Vec::new(), bytes: 0, text_bytes: 0 };
    for input in inputs {
        let whole = |range, bytes| Piece {
            root: input.root.clone(),
            path: input.path.clone(),
            format: input.format,
            compression: input.compression,
            range,
            bytes,
            version: Some(input.version.clone()),
        };
        let bytes = input.object.bytes;
        if input.format == Format::Jsonl && input.compression == Compression::None && bytes > MAP_BYTES {
            let count = bytes.div_ceil(MAP_BYTES);
            let cut = |i: u64| (u128::from(bytes) * u128::from(i) / u128::from(count)) as u64;
            for i in 0..count {
                let range = (cut(i), cut(i + 1));
                tasks.add(whole(Some(range), range.1 - range.0), range.1 - range.0);
            }
        } else {
            tasks.add(whole(None, bytes), text_bytes(input));
        }
    }
    tasks.close();
    tasks.done
}

struct Tasks<'a> {
    plan: &'a Plan,
    done: Vec<MapTask>,
    pieces: Vec<Piece>,
    bytes: u64,
    text_bytes: u64,
}

impl Tasks<'_> {
    fn add(&mut self, piece: Piece, text_bytes: u64) {
        let full = self.text_bytes + text_bytes > MAP_BYTES || self.pieces.len() >= MAP_PIECES_MAX;
        if full && !self.pieces.is_empty() {
            self.close();
        }
        self.bytes += piece.bytes;
        self.text_bytes += text_bytes;
        self.pieces.push(piece);
    }

    fn close(&mut self) {
        if self.pieces.is_empty() {
            return;
        }
        self.done.push(MapTask {
            work: self.plan.work.clone(),
            settings: self.plan.settings.clone(),
            index: self.done.len() as u32,
            pieces: std::mem::take(&mut self.pieces),
            bytes: std::mem::take(&mut self.bytes),
        });
        self.text_bytes = 0;
    }
}
