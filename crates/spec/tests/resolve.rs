//! The whole way from text to a resolved run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use eagleray_spec::{Problems, Purpose, Resolved, Source, resolve};
use serde_json::{Value, json};

const EVERYTHING: &str = include_str!("data/everything.yaml");

const SMALL: &str = "\
version: 1
name: small
store: runs/small
data:
  tokenizer: tokenizer.json
  sequence_length: 256
  sources:
    web: {documents: corpus/*.jsonl, weight: 0.75}
    code: {documents: [code/a.txt, ../b.txt], weight: 0.25}
  validation:
    web: {documents: held-out.jsonl, every_steps: 50}
model: {preset: llama-tiny}
train: {global_batch: 16, micro_batch: 4, steps: 100}
";

fn run(text: &str, overrides: &[&str]) -> Result<Resolved, Problems> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let environment = |name: &str| (name == "RUNS").then(|| "s3://bucket/runs".to_owned());
    resolve(&Source {
        name: "run.yaml",
        text,
        base: Path::new("/srv/project"),
        overrides: &overrides,
        environment: &environment,
    })
}

fn spec(text: &str, overrides: &[&str]) -> Value {
    let resolved =
        run(text, overrides).unwrap_or_else(|problems| panic!("{}", problems.into_error().render()));
    serde_json::from_str::<Value>(&resolved.to_json()).unwrap()["spec"].take()
}

#[test]
fn the_design_s_own_example_is_accepted_whole() {
    let spec = spec(EVERYTHING, &[]);
    assert_eq!(spec["train"]["steps"], 100_000);
    assert_eq!(spec["train"]["strategy"], json!({"kind": "fsdp2"}));
    assert_eq!(spec["cluster"]["eks"]["groups"][1]["nodes"], json!({"min": 0, "max": 8}));
    assert_eq!(
        spec["data"]["sources"]["code"],
        json!({"kind": "tokens", "tokens": "s3://acme-tokens/code-v3", "weight": 0.4})
    );
}

#[test]
fn defaults_are_filled_and_paths_are_absolute() {
    insta::assert_json_snapshot!(spec(SMALL, &[]));
}

#[test]
fn an_override_counts_as_if_it_were_written() {
    let overrides =
        ["train.steps=7", "checkpoint.every=2m", "cluster.workers={min: 1, max: 2}", "store=${RUNS}/x"];
    let spec = spec(SMALL, &overrides);
    assert_eq!(spec["train"]["steps"], 7);
    assert_eq!(spec["checkpoint"]["every"], json!({"kind": "seconds", "seconds": 120.0}));
    assert_eq!(spec["cluster"]["workers"], json!({"min": 1, "max": 2}));
    assert_eq!(spec["store"], "s3://bucket/runs/x");
}

#[test]
fn the_document_for_people_holds_the_overrides_and_reads_the_same() {
    let resolved = run(SMALL, &["train.steps=7"]).unwrap();
    assert_eq!(run(SMALL, &[]).unwrap().document, SMALL);
    let again = run(&resolved.document, &[]).unwrap();
    assert_eq!(again.spec_hash, resolved.spec_hash);
    let awkward = [
        "seed=1",
        "data.shuffle_key='0x10'",
        "data.sources.web-ko.filters=[{replace: {pattern: \"\\\\s+: #\\t\", with: ' '}}]",
        "train.script={path: a.py, args: [--lr, '3e-4', 'null', 'true', '', '- x', '007']}",
        "train.optimizer.adamw.eps=1.5e-9",
        "train.clip_grad_norm=null",
    ];
    let resolved = run(EVERYTHING, &awkward).unwrap();
    let again =
        run(&resolved.document, &[]).unwrap_or_else(|problems| panic!("{}", problems.into_error().render()));
    assert_eq!(again.spec_hash, resolved.spec_hash, "{}", resolved.document);
}

#[test]
fn the_resolved_file_reads_back_and_another_version_is_refused() {
    let resolved = run(EVERYTHING, &[]).unwrap();
    let again = Resolved::from_json(&resolved.to_json()).unwrap();
    assert_eq!(again.to_json(), resolved.to_json());
    let other = resolved.to_json().replace("\"format_version\": 1", "\"format_version\": 2");
    assert!(Resolved::from_json(&other).unwrap_err().message().contains("version 1, found 2"));
}

#[test]
fn hashes_name_what_they_are_of() {
    let base = run(SMALL, &[]).unwrap();
    let steps = run(SMALL, &["train.steps=200"]).unwrap();
    assert_ne!(base.spec_hash, steps.spec_hash);
    assert_eq!((base.order_hash, base.model_hash), (steps.order_hash, steps.model_hash));
    let seed = run(SMALL, &["seed=1"]).unwrap();
    assert_ne!(base.order_hash, seed.order_hash);
    let moved = run(SMALL, &["data.sources.web.documents=/elsewhere/*.jsonl"]).unwrap();
    assert_eq!(base.order_hash, moved.order_hash);
    let model = run(SMALL, &["model.preset=llama-125m"]).unwrap();
    assert_ne!(base.model_hash, model.model_hash);
}

#[test]
fn an_end_of_document_is_kept_and_its_absence_leaves_no_trace() {
    let absent = run(SMALL, &[]).unwrap();
    assert!(!absent.to_json().contains("end_of_document"));
    let named = run(SMALL, &["data.end_of_document='<|im_end|>'"]).unwrap();
    assert_eq!(spec(SMALL, &["data.end_of_document='<|im_end|>'"])["data"]["end_of_document"], "<|im_end|>");
    assert_eq!(Resolved::from_json(&named.to_json()).unwrap().to_json(), named.to_json());
    let differences = named.differences(&absent);
    assert_eq!(differences[0].show(), "`data.end_of_document` was null, is \"<|im_end|>\"");
    let error = run(SMALL, &["data.end_of_document=''"]).unwrap_err().into_error().render();
    assert!(error.contains("the token that ends a document is empty"), "{error}");
}

#[test]
fn what_a_resume_may_not_change_is_named_with_both_values() {
    let old = run(SMALL, &[]).unwrap();
    assert!(run(SMALL, &["train.steps=9", "train.precision=fp32"]).unwrap().differences(&old).is_empty());
    let overrides = [
        "seed=3",
        "train.global_batch=32",
        "data.sources.web.weight=1",
        "model={config: {hidden_size: 64, intermediate_size: 128, num_layers: 2, num_heads: 2}}",
    ];
    let shown: Vec<String> = run(SMALL, &overrides)
        .unwrap()
        .differences(&old)
        .iter()
        .map(eagleray_spec::Difference::show)
        .collect();
    assert_eq!(
        shown[..3],
        [
            "`seed` was 0, is 3",
            "`train.global_batch` was 16, is 32",
            "`data.sources.web.weight` was 0.75, is 1.0",
        ]
    );
    assert!(shown.contains(&"`model.config.hidden_size` was 192, is 64".to_owned()), "{shown:?}");
}

#[test]
fn deepspeed_s_configuration_is_generated_for_the_stages_of_zero_alone() {
    let generated = |overrides: &[&str]| run(SMALL, overrides).unwrap().spec.train.deepspeed;
    assert_eq!(generated(&[]), None);
    let plain = generated(&["train.strategy=zero3"]).unwrap();
    assert_eq!(
        (&plain["zero_optimization"], &plain["bf16"]),
        (&json!({"stage": 3}), &json!({"enabled": true}))
    );
    let more =
        "train.deepspeed={zero_optimization: {reduce_bucket_size: 1000000}, wall_clock_breakdown: true}";
    let with_more = generated(&["train.strategy=zero3", more, "train.precision=fp32"]).unwrap();
    assert_eq!(with_more["zero_optimization"], json!({"stage": 3, "reduce_bucket_size": 1_000_000}));
    assert_eq!((with_more.get("bf16"), &with_more["wall_clock_breakdown"]), (None, &json!(true)));
    let refused = run(SMALL, &[more]).unwrap_err().into_error().render();
    assert!(
        refused.contains("`deepspeed` has no effect without `strategy: zero1`, `zero2` or `zero3`"),
        "{refused}"
    );
    assert_eq!(generated(&["train.strategy=zero1"]).unwrap()["zero_optimization"], json!({"stage": 1}));
    let offload = "train.deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}";
    let offloaded = generated(&["train.strategy=zero2", offload]).unwrap();
    assert_eq!(offloaded["zero_force_ds_cpu_optimizer"], json!(false));
    let foreign = "train.deepspeed={optimizer: {type: Adam}}";
    let refused = run(SMALL, &["train.strategy=zero3", foreign]).unwrap_err().into_error().render();
    assert!(refused.contains("`optimizer` is `train.optimizer` of the spec"), "{refused}");
}

#[test]
fn what_this_build_lacks_is_refused_by_name() {
    run(SMALL, &[]).unwrap().refuse_unavailable(Purpose::Train).unwrap();
    let foreign = run(SMALL, &["data.sources.web={tokens: megatron/text_document.bin}"]).unwrap();
    let error = foreign.refuse_unavailable(Purpose::Train).unwrap_err();
    assert!(error.message().starts_with("`data.sources.web.tokens` in another program's format"), "{error}");
    for mesh in ["{cp: 2}", "{dp_replicate: 2, cp: 2}", "{dp_shard: 2, cp: 2, tp: 2}"] {
        let cp = run(SMALL, &[&format!("train.strategy={mesh}"), "cluster.workers=8"]).unwrap();
        cp.refuse_unavailable(Purpose::Train).unwrap();
    }
    let overrides = [
        "train.strategy={cp: 2}",
        "cluster.workers=2",
        "data.packing=best_fit",
        "data.order=era",
        "data.sources.web={ray_data: corpus:load}",
        "data.sources.code.filters=[{length: {min_chars: 5}}]",
        "data.validation.web.documents=x.parquet",
        "model={huggingface: smollm}",
        "train.function=mine:main",
    ];
    let error = run(SMALL, &overrides).unwrap().refuse_unavailable(Purpose::Train).unwrap_err();
    insta::assert_snapshot!(error.render());
}

#[test]
fn what_cannot_be_compiled_or_lie_on_the_host_is_refused_by_name() {
    let refused = |overrides: &[&str]| {
        let resolved = run(SMALL, overrides).unwrap();
        resolved
            .refuse_unavailable(Purpose::Train)
            .map_or_else(|error| error.message().to_owned(), |()| String::new())
    };
    let compiled = |more: &[&str]| refused(&[&["train.compile=true"][..], more].concat());
    assert_eq!(compiled(&["train.strategy=fsdp2", "train.recompute=full"]), "");
    assert_eq!(compiled(&["model={huggingface: smollm}"]), "");
    for (more, what) in [
        (["train.recompute=selective"].as_slice(), "`train.compile` with `train.recompute: selective`"),
        (&["train.strategy=zero3"], "`train.compile` with `train.strategy: zero3`"),
        (&["train.strategy={tp: 2}", "cluster.workers=2"], "`train.compile` with `tp` in `train.strategy`"),
        (&["train.strategy={cp: 2}", "cluster.workers=2"], "`train.compile` with `cp` in `train.strategy`"),
        (&["train.function=mine:main"], "`train.compile` with `train.function`"),
    ] {
        assert!(compiled(more).contains(what), "{more:?}: {}", compiled(more));
    }
    assert_eq!(refused(&["train.strategy=fsdp2", "train.offload=cpu"]), "");
    let own = refused(&["train.strategy=fsdp2", "train.offload=cpu", "train.function=mine:main"]);
    assert!(own.contains("`train.offload: cpu` with `train.function`"), "{own}");
    // What shards nothing is wrong in itself; `auto` takes what shards.
    let whole = run(SMALL, &["train.strategy=ddp", "train.offload=cpu"]).unwrap_err().into_error().render();
    assert!(whole.contains("nearest `strategy: fsdp2`"), "{whole}");
    assert_eq!(spec(SMALL, &["train.offload=cpu"])["train"]["strategy"], json!({"kind": "fsdp2"}));
}

#[test]
fn what_was_there_before_keeps_its_hash_without_the_new_keys() {
    let train = spec(SMALL, &[])["train"].clone();
    assert_eq!((&train["compile"], &train["offload"]), (&json!(null), &json!(null)));
    let train =
        spec(SMALL, &["train.strategy=fsdp2", "train.compile=true", "train.offload=cpu"])["train"].clone();
    assert_eq!((&train["compile"], &train["offload"]), (&json!(true), &json!("cpu")));
}

#[test]
fn a_schedule_that_does_not_fit_is_refused_at_its_place() {
    let interleaved = ["train.strategy={pp: 2}", "cluster.workers=2", "train.pipeline=interleaved"];
    let shown =
        |more: &[&str]| run(SMALL, &[&interleaved[..], more].concat()).unwrap_err().into_error().render();
    let uneven = shown(&["train.global_batch=5", "train.micro_batch=1"]);
    assert!(uneven.contains("5 micro batches of a step evenly to 2 rounds"), "{uneven}");
    assert!(uneven.contains("train.pipeline"), "{uneven}");
    let none =
        run(SMALL, &["train.strategy=ddp", "train.pipeline=interleaved"]).unwrap_err().into_error().render();
    assert!(none.contains("`pipeline: interleaved` without pipeline stages"), "{none}");
}

const ADAPTED: &str = "model={huggingface: smollm, lora: {rank: 8, targets: [v_proj, q_proj, v_proj]}}";

#[test]
fn adapters_are_resolved_with_their_scale_and_their_targets_in_order() {
    let model = spec(SMALL, &[ADAPTED])["model"].clone();
    let lora = json!({"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"]});
    assert_eq!(model, json!({"kind": "huggingface", "path": "/srv/project/smollm", "lora": lora}));
    let model = spec(SMALL, &["model={huggingface: smollm, lora: {}}"])["model"].clone();
    assert_eq!(model["lora"], json!({"rank": 16, "alpha": 32.0, "dropout": 0.0, "targets": "all-linear"}));
}

#[test]
fn adapters_are_part_of_the_model_and_what_has_none_keeps_its_hash() {
    let bare = run(SMALL, &["model={huggingface: smollm}"]).unwrap();
    // As it was before there were adapters.
    assert_eq!(
        bare.model_hash.to_string(),
        "91ce3a7cdcbe91b1d4bc9b188d27e9743dc0106fd8062fea42add21932d018ea"
    );
    let adapted = run(SMALL, &[ADAPTED]).unwrap();
    let shown: Vec<String> = adapted.differences(&bare).iter().map(eagleray_spec::Difference::show).collect();
    assert_eq!(
        shown,
        ["`model.lora` was null, is {\"rank\":8,\"alpha\":16.0,\"targets\":[\"q_proj\",\"v_proj\"]}"]
    );
    let other = run(SMALL, &[ADAPTED, "model.lora.rank=4"]).unwrap();
    assert_ne!(other.model_hash, adapted.model_hash);
    let config = json!({"model_type": "llama"});
    let (one, two) = (bare.with_model_config(config.clone()), adapted.with_model_config(config));
    assert_ne!(one.model_hash, two.model_hash);
}

#[test]
fn dropout_in_adapters_and_chat_with_a_function_are_trained() {
    run(SMALL, &["model={huggingface: smollm, lora: {dropout: 0.1}}"])
        .unwrap()
        .refuse_unavailable(Purpose::Train)
        .unwrap();
    let told = ["data.sources.web.chat=messages", "train.function=mine:main", "data.validation={}"];
    run(SMALL, &told).unwrap().refuse_unavailable(Purpose::Train).unwrap();
}

#[test]
fn a_folder_s_model_may_be_split_and_its_adapters_may_not() {
    for axis in ["cp", "tp"] {
        let strategy = format!("train.strategy={{{axis}: 2, dp_shard: 2}}");
        let split = |model: &str| {
            run(SMALL, &["cluster.workers=4", &strategy, model]).unwrap().refuse_unavailable(Purpose::Train)
        };
        split("model={huggingface: smollm}").unwrap();
        let error = split(ADAPTED).unwrap_err();
        assert_eq!(
            error.message(),
            format!("`model.lora` with `{axis}` in `train.strategy` is not available in this build")
        );
    }
}

#[test]
fn a_run_of_one_s_own_code_needs_neither_data_nor_model() {
    let text = "version: 1\nname: own\nstore: runs/own\ntrain: {function: 'mine.train:main', steps: 10}\n";
    let error = run(text, &[]).unwrap().refuse_unavailable(Purpose::Build).unwrap_err();
    assert_eq!(error.message(), "the run has no `data`: there is nothing to build");
    let spec = spec(text, &[]);
    assert_eq!(spec["data"], Value::Null);
    assert_eq!(spec["train"]["function"], "mine.train:main");
}

#[test]
fn a_script_runs_with_nothing_beside_it_that_would_go_unheard() {
    let text = "version: 1\nname: own\nstore: runs/own\ntrain: {script: {path: train.py}}\n";
    run(text, &[]).unwrap().refuse_unavailable(Purpose::Train).unwrap();
    let overrides = [
        "train.script={path: train.py}",
        "data.validation={held: {documents: held.jsonl}}",
        "train.strategy=fsdp2",
        "cluster.workers={min: 1, max: 2}",
    ];
    let error = run(SMALL, &overrides).unwrap().refuse_unavailable(Purpose::Train).unwrap_err();
    for key in ["`data.validation`", "`model`", "`train.strategy: fsdp2`", "`cluster.workers` as a range"] {
        assert!(error.message().contains(&format!("{key} with `train.script`")), "{error}");
    }
    let elsewhere = ["store=s3://bucket/own", "train.script.path=s3://bucket/train.py"];
    let error = run(text, &elsewhere).unwrap().refuse_unavailable(Purpose::Train).unwrap_err();
    assert!(error.message().contains("`store: s3://bucket/own`, which is no folder"), "{error}");
    run(text, &elsewhere[1..]).unwrap().refuse_unavailable(Purpose::Train).unwrap();
    let memory = ["train.script.path=memory://train.py"];
    let error = run(text, &memory).unwrap().refuse_unavailable(Purpose::Train).unwrap_err();
    assert!(error.message().contains("`train.script.path: memory://train.py`, which is neither"), "{error}");
}

#[test]
fn a_script_may_have_the_data_of_the_spec() {
    let text = "version: 1\nname: own\nstore: runs/own\n\
        data: {tokenizer: tokenizer.json, sequence_length: 32, sources: {web: {documents: web.jsonl, weight: 1.0}}}\n\
        train: {script: {path: train.py}, global_batch: 8}\n";
    let resolved = run(text, &[]).unwrap();
    resolved.refuse_unavailable(Purpose::Train).unwrap();
    resolved.refuse_unavailable(Purpose::Build).unwrap();
}

#[test]
fn anchors_and_merge_keys_are_read_as_yaml_has_them() {
    let text = SMALL.replace(
        "    web: {documents: corpus/*.jsonl, weight: 0.75}\n",
        "    web: &web {documents: corpus/*.jsonl, weight: 0.75}\n    more: {<<: *web, weight: 0.5}\n",
    );
    let spec = spec(&text, &[]);
    assert_eq!(spec["data"]["sources"]["more"]["documents"], json!(["/srv/project/corpus/*.jsonl"]));
    assert_eq!(spec["data"]["sources"]["more"]["weight"], 0.5);
}

#[test]
fn a_folder_of_mlflow_s_is_absolute_and_what_else_it_understands_stays_as_written() {
    let tracking = |uri: &str| {
        let overrides = [&*format!("metrics.mlflow.tracking_uri={uri}")];
        spec(SMALL, &overrides)["metrics"]["mlflow"]["tracking_uri"].clone()
    };
    assert_eq!(tracking("mlruns"), "/srv/project/mlruns");
    for kept in ["https://mlflow.acme.example", "sqlite:///mlflow.db", "databricks"] {
        assert_eq!(tracking(kept), kept);
    }
}

#[test]
fn metrics_change_nothing_that_a_resume_compares() {
    let (old, new) = (run(SMALL, &[]).unwrap(), run(SMALL, &["metrics={wandb: {mode: offline}}"]).unwrap());
    assert!(new.differences(&old).is_empty());
    assert_eq!((new.order_hash, new.model_hash), (old.order_hash, old.model_hash));
}

#[test]
fn a_resolved_run_from_before_there_were_metrics_has_the_default() {
    let mut file: Value = serde_json::from_str(&run(SMALL, &[]).unwrap().to_json()).unwrap();
    file["spec"].as_object_mut().unwrap().remove("metrics");
    assert!(Resolved::from_json(&file.to_string()).unwrap().spec.metrics.tensorboard);
}
