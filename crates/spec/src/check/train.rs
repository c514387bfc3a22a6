//! Checks of `train` and `checkpoint`.

use super::{Checks, is_python_name};
use crate::types::train::{Launcher, Mesh, NamedStrategy, Optimizer, Schedule, Train};
use crate::types::{Model, RunSpec, Strategy};
use crate::{deepspeed, mesh};

pub(super) fn check(checks: &mut Checks<'_>, spec: &RunSpec) {
    let train = &spec.train;
    check_own_code(checks, train);
    check_batches(checks, spec);
    check_steps(checks, train);
    check_numbers(checks, train);
    if let Strategy::Mesh(mesh) = train.strategy {
        check_mesh(checks, spec, &mesh);
    }
    check_pipeline(checks, spec);
    if let Some(fault) = mesh::offload_fault(train.strategy, train.offload) {
        checks.report(&["train", "offload"], fault.message, fault.hint);
    }
    // Without a stage of ZeRO it is refused as a whole.
    let stage = train.strategy.zero_stage().unwrap_or(3);
    for fault in train.deepspeed.iter().flat_map(|given| deepspeed::faults(given, stage)) {
        let below = fault.path.iter().map(String::as_str);
        let path: Vec<&str> = ["train", "deepspeed"].into_iter().chain(below).collect();
        checks.report(&path, fault.message, fault.hint);
    }
    let keep = &spec.checkpoint.keep;
    checks.range(keep.last >= 1, &["checkpoint", "keep", "last"], keep.last, "1 or more");
    let every = keep.every_steps.unwrap_or(1);
    checks.range(every >= 1, &["checkpoint", "keep", "every_steps"], every, "1 step or more");
}

fn check_own_code(checks: &mut Checks<'_>, train: &Train) {
    let both = train.script.is_some() && train.function.is_some();
    checks.require(
        !both,
        &["train", "function"],
        "`train` may have only one of `script`, `function`",
        "keep one",
    );
    if let Some(function) = train.function.as_deref().filter(|function| !is_python_name(function)) {
        let message = format!("`{function}` names no function");
        checks.report(&["train", "function"], message, "write `package.module:function`");
    }
    let Some(script) = &train.script else { return };
    let fits = script.accelerate_config.is_none() || script.launcher == Launcher::Accelerate;
    let path = ["train", "script", "accelerate_config"];
    checks.require(fits, &path, "`accelerate_config` needs `launcher: accelerate`", "");
}

fn check_batches(checks: &mut Checks<'_>, spec: &RunSpec) {
    let train = &spec.train;
    checks.range(train.micro_batch >= 1, &["train", "micro_batch"], train.micro_batch, "1 sample or more");
    match train.global_batch {
        None if spec.data.is_some() => {
            let hint = "the samples of a step, whatever the number of workers: `global_batch: 64`";
            checks.report(&["train"], "the key `global_batch` is missing in `train`", hint);
        }
        None => {}
        Some(global) => {
            checks.range(global >= 1, &["train", "global_batch"], global, "1 sample or more");
            let micro = train.micro_batch;
            let message = format!("`micro_batch` {micro} is above `global_batch` {global}");
            let hint = "a micro batch is a part of the global batch";
            checks.require(micro <= global || global == 0, &["train", "micro_batch"], message, hint);
        }
    }
}

fn check_steps(checks: &mut Checks<'_>, train: &Train) {
    let Some(steps) = train.steps else {
        if train.script.is_none() {
            checks.report(
                &["train"],
                "the key `steps` is missing in `train`",
                "how many steps to train: `steps: 1000`",
            );
        }
        return;
    };
    checks.range(steps >= 1, &["train", "steps"], steps, "1 step or more");
    let Schedule::Cosine(cosine) = &train.schedule;
    let warmup = cosine.warmup_steps;
    let message = format!("`warmup_steps` {warmup} is above `steps` {steps}");
    let path = ["train", "schedule", "cosine", "warmup_steps"];
    checks.require(warmup <= steps, &path, message, "the learning rate would never reach its highest");
    let positions = steps.checked_mul(u64::from(train.global_batch.unwrap_or(1)));
    checks.require(positions.is_some(), &["train", "steps"], "`steps` × `global_batch` is above 2⁶⁴", "");
}

fn check_numbers(checks: &mut Checks<'_>, train: &Train) {
    let Schedule::Cosine(cosine) = &train.schedule;
    let ratio = cosine.final_lr_ratio;
    let path = ["train", "schedule", "cosine", "final_lr_ratio"];
    checks.range((0.0..=1.0).contains(&ratio), &path, ratio, "a share from 0 to 1");
    let Optimizer::AdamW(adamw) = &train.optimizer;
    let at = |key| ["train", "optimizer", "adamw", key];
    checks.range(adamw.lr > 0.0, &at("lr"), adamw.lr, "a number above 0");
    checks.range(adamw.eps > 0.0, &at("eps"), adamw.eps, "a number above 0");
    checks.range(adamw.weight_decay >= 0.0, &at("weight_decay"), adamw.weight_decay, "0 or more");
    for beta in adamw.betas {
        checks.range((0.0..1.0).contains(&beta), &at("betas"), beta, "0 or more and below 1");
    }
    let limit = train.anomalies.limit;
    checks.range(limit.steps >= 1, &["train", "anomalies", "limit", "steps"], limit.steps, "1 step or more");
    if let Some(spike) = &train.anomalies.loss_spike {
        let at = |key| ["train", "anomalies", "loss_spike", key];
        checks.range(spike.sigmas > 0.0, &at("sigmas"), spike.sigmas, "a number above 0");
        checks.range((8..=100_000).contains(&spike.window), &at("window"), spike.window, "8 to 100000 steps");
    }
    let norm = train.clip_grad_norm.unwrap_or(1.0);
    checks.range(norm > 0.0, &["train", "clip_grad_norm"], norm, "a number above 0, or `null`");
}

fn check_mesh(checks: &mut Checks<'_>, spec: &RunSpec, mesh: &Mesh) {
    let length = spec.data.as_ref().map(|data| data.sequence_length);
    let config = spec.model.as_ref().and_then(Model::shape);
    for fault in mesh::faults(mesh, spec.cluster.workers, length, config.as_ref()) {
        match fault.axis {
            Some(axis) => checks.report(&["train", "strategy", axis], fault.message, fault.hint),
            None => checks.report(&["train", "strategy"], fault.message, fault.hint),
        }
    }
}

/// `auto` is judged by what it becomes: what has no stages has no use for a schedule of theirs.
fn check_pipeline(checks: &mut Checks<'_>, spec: &RunSpec) {
    let train = &spec.train;
    let mesh = match train.strategy {
        Strategy::Named(NamedStrategy::Auto) => return,
        Strategy::Named(_) => Mesh::default(),
        // What is wrong with the mesh itself has been said.
        Strategy::Mesh(mesh) if mesh.size() == 0 => return,
        Strategy::Mesh(mesh) => mesh,
    };
    let flow = mesh::Flow {
        pipeline: train.pipeline,
        workers: spec.cluster.workers,
        global_batch: train.global_batch,
        micro_batch: train.micro_batch,
    };
    let config = spec.model.as_ref().and_then(Model::shape);
    if let Some(fault) = mesh::schedule_fault(&mesh, &flow, config.as_ref()) {
        checks.report(&["train", "pipeline"], fault.message, fault.hint);
    }
}
