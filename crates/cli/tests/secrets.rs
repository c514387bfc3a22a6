//! No secret is in anything that the binary says or writes, wherever it was put.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use common::eagleray;

#[allow(dead_code, reason = "shared with tests that use more of it")]
mod common;

/// Part of every secret here, and of nothing else.
const MARK: &str = "pl4nted";

/// What a machine's environment holds.
const ENVIRONMENT: [(&str, &str); 8] = [
    ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "pl4nted-aws-key"),
    ("AWS_SESSION_TOKEN", "pl4nted-aws-session"),
    ("HF_TOKEN", "pl4nted-hf"),
    ("WANDB_API_KEY", "pl4nted-wandb"),
    // Nobody answers there, so that what is said of a failure is looked at as well.
    ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
    ("EAGLERAY_STORE_TIMEOUT", "1s"),
    ("AWS_REGION", "us-east-2"),
];

const RUN: &str = "\
version: 1
name: small
store: /fsx/runs/small
data:
  tokenizer: /fsx/tokenizer.json
  sequence_length: 4096
  sources: {web: {tokens: /fsx/web}}
model: {preset: llama-8b}
train: {global_batch: 256, steps: 1000}
cluster:
  workers: 16
  eks:
    namespace: training
    image: acme/eagleray:0.3
    groups: [{name: a, instance: p5.48xlarge, zone: us-east-2a, nodes: 2}]
    env: {NCCL_DEBUG: WARN}
    env_from: [{secret: tokens}]
    volumes: [{mount: /fsx, claim: fsx}]
";

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]
users: [{name: u, user: {token: pl4nted-token, password: pl4nted-password, username: u}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
";

/// Anyone's manifests, with every fault that quotes a value and a secret beside it.
const MANIFESTS: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: a, name: b}
data: {token: cGw0bnRlZA==, other: pl4nted}
stringData: {password: pl4nted-text}
---
apiVersion: ray.io/v1
kind: RayJob
metadata: {name: a, annotations: {note: 1}}
spec:
  entrypoint: python a.py --api-key=pl4nted-argument
  submissionMode: HTTPModee
  runtimeEnvYAML: |
    env_vars: {HF_TOKEN: pl4nted-runtime
  rayClusterSpec:
    rayVersion: '2.60.0'
    gcsFaultToleranceOptions: {redisAddress: 'redis:6379', redisPassword: {value: pl4nted-redis}}
    headGroupSpec:
      rayStartParams: {redis-password: pl4nted-params, num-cpus: 0}
      template:
        spec:
          containers:
            - name: ray-head
              image: rayproject/ray:2.60.0
              command: [bash, -lc, 'export WANDB_API_KEY=pl4nted-shell; ray start --head; echo']
              env:
                - {name: HF_TOKEN, value: pl4nted-env}
                - {name: WANDB_API_KEY, value: pl4nted-env}
                - {name: RAY_REDIS_ADDRESS, value: 'redis://:pl4nted@redis'}
                - {name: DB_PASSWORD, value: 1}
---
kind: Secret
data: {password: [pl4nted-broken
";

const JOB: &str = "\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: small}
spec:
  pytorchReplicaSpecs:
    Worker:
      replicas: 2
      template:
        spec:
          nodeSelector: {node.kubernetes.io/instance-type: g5.12xlarge}
          initContainers:
            - {name: get, image: a, env: [{name: HF_TOKEN, value: pl4nted-init}]}
          containers:
            - name: pytorch
              image: acme/train:1
              command: [bash, -c, 'export HF_TOKEN=pl4nted-shell; wandb login pl4nted-login; torchrun --nproc_per_node=4 /a.py']
              env:
                - {name: WANDB_API_KEY, value: pl4nted-env}
                - {name: DB_PASSWORD, value: pl4nted-env}
              resources: {limits: {nvidia.com/gpu: 4}}
";

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// Runs a command and looks for the mark in what it says; what it said.
fn says(folder: &Path, arguments: &[&str], faults: &mut String) -> String {
    let output = eagleray(folder, arguments).envs(ENVIRONMENT).env("HOME", folder).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!said.is_empty(), "{arguments:?} said nothing");
    for line in said.lines().filter(|line| line.contains(MARK)) {
        let _ = writeln!(faults, "{}: {line}", arguments.join(" "));
    }
    said
}

/// The same of several commands, for people and as JSON, with all that there is to say.
fn all_say(folder: &Path, commands: &[&[&str]], faults: &mut String) {
    for format in ["text", "json"] {
        for arguments in commands {
            says(folder, &[arguments, &["--format", format, "--verbose"][..]].concat(), faults);
        }
    }
}

/// Every file below a folder that holds the mark.
fn written(folder: &Path, faults: &mut String) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count += written(&path, faults);
        } else {
            count += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| line.contains(MARK)) {
                let _ = writeln!(faults, "{}: {line}", path.display());
            }
        }
    }
    count
}

