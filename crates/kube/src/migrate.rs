//! Jobs of Kubeflow → run specs, with an account of every field.
//!
//! A `PyTorchJob` (kubeflow.org/v1) or a `TrainJob` (trainer.kubeflow.org/v1alpha1) says which script runs
//! on how many nodes in which pods. That becomes `train.script` and `cluster.eks`. What Ray does by itself
//! (addresses, ports, rendezvous, restarts) is named as replaced, what nothing does as lost, with what to
//! do; no leaf of the input is left out. What would train something else is refused, never guessed.
//!
//! Why a run spec, and no manifests? One text says what the run is, and `eagleray render` makes manifests
//! of it as of any other; two ways to a `RayJob` would drift apart.
//!
//! ```
//! use eagleray_kube::migrate::{Input, Options, migrate};
//!
//! let text = "
//! apiVersion: kubeflow.org/v1
//! kind: PyTorchJob
//! metadata: {name: first, namespace: ml}
//! spec:
//!   pytorchReplicaSpecs:
//!     Worker:
//!       replicas: 2
//!       template:
//!         spec:
//!           nodeSelector: {node.kubernetes.io/instance-type: g5.12xlarge}
//!           containers:
//!             - name: pytorch
//!               image: example.com/train:1
//!               command: [torchrun, --nproc_per_node=4, /app/train.py, --lr, '3e-4']
//!               resources: {limits: {nvidia.com/gpu: 4}}
//! ";
//! let migration = migrate(&[Input { name: "job.yaml", text }], &Options::default()).unwrap();
//! let run = &migration.runs[0];
//! assert!(run.spec.contains("workers: 8") && run.spec.contains("path: /app/train.py"));
//! assert_eq!(run.fields.len(), 14);
//! ```
//!
//! Map: `document` YAML with lines · `variables` templates · `words`, `launcher` commands · `pod`, `job`
//! what Kubernetes and Kubeflow say · `account` what became of it · `draft` the spec · `report` the texts.

mod account;
mod document;
mod draft;
mod job;
mod launcher;
mod pod;
mod report;
mod variables;
mod words;

use std::path::Path;

use eagleray_base::{Error, Result};
use eagleray_spec::Source;
use serde::Serialize;
use serde_json::Value;

use account::{Account, Verdict};
pub use account::{Fate, Field};
use document::Document;

/// The file of a run spec.
pub const SPEC_FILE: &str = "run.yaml";

/// The version of Ray that this build trains on.
pub const RAY_VERSION: &str = "2.60.0";

/// A file of manifests.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// Its YAML: one object, several, or a list of them.
    pub text: &'a str,
}

/// What a job does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The variables of a template.
    pub variables: Vec<(String, String)>,
    /// The EC2 instance type of the nodes.
    pub instance: Option<String>,
    /// Where the runs keep what they leave.
    pub store: Option<String>,
}

/// What became of the jobs.
#[derive(Debug, Serialize)]
pub struct Migration {
    /// The jobs that became runs.
    pub runs: Vec<Run>,
    /// The jobs that did not.
    pub refused: Vec<Refused>,
    /// The objects beside them.
    pub others: Vec<Other>,
}

/// A job that became a run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The name of the run.
    pub name: String,
    /// The file of the job.
    pub file: String,
    /// The line on which it begins; 0 of a job of a cluster, which has none.
    pub line: usize,
    /// `PyTorchJob` or `TrainJob`.
    pub kind: String,
    /// The nodes.
    pub nodes: u32,
    /// The training processes.
    pub workers: u32,
    /// The image that is to be built.
    pub image: String,
    /// The run spec, as YAML.
    pub spec: String,
    /// How to make the image out of the job's.
    pub dockerfile: String,
    /// What is left to do, in order.
    pub next: Vec<String>,
    /// What became of each field.
    pub fields: Vec<Field>,
}

/// A job that became no run.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// The file of the job.
    pub file: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Why, all at once.
    pub problems: Vec<Problem>,
}

/// Why a job becomes no run.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The line of the file; 0 where there is none.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// An object beside the jobs.
#[derive(Debug, Serialize)]
pub struct Other {
    /// Its file.
    pub file: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What becomes of each field.
    pub fields: Vec<Field>,
}

