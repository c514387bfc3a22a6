//! The resolved run: what everything but the command line reads.
//!
//! Defaults are filled, units parsed, paths absolute. It is written to `<store>/resolved.json`; its
//! fields are described in `docs/formats/resolved.md`.

use eagleray_base::{Digest, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::types::data::{BadRecords, Filter, Format, LongDocuments, Order, Packing};
use crate::types::values::{Count, Targets};
use crate::types::{Anomalies, Keep, LlamaConfig, Metrics, Offload, Pipeline, Precision, Recompute};

/// What the file says it is.
pub const FORMAT: &str = "eagleray.resolved";

/// The only version of the file.
pub const FORMAT_VERSION: u32 = 1;

/// A resolved run, with what identifies it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Resolved {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The version of the program that wrote it.
    pub program: String,
    /// The digest of `spec`.
    pub spec_hash: Digest,
    /// The digest of what fixes which samples come in which order.
    pub order_hash: Digest,
    /// The digest of the model's shape.
    pub model_hash: Digest,
    /// The run itself.
    pub spec: Spec,
    /// The overrides, as given.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// The YAML for people, with the overrides in it: `<store>/run.yaml`.
    #[serde(default)]
    pub document: String,
}

/// The run itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Spec {
    /// The version of the run spec.
    pub version: u32,
    /// The name of the run.
    pub name: String,
    /// What all randomness starts from.
    pub seed: u64,
    /// An absolute path or an `s3://` URL.
    pub store: String,
    /// What to train on.
    pub data: Option<Data>,
    /// What to train.
    pub model: Option<Model>,
    /// How to train.
    pub train: Train,
    /// When to save, and what to keep.
    pub checkpoint: Checkpoint,
    /// Where the figures of each step go; the default in files from before it was there.
    #[serde(default)]
    pub metrics: Metrics,
    /// What to run on.
    pub cluster: Cluster,
}

/// What to train on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Data {
    /// An absolute path or URL.
    pub tokenizer: String,
    /// The token that ends every document; absent where it is the first usual one that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<String>,
    /// The Jinja template of conversations, an absolute path or URL; absent where it is the tokenizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// The tokens of one sample.
    pub sequence_length: u32,
    /// How documents fill samples.
    pub packing: Packing,
    /// In which order samples come.
    pub order: Order,
    /// The key of the shuffle of documents at the build.
    pub shuffle_key: String,
    /// The field that holds the text where a source does not say.
    pub text_default: String,
    /// What happens to a document longer than a sample.
    pub long_documents: LongDocuments,
    /// How many broken records a build may leave out.
    pub bad_records: BadRecords,
    /// The sources by name, in the order of the spec.
    pub sources: Map<String, Value>,
    /// Where token datasets go.
    pub built: String,
    /// The held-out texts by name.
    pub validation: Map<String, Value>,
}

/// One source or held-out text, by kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Text {
    /// Raw text.
    Documents {
        /// Absolute paths, URLs and globs.
        documents: Vec<String>,
        /// The field that holds the text.
        text: String,
        /// The field that holds a conversation, where there is no text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chat: Option<String>,
        /// How objects are read; by their names where `null`.
        format: Option<Format>,
        /// Steps that every document passes.
        #[serde(default)]
        filters: Vec<Filter>,
    },
    /// A token dataset built before.
    Tokens {
        /// Its absolute path or URL.
        tokens: String,
    },
    /// A function that returns a `ray.data.Dataset`.
    RayData {
        /// `package.module:function`.
        ray_data: String,
        /// The column that holds the text.
        text: String,
        /// Steps that every document passes.
        #[serde(default)]
        filters: Vec<Filter>,
    },
}

/// A source with its weight.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Source {
    /// What it is.
    #[serde(flatten)]
    pub text: Text,
    /// The share of tokens, relative to the other sources.
    pub weight: f64,
}

/// A held-out text with its measurement.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Validation {
    /// What it is.
    #[serde(flatten)]
    pub text: Text,
    /// The steps between two measurements.
    pub every_steps: u64,
    /// The samples of one measurement.
    pub samples: u64,
}

/// What to train, by kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Model {
    /// A Llama-style model.
    Llama {
        /// The preset it came from.
        preset: Option<String>,
        /// Its shape; `num_kv_heads` is always filled.
        config: LlamaConfig,
    },
    /// A Hugging Face folder.
    Huggingface {
        /// Its absolute path or URL.
        path: String,
        /// Its `config.json`, once the folder was read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Value>,
        /// Its adapters, where they are what is trained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lora: Option<Lora>,
    },
}

