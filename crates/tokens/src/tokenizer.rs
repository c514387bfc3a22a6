//! Text → ids: one trait over two engines.
//!
//! `fastokens` encodes 20 to 60 times faster than Hugging Face's `tokenizers` and supports byte-level and
//! `SentencePiece` BPE; it is used only where its ids equal those of `tokenizers`, checked when a
//! tokenizer is loaded on a text of many scripts and odd code points ([`probe`]). Else `tokenizers`
//! itself encodes. Special tokens that occur in text are encoded as the plain text they are: a document
//! must not be able to end itself.

mod canonical;
mod pieces;
pub mod probe;
pub mod train;

use std::sync::Arc;

use eagleray_base::{Digest, Error, Result};
use eagleray_store::Store;
use fastokens::AddedTokenPolicy;
use parking_lot::Mutex;
pub use pieces::Pieces;
use serde_json::Value;

/// The engines, as manifests name them.
pub const FASTOKENS: &str = "fastokens 0.3.5";
/// Hugging Face's engine.
pub const TOKENIZERS: &str = "tokenizers 0.23.2";

/// The names of end-of-document tokens, in the order in which they are looked for.
pub const END_OF_DOCUMENT: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

/// A tokenizer ready to encode; shared by threads.
pub trait Tokenizer: Send + Sync {
    /// Appends the ids of `text`; special tokens in it are plain text, and none are added.
    ///
    /// # Errors
    /// `Internal` where the engine refuses the text.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()>;

    /// The engine and its version.
    fn engine(&self) -> &'static str;
}

/// A `tokenizer.json`, parsed and checked to be one.
#[derive(Clone, Debug)]
pub struct Definition {
    json: Value,
    bytes: bytes::Bytes,
    place: String,
    hash: Digest,
    vocab_size: u64,
}

impl Definition {
    /// Reads `location`: a `tokenizer.json`, or a folder that holds one.
    ///
    /// # Errors
    /// `NotFound` where there is none; as [`Definition::parse`].
    pub fn read(location: &str) -> Result<Self> {
        let (root, name) = crate::build::split_location(location);
        let store = Store::open(root)?;
        if store.head(name)?.is_some() {
            return Self::parse(store.get(name)?, location);
        }
        let inner = format!("{}/tokenizer.json", name.trim_end_matches('/'));
        let inner = inner.trim_start_matches('/');
        if store.head(inner)?.is_some() {
            return Self::parse(store.get(inner)?, &store.url_of(inner));
        }
        Err(Error::not_found(format!("there is no tokenizer at `{location}`"))
            .with_hint("`data.tokenizer` names a `tokenizer.json` or a folder that holds one; `eagleray tokenizer train` makes one"))
    }

