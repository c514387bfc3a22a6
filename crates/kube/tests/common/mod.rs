//! Runs to render.

use std::path::Path;

use eagleray_kube::render::{Kind, Options, Rendered, render};
use eagleray_spec::{Resolved, Source};

/// A launch with everything.
pub(crate) const FIRST: Options = Options { kind: Kind::Run, launch: 1, kueue: false, built: false };

/// Groups on demand and on spot capacity, elastic; text that is built first; nodes by Karpenter.
pub(crate) const ELASTIC: &str = "\
version: 1
name: solar-8b
seed: 17
store: s3://acme-llm/runs/solar-8b
data:
  tokenizer: s3://acme-llm/tokenizers/solar/tokenizer.json
  sequence_length: 4096
  sources: {web: {documents: s3://acme-corpus/web/**/*.jsonl.zst}}
  built: s3://acme-tokens
model: {preset: llama-8b}
train: {global_batch: 256, steps: 1000}
cluster:
  workers: {min: 16, max: 48}
  eks:
    namespace: training
    image: acme/eagleray:0.3
    groups:
      - {name: steady, instance: p5.48xlarge, zone: us-east-2a, nodes: 2}
      - {name: spot-a, instance: p5.48xlarge, capacity: spot, zone: us-east-2a, nodes: {min: 0, max: 4}}
    cpu: {instance: m7i.8xlarge, nodes: 4}
    service_account: {name: solar, role: \"arn:aws:iam::123456789012:role/solar\"}
    karpenter: {role: karpenter-node, discovery: acme, ami: al2023@v20261112}
    env: {NCCL_DEBUG: WARN}
    env_from: [{secret: wandb}]
    labels: {team: nlp, model: solar, phase: pretrain}
";

/// Fixed groups in a queue, data that is built, nodes of somebody else.
pub(crate) const FIXED: &str = "\
version: 1
name: gang
store: /fsx/runs/gang
data:
  tokenizer: /opt/tokenizer.json
  sequence_length: 4096
  sources: {web: {tokens: s3://acme-tokens/web}}
model: {preset: llama-8b}
train: {global_batch: 256, steps: 1000}
cluster:
  workers: 32
  eks:
    namespace: training
    image: acme/eagleray:0.3
    groups:
      - {name: a, instance: p4d.24xlarge, zone: us-east-2a, nodes: 2}
      - {name: b, instance: p4d.24xlarge, zone: us-east-2a, capacity: reserved, nodes: 2}
    volumes: [{mount: /fsx, claim: fsx-llm}]
    queue: llm-team
    priority: high
    pod:
      spec: {containers: [{name: ray-worker, env: [{name: FI_LOG_LEVEL, value: warn}]}]}
    labels: {team: nlp}
    kuberay: \"1.6\"
";

/// The resolved run of a spec in `/srv`.
pub(crate) fn resolved(text: &str) -> Resolved {
    let environment = |name: &str| (name == "BUCKET").then(|| "acme".to_owned());
    let source =
        Source { name: "run.yaml", text, base: Path::new("/srv"), overrides: &[], environment: &environment };
    eagleray_plan::resolve(&source)
        .unwrap_or_else(|problems| panic!("{}", problems.into_error().render()))
        .resolved
}

/// The render of a spec.
pub(crate) fn rendered(text: &str, options: Options) -> Rendered {
    render(&resolved(text), options).unwrap_or_else(|error| panic!("{}", error.render()))
}

/// All files in one text.
pub(crate) fn shown(rendered: &Rendered) -> String {
    let files: Vec<String> =
        rendered.files.iter().map(|file| format!("--- {}\n{}", file.path, file.text())).collect();
    let notes: Vec<String> = rendered.notes.iter().map(|note| format!("note: {note}\n")).collect();
    files.concat() + &notes.concat()
}