/// What a kind of object is here.
enum Role {
    Job,
    Runtime,
    /// Refused by name, with a hint.
    Refused(&'static str),
    Beside,
}

fn role(document: &Document) -> Role {
    let (kind, version) = document.kind();
    match (kind, version) {
        ("PyTorchJob", "kubeflow.org/v1") | ("TrainJob", "trainer.kubeflow.org/v1alpha1") => Role::Job,
        ("TrainingRuntime" | "ClusterTrainingRuntime", _) => Role::Runtime,
        ("PyTorchJob", _) => Role::Refused("known is `kubeflow.org/v1`"),
        ("TrainJob", _) => Role::Refused("known is `trainer.kubeflow.org/v1alpha1`"),
        ("MPIJob" | "TFJob" | "XGBoostJob" | "PaddleJob" | "JAXJob" | "MXJob", _) => Role::Refused(
            "a PyTorchJob or a TrainJob becomes a run: start the script by `torchrun` there first",
        ),
        ("RayJob" | "RayCluster", _) => {
            Role::Refused("it is one of Ray's already: `eagleray init` writes a run spec to start from")
        }
        ("", _) => Role::Refused("a manifest has `apiVersion` and `kind`"),
        _ => Role::Beside,
    }
}

/// Turns the jobs of `inputs` into runs.
///
/// # Errors
/// A file that is no YAML, a variable that nothing uses, or no job at all; a job that cannot become a run is
/// in [`Migration::refused`].
pub fn migrate(inputs: &[Input<'_>], options: &Options) -> Result<Migration> {
    let mut documents = Vec::new();
    for input in inputs {
        documents.extend(document::read(input.name, input.text)?);
    }
    let migration = of_documents(documents, options)?;
    if migration.runs.is_empty() && migration.refused.is_empty() {
        let files: Vec<String> = inputs.iter().map(|input| format!("`{}`", input.name)).collect();
        return Err(Error::not_found(format!("no PyTorchJob and no TrainJob in {}", files.join(", ")))
            .with_hint("`kubectl get pytorchjob NAME -o yaml > job.yaml` writes one"));
    }
    Ok(migration)
}

/// Turns jobs of a cluster into runs, with the runtimes that they name among them.
///
/// A job's file is `live:NAMESPACE/KIND/NAME`, its lines are 0.
///
/// # Errors
/// A variable that nothing uses; a job that cannot become a run is in [`Migration::refused`].
pub fn migrate_live(objects: &[Value], options: &Options) -> Result<Migration> {
    of_documents(objects.iter().map(document::of_cluster).collect(), options)
}

fn of_documents(documents: Vec<Document>, options: &Options) -> Result<Migration> {
    let mut used = Vec::new();
    let filled: Vec<(Document, variables::Missing)> = documents
        .into_iter()
        .map(|mut document| {
            let fill = matches!(role(&document), Role::Job | Role::Runtime);
            let missing = if fill {
                variables::fill(&mut document, &options.variables, &mut used)
            } else {
                variables::Missing::default()
            };
            (document, missing)
        })
        .collect();
    let unused = options.variables.iter().find(|(name, _)| !used.contains(name));
    if let Some((name, _)) = unused {
        return Err(Error::invalid(format!("no job has the variable `{name}`"))
            .with_hint("check its spelling, or leave it out"));
    }
    let mut migration = Migration { runs: Vec::new(), refused: Vec::new(), others: Vec::new() };
    let mut runtimes_used = Vec::new();
    for (document, missing) in &filled {
        match role(document) {
            Role::Job => {
                let runtime = runtime_of(document, &filled);
                runtimes_used.extend(runtime.as_ref().map(|(index, ..)| *index));
                job(&mut migration, document, missing, runtime.as_ref(), options);
            }
            Role::Refused(hint) => {
                let (kind, version) = document.kind();
                let message = match kind {
                    "" => "no `kind`: this is no object of Kubernetes".to_owned(),
                    _ => format!("a `{kind}` of `{version}` does not become a run"),
                };
                refuse(&mut migration, document, vec![problem(document, &message, hint)]);
            }
            Role::Runtime | Role::Beside => {}
        }
    }
    let beside = filled.iter().enumerate().filter(|(index, (document, _))| match role(document) {
        Role::Runtime => !runtimes_used.contains(index),
        role => matches!(role, Role::Beside),
    });
    migration.others = beside.map(|(_, (document, _))| other(document, &filled)).collect();
    Ok(migration)
}

/// `FILE:LINE`; an object of a cluster has no line.
pub fn place(file: &str, line: usize) -> String {
    if line == 0 { file.to_owned() } else { format!("{file}:{line}") }
}

fn problem(document: &Document, message: &str, hint: &str) -> Problem {
    Problem { line: document.root.line, message: message.to_owned(), hint: hint.to_owned() }
}

fn refuse(migration: &mut Migration, document: &Document, problems: Vec<Problem>) {
    migration.refused.push(Refused {
        file: document.file.clone(),
        kind: document.kind().0.to_owned(),
        name: document.name().to_owned(),
        problems,
    });
}

/// The runtime that a `TrainJob` names: which document it is, the document under a prefix, what it misses.
type Runtime<'a> = (usize, Document, &'a variables::Missing);

fn runtime_of<'a>(job: &Document, all: &'a [(Document, variables::Missing)]) -> Option<Runtime<'a>> {
    let name = job.root.text_at(&["spec", "runtimeRef", "name"])?;
    let kind = job.root.text_at(&["spec", "runtimeRef", "kind"]).unwrap_or("ClusterTrainingRuntime");
    let namespace =
        |document: &Document| document.root.text_at(&["metadata", "namespace"]).map(str::to_owned);
    // One of another namespace is another runtime; where a file leaves the namespace out, it is the job's.
    let near = |document: &Document| match (namespace(document), namespace(job)) {
        (Some(theirs), Some(ours)) => theirs == ours || document.kind().0 == "ClusterTrainingRuntime",
        _ => true,
    };
    let named = |document: &Document| {
        matches!(role(document), Role::Runtime) && document.name() == name && near(document)
    };
    let of_kind = all.iter().position(|(document, _)| named(document) && document.kind().0 == kind);
    let index = of_kind.or_else(|| all.iter().position(|(document, _)| named(document)))?;
    let mut document = all[index].0.clone();
    document.prefix = format!("runtime({name}).");
    Some((index, document, &all[index].1))
}

