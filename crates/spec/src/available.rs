//! What this build cannot do yet is refused by name when it is asked to run, never ignored.

use eagleray_base::{Error, Result};
use serde_json::Value;

use crate::resolved::{Model, Resolved};
use crate::types::data::{Order, Packing};
use crate::types::{Anomalies, Recompute};

/// What a spec is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To train, which builds first where data is not built.
    Train,
    /// To build token datasets.
    Build,
}

impl std::str::FromStr for Purpose {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "train" => Ok(Self::Train),
            "build" => Ok(Self::Build),
            _ => Err(Error::invalid(format!("expected `train` or `build`, found `{text}`"))),
        }
    }
}

impl Resolved {
    /// Refuses what this build cannot do.
    ///
    /// # Errors
    /// `Invalid`, with every key that stands in the way.
    pub fn refuse_unavailable(&self, purpose: Purpose) -> Result<()> {
        if purpose == Purpose::Build && self.spec.data.is_none() {
            return Err(Error::invalid("the run has no `data`: there is nothing to build").with_hint(
                "add `data` with a tokenizer and sources; with `train.script` or `train.function` it may be left out",
            ));
        }
        let mut refused = Vec::new();
        self.refuse_data(&mut refused);
        if purpose == Purpose::Train {
            self.refuse_training(&mut refused);
        }
        if refused.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> =
            refused.iter().map(|what| format!("{what} is not available in this build")).collect();
        Err(Error::invalid(lines.join("\nerror: ")).with_hint(
            "`eagleray check` accepts the whole of the run spec; running needs another choice here",
        ))
    }

    fn refuse_data(&self, refused: &mut Vec<String>) {
        let Some(data) = &self.spec.data else { return };
        if data.packing == Packing::BestFit {
            refused.push("`data.packing: best_fit`".into());
        }
        if data.order == Order::Era {
            refused.push("`data.order: era`".into());
        }
        let texts = data.sources.iter().map(|text| ("sources", text));
        for (group, (name, text)) in texts.chain(data.validation.iter().map(|text| ("validation", text))) {
            let place = format!("data.{group}.{name}");
            if text["kind"] == "ray_data" {
                refused.push(format!("`{place}.ray_data`"));
            }
            if text["filters"].as_array().is_some_and(|filters| !filters.is_empty()) {
                refused.push(format!("`{place}.filters`"));
            }
            if text["tokens"].as_str().is_some_and(is_foreign) {
                refused.push(format!("`{place}.tokens` in another program's format ({})", text["tokens"]));
            }
            if text["format"] == "parquet" {
                refused.push(format!("`{place}.format: parquet`"));
            }
            for location in text["documents"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if text["format"].is_null() && is_parquet(location) {
                    refused.push(format!("`{place}.documents: {location}` (Parquet)"));
                }
            }
        }
    }

    fn refuse_training(&self, refused: &mut Vec<String>) {
        let train = &self.spec.train;
        match train.strategy["kind"].as_str() {
            Some("ddp" | "fsdp2" | "zero1" | "zero2" | "zero3" | "mesh") => {}
            other => refused.push(format!("`train.strategy: {}`", other.unwrap_or_default())),
        }
        let shared =
            ["pp", "cp"].iter().any(|axis| train.strategy[axis].as_u64().is_some_and(|size| size > 1));
        if train.function.is_some() && shared {
            refused.push(format!("`train.strategy: {}` with `train.function`", show_mesh(&train.strategy)));
        }
        self.refuse_with_zero(refused);
        self.refuse_compiled(refused);
        let own = if train.script.is_some() { "script" } else { "function" };
        if (train.script.is_some() || train.function.is_some()) && !train.offload.is_none() {
            refused.push(format!("`train.offload: cpu` with `train.{own}`"));
        }
        if let Some(script) = &train.script {
            self.refuse_with_script(script, refused);
        }
        if (train.script.is_some() || train.function.is_some()) && train.anomalies != Anomalies::default() {
            refused.push(format!("`train.anomalies` with `train.{own}`, which has a loop of its own,"));
        }
        let held_out = self.spec.data.as_ref().is_some_and(|data| !data.validation.is_empty());
        if (train.script.is_some() || train.function.is_some()) && held_out {
            refused.push(format!("`data.validation` with `train.{own}`"));
        }
        if matches!(&self.spec.model, Some(Model::Huggingface { .. })) {
            self.refuse_with_huggingface(refused);
        }
        if self.spec.store.starts_with("memory://") {
            refused.push("`store: memory://…`, which other processes cannot read,".into());
        }
    }

