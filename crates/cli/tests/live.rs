//! `live` in the place of files, as a user meets it: against an API server on a port of this machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use common::{run, shown};
use serde_json::Value;
use server::{hold, listen, refusal, stored};

mod common;
#[path = "../../launch/tests/common/mod.rs"]
mod server;

const OBJECTS: &str = "
apiVersion: ray.io/v1
kind: RayJob
metadata: {name: solar, namespace: training}
spec:
  entrypoint: python a.py
  submissionMode: HTTPModee
---
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: p5}
spec:
  limits: {nvidia.com/gpu: 8}
  template: {spec: {taints: [{key: nvidia.com/gpu, effect: NoSchedule}], requirements: []}}
---
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: chat, namespace: training}
spec:
  pytorchReplicaSpecs:
    Worker:
      replicas: 2
      template:
        spec:
          nodeSelector: {node.kubernetes.io/instance-type: g5.12xlarge}
          volumes: [{name: fsx, persistentVolumeClaim: {claimName: fsx}}]
          containers:
            - name: pytorch
              image: acme/chat:1
              command: [torchrun, --nproc_per_node=4, /a.py]
              resources: {limits: {nvidia.com/gpu: 4}}
              volumeMounts: [{name: fsx, mountPath: /fsx}]
";

/// A folder with the kubeconfig of a server that holds these objects, and shows neither claims nor secrets.
fn cluster(text: &str) -> tempfile::TempDir {
    let answer = hold(stored(text));
    let (folder, ..) = listen(move |asked| {
        let hidden = ["persistentvolumeclaims", "secrets"].iter().find(|kind| asked.contains(*kind));
        hidden.map_or_else(|| answer(asked), |kind| refusal(403, &format!("{kind} is forbidden")))
    });
    folder
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_slice(&run(folder, arguments).stdout).unwrap()
}

#[test]
fn objects_of_a_cluster_are_named_by_what_they_are() {
    let folder = cluster(OBJECTS);
    insta::assert_snapshot!("live_lint", shown(folder.path(), &["lint", "live", "--kubeconfig", "config"]));
}

#[test]
fn json_and_sarif_name_the_object_and_no_line() {
    let folder = cluster(OBJECTS);
    let arguments = ["lint", "live", "-n", "training", "--kubeconfig", "config", "--format"];
    let report = json(folder.path(), &[&arguments[..], &["json"]].concat());
    let of_rule = |finding: &&Value| finding["rule"] == "submission-mode-unknown";
    let finding = report["findings"].as_array().unwrap().iter().find(of_rule).unwrap();
    assert_eq!((&finding["file"], &finding["line"]), (&"live:training/RayJob/solar".into(), &Value::Null));
    assert_eq!(finding["path"], "spec.submissionMode");
    let sarif = json(folder.path(), &[&arguments[..], &["sarif"]].concat());
    let of_rule = |result: &&Value| result["ruleId"] == "submission-mode-unknown";
    let result = sarif["runs"][0]["results"].as_array().unwrap().iter().find(of_rule).unwrap();
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "live:training/RayJob/solar");
    assert_eq!(place.get("region"), None);
    // Another namespace has none of the job, and all of what lies in none.
    let arguments = ["lint", "live", "-n", "other", "--kubeconfig", "config", "--format", "json"];
    let report = json(folder.path(), &arguments);
    let files =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["file"].as_str().unwrap());
    assert!(files.clone().count() > 0 && files.clone().all(|file| file == "live:NodePool/p5"), "{report}");
}

#[test]
fn jobs_of_a_cluster_become_runs() {
    let folder = cluster(OBJECTS);
    let arguments = ["migrate", "live", "--all-namespaces", "-o", "runs", "--kubeconfig", "config"];
    insta::assert_snapshot!("live_migrate", shown(folder.path(), &arguments));
    assert!(run(folder.path(), &["check", "runs/chat/run.yaml"]).status.success());
    let report = std::fs::read_to_string(folder.path().join("runs/chat/migration.md")).unwrap();
    assert!(report.contains("From `live:training/PyTorchJob/chat`: 2 nodes"), "{report}");
    let arguments = ["migrate", "live", "-n", "other", "-o", "more", "--kubeconfig", "config"];
    insta::assert_snapshot!("live_migrate_none", shown(folder.path(), &arguments));
}
