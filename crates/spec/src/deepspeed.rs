//! `DeepSpeed`'s configuration under `zero1`, `zero2` and `zero3`: generated from the spec, with what
//! `train.deepspeed` says over it.

use serde_json::{Map, Value, json};

use crate::types::train::{Precision, Train};

/// What of `zero_optimization` may be said of the first two stages, beside `stage`: how parts are gathered and
/// reduced, and where they lie; never what is computed.
const PARTITION_KEYS: [&str; 8] = [
    "allgather_bucket_size",
    "contiguous_gradients",
    "offload_optimizer",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
    "round_robin_gradients",
    "use_multi_rank_bucket_allreduce",
];

/// The same of the third.
const ZERO3_KEYS: [&str; 18] = [
    "allgather_bucket_size",
    "allgather_partitions",
    "allgather_sequential",
    "contiguous_gradients",
    "module_granularity_threshold",
    "offload_optimizer",
    "offload_param",
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

/// What of an `offload_…` may be said. Other devices than host memory are not there.
const OFFLOAD_KEYS: [&str; 2] = ["device", "pin_memory"];

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
pub(crate) fn config(train: &Train, stage: u8) -> Map<String, Value> {
    let mut config = json!({
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": null,
        "zero_optimization": {"stage": stage},
        // Gradients are summed and kept in fp32, as everywhere.
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    });
    if train.precision == Precision::Bf16 {
        config["bf16"] = json!({"enabled": true});
    }
    let mut config = config.as_object().cloned().unwrap_or_default();
    merge(&mut config, train.deepspeed.as_ref());
    if config["zero_optimization"].get("offload_optimizer").is_some() {
        // torch's AdamW goes along: the one that DeepSpeed would have compiled has other digits.
        config.insert("zero_force_ds_cpu_optimizer".into(), false.into());
    }
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

/// What of `train.deepspeed` cannot be honoured at a stage of `ZeRO`.
pub(crate) fn faults(given: &Map<String, Value>, stage: u8) -> Vec<Fault> {
    let mut found = Vec::new();
    for (key, value) in given {
        if key == "zero_optimization" {
            let inner = value.as_object().cloned().unwrap_or_default();
            found.extend(inner.iter().filter_map(|(key, value)| zero_fault(key, value, stage)));
        } else if let Some((_, ours)) = OURS.iter().find(|(theirs, _)| theirs == key) {
            let message = format!("`{key}` is `{ours}` of the spec");
            found.push(Fault { path: vec![key.clone()], message, hint: format!("write it there: `{ours}`") });
        } else if !KEYS.contains(&key.as_str()) {
            found.push(unknown(vec![key.clone()], key, &KEYS));
        }
    }
    found
}

fn zero_fault(key: &str, value: &Value, stage: u8) -> Option<Fault> {
    let path = vec!["zero_optimization".to_owned(), key.to_owned()];
    if key == "stage" {
        let message = format!("`stage` is {value}, and `train.strategy` is `zero{stage}`");
        let hint = "leave it out: `train.strategy` says it, `zero1`, `zero2` or `zero3`".to_owned();
        return (value.as_u64() != Some(stage.into())).then_some(Fault { path, message, hint });
    }
    let known = if stage == 3 { ZERO3_KEYS.as_slice() } else { PARTITION_KEYS.as_slice() };
    if !known.contains(&key) {
        return Some(unknown(path, key, known));
    }
    if key.starts_with("offload_") { offload_fault(path, key, value) } else { None }
}

fn offload_fault(mut path: Vec<String>, key: &str, value: &Value) -> Option<Fault> {
    let hint = format!("write `{key}: {{device: cpu}}`, or leave it out");
    let Some(inner) = value.as_object() else {
        return Some(Fault { path, message: format!("`{key}` is {value}, no mapping"), hint });
    };
    if let Some(other) = inner.keys().find(|key| !OFFLOAD_KEYS.contains(&key.as_str())) {
        path.push(other.clone());
        return Some(unknown(path, other, &OFFLOAD_KEYS));
    }
    if inner.get("device").and_then(Value::as_str) == Some("cpu") {
        return None;
    }
    let message = match inner.get("device") {
        None => format!("the key `device` is missing in `{key}`"),
        Some(device) => format!("`{key}` to {device} is not available in this build"),
    };
    Some(Fault { path, message, hint })
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

    fn messages(given_there: &Value, stage: u8) -> Vec<String> {
        faults(&given(given_there), stage).into_iter().map(|fault| fault.message).collect()
    }

    #[test]
    fn what_changes_the_computation_is_refused() {
        let given = json!({
            "optimizer": {},
            "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "zero_quantized_weights": true},
            "zero_allow_untested_optimizer": true,
            "wall_clock_breakdown": true,
        });
        assert_eq!(
            messages(&given, 3),
            [
                "`optimizer` is `train.optimizer` of the spec",
                "`stage` is 2, and `train.strategy` is `zero3`",
                "`zero_quantized_weights` of DeepSpeed's configuration is not available in this build",
                "`zero_allow_untested_optimizer` of DeepSpeed's configuration is not available in this build",
            ]
        );
    }

    #[test]
    fn what_a_stage_would_not_hear_is_refused() {
        let parts =
            json!({"zero_optimization": {"stage3_max_live_parameters": 1, "round_robin_gradients": true}});
        let unheard =
            |key: &str| format!("`{key}` of DeepSpeed's configuration is not available in this build");
        assert_eq!(messages(&parts, 2), [unheard("stage3_max_live_parameters")]);
        assert_eq!(messages(&parts, 3), [unheard("round_robin_gradients")]);
    }

    #[test]
    fn what_is_offloaded_goes_to_host_memory() {
        let offloaded = |key: &str, value: Value| json!({"zero_optimization": {key: value}});
        let cpu = json!({"device": "cpu", "pin_memory": true});
        for stage in 1..=3 {
            assert!(messages(&offloaded("offload_optimizer", cpu.clone()), stage).is_empty());
        }
        assert!(messages(&offloaded("offload_param", cpu.clone()), 3).is_empty());
        assert_eq!(messages(&offloaded("offload_param", cpu), 2).len(), 1);
        let refused = |value: Value| messages(&offloaded("offload_optimizer", value), 3).remove(0);
        assert_eq!(
            refused(json!({"device": "nvme"})),
            "`offload_optimizer` to \"nvme\" is not available in this build"
        );
        assert_eq!(refused(json!({})), "the key `device` is missing in `offload_optimizer`");
        assert_eq!(refused(json!("cpu")), "`offload_optimizer` is \"cpu\", no mapping");
        let ratio = json!({"device": "cpu", "ratio": 0.5});
        assert_eq!(refused(ratio), "`ratio` of DeepSpeed's configuration is not available in this build");
    }
}