    /// What would run uncompiled all the same, or has been seen to fail.
    fn refuse_compiled(&self, refused: &mut Vec<String>) {
        let train = &self.spec.train;
        if !train.compile {
            return;
        }
        if let Some(kind @ ("zero1" | "zero2" | "zero3")) = train.strategy["kind"].as_str() {
            refused.push(format!("`train.compile` with `train.strategy: {kind}`"));
        }
        for axis in ["cp", "tp"] {
            if train.strategy[axis].as_u64().is_some_and(|parts| parts > 1) {
                refused.push(format!("`train.compile` with `{axis}` in `train.strategy`"));
            }
        }
        // What is kept is chosen among operations that a compiled layer does not show.
        if train.recompute == Recompute::Selective {
            refused.push("`train.compile` with `train.recompute: selective`".into());
        }
        for (own, given) in [("script", train.script.is_some()), ("function", train.function.is_some())] {
            if given {
                refused.push(format!("`train.compile` with `train.{own}`, which compiles its own model,"));
            }
        }
    }

    /// What `DeepSpeed` cannot do, or would do silently in another way.
    fn refuse_with_zero(&self, refused: &mut Vec<String>) {
        let train = &self.spec.train;
        let Some(kind @ ("zero1" | "zero2" | "zero3")) = train.strategy["kind"].as_str() else { return };
        // DeepSpeed's hooks run operations of their own, so the second pass is not the first.
        if kind == "zero3" && train.recompute == Recompute::Selective {
            refused.push("`train.recompute: selective` with `train.strategy: zero3`".into());
        }
        // Without batches nothing tells DeepSpeed which backward pass ends a step.
        if train.function.is_some() && self.spec.data.is_none() {
            refused.push(format!("`train.strategy: {kind}` with `train.function` and without `data`"));
        }
        // Gradients are brought to scale once all labels of a step are counted, and DeepSpeed has them by then.
        let chats = self
            .spec
            .data
            .as_ref()
            .is_some_and(|data| data.sources.values().any(|text| !text["chat"].is_null()));
        if train.function.is_some() && chats {
            refused.push(format!("`train.strategy: {kind}` with `train.function` and `chat`"));
        }
    }

    /// A script has a model, validation and a strategy of its own: what the spec says of them would go unheard.
    fn refuse_with_script(&self, script: &Value, refused: &mut Vec<String>) {
        if self.spec.model.is_some() {
            refused.push("`model` with `train.script`".into());
        }
        if let Some(kind @ ("fsdp2" | "zero1" | "zero2" | "zero3" | "mesh")) =
            self.spec.train.strategy["kind"].as_str()
        {
            refused.push(format!("`train.strategy: {kind}` with `train.script`"));
        }
        let workers = &self.spec.cluster.workers;
        if workers.min != workers.max {
            refused.push("`cluster.workers` as a range with `train.script`".into());
        }
        let remote = |location: &str| location.contains("://");
        if remote(&self.spec.store) {
            refused.push(format!("`store: {}`, which is no folder, with `train.script`", self.spec.store));
        }
        for key in ["path", "accelerate_config"] {
            // The driver reads these, and hands them to the workers.
            let unread = |location: &&str| remote(location) && !location.starts_with("s3://");
            if let Some(location) = script[key].as_str().filter(unread) {
                refused.push(format!("`train.script.{key}: {location}`, which is neither a file nor on S3,"));
            }
        }
    }

    /// Which families can be split is seen when the folder is read; adapters never are.
    fn refuse_with_huggingface(&self, refused: &mut Vec<String>) {
        let strategy = &self.spec.train.strategy;
        for axis in ["pp", "cp", "tp"] {
            let parts = strategy[axis].as_u64().is_some_and(|parts| parts > 1);
            if parts && matches!(&self.spec.model, Some(Model::Huggingface { lora: Some(_), .. })) {
                refused.push(format!("`model.lora` with `{axis}` in `train.strategy`"));
            }
        }
        if self.spec.train.function.is_some() {
            refused.push("`model.huggingface` with `train.function`, which makes its own model,".into());
        }
    }
}

fn is_parquet(location: &str) -> bool {
    has_extension(location, &["parquet"])
}

/// A file by whose name it is no folder of ours: Megatron's, a memmap, or rows of ids.
fn is_foreign(location: &str) -> bool {
    has_extension(location, &["bin", "idx", "npy", "ds", "mds", "parquet", "jsonl"])
}

fn has_extension(location: &str, known: &[&str]) -> bool {
    let extension = std::path::Path::new(location).extension().map(std::ffi::OsStr::to_ascii_lowercase);
    extension.is_some_and(|extension| known.iter().any(|name| *name == extension))
}

/// `{dp_shard: 8, tp: 4}`: the axes that are more than 1.
fn show_mesh(strategy: &Value) -> String {
    let axes: Vec<String> = strategy
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(axis, size)| axis.as_str() != "kind" && size.as_u64() != Some(1))
        .map(|(axis, size)| format!("{axis}: {size}"))
        .collect();
    format!("{{{}}}", axes.join(", "))
}
