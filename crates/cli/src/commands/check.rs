//! `eagleray check`: every error of a spec, its schema, its defaults.

use std::fmt::Write as _;
use std::path::PathBuf;

use eagleray_base::{Error, Result};
use eagleray_plan::{Choice, Planned};
use eagleray_spec::resolved::Model;
use eagleray_spec::{Place, Problem, Problems, Purpose, Resolved, explain};
use serde_json::{Value, json};

use crate::output::Output;

/// Check a run spec: every error with its line and a hint.
#[derive(clap::Args)]
pub(crate) struct Check {
    /// The run spec
    #[arg(value_name = "RUN.YAML", required_unless_present_any = ["schema", "show_defaults"])]
    path: Option<PathBuf>,
    /// Override one value of the spec, such as train.steps=200; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print the JSON schema of the run spec
    #[arg(long, conflicts_with_all = ["show_defaults", "path"])]
    schema: bool,
    /// Print every key with its default and its meaning
    #[arg(long, conflicts_with = "path")]
    show_defaults: bool,
}

impl Check {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        if self.schema {
            output.json(&explain::schema());
            return Ok(());
        }
        if self.show_defaults {
            if output.is_json() {
                output.json(&json!(explain::keys()));
            } else {
                output.print(&explain::show_defaults());
            }
            return Ok(());
        }
        let path = self.path.unwrap_or_default();
        match super::resolve(&path, &self.overrides)? {
            Ok(planned) => {
                accept(output, &path.display().to_string(), &planned);
                Ok(())
            }
            Err(problems) => Err(refuse(output, problems)),
        }
    }
}

fn accept(output: &Output, name: &str, planned: &Planned) {
    let Planned { resolved, choice } = planned;
    let unavailable = resolved.refuse_unavailable(Purpose::Train).err();
    let unavailable = unavailable.as_ref().map(Error::message).unwrap_or_default();
    let unavailable: Vec<&str> = unavailable.lines().map(|line| line.trim_start_matches("error: ")).collect();
    if output.is_json() {
        let spec = serde_json::to_value(&resolved.spec).unwrap_or_default();
        output.json(&json!({
            "valid": true, "problems": [], "unavailable": unavailable,
            "spec_hash": resolved.spec_hash, "order_hash": resolved.order_hash,
            "model_hash": resolved.model_hash, "spec": spec, "auto": choice,
        }));
        return;
    }
    output.print(&summary(name, resolved));
    for line in choice.iter().flat_map(Choice::explain) {
        output.note(&format!("note: {line}"));
    }
    for what in unavailable {
        output.note(&format!("note: {what}"));
    }
}

fn refuse(output: &Output, problems: Problems) -> Error {
    if !output.is_json() {
        return problems.into_error();
    }
    let list: Vec<Value> = problems.list().iter().map(|problem| problem_json(&problems, problem)).collect();
    output.json(&json!({"valid": false, "problems": list}));
    output.reported(problems.into_error())
}

fn problem_json(problems: &Problems, problem: &Problem) -> Value {
    let (line, column) = match &problem.place {
        Place::File { line, column, .. } => (Some(line), Some(column)),
        Place::Override(_) | Place::Whole => (None, None),
    };
    json!({
        "location": problems.location(problem), "file": problems.name(), "line": line, "column": column,
        "path": problem.path, "message": problem.message, "hint": problem.hint,
    })
}

/// What the run is, in a few lines.
fn summary(name: &str, resolved: &Resolved) -> String {
    let spec = &resolved.spec;
    let mut shown = format!("{name} is valid\n  run       {} in {}\n", spec.name, spec.store);
    if let Some(data) = &spec.data {
        let sources: Vec<&str> = data.sources.keys().map(String::as_str).collect();
        let _ =
            writeln!(shown, "  data      {}, samples of {} tokens", sources.join(", "), data.sequence_length);
    }
    match &spec.model {
        Some(Model::Llama { preset: Some(preset), .. }) => {
            let _ = writeln!(shown, "  model     {preset}");
        }
        Some(Model::Llama { config, .. }) => {
            let (layers, width) = (config.num_layers, config.hidden_size);
            let _ = writeln!(shown, "  model     Llama-style, {layers} layers, {width} wide");
        }
        Some(Model::Huggingface { path, lora: Some(lora), .. }) => {
            let _ = writeln!(shown, "  model     {path}, adapters of rank {}", lora.rank);
        }
        Some(Model::Huggingface { path, .. }) => {
            let _ = writeln!(shown, "  model     {path}");
        }
        None => {}
    }
    let train = &spec.train;
    if let (Some(steps), Some(batch)) = (train.steps, train.global_batch) {
        let strategy = train.strategy["kind"].as_str().unwrap_or_default();
        let _ = writeln!(shown, "  training  {steps} steps of {batch} samples, {strategy}");
    }
    let workers = spec.cluster.workers;
    let range = if workers.min == workers.max {
        workers.min.to_string()
    } else {
        format!("{} to {}", workers.min, workers.max)
    };
    let _ = writeln!(shown, "  workers   {range}");
    shown
}