#[test]
fn a_good_spec_on_a_machine_full_of_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "run.yaml", RUN);
    write(folder, "kube.conf", KUBECONFIG);
    let mut faults = String::new();
    let commands: [&[&str]; 4] = [
        &["check", "run.yaml"],
        &["check", "run.yaml", "--explain"],
        &["plan", "run.yaml"],
        &["render", "run.yaml", "-o", "out"],
    ];
    all_say(folder, &commands, &mut faults);
    assert!(written(&folder.join("out"), &mut faults) > 3);
    // A configuration that cannot be read is shown by its name.
    write(folder, "broken.conf", &KUBECONFIG.replace("username: u}", "username: u"));
    says(folder, &["doctor", "run.yaml", "--kubeconfig", "broken.conf"], &mut faults);
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn a_spec_with_secrets_is_refused_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "kube.conf", KUBECONFIG);
    let mut faults = String::new();
    let cases = [
        ("NCCL_DEBUG: WARN", "HF_TOKEN: pl4nted-env"),
        ("NCCL_DEBUG: WARN", "WANDB_API_KEY: pl4nted-env"),
        ("NCCL_DEBUG: WARN", "AWS_SECRET_ACCESS_KEY: [pl4nted-env]"),
        ("NCCL_DEBUG: WARN", "DB_PASSWORD: 'pl4nted-open"),
        ("store: /fsx/", "store: s3://user:pl4nted-url@acme/"),
        ("tokens: /fsx/web", "tokens: s3://user:pl4nted-url@acme/web"),
        ("tokens: /fsx/web", "tokens: https://user:pl4nted-url@acme/web"),
        ("tokenizer: /fsx/", "tokenizer: s3://user:pl4nted-url@acme/"),
        ("secret: tokens", "secret: tokens, value: pl4nted-value"),
    ];
    for (old, new) in cases {
        assert!(RUN.contains(old), "{old}");
        write(folder, "run.yaml", &RUN.replace(old, new));
        let commands: [&[&str]; 4] = [
            &["check", "run.yaml"],
            &["plan", "run.yaml"],
            &["render", "run.yaml", "-o", "out"],
            &["launch", "run.yaml", "--kubeconfig", "kube.conf"],
        ];
        all_say(folder, &commands, &mut faults);
    }
    write(folder, "run.yaml", RUN);
    for set in [
        "cluster.eks.env.HF_TOKEN=pl4nted-set",
        "cluster.eks.env={HF_TOKEN: pl4nted-set}",
        "store=s3://user:pl4nted-set@acme/runs",
    ] {
        says(folder, &["check", "run.yaml", "--set", set], &mut faults);
        says(folder, &["render", "run.yaml", "-o", "out", "--set", set], &mut faults);
    }
    for store in ["s3://user:pl4nted-url@acme/runs", "https://user:pl4nted-url@acme/runs"] {
        says(folder, &["runs", store], &mut faults);
        says(folder, &["report", store], &mut faults);
        says(folder, &["stop", store], &mut faults);
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn manifests_and_jobs_of_others_keep_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "all.yaml", MANIFESTS);
    write(folder, "job.yaml", JOB);
    let argument = JOB.replace("/a.py", "/a.py --hf_token=pl4nted-argument");
    write(folder, "argument.yaml", &argument);
    write(folder, "open.yaml", &JOB.replace("value: pl4nted-env}", "value: 'pl4nted-open}"));
    let mut faults = String::new();
    for format in ["text", "json", "sarif"] {
        let said = says(folder, &["lint", "all.yaml", "--format", format], &mut faults);
        assert!(said.contains("secret-in-manifest") && said.contains("unreadable"), "{said}");
    }
    for format in ["text", "json"] {
        for (file, out) in [("job.yaml", "out"), ("argument.yaml", "none"), ("open.yaml", "none")] {
            says(folder, &["migrate", file, "-o", out, "--force", "--format", format], &mut faults);
        }
    }
    assert_eq!(written(&folder.join("out"), &mut faults), 3);
    let report = std::fs::read_to_string(folder.join("out/small/migration.md")).unwrap();
    assert!(report.contains("WANDB_API_KEY") && report.contains("create secret generic"), "{report}");
    says(folder, &["render", "out/small/run.yaml", "-o", "manifests"], &mut faults);
    assert!(faults.is_empty(), "{faults}");
}

