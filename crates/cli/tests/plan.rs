//! `eagleray plan` and what `auto` says, as a user meets them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use common::shown;
use serde_json::Value;

mod common;

fn json(arguments: &[&str]) -> Value {
    let output = Command::new(cargo_bin("eagleray")).args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A spec for EKS whose strategy is `auto`; `changes` replace parts of it.
fn spec(changes: &[(&str, &str)]) -> tempfile::TempDir {
    let mut text = "\
version: 1
name: eight
store: s3://acme/runs/eight
data:
  tokenizer: tokenizer.json
  sequence_length: 4096
  sources: {web: {tokens: s3://acme/tokens/web}}
model: {preset: llama-8b}
train: {global_batch: 256, steps: 1000}
cluster:
  workers: 16
  eks:
    namespace: training
    image: acme/eagleray:1
    groups: [{name: a, instance: p5.48xlarge, nodes: 2}]
"
    .to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.yaml"), text).unwrap();
    folder
}

#[test]
fn presets_are_shown_on_the_usual_accelerators() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["plan", "--memory", "--model", "7b", "--model", "13b", "--model", "70b"];
    insta::assert_snapshot!("plan_presets", shown(folder.path(), &arguments));
}

#[test]
fn a_spec_is_shown_on_its_own_accelerators_with_the_reason_of_auto() {
    let folder = spec(&[]);
    insta::assert_snapshot!("plan_spec", shown(folder.path(), &["plan", "--memory", "run.yaml"]));
    insta::assert_snapshot!("check_auto", shown(folder.path(), &["check", "run.yaml"]));
}

#[test]
fn an_elastic_mesh_is_shown_at_both_ends() {
    let folder = spec(&[
        ("workers: 16", "workers: {min: 16, max: 32}"),
        ("steps: 1000", "steps: 1000, strategy: {pp: 2, dp_shard: 2, tp: 4}"),
    ]);
    insta::assert_snapshot!("plan_mesh", shown(folder.path(), &["plan", "--memory", "run.yaml"]));
}

#[test]
fn state_on_the_host_is_shown_apart() {
    let folder = spec(&[("steps: 1000", "steps: 1000, offload: cpu")]);
    insta::assert_snapshot!("plan_offload", shown(folder.path(), &["plan", "--memory", "run.yaml"]));
}

#[test]
fn a_spec_without_accelerators_is_shown_on_the_usual_ones() {
    let folder = spec(&[("p5.48xlarge", "m7i.8xlarge")]);
    insta::assert_snapshot!("plan_cpu", shown(folder.path(), &["plan", "--memory", "run.yaml"]));
}

#[test]
fn a_hugging_face_folder_is_what_its_config_says() {
    let config = r#"{"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}"#;
    let folder = spec(&[("preset: llama-8b", "huggingface: qwen")]);
    let path = folder.path().join("run.yaml");
    let path = path.to_str().unwrap();
    // Where the folder is not there the rule stands; memory cannot be told.
    assert_eq!(json(&["check", path, "--format", "json"])["auto"], Value::Null);
    let refused = shown(folder.path(), &["plan", "--memory", "run.yaml"]);
    assert!(refused.contains("config.json` is not there"), "{refused}");
    std::fs::create_dir(folder.path().join("qwen")).unwrap();
    std::fs::write(folder.path().join("qwen/config.json"), config).unwrap();
    let table = &json(&["plan", "--memory", path, "--format", "json"])["memory"][0];
    // Qwen3-8B, as published.
    assert_eq!(table["parameters"], 8_190_735_360_u64);
    let auto = &table["auto"];
    assert_eq!(
        (&auto["chosen"]["strategy"], &auto["rejected"][0]["strategy"]),
        (&"fsdp2".into(), &"ddp".into())
    );
    let gpt2 = r#"{"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
        "n_positions": 4096, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}"#;
    std::fs::write(folder.path().join("qwen/config.json"), gpt2).unwrap();
    let refused = shown(folder.path(), &["plan", "--memory", "run.yaml", "--set", "train.strategy={tp: 2}"]);
    assert!(refused.contains("has no plan of its parts"), "{refused}");
}

#[test]
fn auto_that_finds_nothing_is_refused_at_its_place() {
    let folder = spec(&[("llama-8b", "llama-70b"), ("p5.48xlarge", "g5.48xlarge")]);
    insta::assert_snapshot!("auto_refused", shown(folder.path(), &["check", "run.yaml"]));
}

#[test]
fn impossible_meshes_are_refused_with_the_nearest_legal_ones() {
    let folder = spec(&[("steps: 1000", "steps: 1000, strategy: {pp: 40, dp_shard: 3, tp: 3}")]);
    insta::assert_snapshot!("mesh_refused", shown(folder.path(), &["check", "run.yaml"]));
}

#[test]
fn a_preset_s_mesh_is_shown_or_refused_like_a_spec_s() {
    let folder = tempfile::tempdir().unwrap();
    let with = |strategy: &str, workers: &str| {
        let preset = ["plan", "--memory", "--model", "70b", "--accelerator", "H100"];
        shown(folder.path(), &[&preset[..], &["--strategy", strategy, "--workers", workers]].concat())
    };
    insta::assert_snapshot!("plan_preset_mesh", with("{pp: 4, dp_shard: 4, tp: 8}", "128"));
    insta::assert_snapshot!("plan_preset_refused", with("{dp_shard: 3, tp: 8}", "64"));
    assert!(with("fsdp", "8").contains("is not a strategy"));
    assert!(with("auto", "8").starts_with("exit 1"));
}

#[test]
fn what_plan_does_not_know_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [["--model", "9b"], ["--accelerator", "H900"]] {
        let all = [["plan", "--memory"], ["--model", "8b"], arguments].concat();
        let shown = shown(folder.path(), &all);
        assert!(shown.starts_with("exit 1") && shown.contains("known are `"), "{shown}");
    }
}

