//! Jobs as people write them, turned into runs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why it skips"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use eagleray_kube::lint::{self, Severity};
use eagleray_kube::migrate::{Fate, Input, Migration, Options, RAY_VERSION, Run, migrate};
use eagleray_spec::{Purpose, Resolved, Source};
use serde_json::Value;

/// What the templates among the fixtures want.
const VARIABLES: [(&str, &str); 24] = [
    ("NUM_NODES", "4"),
    ("MIN_NODES", "2"),
    ("MAX_NODES", "4"),
    ("GPU_PER_NODE", "8"),
    ("CPU_PER_NODE", "3"),
    ("EFA_PER_NODE", "32"),
    ("NEURON_PER_NODE", "16"),
    ("IMAGE_URI", "registry.example/llm:1"),
    ("REPO_URI", "registry.example/megatron:1"),
    ("FI_PROVIDER", "efa"),
    ("TENSOR_PARALLEL", "8"),
    ("PIPELINE_PARALLEL", "4"),
    ("NUM_LAYERS", "36"),
    ("HIDDEN_SIZE", "4096"),
    ("NUM_ATTENTION_HEADS", "32"),
    ("SEQ_LENGTH", "2048"),
    ("MAX_POSITION_EMBEDDINGS", "2048"),
    ("MICRO_BATCH_SIZE", "1"),
    ("GLOBAL_BATCH_SIZE", "288"),
    ("FSX_CLAIM", "fsx"),
    ("INSTANCE_TYPE", "trn1.32xlarge"),
    ("BATCH_SIZE", "1"),
    ("MODEL_PATH", "/fsx/model"),
    ("MAX_STEPS", "10"),
];

fn options(text: &str) -> Options {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let variables = VARIABLES
        .iter()
        .filter(|(name, _)| text.contains(&format!("${name}")) || text.contains(&format!("${{{name}}}")))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Options { variables, instance: Some("p5.48xlarge".into()), store: None }
}

fn data(name: &str) -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    (name.to_owned(), std::fs::read_to_string(path).unwrap())
}

fn migrated(files: &[(String, String)], options: &Options) -> Migration {
    let inputs: Vec<Input<'_>> = files.iter().map(|(name, text)| Input { name, text }).collect();
    migrate(&inputs, options).unwrap()
}

fn checked(run: &Run) -> Resolved {
    checked_with(run, &[])
}

fn checked_with(run: &Run, overrides: &[String]) -> Resolved {
    let environment = |_: &str| None;
    let source = Source {
        name: "run.yaml",
        text: &run.spec,
        base: Path::new("/here"),
        overrides,
        environment: &environment,
    };
    let resolved = eagleray_spec::resolve(&source)
        .unwrap_or_else(|problems| panic!("{}", problems.into_error().render()));
    resolved
        .refuse_unavailable(Purpose::Train)
        .unwrap_or_else(|error| assert!(error.message().contains("cluster.eks"), "{}", error.render()));
    resolved
}

/// The leaves of a file, by another reader than the one that is tested.
fn leaves(text: &str) -> BTreeSet<String> {
    fn walk(value: &Value, path: String, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, inner) in map {
                    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                    let step = match (plain, path.is_empty()) {
                        (true, true) => key.clone(),
                        (true, false) => format!(".{key}"),
                        (false, _) => format!("[\"{key}\"]"),
                    };
                    walk(inner, format!("{path}{step}"), found);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, inner) in items.iter().enumerate() {
                    walk(inner, format!("{path}[{index}]"), found);
                }
            }
            _ => {
                found.insert(path);
            }
        }
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let mut all = BTreeSet::new();
    for document in documents.iter().filter(|document| !document.is_null()) {
        let mut found = BTreeSet::new();
        walk(document, String::new(), &mut found);
        let of = format!(
            "{}/{}: ",
            document["kind"].as_str().unwrap(),
            document["metadata"]["name"].as_str().unwrap()
        );
        all.extend(found.into_iter().map(|path| of.clone() + &path));
    }
    all
}

