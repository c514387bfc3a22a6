//! The objects of a cluster are judged as their files are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use common::{Requests, hold, listen, refusal, stored};
use eagleray_kube::lint::{File, KubeRay, Options, Report, lint, lint_live, rule};
use eagleray_kube::migrate::{Input, migrate, migrate_live};
use eagleray_launch::cluster::{Cluster, Connection};
use eagleray_launch::live::{Seen, jobs, linted};
use serde_json::{Value, json};

#[path = "../../kube/tests/lint/cases.rs"]
#[allow(dead_code, reason = "what is good is looked at where the rules are")]
mod cases;
mod common;

const GOOD: &str = include_str!("../../kube/tests/lint/good.yaml");
const TRAIN_JOB: &str = include_str!("../../kube/tests/data/trainjob.yaml");

/// What no API server keeps, or shows in this way.
const NEVER_LIVE: [&str; 7] = [
    "unreadable",
    "duplicate-object",
    // The API server answers in the version that it is asked for.
    "api-v1alpha1",
    "karpenter-api-old",
    // Kueue's own configuration is a file, and no object.
    "pods-ready-timeout-short",
    "recovery-timeout-short",
    // Text or no text: the API server has refused it.
    "not-a-string",
];

fn serve(answer: impl Fn(&str) -> (u16, Value) + Send + 'static) -> (Cluster, Requests) {
    let (_folder, path, requests) = listen(answer);
    (Cluster::connect(&Connection { kubeconfig: Some(path), ..Connection::default() }).unwrap(), requests)
}

fn found(report: &Report) -> Vec<(&'static str, String)> {
    let mut found: Vec<_> =
        report.findings.iter().map(|finding| (finding.rule, finding.path.clone())).collect();
    found.sort();
    found
}

fn look(seen: &Seen) -> Report {
    lint_live(&seen.objects, &Options::default()).unwrap()
}

#[test]
fn objects_of_a_cluster_have_the_findings_of_their_files() {
    for id in NEVER_LIVE {
        assert!(rule(id).is_ok(), "{id}");
    }
    let (mut faults, mut compared) = (String::new(), 0);
    for case in cases::CASES.iter().filter(|case| !NEVER_LIVE.contains(&case.rule)) {
        let text = case.bad.iter().fold(GOOD.to_owned(), |text, (old, new)| text.replacen(old, new, 1));
        let files = found(&lint(&[File { name: "all.yaml", text: &text }], &Options::default()).unwrap());
        let (cluster, _) = serve(hold(stored(&text)));
        let live = found(&look(&linted(&cluster, None).unwrap()));
        if files != live {
            let _ = writeln!(faults, "{}: files {files:?}\n    live {live:?}", case.rule);
        }
        compared += files.len();
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(compared > cases::CASES.len() / 2, "{compared} findings");
}

#[test]
fn a_cluster_of_a_job_is_not_reported_twice_and_no_secret_is_asked_for() {
    let text = GOOD.replacen("cpu: \"16\", memory: 64Gi", "cpu: \"1\", memory: 1Gi", 2);
    let mut objects = stored(&text);
    let job = objects.iter().find(|object| object["kind"] == "RayJob").unwrap().clone();
    objects.push(
        json!({"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": job["spec"]["rayClusterSpec"],
        "metadata": {"name": "solar-8b-1-x", "namespace": "training", "uid": "u99",
            "ownerReferences": [{"kind": "RayJob", "name": "solar-8b-1", "uid": job["metadata"]["uid"]}]}}),
    );
    let (cluster, requests) = serve(hold(objects));
    let report = look(&linted(&cluster, Some("training")).unwrap());
    let files: Vec<&str> = report.findings.iter().map(|finding| finding.file.as_str()).collect();
    assert!(
        !files.is_empty() && files.iter().all(|file| *file == "live:training/RayJob/solar-8b-1"),
        "{files:?}"
    );
    let requests = requests.lock().unwrap();
    assert!(requests.iter().all(|(asked, _)| asked.starts_with("GET ") && !asked.contains("secrets")));
    assert!(requests.iter().filter(|(asked, _)| asked.contains("rayclusters")).count() > 1, "in pages");
    assert!(
        requests.iter().any(|(asked, _)| asked.contains("/namespaces/training/rayjobs?&limit=")),
        "{requests:?}"
    );
}

#[test]
fn what_is_not_served_or_not_allowed_is_named_and_the_operator_says_the_version() {
    let operator = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kuberay-operator", "namespace": "x"},
            "spec": {"template": {"spec": {"containers": [{"image": image}]}}}})
    };
    let text = GOOD.replacen("groupName: od", "groupName: od\n        priority: 1", 1);
    let mut objects = stored(&text);
    objects.push(operator("quay.io/kuberay/operator:v1.6.2"));
    let answer = hold(objects);
    let (cluster, _) = serve(move |asked| {
        if asked.contains("nodepools") { refusal(403, "nodepools is forbidden") } else { answer(asked) }
    });
    let seen = linted(&cluster, None).unwrap();
    assert_eq!(
        seen.notes,
        [
            "the cluster does not serve RayService, Provisioner, PersistentVolume, Profile, PyTorchJob, TFJob, JAXJob, MPIJob, TrainJob: not looked at",
            "cannot look at NodePool: nodepools: nodepools is forbidden",
        ]
    );
    assert_eq!(seen.kuberay.as_deref(), Some("1.6"));
    let options = Options { kuberay: Some(KubeRay::V1_6), ..Options::default() };
    assert!(
        found(&lint_live(&seen.objects, &options).unwrap()).iter().any(|(rule, _)| *rule == "unknown-field")
    );
    // Without any kind of Ray there is nothing to look at.
    let (cluster, _) = serve(|_| refusal(403, "it is forbidden"));
    let error = linted(&cluster, None).unwrap_err();
    assert!(error.message().contains("rayjobs: it is forbidden"), "{}", error.message());
}

#[test]
fn jobs_of_a_cluster_become_the_runs_that_their_files_become() {
    // A runtime of that name in another namespace is another one.
    let other = TRAIN_JOB.split_once("---\n").unwrap().1.replace("ClusterTrainingRuntime", "TrainingRuntime");
    let other = other
        .replace("  name: torch\n", "  name: torch\n  namespace: elsewhere\n")
        .replace("g6.12xlarge", "p5.48xlarge");
    let (cluster, _) = serve(hold(stored(&format!("{TRAIN_JOB}\n---\n{other}"))));
    let seen = jobs(&cluster, Some("ml")).unwrap();
    assert_eq!(seen.notes, ["the cluster does not serve PyTorchJob: not looked at"]);
    let options = eagleray_kube::migrate::Options::default();
    let live = migrate_live(&seen.objects, &options).unwrap();
    let file = migrate(&[Input { name: "job.yaml", text: TRAIN_JOB }], &options).unwrap();
    assert!(live.refused.is_empty() && live.others.is_empty(), "{live:?}");
    let (live_run, run) = (&live.runs[0], &file.runs[0]);
    let bare = |spec: &str| spec.lines().skip(2).collect::<Vec<_>>().join("\n");
    assert_eq!(bare(&live_run.spec), bare(&run.spec));
    assert_eq!(live_run.counts(), run.counts());
    assert_eq!((live_run.file.as_str(), live_run.line), ("live:ml/TrainJob/fine-tune", 0));
    let report = live.markdown(live_run);
    assert!(
        report.contains("From `live:ml/TrainJob/fine-tune`: 2 nodes")
            && report.contains("| field | what to do |")
    );
}
