//! `eagleray lint` as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use common::{run, shown};
use serde_json::Value;

mod common;

const JOB: &str = "\
apiVersion: ray.io/v1
kind: RayJob
metadata: {name: a-job}
spec:
  entrypoint: python a.py
  submissionMode: HTTPModee
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("manifests/jobs");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("job.yaml"), JOB).unwrap();
    std::fs::write(
        folder.path().join("manifests/other.json"),
        "{\"apiVersion\": \"v1\", \"kind\": \"Service\"}",
    )
    .unwrap();
    std::fs::write(folder.path().join("manifests/notes.txt"), ": not [ read").unwrap();
    std::fs::create_dir(folder.path().join("manifests/.git")).unwrap();
    std::fs::write(folder.path().join("manifests/.git/x.yaml"), ": not [ read").unwrap();
    folder
}

#[test]
fn help_lists_what_it_takes() {
    insta::assert_snapshot!("lint_help", shown(folder().path(), &["lint", "--help"]));
}

#[test]
fn a_folder_is_read_with_all_below_it_and_an_error_is_exit_code_1() {
    insta::assert_snapshot!("lint_folder", shown(folder().path(), &["lint", "manifests"]));
}

#[test]
fn without_an_error_the_exit_code_is_0() {
    let folder = folder();
    let output = run(folder.path(), &["lint", "manifests", "--accept", "submission-mode-unknown"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn json_and_sarif_are_documents() {
    let folder = folder();
    for (format, pointer) in [("json", "/findings/0/rule"), ("sarif", "/runs/0/results/0/ruleId")] {
        let output = run(folder.path(), &["lint", "manifests", "--format", format]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document.pointer(pointer).unwrap(), "submission-mode-unknown");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    let folder = folder();
    let texts: Vec<String> = [
        &["lint", "live", "--kubeconfig", "nowhere"][..],
        &["lint", "live", "manifests"],
        &["lint", "manifests", "-n", "training"],
        &["lint", "nowhere.yaml"],
        &["lint", "manifests/.git", "--kuberay", "1.5"],
        &["lint", "manifests", "--accept", "submision-mode-unknown"],
        &["lint", "--explain", "no-such-rule"],
        &["check", "run.yaml", "--format", "sarif"],
    ]
    .iter()
    .map(|arguments| format!("$ eagleray {}\n{}", arguments.join(" "), shown(folder.path(), arguments)))
    .collect();
    insta::assert_snapshot!("lint_refusals", texts.join("\n"));
}

#[test]
fn a_rule_is_explained() {
    insta::assert_snapshot!("lint_explain", shown(folder().path(), &["lint", "--explain", "sidecar-mode"]));
}