/// The leaves that the reports of all objects tell of.
fn told(migration: &Migration, original: &str) -> BTreeSet<String> {
    let name = |run: &Run| {
        original.lines().find_map(|line| {
            let written = line.trim().strip_prefix("name: ")?.trim();
            (written.to_lowercase().replace('_', "-") == run.name).then(|| written.to_owned())
        })
    };
    let runs = migration.runs.iter().flat_map(|run| {
        let of = format!("{}/{}: ", run.kind, name(run).unwrap());
        run.fields.iter().map(move |field| of.clone() + &field.path)
    });
    let others = migration.others.iter().flat_map(|other| {
        let of = format!("{}/{}: ", other.kind, other.name);
        other.fields.iter().map(move |field| of.clone() + &field.path)
    });
    runs.chain(others).collect()
}

fn holds(migration: &Migration, text: &str) {
    assert!(migration.refused.is_empty(), "{:#?}", migration.refused);
    let (told, leaves) = (told(migration, text), leaves(text));
    let vanished: Vec<&String> = leaves.difference(&told).collect();
    assert!(vanished.is_empty(), "{vanished:#?}");
    let invented: Vec<&String> = told.difference(&leaves).collect();
    assert!(invented.is_empty(), "{invented:#?}");
    for run in &migration.runs {
        checked(run);
        for field in &run.fields {
            let silent = field.why.is_empty() && field.to.is_none();
            assert!(!silent && (field.fate != Fate::Lost || !field.why.is_empty()), "{field:?}");
        }
    }
}

/// The jobs that people run on EKS; not everybody has them.
fn fixtures() -> Option<Vec<(String, String)>> {
    let shared = std::env::var_os("EAGLERAY_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    );
    let folder = shared.join("pytorchjobs");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!(
            "skipped: `{}` is not there; `EAGLERAY_FIXTURES` names the folder of fixtures",
            folder.display()
        );
        return None;
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().contains(".yaml"));
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    Some(paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect())
}

#[test]
fn jobs_that_people_run_on_eks_become_runs_that_check_and_lose_no_field_in_silence() {
    let Some(files) = fixtures() else { return };
    assert_eq!(files.len(), 10);
    let mut counts = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| !name.starts_with("neuronx")) {
        let migration = migrated(&[(name.clone(), text.clone())], &options(text));
        holds(&migration, text);
        let [run] = migration.runs.as_slice() else { panic!("{name}") };
        let [carried, replaced, lost] = run.counts();
        counts.push(format!(
            "{name}: {} nodes, {} workers, {carried} carried, {replaced} replaced, {lost} lost",
            run.nodes, run.workers
        ));
    }
    insta::assert_snapshot!("fixtures", counts.join("\n"));
}

#[test]
fn a_job_for_neuron_is_refused_by_the_name_of_the_device() {
    let Some(files) = fixtures() else { return };
    let (name, text) = files.iter().find(|(name, _)| name.starts_with("neuronx")).unwrap();
    let mut options = options(text);
    let migration = migrated(&[(name.clone(), text.clone())], &options);
    let missing: Vec<&str> =
        migration.refused[0].problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(missing.iter().all(|message| message.contains("has no value (line")), "{missing:?}");
    assert!(missing.len() > 5, "all that are missing are named at once: {missing:?}");
    let names: Vec<String> =
        missing.iter().map(|message| message.split('`').nth(1).unwrap().to_owned()).collect();
    options.variables.extend(names.into_iter().map(|name| (name, "1".to_owned())));
    let migration = migrated(&[(name.clone(), text.clone())], &options);
    assert!(migration.runs.is_empty());
    assert!(
        migration.refused[0]
            .problems
            .iter()
            .any(|problem| problem.message.contains("`aws.amazon.com/neuron` is not available"))
    );
}