    /// Parses the bytes of a `tokenizer.json`; `place` names them in messages.
    ///
    /// # Errors
    /// `Invalid` where they are no tokenizer.
    pub fn parse(bytes: impl Into<bytes::Bytes>, place: &str) -> Result<Self> {
        let bytes = bytes.into();
        let wrong = |what: String| {
            Error::invalid(format!("`{place}` is not a tokenizer.json: {what}"))
                .with_hint("give the `tokenizer.json` that Hugging Face's `tokenizers` writes")
        };
        let mut json: Value =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("it is not JSON ({error})")))?;
        let Some(object) = json.as_object_mut() else {
            return Err(wrong("it is not an object".to_owned()));
        };
        // What cuts or pads a batch for a model has no place in a dataset.
        for key in ["truncation", "padding"] {
            if object.contains_key(key) {
                object.insert(key.to_owned(), Value::Null);
            }
        }
        let model = object.get("model").and_then(Value::as_object);
        let vocab = model.and_then(|model| model.get("vocab"));
        let Some(highest) = vocab.and_then(highest_id) else {
            return Err(wrong("it has no `model.vocab`".to_owned()));
        };
        let added = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let highest = added.filter_map(|token| token.get("id")?.as_u64()).fold(highest, u64::max);
        if highest >= i32::MAX as u64 {
            return Err(wrong(format!("it has an id of {highest}")));
        }
        let hash = canonical::hash(&json);
        Ok(Self { json, bytes, place: place.to_owned(), hash, vocab_size: highest + 1 })
    }

    /// The hash of what decides the ids: equal for two files that differ in order or spacing only.
    pub const fn hash(&self) -> Digest {
        self.hash
    }

    /// Ids are below this.
    pub const fn vocab_size(&self) -> u64 {
        self.vocab_size
    }

    /// The file as it was read.
    pub fn bytes(&self) -> bytes::Bytes {
        self.bytes.clone()
    }

    /// The id of a token, added ones first.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        let added = self.json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let mut added = added.filter(|entry| entry.get("content").and_then(Value::as_str) == Some(token));
        let id = added.find_map(|entry| entry.get("id")?.as_u64()).or_else(|| {
            match self.json.get("model")?.get("vocab")? {
                Value::Object(vocab) => vocab.get(token)?.as_u64(),
                Value::Array(vocab) => vocab
                    .iter()
                    .position(|entry| entry.get(0).and_then(Value::as_str) == Some(token))
                    .map(|index| index as u64),
                _ => None,
            }
        })?;
        u32::try_from(id).ok()
    }

    /// The id that ends a document: of the token named, else of the first usual one.
    ///
    /// # Errors
    /// `Invalid` where the vocabulary has none.
    pub fn end_of_document(&self, named: Option<&str>) -> Result<u32> {
        let names = named.map_or_else(|| END_OF_DOCUMENT.to_vec(), |name| vec![name]);
        names.iter().find_map(|name| self.id_of(name)).ok_or_else(|| {
            Error::invalid(format!(
                "`{}` has no token that ends a document: looked for `{}`",
                self.place,
                names.join("`, `")
            ))
            .with_hint("name one of its tokens as `data.end_of_document`")
        })
    }

    /// The id that stands for what the vocabulary lacks, where there is such a token.
    pub fn unknown_id(&self) -> Option<u32> {
        let model = self.json.get("model")?;
        let by_number = || model.get("unk_id")?.as_u64().and_then(|id| u32::try_from(id).ok());
        model.get("unk_token").and_then(Value::as_str).and_then(|token| self.id_of(token)).or_else(by_number)
    }

    /// The ids that stand for single bytes, of a vocabulary that falls back on them.
    pub fn fallback_ids(&self) -> Vec<u32> {
        let falls = self.json.get("model").and_then(|model| model.get("byte_fallback"));
        if falls.and_then(Value::as_bool) != Some(true) {
            return Vec::new();
        }
        (0..=u8::MAX).filter_map(|byte| self.id_of(&format!("<0x{byte:02X}>"))).collect()
    }

    /// The tokens by their ids, to be shown.
    pub fn pieces(&self) -> Pieces {
        Pieces::new(&self.json)
    }

    /// The contents of the added tokens.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = &str> {
        let added = self.json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        added.filter_map(|entry| entry.get("content")?.as_str())
    }

    /// The contents of the special ones among them.
    pub(crate) fn special_tokens(&self) -> impl Iterator<Item = &str> {
        let added = self.json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let special = added.filter(|entry| entry.get("special").and_then(Value::as_bool) == Some(true));
        special.filter_map(|entry| entry.get("content")?.as_str())
    }

    /// Loads Hugging Face's engine for text that a template made: special tokens in it are what they stand for.
    ///
    /// # Errors
    /// `Invalid` where the engine does not support this tokenizer.
    pub(crate) fn load_for_templates(&self) -> Result<tokenizers::Tokenizer> {
        let HuggingFace(mut inner) = self.load_tokenizers()?;
        inner.set_encode_special_tokens(false);
        Ok(inner)
    }

    /// Loads the engine with this name.
    ///
    /// # Errors
    /// `Invalid` where the engine does not support this tokenizer or is none of ours.
    pub fn load_engine(&self, engine: &str) -> Result<Arc<dyn Tokenizer>> {
        match engine {
            FASTOKENS => Ok(Arc::new(self.load_fastokens()?)),
            TOKENIZERS => Ok(Arc::new(self.load_tokenizers()?)),
            other => Err(Error::invalid(format!("tokenizer engine `{other}` is not in this build"))
                .with_hint("a build was planned by another version of the program: install one version on every machine")),
        }
    }

    /// Loads the fastest engine whose ids equal those of `tokenizers` on the probe.
    ///
    /// # Errors
    /// `Invalid` where no engine supports this tokenizer.
    pub fn load(&self) -> Result<Arc<dyn Tokenizer>> {
        let oracle = self.load_tokenizers()?;
        let fast = match self.load_fastokens() {
            Ok(fast) => fast,
            Err(error) => {
                tracing::info!(reason = error.message(), "tokenizing with `tokenizers`");
                return Ok(Arc::new(oracle));
            }
        };
        match probe::difference(&fast, &oracle, self) {
            None => Ok(Arc::new(fast)),
            Some(text) => {
                tracing::warn!(text, "fastokens gives other ids than `tokenizers`, which is used instead");
                Ok(Arc::new(oracle))
            }
        }
    }

    fn all_added_are_special(&self) -> bool {
        let added = self.json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        added.map(|entry| entry.get("special").and_then(Value::as_bool)).all(|special| special == Some(true))
    }

    fn load_fastokens(&self) -> Result<Fastokens> {
        // Where every added token is special, none is looked for: that spares a search through each text.
        let policy =
            if self.all_added_are_special() { AddedTokenPolicy::None } else { AddedTokenPolicy::SkipSpecial };
        let loaded = fastokens::Tokenizer::from_json(self.json.clone());
        loaded.map(|inner| Fastokens { inner, policy }).map_err(|error| {
            Error::invalid(format!("`{}` is not supported by fastokens", self.place))
                .with_source(error.to_string())
        })
    }

    fn load_tokenizers(&self) -> Result<HuggingFace> {
        let bytes = serde_json::to_vec(&self.json)
            .map_err(|error| Error::internal("cannot write JSON").with_source(error))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| {
            Error::invalid(format!("`{}` is not a tokenizer.json: {error}", self.place))
                .with_hint("give the `tokenizer.json` that Hugging Face's `tokenizers` writes")
        })?;
        inner.set_encode_special_tokens(true);
        Ok(HuggingFace(inner))
    }
}