/// Longer than any of the commands below takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs commands at the same time; each fails with exit code 2, names what is to be done next, and keeps its secrets.
fn all_give_up(
    folder: &Path,
    commands: &[Vec<&str>],
    variables: &[(&str, &str)],
    signs: &[&str],
) -> Vec<String> {
    let run = |arguments: &Vec<&str>| {
        let began = Instant::now();
        let mut command = eagleray(folder, arguments);
        let output =
            command.envs(ENVIRONMENT).envs(variables.iter().copied()).env("HOME", folder).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(began.elapsed() < PATIENCE, "{arguments:?} took {:?}", began.elapsed());
        assert!(!said.contains(MARK), "{arguments:?}: {said}");
        assert!(said.contains("hint"), "{arguments:?}: {said}");
        assert!(signs.iter().any(|sign| said.contains(sign)), "{arguments:?}: {said}");
        said
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = commands.iter().map(|arguments| scope.spawn(move || run(arguments))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// All commands on launches, for people and for programs.
fn on_launches<'a>(config: &'a str, timeout: &'a str) -> Vec<Vec<&'a str>> {
    let words =
        [&["launch", "--wait"][..], &["launch"], &["diff"], &["watch"], &["logs"], &["stop"], &["resume"]];
    let formats = ["text", "json"];
    let all = words.iter().flat_map(|word| formats.map(|format| (word, format)));
    all.map(|(word, format)| {
        let own =
            [word[0], "run.yaml", "--kubeconfig", config, "--request-timeout", timeout, "--format", format];
        [&own, &word[1..]].concat()
    })
    .collect()
}

#[test]
fn an_api_server_that_is_dead_or_silent_is_given_up_in_time_and_hears_no_secret_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "run.yaml", RUN);
    write(folder, "dead.conf", KUBECONFIG);
    // Accepts connections, since its backlog does, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    write(folder, "silent.conf", &KUBECONFIG.replace("http://127.0.0.1:9", &address));
    all_give_up(folder, &on_launches("dead.conf", "30s"), &[], &["`http://127.0.0.1:9/` does not answer"]);
    let commands = on_launches("silent.conf", "1s");
    let said = all_give_up(folder, &commands, &[], &["has not answered within"]);
    assert!(said.iter().all(|said| said.contains("--request-timeout")), "{said:?}");
    let mut faults = String::new();
    std::fs::remove_file(folder.join("dead.conf")).unwrap();
    std::fs::remove_file(folder.join("silent.conf")).unwrap();
    assert_eq!(written(folder, &mut faults), 1, "nothing is written beside the spec");
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn a_store_that_is_dead_or_silent_is_given_up_in_time_and_hears_no_secret_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let store = "s3://acme/runs/small";
    let commands: Vec<Vec<&str>> = [["stop", store], ["report", store], ["runs", store]]
        .iter()
        .flat_map(|words| ["text", "json"].map(|format| [&words[..], &["--format", format]].concat()))
        .collect();
    for endpoint in ["http://127.0.0.1:9", &address] {
        let variables = [("AWS_ENDPOINT_URL", endpoint), ("EAGLERAY_STORE_TIMEOUT", "2s")];
        all_give_up(folder, &commands, &variables, &["did not answer"]);
    }
    let mut faults = String::new();
    assert_eq!(written(folder, &mut faults), 0);
}
