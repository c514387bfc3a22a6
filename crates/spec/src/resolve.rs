//! From what was written to what is meant: defaults, absolute paths, seconds, a strategy.

use std::path::{Component, Path, PathBuf};

use eagleray_base::Result;
use serde_json::{Map, Value, json};

use crate::check::{self, Checks};
use crate::deepspeed;
use crate::problem::Problems;
use crate::read::{self, Source};
use crate::resolved::{self, Resolved};
use crate::types::data::{Data, Text, Validation};
use crate::types::values::{Every, Location, OneOrMany, Targets};
use crate::types::{
    Lora, Metrics, Model, NamedStrategy, Optimizer, RunSpec, Schedule, Strategy, Train, model,
};
use crate::yaml::Node;

/// The memory that `auto` takes a device to have for a model's state: half of an 80 GB accelerator.
const DEVICE_STATE_BYTES: u64 = 40 << 30;

/// Bytes of state a parameter: fp32 weight, gradient and two moments.
const STATE_BYTES_PER_PARAMETER: u64 = 16;

/// The vocabulary that memory is reckoned with where only the tokenizer knows it: that of Llama 3.
pub const VOCABULARY_GUESS: u32 = 128_256;

/// Reads, checks and resolves a spec.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn resolve(source: &Source<'_>) -> Result<Resolved, Problems> {
    resolve_with(source, &|_, _| None)
}

/// Decides what `auto` stands for, or why nothing will do; `None` leaves it to the rule of this crate. It is told
/// where the model's Hugging Face folder lies, if it has one.
pub type Strategist<'a> = &'a dyn Fn(&RunSpec, Option<&str>) -> Option<Result<Strategy>>;

/// As [`resolve`], where `strategist` is asked what `auto` stands for.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn resolve_with(source: &Source<'_>, strategist: Strategist<'_>) -> Result<Resolved, Problems> {
    let read = read::read(source)?;
    let mut problems = read.problems.clone();
    problems.extend(check::check(&read));
    let mut resolver =
        Resolver { source, checks: Checks::new(&read), strategist: &|_, _| None, folder: None };
    if problems.is_empty() {
        // A spec that is wrong anyway would be judged by stand-ins.
        resolver.strategist = strategist;
    }
    let spec = resolver.spec(&read.spec);
    problems.extend(resolver.checks.problems);
    if !problems.is_empty() {
        return Err(Problems::new(source.name, source.text, problems));
    }
    Ok(Resolved::new(spec, source.overrides.to_vec(), document(source, &read.tree)))
}

/// The YAML for people: as written, or with the overrides in it.
fn document(source: &Source<'_>, tree: &Node) -> String {
    if source.overrides.is_empty() {
        return source.text.to_owned();
    }
    let overrides: Vec<String> = source.overrides.iter().map(|text| format!("# --set {text}")).collect();
    let yaml = serde_saphyr::to_string(&tree.to_json()).unwrap_or_default();
    format!("# {} with\n{}\n{yaml}", source.name, overrides.join("\n"))
}

struct Resolver<'a> {
    source: &'a Source<'a>,
    checks: Checks<'a>,
    strategist: Strategist<'a>,
    /// The model's Hugging Face folder, once it was resolved.
    folder: Option<String>,
}