/// Files of a Go module in the module cache, below one of its folders; whatever version of it is there.
fn of_module(path: &str, version: &str, folder: &str) -> Option<Vec<(String, String)>> {
    let cache = std::env::var_os("GOMODCACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join("go/pkg/mod")))?;
    let root = cache.join(format!("{path}@{version}")).join(folder);
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!(
                "skipped: `{}` is not there; `go mod download {path}@{version}` fetches it",
                root.display()
            );
            return None;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    Some(found)
}

/// What becomes of the one job of a file: a run whose manifests no lint refuses, or the reasons why not.
fn outcome(name: &str, text: &str, options: &Options) -> String {
    let migration = migrated(&[(name.to_owned(), text.to_owned())], options);
    if let [refused] = migration.refused.as_slice() {
        let problems = refused.problems.iter();
        return problems.fold(String::new(), |told, problem| {
            told + &format!("{name}:{}: {}\n", problem.line, problem.message)
        });
    }
    holds(&migration, text);
    let [run] = migration.runs.as_slice() else { panic!("{name}") };
    let launch = eagleray_kube::render::Options {
        kind: eagleray_kube::render::Kind::Run,
        launch: 1,
        kueue: false,
        built: false,
    };
    // What the report asks for is done as it asks for it: no job of theirs has a volume that all nodes see.
    let report = migration.markdown(run);
    assert!(report.contains("the job mounts no claim that all nodes see"), "{name}");
    let mut done =
        vec!["cluster.eks.volumes=[{mount: /shared, claim: shared}]", "store=/shared/runs/example"];
    if report.contains("write `train.script.path` as an absolute path") {
        done.push("train.script.path=/srv/example.py");
    }
    let done: Vec<String> = done.into_iter().map(str::to_owned).collect();
    let rendered = eagleray_kube::render::render(&checked_with(run, &done), launch)
        .unwrap_or_else(|error| panic!("{name}: {}", error.render()));
    let texts: Vec<(String, String)> =
        rendered.files.iter().map(|file| (file.path.clone(), file.text())).collect();
    let files: Vec<lint::File<'_>> = texts.iter().map(|(name, text)| lint::File { name, text }).collect();
    let report = lint::lint(&files, &lint::Options::default()).unwrap();
    assert_eq!(report.count(Severity::Error), 0, "{name}: {}", report.text());
    let [carried, replaced, lost] = run.counts();
    format!(
        "{name}: {} nodes, {} workers, {carried} carried, {replaced} replaced, {lost} lost\n",
        run.nodes, run.workers
    )
}

#[test]
fn the_examples_of_kubeflow_become_runs_or_are_refused_by_what_is_missing() {
    let options = |instance: &str| Options { instance: Some(instance.into()), ..Options::default() };
    let mut told = String::new();
    let operator = "github.com/kubeflow/training-operator";
    let Some(jobs) = of_module(operator, "v1.9.2", "examples/pytorch") else { return };
    for (name, text) in jobs.iter().filter(|(_, text)| text.contains("PyTorchJob")) {
        told += &outcome(name, text, &options("g5.xlarge"));
    }
    let Some(jobs) = of_module("github.com/kubeflow/trainer/v2", "v2.2.1", "examples") else { return };
    let train = jobs.iter().filter(|(_, text)| text.contains("kind: TrainJob"));
    let runtime = jobs.iter().find(|(_, text)| text.contains("kind: ClusterTrainingRuntime"));
    for (name, text) in train {
        let with = format!("{text}\n---\n{}", runtime.unwrap().1);
        told += &outcome(name, &with, &options("g5.xlarge"));
    }
    insta::assert_snapshot!("examples", told);
}

#[test]
fn a_train_job_on_the_runtime_that_the_trainer_installs_becomes_a_run() {
    let folder = "manifests/base/runtimes";
    let Some(runtimes) = of_module("github.com/kubeflow/trainer/v2", "v2.2.1", folder) else { return };
    let (_, runtime) = runtimes.iter().find(|(name, _)| name == "torch_distributed.yaml").unwrap();
    let job = "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nmetadata: {name: mnist}\nspec:\n  \
               runtimeRef: {name: torch-distributed}\n  trainer:\n    numNodes: 2\n    \
               command: [torchrun, /srv/mnist.py]\n    \
               resourcesPerNode: {requests: {nvidia.com/gpu: 1}, limits: {nvidia.com/gpu: 1}}\n";
    let options = Options { instance: Some("g5.xlarge".into()), ..Options::default() };
    let migration =
        migrated(&[("job.yaml".into(), job.into()), ("runtime.yaml".into(), runtime.clone())], &options);
    assert!(migration.refused.is_empty(), "{:#?}", migration.refused);
    let run = &migration.runs[0];
    assert_eq!((run.nodes, run.workers), (2, 2));
    let resolved = serde_json::to_value(&checked(run).spec).unwrap();
    assert!(resolved.to_string().contains("pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"), "{resolved}");
}

#[test]
fn a_master_with_workers_becomes_one_group_of_all() {
    let (name, text) = data("master.yaml");
    let migration = migrated(&[(name, text.clone())], &Options::default());
    holds(&migration, &text);
    let run = &migration.runs[0];
    assert_eq!((run.nodes, run.workers), (3, 12));
    insta::assert_snapshot!("master_spec", run.spec);
    insta::assert_snapshot!("master_dockerfile", run.dockerfile);
    insta::assert_snapshot!("master_report", migration.markdown(run));
}

#[test]
fn arguments_reach_the_script_as_they_were() {
    let (name, text) = data("master.yaml");
    let resolved = checked(&migrated(&[(name, text)], &Options::default()).runs[0]);
    let script = serde_json::to_value(&resolved.spec.train).unwrap()["script"].clone();
    let args: Vec<&str> =
        script["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(
        args,
        ["--lr", "3e-4", "--on", "yes", "--text", "a: b #c", "--empty", "", "--number=010", "null"]
    );
    assert_eq!(script["path"], "/srv/train.py");
}

#[test]
fn no_secret_is_in_anything_that_comes_out() {
    let (name, text) = data("master.yaml");
    let migration = migrated(&[(name, text.clone())], &Options::default());
    assert!(text.matches("do-not-tell").count() >= 3, "the job holds secrets");
    let everything = serde_json::to_string(&migration).unwrap() + &migration.markdown(&migration.runs[0]);
    assert!(!everything.contains("do-not-tell"), "{everything}");
    assert!(everything.contains("WANDB_API_KEY"), "their names are told");
}

#[test]
fn a_train_job_is_read_with_its_runtime() {
    let (name, text) = data("trainjob.yaml");
    let migration = migrated(&[(name.clone(), text.clone())], &Options::default());
    assert!(migration.refused.is_empty(), "{:#?}", migration.refused);
    let run = &migration.runs[0];
    assert_eq!((run.nodes, run.workers), (2, 8));
    insta::assert_snapshot!("trainjob_spec", run.spec);
    let leaves = leaves(&text);
    let told: BTreeSet<String> = run
        .fields
        .iter()
        .map(|field| match field.path.strip_prefix("runtime(torch).") {
            Some(path) => format!("ClusterTrainingRuntime/torch: {path}"),
            None => format!("TrainJob/fine-tune: {}", field.path),
        })
        .collect();
    assert_eq!(leaves, told);
    let alone = text.split("\n---\n").next().unwrap().to_owned();
    let migration = migrated(&[(name, alone)], &Options::default());
    let problems = &migration.refused[0].problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.message.contains("runtime `torch`, which is not among the files")),
        "{problems:?}"
    );
}