#[test]
fn what_belongs_to_presets_is_refused_beside_a_spec() {
    let folder = spec(&[]);
    for option in ["--workers=4", "--micro-batch=2", "--vocab-size=7", "--sequence-length=9", "--model=8b"] {
        let shown = shown(folder.path(), &["plan", "--memory", "run.yaml", option]);
        assert!(shown.contains("cannot be used with"), "{shown}");
    }
}

#[test]
fn the_json_of_a_row_sums_up() {
    let table = &json(&["plan", "--memory", "--model", "8b", "--format", "json"])["memory"][0];
    assert_eq!(table["parameters"], 8_030_261_248_u64);
    assert_eq!(table["accelerators"].as_array().unwrap().len(), 8);
    for row in table["rows"].as_array().unwrap() {
        let peak = &row["memory"]["peak"];
        let sum: u64 = peak["terms"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(peak["bytes"], sum);
    }
}

/// A spec on two kinds of capacity, elastic.
fn elastic() -> tempfile::TempDir {
    spec(&[
        ("workers: 16", "workers: {min: 16, max: 48}"),
        (
            "[{name: a, instance: p5.48xlarge, nodes: 2}]",
            "[{name: a, instance: p5.48xlarge, zone: us-east-1a, nodes: 2}, {name: s, instance: p5.48xlarge, capacity: spot, zone: us-east-1a, nodes: {min: 0, max: 4}}]",
        ),
    ])
}

#[test]
fn a_run_is_told_with_time_and_cost() {
    let folder = elastic();
    insta::assert_snapshot!("plan_run", shown(folder.path(), &["plan", "run.yaml", "--as-of", "2026-08-01"]));
    let explained = ["plan", "run.yaml", "--as-of", "2026-08-01", "--explain"];
    insta::assert_snapshot!("plan_explained", shown(folder.path(), &explained));
}

#[test]
fn a_run_without_a_cluster_has_no_price_and_says_what_is_not_known() {
    let folder = spec(&[]);
    let path = folder.path().join("run.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.split("  eks:").next().unwrap()).unwrap();
    insta::assert_snapshot!(
        "plan_local",
        shown(folder.path(), &["plan", "run.yaml", "--as-of", "2026-08-01"])
    );
    let asked = ["plan", "run.yaml", "--as-of", "2026-08-01", "--accelerator", "A100-80", "--mfu", "0.5"];
    let shown = shown(folder.path(), &asked);
    assert!(
        shown.contains("312.0 TFLOP/s") && !shown.contains("price per hour") && !shown.contains("not known"),
        "{shown}"
    );
}

#[test]
fn prices_of_one_s_own_are_laid_over_and_bad_ones_refused() {
    let folder = elastic();
    let all = shown(folder.path(), &["plan", "--show-prices"]);
    let table = all.split("--- stdout\n").nth(1).unwrap().split("--- stderr").next().unwrap();
    let changed =
        table.replace("on_demand: 55.04", "on_demand: 10").replace("date: 2026-07-20", "date: 2026-11-20");
    std::fs::write(folder.path().join("prices.yaml"), changed).unwrap();
    let with = |options: &[&str]| {
        let arguments = ["plan", "run.yaml", "--as-of", "2026-11-29"];
        shown(folder.path(), &[&arguments[..], options].concat())
    };
    assert!(with(&["--prices", "prices.yaml"]).contains("$10.00/h"));
    assert!(with(&[]).contains("132 days old"));
    let refused: Vec<String> = [
        &["--prices", "none.yaml"][..],
        &["--mfu", "40"],
        &["--mfu", "0.5..0.4"],
        &["--spot-mtbf", "0h"],
        &["--recovery", "soon"],
        &["--store-gbps", "0"],
        &["--accelerator", "B200"],
        &["--prices", "run.yaml"],
    ]
    .into_iter()
    .map(with)
    .collect();
    let day = shown(folder.path(), &["plan", "run.yaml", "--as-of", "yesterday"]);
    assert!(day.contains("`yesterday` is not a day"), "{day}");
    insta::assert_snapshot!("plan_refused", refused.join("\n"));
}

#[test]
fn every_number_of_the_json_has_its_formula_and_source() {
    let folder = elastic();
    let path = folder.path().join("run.yaml");
    let found = json(&["plan", path.to_str().unwrap(), "--as-of", "2026-08-01", "--format", "json"]);
    let sections = found["plan"]["sections"].as_array().unwrap();
    let figures: Vec<&Value> =
        sections.iter().flat_map(|section| section["figures"].as_array().unwrap()).collect();
    assert!(figures.len() > 30 && figures.iter().any(|figure| figure["key"] == "cost"));
    for figure in figures {
        assert!(figure["low"].is_number() && figure["high"].is_number(), "{figure}");
        for key in ["formula", "source", "unit", "label"] {
            assert!(figure[key].as_str().is_some_and(|text| !text.is_empty()), "{figure}");
        }
    }
}

#[test]
fn the_spec_of_the_page_is_told_whole() {
    let text = include_str!("../../../docs/plan.md");
    let folder = tempfile::tempdir().unwrap();
    let block = text.split("\n```yaml\n").nth(1).unwrap().split("\n```").next().unwrap();
    std::fs::write(folder.path().join("run.yaml"), block).unwrap();
    let shown = shown(folder.path(), &["plan", "run.yaml"]);
    assert!(shown.starts_with("exit 0") && shown.contains("cost") && !shown.contains("not known"), "{shown}");
}

#[test]
fn every_spec_in_the_documents_fits_its_accelerators() {
    let text = include_str!("../../../docs/run-spec.md");
    let folder = tempfile::tempdir().unwrap();
    for block in text.split("\n```yaml\n").skip(1) {
        std::fs::write(folder.path().join("run.yaml"), block.split("\n```").next().unwrap()).unwrap();
        let shown = shown(folder.path(), &["check", "run.yaml"]);
        assert!(shown.starts_with("exit 0"), "{shown}");
    }
}
