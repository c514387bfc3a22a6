//! What types cannot say: ranges, pairs that exclude each other, shapes that do not divide.
//!
//! Each check names the key that it is about; the tree knows where that key stands.

mod cluster;
mod data;
mod metrics;
mod train;

use crate::names::is_dns_service_label;
use crate::problem;
use crate::problem::Problem;
use crate::read::{Read, show_path};
use crate::types::values::Targets;
use crate::types::{LlamaConfig, Lora, Model, RunSpec, VERSION, model};
use crate::yaml::{Node, Step};

/// The longest name of a run: a `RayJob` adds the number of the launch and may have 47.
pub const NAME_CHARS_MAX: usize = 40;

/// Gathers problems and finds their places.
pub(crate) struct Checks<'a> {
    tree: &'a Node,
    removed: &'a [Vec<Step>],
    filled: &'a [Vec<Step>],
    pub(crate) problems: Vec<Problem>,
}

/// A path of keys; `[3]` is an index.
pub(crate) fn steps(path: &[&str]) -> Vec<Step> {
    let index = |part: &str| part.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    path.iter().map(|part| index(part).map_or_else(|| Step::Key((*part).to_owned()), Step::Index)).collect()
}

impl<'a> Checks<'a> {
    pub(crate) fn new(read: &'a Read) -> Self {
        Self { tree: &read.tree, removed: &read.removed, filled: &read.filled, problems: Vec::new() }
    }

    /// Reports a problem of the value at `path`.
    pub(crate) fn report(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let path = steps(path);
        // Around a value that was refused, what is missing or wrong follows from that.
        let refused = self.removed.iter().chain(self.filled).any(|other| other.starts_with(&path));
        // Beside a stand-in, numbers that do not fit each other mean nothing.
        let beside = self
            .filled
            .iter()
            .filter_map(|filled| filled.split_last())
            .any(|(_, owner)| !owner.is_empty() && path.starts_with(owner));
        if refused || beside {
            return;
        }
        let hint = hint.into();
        self.problems.push(Problem {
            place: self.tree.locate_value(&path),
            path: show_path(&path),
            message: message.into(),
            hint: (!hint.is_empty()).then_some(hint),
            secret: false,
        });
    }

    /// Reports a secret at `path`, pointing at its key and showing none of its line.
    pub(crate) fn report_secret(&mut self, path: &[&str], message: String, hint: &str) {
        let path = steps(path);
        let mut problem = Problem::new(self.tree.locate(&path), message);
        problem.path = show_path(&path);
        problem.hint = Some(hint.to_owned());
        problem.secret = true;
        self.problems.push(problem);
    }

    /// Reports unless `holds`.
    pub(crate) fn require(&mut self, holds: bool, path: &[&str], message: impl Into<String>, hint: &str) {
        if !holds {
            self.report(path, message, hint);
        }
    }

    /// Whether the key was written.
    pub(crate) fn written(&self, path: &[&str]) -> bool {
        self.tree.get(&steps(path)).is_some_and(|node| !node.is_null())
    }

    /// Reports unless exactly one of `keys` under `owner` is given.
    pub(crate) fn exactly_one(&mut self, owner: &[&str], given: &[(&str, bool)]) {
        let names = |keys: &[&str]| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let all: Vec<&str> = given.iter().map(|(key, _)| *key).collect();
        let used: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
        let place = show_path(&steps(owner));
        match used.as_slice() {
            [] => self.report(owner, format!("`{place}` needs one of {}", names(&all)), ""),
            [_] => {}
            [.., last] => {
                let path = [owner, &[*last]].concat();
                let message = format!("`{place}` may have only one of {}", names(&all));
                self.report(&path, message, format!("found {}: keep one", names(&used)));
            }
        }
    }

    /// Reports unless a number lies in a range, said in words.
    pub(crate) fn range(&mut self, holds: bool, path: &[&str], found: impl std::fmt::Display, wanted: &str) {
        self.require(holds, path, format!("expected {wanted}, found `{found}`"), "");
    }
}

/// Checks a spec that reads.
pub(crate) fn check(read: &Read) -> Vec<Problem> {
    let mut checks = Checks::new(read);
    let spec = &read.spec;
    top(&mut checks, spec);
    if let Some(data) = &spec.data {
        data::check(&mut checks, data);
    }
    if let Some(model) = &spec.model {
        check_model(&mut checks, model);
    }
    train::check(&mut checks, spec);
    metrics::check(&mut checks, &spec.metrics);
    cluster::check(&mut checks, &spec.cluster);
    checks.problems
}

