//! The texts of what is wrong with a spec.

use std::path::Path;

use eagleray_spec::{Source, resolve};

const GOOD: &str = "\
version: 1
name: small
store: runs/small
data:
  tokenizer: tokenizer.json
  sequence_length: 256
  sources:
    web: {documents: corpus/*.jsonl, weight: 0.75}
    code: {documents: code/*.txt, weight: 0.25}
model: {preset: llama-tiny}
train:
  global_batch: 16
  steps: 100
checkpoint:
  every: 10m
";

fn shown(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let environment = |_: &str| None;
    let base = Path::new("/srv");
    let source = Source { name: "run.yaml", text, base, overrides: &overrides, environment: &environment };
    match resolve(&source) {
        Ok(_) => "accepted".into(),
        Err(problems) => problems.into_error().render(),
    }
}

/// The problems of the good spec with one piece of its text replaced.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    shown(&GOOD.replace(from, to), &[])
}

#[test]
fn the_spec_of_these_tests_is_accepted() {
    assert_eq!(shown(GOOD, &[]), "accepted");
}

macro_rules! snapshots {
    ($($name:ident: $shown:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!($shown);
        }
    )*};
}

snapshots! {
    adapters_without_weights_to_stand_beside: with("{preset: llama-tiny}", "{preset: llama-tiny, lora: {rank: 0}}");
    targets_that_are_no_list: with("{preset: llama-tiny}", "{huggingface: smollm, lora: {targets: q_proj}}");
    a_target_without_a_name: with("{preset: llama-tiny}", "{huggingface: smollm, lora: {targets: []}}");
    a_misspelt_key_is_shown_with_what_was_meant: with("sequence_length", "sequence_lenght");
    an_unknown_key_far_from_all_lists_the_keys: with("  steps: 100", "  steps: 100\n  colour: red");
    a_wrong_type_says_what_it_expected: with("steps: 100", "steps: many");
    a_negative_number_is_no_count: with("steps: 100", "steps: -5");
    a_mapping_where_text_belongs: with("tokenizer: tokenizer.json", "tokenizer: {path: x}");
    text_where_a_mapping_belongs: with("model: {preset: llama-tiny}", "model: llama-tiny");
    a_bad_unit_names_the_good_ones: with("every: 10m", "every: 10 fortnights");
    a_number_without_unit_is_no_interval: with("every: 10m", "every: 10");
    weights_that_sum_to_nothing: shown(&GOOD.replace("0.75", "0").replace("0.25", "0.0"), &[]);
    a_negative_weight: with("0.75", "-1");
    a_weight_that_is_not_a_number: with("0.75", ".nan");
    a_missing_key_is_pointed_at_its_owner: with("  tokenizer: tokenizer.json\n", "");
    every_missing_key_is_named: shown("name: x\ndata:\n  sequence_length: lots\n  surces: {}\nmodel:\n  config: {num_heads: 3}\n", &[]);
    names_of_a_cluster_that_are_none: with("checkpoint:",
        "cluster: {eks: {namespace: a, image: b, groups: [{name: g, instance: p5, nodes: 1}], queue: A_b, \
         priority: High, kuberay: 1.5, service_account: {name: S, role: admin}, \
         karpenter: {role: 'arn:aws:iam::1:role/n', discovery: '', ami: al2023@latest, reservations: [r-1]}}}\ncheckpoint:");
    the_version_of_kuberay_needs_no_quotes: with("checkpoint:",
        "cluster: {eks: {namespace: a, image: b, groups: [{name: g, instance: p5, nodes: 1}], kuberay: 1.6}}\ncheckpoint:");
    a_missing_list_is_named: with("checkpoint:", "cluster: {eks: {namespace: a, image: b}}\ncheckpoint:");
    a_source_of_two_kinds: with("{documents: code/*.txt,", "{documents: code/*.txt, tokens: built/x,");
    a_source_of_no_kind: with("{documents: code/*.txt,", "{");
    a_name_that_is_no_dns_label: with("name: small", "name: Small_Run");
    another_version: with("version: 1", "version: 2");
    a_preset_that_does_not_exist: with("llama-tiny", "lama-tiny");
    a_micro_batch_above_the_global_batch: with("global_batch: 16", "global_batch: 16\n  micro_batch: 32");
    warm_up_longer_than_the_run: with("steps: 100", "steps: 100\n  schedule: {cosine: {warmup_steps: 200}}");
    an_unknown_strategy: with("steps: 100", "steps: 100\n  strategy: fsdp");
    a_mesh_that_does_not_fit_the_workers: with("steps: 100", "steps: 100\n  strategy: {dp_shard: 2, tp: 3}");
    an_unknown_axis_of_a_mesh: with("steps: 100", "steps: 100\n  strategy: {dp_shards: 2}");
    heads_that_do_not_divide: with("{preset: llama-tiny}",
        "{config: {hidden_size: 100, intermediate_size: 200, num_layers: 2, num_heads: 6, num_kv_heads: 4}}");
    a_key_given_twice: with("name: small", "name: small\nname: large");
    text_that_is_not_yaml: with("model: {preset: llama-tiny}", "model: {preset: llama-tiny");
    a_tab_as_indent: with("  steps: 100", "\tsteps: 100");
    an_empty_spec: shown("# nothing\n", &[]);
    a_list_instead_of_a_spec: shown("- a\n- b\n", &[]);
    an_environment_variable_that_is_not_set: with("store: runs/small", "store: ${RUNS}/small");
    a_store_of_an_unknown_scheme: with("store: runs/small", "store: gs://bucket/small");
    an_s3_store_with_credentials_is_not_repeated: with("store: runs/small", "store: s3://key:secret@bucket/small");
    workers_upside_down: with("checkpoint:", "cluster: {workers: {min: 4, max: 2}}\ncheckpoint:");
    a_secret_in_plain_sight: with("checkpoint:",
        "cluster: {eks: {namespace: a, image: b, groups: [{name: g, instance: p5, nodes: 1}], env: {WANDB_API_KEY: x}}}\ncheckpoint:");
    a_tracking_uri_with_credentials_is_not_repeated: with("checkpoint:",
        "metrics: {mlflow: {tracking_uri: 'https://me:secret@mlflow.acme.example'}}\ncheckpoint:");
    a_host_for_prometheus_that_is_no_address: with("checkpoint:", "metrics: {prometheus: {host: localhost}}\ncheckpoint:");
    a_sink_that_does_not_exist: with("checkpoint:", "metrics: {wandbb: {}}\ncheckpoint:");
    a_port_that_does_not_exist: with("checkpoint:", "metrics: {prometheus: {port: 99999}}\ncheckpoint:");
    several_problems_at_once: shown(&GOOD.replace("seq", "sec").replace("0.75", "lots").replace("every: 10m", "evry: 10m")
        .replace("llama-tiny", "nothing-like-it"), &["train.steps=0"]);
    an_override_without_a_value: shown(GOOD, &["train.steps"]);
    an_override_of_an_unknown_key: shown(GOOD, &["train.stepz=5"]);
    an_override_below_a_scalar: shown(GOOD, &["train.steps.number=5"]);
}