#[test]
fn objects_of_a_list_are_read_one_by_one() {
    let (_, text) = data("master.yaml");
    let indented: String = text.lines().flat_map(|line| ["    ", line, "\n"]).collect();
    let list = format!("apiVersion: v1\nkind: List\nitems:\n  -\n{indented}");
    let migration = migrated(&[("list.yaml".into(), list)], &Options::default());
    assert!(migration.refused.is_empty(), "{:#?}", migration.refused);
    assert!(migration.runs[0].fields.iter().all(|field| field.path.starts_with("items[0].")));
    assert_eq!(migration.others[0].kind, "List");
}

/// A small job; `changes` are made to its text.
fn small(changes: &[(&str, &str)]) -> Migration {
    let (name, mut text) = data("small.yaml");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    migrated(&[(name, text)], &Options::default())
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_line() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, usize);
    let cases: [Case<'_>; 13] = [
        ("a variable", &[("replicas: 2", "replicas: ${N}")], "`N` has no value (line 8)", 8),
        ("a device", &[("nvidia.com/gpu: 4", "amd.com/gpu: 4")], "`amd.com/gpu` is not available", 18),
        (
            "a part of a GPU",
            &[("nvidia.com/gpu: 4", "nvidia.com/mig-1g.5gb: 4")],
            "`nvidia.com/mig-1g.5gb`",
            18,
        ),
        (
            "too few processes",
            &[("--nproc_per_node=4", "--nproc_per_node=2")],
            "2 processes share the 4 GPUs",
            16,
        ),
        ("other nodes", &[("[torchrun,", "[torchrun, --nnodes=3,")], "told of 3 nodes, the job has 2", 16),
        (
            "no instance",
            &[("node.kubernetes.io/instance-type: g5.12xlarge", "a: b")],
            "on which instance type",
            2,
        ),
        ("a secret argument", &[("--lr=1", "--hf_token=abc")], "`--hf_token` gives a secret", 16),
        ("a rank in arguments", &[("--lr=1", "--rank=$RANK")], "given `RANK`", 16),
        ("another kind", &[("kind: PyTorchJob", "kind: MPIJob")], "`MPIJob`", 2),
        ("another version", &[("kubeflow.org/v1", "kubeflow.org/v2beta1")], "`kubeflow.org/v2beta1`", 2),
        (
            "a mount of nothing",
            &[("resources:", "volumeMounts: [{name: x, mountPath: /x}]\n              resources:")],
            "mounts `x`",
            11,
        ),
        (
            "a shell file",
            &[("[torchrun, --nproc_per_node=4, /a.py, --lr=1]", "[bash, run.sh]")],
            "inside `run.sh`",
            16,
        ),
        (
            "no command",
            &[("command: [torchrun, --nproc_per_node=4, /a.py, --lr=1]", "tty: true")],
            "no `command`",
            2,
        ),
    ];
    for (what, changes, message, line) in cases {
        let migration = small(changes);
        assert!(migration.runs.is_empty(), "{what}");
        let problems = &migration.refused[0].problems;
        assert!(
            problems.iter().any(|problem| problem.message.contains(message)
                && problem.line == line
                && !problem.hint.is_empty()),
            "{what}: {problems:#?}"
        );
    }
}