/// Adapters of low rank.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Lora {
    /// The inner width.
    pub rank: u32,
    /// The scale times the rank.
    pub alpha: f64,
    /// The share of inputs that is dropped.
    pub dropout: f64,
    /// `all-linear`, or names in rising order, each once.
    pub targets: Targets,
}

/// How to train.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Train {
    /// `{"kind": "ddp" | "fsdp2" | "zero1" | "zero2" | "zero3"}`, or `{"kind": "mesh", "pp": …}`.
    pub strategy: Value,
    /// The samples of a step.
    pub global_batch: Option<u32>,
    /// The samples a worker takes through the model at once.
    pub micro_batch: u32,
    /// The steps of the run.
    pub steps: Option<u64>,
    /// `{"kind": "adamw", …}`.
    pub optimizer: Value,
    /// `{"kind": "cosine", …}`.
    pub schedule: Value,
    /// The precision of the computation.
    pub precision: Precision,
    /// What of the forward pass is computed again.
    pub recompute: Recompute,
    /// How the stages of a pipeline take turns.
    pub pipeline: Pipeline,
    /// Whether each layer is compiled; left out where it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compile: bool,
    /// Where the state lies; left out where that is the accelerator.
    #[serde(default, skip_serializing_if = "Offload::is_none")]
    pub offload: Offload,
    /// The norm that gradients are scaled down to.
    pub clip_grad_norm: Option<f64>,
    /// What follows from a loss that jumps, or is no number; the default in files from before it was there.
    #[serde(default)]
    pub anomalies: Anomalies,
    /// How many failures the run survives.
    pub max_failures: u32,
    /// `DeepSpeed`'s whole configuration under `zero1`, `zero2` and `zero3`, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deepspeed: Option<Map<String, Value>>,
    /// The user's own script, paths absolute.
    pub script: Option<Value>,
    /// The user's own function.
    pub function: Option<String>,
}

/// When to save, and what to keep.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Checkpoint {
    /// `{"kind": "auto"}`, `{"kind": "steps", "steps": n}` or `{"kind": "seconds", "seconds": s}`.
    pub every: Value,
    /// Which checkpoints outlive newer ones.
    pub keep: Keep,
    /// Whether training goes on while a checkpoint is written.
    pub r#async: bool,
}

/// What to run on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Cluster {
    /// Always a range.
    pub workers: Workers,
    /// A cluster on EKS, as in the spec.
    pub eks: Option<Value>,
}

/// A range of workers.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Workers {
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
}

impl From<Count> for Workers {
    fn from(count: Count) -> Self {
        Self { min: count.min, max: count.max }
    }
}

impl Resolved {
    /// Identifies a run.
    pub(crate) fn new(spec: Spec, overrides: Vec<String>, document: String) -> Self {
        let whole = serde_json::to_value(&spec).unwrap_or_default();
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            spec_hash: digest(&whole),
            order_hash: digest(&fixed_order(&whole)),
            model_hash: digest(&fixed_model(&whole)),
            spec,
            overrides,
            document,
        }
    }

    /// The run with the `config.json` of its Hugging Face folder; the folder must have been read.
    #[must_use]
    pub fn with_model_config(mut self, found: Value) -> Self {
        if let Some(Model::Huggingface { config, .. }) = &mut self.spec.model {
            *config = Some(found);
            self.model_hash = digest(&fixed_model(&serde_json::to_value(&self.spec).unwrap_or_default()));
        }
        self
    }

    /// Reads a resolved run.
    ///
    /// # Errors
    /// `Invalid` where the text is not one, or one of another version.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("not a resolved run: {error}")))?;
        let (format, version) = (value["format"].as_str(), value["format_version"].as_u64());
        if format != Some(FORMAT) {
            return Err(Error::invalid(format!(
                "expected a file of format `{FORMAT}`, found {}",
                value["format"]
            )));
        }
        if version != Some(FORMAT_VERSION.into()) {
            let found = &value["format_version"];
            return Err(Error::invalid(format!(
                "expected `{FORMAT}` version {FORMAT_VERSION}, found {found}"
            ))
            .with_hint("it was written by another version of this program: use that one"));
        }
        serde_json::from_value(value).map_err(|error| Error::invalid(format!("not a resolved run: {error}")))
    }

    /// The JSON of the file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The fields that a resume may not change and that differ from `old`.
    pub fn differences(&self, old: &Self) -> Vec<Difference> {
        let fixed = |resolved: &Self| {
            let whole = serde_json::to_value(&resolved.spec).unwrap_or_default();
            json!({"order": fixed_order(&whole), "model": fixed_model(&whole)})
        };
        let (old, new) = (fixed(old), fixed(self));
        let mut differences = Vec::new();
        for group in ["order", "model"] {
            compare(&old[group], &new[group], "", &mut differences);
        }
        differences
    }
}