fn top(checks: &mut Checks<'_>, spec: &RunSpec) {
    let version = spec.version;
    checks.require(
        version == VERSION,
        &["version"],
        format!("expected version {VERSION}, found {version}"),
        "this program reads version 1 of the run spec",
    );
    checks.require(
        is_dns_service_label(&spec.name, NAME_CHARS_MAX),
        &["name"],
        format!("`{}` is not a name for a run", spec.name),
        "use small letters, digits and `-`, begin with a letter, at most 40 characters",
    );
    let own_code = spec.train.script.is_some() || spec.train.function.is_some();
    if own_code {
        return;
    }
    let hint = "it may be left out only with `train.script` or `train.function`";
    checks.require(spec.data.is_some(), &["data"], "the key `data` is missing", hint);
    checks.require(spec.model.is_some(), &["model"], "the key `model` is missing", hint);
}

/// `package.module:function`.
pub(crate) fn is_python_name(text: &str) -> bool {
    let identifier = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    text.split_once(':')
        .is_some_and(|(module, function)| module.split('.').all(identifier) && identifier(function))
}

fn check_model(checks: &mut Checks<'_>, model: &Model) {
    checks.exactly_one(
        &["model"],
        &[
            ("preset", model.preset.is_some()),
            ("config", model.config.is_some()),
            ("huggingface", model.huggingface.is_some()),
        ],
    );
    if let Some(name) = model.preset.as_deref().filter(|name| model::preset(name).is_none()) {
        let known: Vec<String> = model::preset_names().map(|name| format!("`{name}`")).collect();
        let known = format!("known are {}", known.join(", "));
        let hint = match problem::nearest(name, model::preset_names()) {
            Some(meant) => format!("did you mean `{meant}`? {known}"),
            None => known,
        };
        checks.report(&["model", "preset"], format!("`{name}` is not a preset"), hint);
    }
    if let Some(lora) = &model.lora {
        check_lora(checks, model, lora);
    }
    if let Some(config) = &model.config {
        check_shape(checks, config);
    }
}

fn check_shape(checks: &mut Checks<'_>, config: &LlamaConfig) {
    let sizes = [
        ("vocab_size", config.vocab_size.unwrap_or(1)),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_layers", config.num_layers),
        ("num_heads", config.num_heads),
        ("num_kv_heads", config.num_kv_heads.unwrap_or(1)),
    ];
    for (key, size) in sizes {
        checks.range(size >= 1, &["model", "config", key], size, "1 or more");
    }
    checks.range(
        config.rope_theta > 0.0,
        &["model", "config", "rope_theta"],
        config.rope_theta,
        "a number above 0",
    );
    checks.range(
        config.norm_eps > 0.0,
        &["model", "config", "norm_eps"],
        config.norm_eps,
        "a number above 0",
    );
    if sizes.iter().any(|(_, size)| *size == 0) {
        return;
    }
    let (hidden, heads) = (config.hidden_size, config.num_heads);
    if !hidden.is_multiple_of(heads) {
        let message = format!("`num_heads` {heads} does not divide `hidden_size` {hidden}");
        checks.report(
            &["model", "config", "num_heads"],
            message,
            "every head takes an equal part of the width",
        );
    } else if !(hidden / heads).is_multiple_of(2) {
        let message = format!("a head is {} wide, which is odd", hidden / heads);
        checks.report(
            &["model", "config", "num_heads"],
            message,
            "rotary positions turn pairs: make `hidden_size / num_heads` even",
        );
    }
    if let Some(kv) = config.num_kv_heads.filter(|kv| !heads.is_multiple_of(*kv)) {
        let message = format!("`num_kv_heads` {kv} does not divide `num_heads` {heads}");
        checks.report(
            &["model", "config", "num_kv_heads"],
            message,
            "every key head serves an equal number of heads",
        );
    }
}

fn check_lora(checks: &mut Checks<'_>, model: &Model, lora: &Lora) {
    let at = |key| ["model", "lora", key];
    checks.require(
        model.huggingface.is_some(),
        &["model", "lora"],
        "`lora` needs `huggingface`",
        "adapters stand beside weights that are trained already: name their folder, or remove `lora`",
    );
    checks.range(lora.rank >= 1, &at("rank"), lora.rank, "1 or more");
    let alpha = lora.alpha.unwrap_or(1.0);
    checks.range(alpha > 0.0 && alpha.is_finite(), &at("alpha"), alpha, "a number above 0");
    checks.range((0.0..1.0).contains(&lora.dropout), &at("dropout"), lora.dropout, "0 or more and below 1");
    if let Targets::Named(names) = &lora.targets {
        let named = !names.is_empty() && names.iter().all(|name| !name.is_empty());
        checks.require(
            named,
            &at("targets"),
            "a target has no name",
            "write `all-linear`, or names of layers: `[q_proj, v_proj]`",
        );
    }
}