impl Resolver<'_> {
    fn spec(&mut self, spec: &RunSpec) -> resolved::Spec {
        let store = self.location(&["store"], &spec.store);
        resolved::Spec {
            version: spec.version,
            name: spec.name.clone(),
            seed: spec.seed,
            data: spec.data.as_ref().map(|data| self.data(data, &store)),
            store,
            model: spec.model.as_ref().map(|model| self.model(model)),
            train: self.train(spec),
            checkpoint: resolved::Checkpoint {
                every: match spec.checkpoint.every {
                    Every::Auto => json!({"kind": "auto"}),
                    Every::Steps(steps) => json!({"kind": "steps", "steps": steps}),
                    Every::Seconds(seconds) => json!({"kind": "seconds", "seconds": seconds}),
                },
                keep: spec.checkpoint.keep.clone(),
                r#async: spec.checkpoint.r#async,
            },
            metrics: self.metrics(&spec.metrics),
            cluster: resolved::Cluster {
                workers: spec.cluster.workers.into(),
                eks: spec.cluster.eks.as_ref().map(to_value),
            },
        }
    }

    fn data(&mut self, data: &Data, store: &str) -> resolved::Data {
        let mut sources = Map::new();
        for (name, source) in data.sources.iter() {
            let text = self.source_text(name, source);
            sources.insert(name.to_owned(), to_value(&resolved::Source { text, weight: source.weight }));
        }
        let mut validation = Map::new();
        for (name, held_out) in data.validation.iter() {
            validation.insert(name.to_owned(), to_value(&self.validation(name, held_out)));
        }
        resolved::Data {
            tokenizer: self.location(&["data", "tokenizer"], &data.tokenizer),
            end_of_document: data.end_of_document.clone(),
            chat_template: data
                .chat_template
                .as_ref()
                .map(|template| self.location(&["data", "chat_template"], template)),
            sequence_length: data.sequence_length,
            packing: data.packing,
            order: data.order,
            shuffle_key: data.shuffle_key.clone(),
            text_default: crate::types::data::text_field(),
            long_documents: data.long_documents,
            bad_records: data.bad_records.clone(),
            sources,
            built: match &data.built {
                Some(built) => self.location(&["data", "built"], built),
                None => format!("{}/built", store.trim_end_matches('/')),
            },
            validation,
        }
    }

    fn source_text(&mut self, name: &str, source: &Text) -> resolved::Text {
        let owner = ["data", "sources", name];
        let (text, filters) = (source.text.clone(), source.filters.clone());
        if let Some(function) = &source.ray_data {
            return resolved::Text::RayData { ray_data: function.clone(), text, filters };
        }
        match self.held(&owner, source.tokens.as_ref()) {
            Some(tokens) => tokens,
            None => resolved::Text::Documents {
                documents: self.documents(&owner, source.documents.as_ref()),
                text,
                chat: source.chat.clone(),
                format: source.format,
                filters,
            },
        }
    }

    fn validation(&mut self, name: &str, held_out: &Validation) -> resolved::Validation {
        let owner = ["data", "validation", name];
        let text = match self.held(&owner, held_out.tokens.as_ref()) {
            Some(tokens) => tokens,
            None => resolved::Text::Documents {
                documents: self.documents(&owner, held_out.documents.as_ref()),
                text: held_out.text.clone(),
                chat: held_out.chat.clone(),
                format: held_out.format,
                filters: Vec::new(),
            },
        };
        resolved::Validation { text, every_steps: held_out.every_steps, samples: held_out.samples }
    }

    fn held(&mut self, owner: &[&str], tokens: Option<&Location>) -> Option<resolved::Text> {
        tokens.map(|tokens| resolved::Text::Tokens {
            tokens: self.location(&[owner, &["tokens"]].concat(), tokens),
        })
    }

    fn documents(&mut self, owner: &[&str], documents: Option<&OneOrMany>) -> Vec<String> {
        let path = [owner, &["documents"]].concat();
        let all = documents.map(|documents| documents.0.as_slice()).unwrap_or_default();
        all.iter().map(|location| self.location(&path, location)).collect()
    }

    fn model(&mut self, spec: &Model) -> resolved::Model {
        if let Some(path) = &spec.huggingface {
            let path = self.location(&["model", "huggingface"], path);
            self.folder = Some(path.clone());
            return resolved::Model::Huggingface { path, config: None, lora: spec.lora.as_ref().map(lora) };
        }
        let shape = spec.config.clone().or_else(|| model::preset(spec.preset.as_deref().unwrap_or_default()));
        // An unknown preset has been reported; any shape will do until that report is given.
        let mut config = shape.or_else(|| model::preset("llama-tiny")).unwrap_or_else(|| unreachable!());
        config.num_kv_heads.get_or_insert(config.num_heads);
        resolved::Model::Llama { preset: spec.preset.clone(), config }
    }

    fn train(&mut self, spec: &RunSpec) -> resolved::Train {
        let train = &spec.train;
        let strategy = self.strategy(spec);
        let zero_stage = train.strategy.zero_stage();
        if train.deepspeed.is_some() && zero_stage.is_none() {
            let message = "`deepspeed` has no effect without `strategy: zero1`, `zero2` or `zero3`";
            self.checks.report(&["train", "deepspeed"], message, "remove it, or write `strategy: zero3`");
        }
        let Optimizer::AdamW(adamw) = &train.optimizer;
        let Schedule::Cosine(cosine) = &train.schedule;
        resolved::Train {
            deepspeed: zero_stage.map(|stage| deepspeed::config(train, stage)),
            strategy,
            global_batch: train.global_batch,
            micro_batch: train.micro_batch,
            steps: train.steps,
            optimizer: tagged("adamw", adamw),
            schedule: tagged("cosine", cosine),
            precision: train.precision,
            recompute: train.recompute,
            pipeline: train.pipeline,
            compile: train.compile,
            offload: train.offload,
            clip_grad_norm: train.clip_grad_norm,
            anomalies: train.anomalies.clone(),
            max_failures: train.max_failures,
            script: self.script(train),
            function: train.function.clone(),
        }
    }

    /// A folder of `MLflow`'s becomes absolute; what else a tracking URI may be stays as written.
    fn metrics(&self, metrics: &Metrics) -> Metrics {
        let mut metrics = metrics.clone();
        if let Some(uri) = metrics.mlflow.as_mut().and_then(|mlflow| mlflow.tracking_uri.as_mut()) {
            let is_profile = uri.starts_with("databricks") || *uri == "uc";
            if !uri.contains(':') && !is_profile {
                *uri = clean(&self.source.base.join(&*uri));
            }
        }
        metrics
    }

    /// `auto` becomes what it stands for.
    fn strategy(&mut self, spec: &RunSpec) -> Value {
        let written = spec.train.strategy;
        if written != Strategy::Named(NamedStrategy::Auto) {
            return tagged_strategy(written);
        }
        match (self.strategist)(spec, self.folder.as_deref()) {
            None => tagged_strategy(Strategy::Named(rule(spec))),
            Some(Ok(chosen)) => tagged_strategy(chosen),
            Some(Err(error)) => {
                let path = ["train", "strategy"];
                self.checks.report(&path, error.message(), error.hint().unwrap_or_default());
                tagged_strategy(Strategy::Named(rule(spec)))
            }
        }
    }

    fn script(&mut self, train: &Train) -> Option<Value> {
        let mut script = train.script.clone()?;
        script.path = Location(self.location(&["train", "script", "path"], &script.path));
        if let Some(config) = &script.accelerate_config {
            let path = ["train", "script", "accelerate_config"];
            script.accelerate_config = Some(Location(self.location(&path, config)));
        }
        Some(to_value(&script))
    }

    /// An absolute path or a URL, with the environment in it.
    fn location(&mut self, path: &[&str], location: &Location) -> String {
        let text = self.expand(path, &location.0);
        if let Some(rest) = text.strip_prefix("file://") {
            return clean(Path::new(rest));
        }
        if text.contains("://") {
            return text.trim_end_matches('/').to_owned();
        }
        clean(&self.source.base.join(text))
    }

    /// Replaces every `${NAME}`.
    fn expand(&mut self, path: &[&str], text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            expanded.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                self.checks.report(path, format!("`{text}` has a `${{` without `}}`"), "write `${NAME}`");
                return text.to_owned();
            };
            match (self.source.environment)(name) {
                Some(value) if !value.is_empty() => expanded.push_str(&value),
                _ => {
                    let message = format!("the environment has no `{name}`");
                    self.checks.report(
                        path,
                        message,
                        format!("set it before the command: `{name}=… eagleray …`"),
                    );
                }
            }
            rest = behind;
        }
        expanded.push_str(rest);
        expanded
    }
}