/// A field that a resume may not change, with both values; `null` where it is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `data.sources.web.weight`.
    pub field: String,
    /// The value of the run on the store.
    pub old: Value,
    /// The value of the spec at hand.
    pub new: Value,
}

impl Difference {
    /// `` `seed` was 17, is 18 ``.
    pub fn show(&self) -> String {
        format!("`{}` was {}, is {}", self.field, self.old, self.new)
    }
}

/// What a Hugging Face config says of the program that wrote it, and of how the weights lie there.
const PASSING: [&str; 4] = ["_name_or_path", "dtype", "torch_dtype", "transformers_version"];

/// What fixes which samples come in which order. Places are left out: a dataset may be moved, and
/// what it holds is compared by its hash when it is opened.
fn fixed_order(spec: &Value) -> Value {
    let data = &spec["data"];
    let mut sources = Map::new();
    for (name, source) in data["sources"].as_object().into_iter().flatten() {
        let mut kept = Map::new();
        for key in ["weight", "text", "filters"] {
            // What is absent for `tokens` is what `documents` has by default.
            let value = match (&source[key], key) {
                (Value::Null, "filters") => json!([]),
                (value, _) => value.clone(),
            };
            kept.insert(key.into(), value);
        }
        // Only where it is there, so that runs from before it could be keep their hash.
        if let Some(chat) = source.get("chat") {
            kept.insert("chat".into(), chat.clone());
        }
        sources.insert(name.clone(), kept.into());
    }
    let names: Vec<&String> = sources.keys().collect();
    let mut fixed = json!({
        "seed": spec["seed"],
        "train.global_batch": spec["train"]["global_batch"],
        "data.sequence_length": data["sequence_length"],
        "data.packing": data["packing"],
        "data.order": data["order"],
        "data.shuffle_key": data["shuffle_key"],
        "data.long_documents": data["long_documents"],
        "data.sources (names, in order)": names,
        "data.sources": sources,
    });
    // Only where it is named, so that runs from before it could be keep their hash.
    if let Some(named) = data["end_of_document"].as_str() {
        fixed["data.end_of_document"] = named.into();
    }
    fixed
}

/// The model's shape, and that of its adapters where it has some.
fn fixed_model(spec: &Value) -> Value {
    let mut fixed = fixed_shape(&spec["model"]);
    // Only where there are some, so that runs from before they could be keep their hash.
    let lora = &spec["model"]["lora"];
    if !lora.is_null() {
        fixed["model.lora"] =
            json!({"rank": lora["rank"], "alpha": lora["alpha"], "targets": lora["targets"]});
    }
    fixed
}

/// Once a folder was read it is what its config says, and no longer where it lies.
fn fixed_shape(model: &Value) -> Value {
    if model["kind"] != "huggingface" || model["config"].is_null() {
        return json!({"model.kind": model["kind"], "model.config": model["config"], "model.path": model["path"]});
    }
    let mut config = model["config"].clone();
    if let Some(config) = config.as_object_mut() {
        for key in PASSING {
            config.remove(key);
        }
    }
    json!({"model.kind": model["kind"], "model.config": config})
}

fn compare(old: &Value, new: &Value, field: &str, differences: &mut Vec<Difference>) {
    let (Some(left), Some(right)) = (old.as_object(), new.as_object()) else {
        if old != new {
            differences.push(Difference { field: field.to_owned(), old: old.clone(), new: new.clone() });
        }
        return;
    };
    let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
    for key in keys {
        let field = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
        let side = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        compare(&side(left), &side(right), &field, differences);
    }
}

/// BLAKE3 of canonical JSON: keys sorted, no space.
fn digest(value: &Value) -> Digest {
    Digest::of(sorted(value).to_string().as_bytes())
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