/// The highest id of a vocabulary: an object of ids, or an array of `[token, score]`.
fn highest_id(vocab: &Value) -> Option<u64> {
    match vocab {
        Value::Object(vocab) => vocab.values().map(Value::as_u64).try_fold(0, |high, id| Some(id?.max(high))),
        Value::Array(vocab) => (vocab.len() as u64).checked_sub(1),
        _ => None,
    }
}

struct Fastokens {
    inner: fastokens::Tokenizer,
    policy: AddedTokenPolicy,
}

impl Tokenizer for Fastokens {
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoded = self.inner.encode_unpadded::<Vec<u32>>(text, false, self.policy);
        ids.extend(
            encoded.map_err(|error| Error::internal("cannot tokenise").with_source(error.to_string()))?,
        );
        Ok(())
    }

    fn engine(&self) -> &'static str {
        FASTOKENS
    }
}

struct HuggingFace(tokenizers::Tokenizer);

impl Tokenizer for HuggingFace {
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoded = self.0.encode_fast(text, false);
        let encoded = encoded.map_err(|error| Error::internal("cannot tokenise").with_source(error))?;
        ids.extend_from_slice(encoded.get_ids());
        Ok(())
    }

    fn engine(&self) -> &'static str {
        TOKENIZERS
    }
}

/// The engine this process used last.
static CACHE: Mutex<Option<(Digest, Arc<dyn Tokenizer>)>> = Mutex::new(None);

/// Keeps an engine for [`cached`], so that a process that plans a build and runs it loads it once.
pub(crate) fn remember(hash: Digest, tokenizer: Arc<dyn Tokenizer>) {
    *CACHE.lock() = Some((hash, tokenizer));
}

/// As [`cached`], of a tokenizer that lies in memory.
///
/// # Errors
/// As [`Definition::load_engine`]; `Corrupt` where it has another hash.
pub(crate) fn cached_definition(
    definition: &Definition,
    hash: Digest,
    engine: &str,
) -> Result<Arc<dyn Tokenizer>> {
    if let Some(tokenizer) = remembered(hash, engine) {
        return Ok(tokenizer);
    }
    if definition.hash() != hash {
        let (place, found) = (&definition.place, definition.hash());
        return Err(Error::corrupt(format!("`{place}` has tokenizer hash {found}: expected {hash}")));
    }
    let tokenizer = definition.load_engine(engine)?;
    remember(hash, Arc::clone(&tokenizer));
    Ok(tokenizer)
}

/// Loads an engine once a process: a Ray worker runs many tasks with one tokenizer.
///
/// # Errors
/// As [`Definition::parse`] and [`Definition::load_engine`].
pub fn cached(store: &Store, path: &str, hash: Digest, engine: &str) -> Result<Arc<dyn Tokenizer>> {
    if let Some(tokenizer) = remembered(hash, engine) {
        return Ok(tokenizer);
    }
    let definition = Definition::parse(store.get(path)?, &store.url_of(path))?;
    cached_definition(&definition, hash, engine)
}

fn remembered(hash: Digest, engine: &str) -> Option<Arc<dyn Tokenizer>> {
    let cache = CACHE.lock();
    let (cached, tokenizer) = cache.as_ref()?;
    (*cached == hash && tokenizer.engine() == engine).then(|| Arc::clone(tokenizer))
}

#[cfg(test)]
mod tests;