/// Drops `.` and `..` without looking at the disk.
fn clean(path: &Path) -> String {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned.to_string_lossy().into_owned()
}

/// What may be left out filled in, and names in an order of their own: how they were written says nothing.
fn lora(written: &Lora) -> resolved::Lora {
    let mut targets = written.targets.clone();
    if let Targets::Named(names) = &mut targets {
        names.sort();
        names.dedup();
    }
    let alpha = written.alpha.unwrap_or_else(|| 2.0 * f64::from(written.rank));
    resolved::Lora { rank: written.rank, alpha, dropout: written.dropout, targets }
}

fn tagged_strategy(strategy: Strategy) -> Value {
    match strategy {
        Strategy::Mesh(mesh) => tagged("mesh", &mesh),
        Strategy::Named(named) => json!({"kind": named.name()}),
    }
}

/// What `auto` stands for where no accelerator is known, or where the model's shape is not: that fits in most cases.
fn rule(spec: &RunSpec) -> NamedStrategy {
    let is_huggingface = spec.model.as_ref().is_some_and(|model| model.huggingface.is_some());
    if is_huggingface || !spec.train.offload.is_none() {
        return NamedStrategy::Fsdp2;
    }
    let bytes = spec.model.as_ref().and_then(state_bytes);
    if bytes.is_none_or(|bytes| bytes <= DEVICE_STATE_BYTES) {
        NamedStrategy::Ddp
    } else {
        NamedStrategy::Fsdp2
    }
}

/// The state of a model in training; `None` where its shape is not known here.
fn state_bytes(spec: &Model) -> Option<u64> {
    let config = spec.shape()?;
    let wide = |number: u32| u64::from(number);
    let (hidden, heads) = (wide(config.hidden_size), wide(config.num_heads.max(1)));
    let kv = hidden / heads * wide(config.num_kv_heads.unwrap_or(config.num_heads));
    let layer = hidden.saturating_mul(2 * hidden + 2 * kv + 3 * wide(config.intermediate_size) + 2);
    let embeddings = if config.tie_embeddings { 1 } else { 2 };
    let vocabulary = config.vocab_size.map_or(VOCABULARY_GUESS.into(), wide);
    let parameters = layer
        .saturating_mul(wide(config.num_layers))
        .saturating_add((vocabulary * embeddings).saturating_mul(hidden));
    Some(parameters.saturating_mul(STATE_BYTES_PER_PARAMETER))
}

fn to_value<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// `value` with its kind in front.
fn tagged<T: serde::Serialize>(kind: &str, value: &T) -> Value {
    let mut map = Map::new();
    map.insert("kind".into(), kind.into());
    if let Value::Object(fields) = to_value(value) {
        map.extend(fields);
    }
    map.into()
}
