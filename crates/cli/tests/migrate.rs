//! `eagleray migrate` as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use common::{run, shown};
use serde_json::Value;

mod common;

const JOB: &str = "\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: chat, namespace: nlp}
spec:
  elasticPolicy: {rdzvBackend: etcd, rdzvHost: etcd, maxRestarts: 9}
  pytorchReplicaSpecs:
    Worker:
      replicas: $NODES
      template:
        spec:
          volumes: [{name: fsx, persistentVolumeClaim: {claimName: fsx}}]
          containers:
            - name: pytorch
              image: ${IMAGE}
              command: [torchrun, --nproc_per_node=4, /a.py]
              resources: {limits: {nvidia.com/gpu: 4}}
              volumeMounts: [{name: fsx, mountPath: /fsx}]
---
apiVersion: v1
kind: Service
metadata: {name: etcd}
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("jobs")).unwrap();
    std::fs::write(folder.path().join("jobs/chat.yaml-template"), JOB).unwrap();
    folder
}

const VARIABLES: [&str; 6] = ["--var", "NODES=2", "--var", "IMAGE=acme/chat:1", "--instance", "g5.12xlarge"];

#[test]
fn the_help_of_migrate_is_frozen() {
    insta::assert_snapshot!("migrate_help", shown(folder().path(), &["migrate", "--help"]));
}

#[test]
fn a_template_says_all_that_it_lacks_and_writes_nothing() {
    let folder = folder();
    insta::assert_snapshot!("migrate_missing", shown(folder.path(), &["migrate", "jobs", "-o", "runs"]));
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn what_is_written_passes_check_and_is_not_replaced() {
    let folder = folder();
    let arguments = [&["migrate", "jobs/chat.yaml-template", "-o", "runs"][..], &VARIABLES].concat();
    insta::assert_snapshot!("migrate", shown(folder.path(), &arguments));
    insta::assert_snapshot!("migrate_check", shown(folder.path(), &["check", "runs/chat/run.yaml"]));
    let report = std::fs::read_to_string(folder.path().join("runs/chat/migration.md")).unwrap();
    insta::assert_snapshot!("migrate_report", report);
    let path = folder.path().join("runs/chat/run.yaml");
    std::fs::write(&path, "mine").unwrap();
    insta::assert_snapshot!("migrate_again", shown(folder.path(), &arguments));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert!(run(folder.path(), &[&arguments[..], &["--force"]].concat()).status.success());
    assert_ne!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn beside_a_job_that_is_refused_the_others_are_migrated_and_it_exits_with_1() {
    let folder = folder();
    let other = "apiVersion: kubeflow.org/v2beta1\nkind: MPIJob\nmetadata: {name: mpi}\n";
    std::fs::write(folder.path().join("jobs/mpi.yaml"), other).unwrap();
    let arguments = [&["migrate", "jobs", "-o", "runs", "--format", "json"][..], &VARIABLES].concat();
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let migration = &shown["migration"];
    assert_eq!(migration["runs"][0]["workers"], 8);
    assert_eq!(migration["refused"][0]["kind"], "MPIJob");
    assert_eq!(migration["others"][0]["fields"][0]["fate"], "replaced");
    let fates: Vec<&str> = migration["runs"][0]["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| field["fate"].as_str().unwrap())
        .collect();
    assert!(fates.contains(&"carried") && fates.contains(&"replaced"), "{fates:?}");
    assert!(folder.path().join("runs/chat/Dockerfile").exists());
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let folder = folder();
    let arguments = ["migrate", "live", "-o", "runs", "--kubeconfig", "nowhere"];
    insta::assert_snapshot!("migrate_live", shown(folder.path(), &arguments));
}