fn job(
    migration: &mut Migration,
    document: &Document,
    missing: &variables::Missing,
    runtime: Option<&Runtime<'_>>,
    options: &Options,
) {
    let mut problems: Vec<Problem> = Vec::new();
    let runtime_missing = runtime.map(|(.., missing)| *missing);
    for (name, lines) in missing.iter().chain(runtime_missing.into_iter().flatten()) {
        let lines_shown: Vec<String> = lines.iter().map(usize::to_string).collect();
        let line = lines.first().copied().unwrap_or(1);
        let shown = if line == 0 { String::new() } else { format!(" (line {})", lines_shown.join(", ")) };
        let message = format!("the variable `{name}` has no value{shown}");
        problems.push(Problem { line, message, hint: format!("give it by `--var {name}=…`") });
    }
    if !problems.is_empty() {
        return refuse(migration, document, problems);
    }
    let read = job::read(document, runtime.map(|(_, document, _)| document), options);
    let (draft, fields) = match read {
        Ok(read) => read,
        Err(problems) => return refuse(migration, document, problems),
    };
    if let Some(first) = migration.runs.iter().find(|run| run.name == draft.name) {
        let message = format!(
            "two jobs become a run `{}`: the first is at {}",
            draft.name,
            place(&first.file, first.line)
        );
        let hint = "migrate the files one by one, or give one of the jobs another name";
        return refuse(migration, document, vec![problem(document, &message, hint)]);
    }
    let run = report::run(document, &draft, fields);
    match check(&run) {
        Ok(()) => migration.runs.push(run),
        Err(problems) => refuse(
            migration,
            document,
            problems.into_iter().map(|(message, hint)| problem(document, &message, &hint)).collect(),
        ),
    }
}

/// Nothing is handed over that `eagleray check` would refuse.
fn check(run: &Run) -> Result<(), Vec<(String, String)>> {
    let environment = |_: &str| Some(String::from("set"));
    let source = Source {
        name: SPEC_FILE,
        text: &run.spec,
        base: Path::new("/"),
        overrides: &[],
        environment: &environment,
    };
    let Err(problems) = eagleray_spec::resolve(&source) else { return Ok(()) };
    let all = problems.list().iter().map(|problem| {
        let message =
            format!("the run would not pass `eagleray check`: `{}`: {}", problem.path, problem.message);
        (message, problem.hint.clone().unwrap_or_default())
    });
    Err(all.collect())
}

/// An object that no run needs, or that stays as it is.
fn other(document: &Document, all: &[(Document, variables::Missing)]) -> Other {
    let (kind, name) = (document.kind().0, document.name());
    let host = |(job, _): &(Document, variables::Missing)| {
        let host = job.root.text_at(&["spec", "elasticPolicy", "rdzvHost"]);
        job.file == document.file && host.is_some_and(|host| host.split('.').next() == Some(name))
    };
    let serves = matches!(kind, "Service" | "Deployment" | "StatefulSet" | "Pod");
    let verdict = if serves && all.iter().any(host) {
        Verdict::replaced("it serves the rendezvous, which Ray Train does not need: delete it")
    } else {
        Verdict::lost("no part of a run: apply it as before where the script needs it")
    };
    Other {
        file: document.file.clone(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        fields: Account::new([document]).close(&verdict),
    }
}