#[test]
fn affinity_becomes_groups_and_the_rest_of_it_stays() {
    let affinity = "affinity:\n            nodeAffinity:\n              requiredDuringSchedulingIgnoredDuringExecution:\n                nodeSelectorTerms:\n                  - matchExpressions:\n                      - {key: node.kubernetes.io/instance-type, operator: In, values: [p4d.24xlarge]}\n                      - {key: karpenter.sh/capacity-type, operator: In, values: [spot]}\n                      - {key: team, operator: Exists}\n          #";
    let migration = small(&[("nodeSelector:", affinity)]);
    assert!(migration.refused.is_empty(), "{:#?}", migration.refused);
    let spec: Value = serde_saphyr::from_str(&migration.runs[0].spec).unwrap();
    let eks = &spec["cluster"]["eks"];
    assert_eq!(eks["groups"][0]["instance"], "p4d.24xlarge");
    assert_eq!(eks["groups"][0]["capacity"], "spot");
    let kept = &eks["pod"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"][0]["matchExpressions"];
    assert_eq!(*kept, serde_json::json!([{"key": "team", "operator": "Exists"}]));
}

#[test]
fn a_variable_of_no_job_is_an_error() {
    let (name, text) = data("small.yaml");
    let options = Options { variables: vec![("NUM_NODE".into(), "2".into())], ..Options::default() };
    let error = migrate(&[Input { name: &name, text: &text }], &options).unwrap_err();
    assert!(error.message().contains("no job has the variable `NUM_NODE`"));
}

#[test]
fn two_jobs_of_one_name_are_told_apart_from_one() {
    let (name, text) = data("small.yaml");
    let migration = migrated(&[(name, text.clone()), ("again.yaml".into(), text)], &Options::default());
    assert_eq!((migration.runs.len(), migration.refused.len()), (1, 1));
    assert!(
        migration.refused[0].problems[0]
            .message
            .contains("two jobs become a run `small`: the first is at small.yaml:")
    );
}

#[test]
fn a_chart_that_was_not_rendered_says_so() {
    let text = "kind: PyTorchJob\nmetadata: {{ .Values.metadata }}\n";
    let error = migrate(&[Input { name: "chart.yaml", text }], &Options::default()).unwrap_err();
    assert!(error.message().starts_with("chart.yaml:2: "), "{}", error.message());
    assert!(error.hint().unwrap().contains("helm template"));
}

#[test]
fn the_image_gets_the_ray_that_the_package_wants() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pyproject.toml");
    assert!(
        std::fs::read_to_string(path).unwrap().contains(&format!("\"ray[default,train]=={RAY_VERSION}\""))
    );
}
