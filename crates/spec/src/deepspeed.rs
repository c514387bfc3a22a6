//! `DeepSpeed`'s configuration under `zero3`: generated from the spec, with what `train.deepspeed` says over it.

use serde_json::{Map, Value, json};

use crate::types::train::{Precision, Train};

/// What of `zero_optimization` may be said, beside `stage`: how parts are gathered and reduced, never what is computed.
const ZERO_KEYS: [&str; 16] = [
    "allgather_bucket_size",
    "allgather_partitions",
    "allgather_sequential",
    "contiguous_gradients",
    "module_granularity_threshold",
    "overlap_comm",
    "prefetch_bucket_size",
    "reduce_bucket_size",
    "reduce_scatter",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
    "sub_group_size",
];

/// What else may be said.
const KEYS: [&str; 4] =
    ["comms_logger", "communication_data_type", "memory_breakdown", "wall_clock_breakdown"];

/// What the spec has a key of its own for.
const OURS: [(&str, &str); 12] = [
    ("activation_checkpointing", "train.recompute"),
    ("amp", "train.precision"),
    ("bf16", "train.precision"),
    ("checkpoint", "checkpoint"),
    ("fp16", "train.precision"),
    ("gradient_accumulation_steps", "train.global_batch"),
    ("gradient_clipping", "train.clip_grad_norm"),
    ("optimizer", "train.optimizer"),
    ("scheduler", "train.schedule"),
    ("torch_autocast", "train.precision"),
    ("train_batch_size", "train.global_batch"),
    ("train_micro_batch_size_per_gpu", "train.micro_batch"),
];

/// The whole configuration. Batches, clipping and rates are the loop's, so that a step is what it is elsewhere.
pub(crate) fn config(train: &Train) -> Map<String, Value> {
    let mut config = json!({
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": null,
        "zero_optimization": {"stage": 3},
        // Gradients are summed and kept in fp32, as everywhere.
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    });
    if train.precision == Precision::Bf16 {
        config["bf16"] = json!({"enabled": true});
    }
    let mut config = config.as_object().cloned().unwrap_or_default();
    merge(&mut config, train.deepspeed.as_ref());
    config
}

fn merge(into: &mut Map<String, Value>, from: Option<&Map<String, Value>>) {
    for (key, value) in from.into_iter().flatten() {
        match (into.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(more)) => merge(inner, Some(more)),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A key of `train.deepspeed` that cannot be honoured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it stands below `train.deepspeed`.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// What of `train.deepspeed` cannot be honoured.
pub(crate) fn faults(given: &Map<String, Value>) -> Vec<Fault> {
    let mut found = Vec::new();
    for (key, value) in given {
        if key == "zero_optimization" {
            let inner = value.as_object().cloned().unwrap_or_default();
            found.extend(inner.iter().filter_map(|(key, value)| zero_fault(key, value)));
        } else if let Some((_, ours)) = OURS.iter().find(|(theirs, _)| theirs == key) {
            let message = format!("`{key}` is `{ours}` of the spec");
            found.push(Fault { path: vec![key.clone()], message, hint: format!("write it there: `{ours}`") });
        } else if !KEYS.contains(&key.as_str()) {
            found.push(unknown(vec![key.clone()], key, &KEYS));
        }
    }
    found
}

fn zero_fault(key: &str, value: &Value) -> Option<Fault> {
    let path = vec!["zero_optimization".to_owned(), key.to_owned()];
    if key == "stage" {
        let message = format!("`stage` is {value}, and `train.strategy` is `zero3`");
        let hint = "ZeRO-1 and ZeRO-2 are not available in this build".to_owned();
        return (value.as_u64() != Some(3)).then_some(Fault { path, message, hint });
    }
    (!ZERO_KEYS.contains(&key)).then(|| unknown(path, key, &ZERO_KEYS))
}

fn unknown(path: Vec<String>, key: &str, known: &[&str]) -> Fault {
    let message = format!("`{key}` of DeepSpeed's configuration is not available in this build");
    Fault { path, message, hint: format!("what may be said is `{}`", known.join("`, `")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn what_is_said_stands_over_what_is_generated() {
        let mut into = given(&json!({"a": {"b": 1, "c": 2}, "d": 3}));
        merge(&mut into, Some(&given(&json!({"a": {"b": 9}, "e": {"f": 4}}))));
        assert_eq!(Value::from(into), json!({"a": {"b": 9, "c": 2}, "d": 3, "e": {"f": 4}}));
    }

    #[test]
    fn what_changes_the_computation_is_refused() {
        let faults = faults(&given(&json!({
            "optimizer": {},
            "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "cpu"}},
            "zero_allow_untested_optimizer": true,
            "wall_clock_breakdown": true,
        })));
        let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "`optimizer` is `train.optimizer` of the spec",
                "`stage` is 2, and `train.strategy` is `zero3`",
                "`offload_optimizer` of DeepSpeed's configuration is not available in this build",
                "`zero_allow_untested_optimizer` of DeepSpeed's configuration is not available in this build",
            ]
        );
    }
}
