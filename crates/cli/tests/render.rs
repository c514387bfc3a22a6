//! `eagleray render`, as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use common::{run, shown};
use serde_json::Value;

mod common;

/// The spec of docs/eks.md in a folder.
fn folder() -> tempfile::TempDir {
    let text = include_str!("../../../docs/eks.md");
    let spec = text.split("\n```yaml\n").nth(1).unwrap().split("\n```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.yaml"), spec).unwrap();
    folder
}

/// Every file below a folder.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for inner in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        for file in std::fs::read_dir(inner.path()).unwrap().map(Result::unwrap) {
            let name = format!("{}/{}", inner.file_name().display(), file.file_name().display());
            files.insert(name, std::fs::read_to_string(file.path()).unwrap());
        }
    }
    files
}

#[test]
fn the_spec_of_the_documents_is_rendered_and_listed() {
    let folder = folder();
    insta::assert_snapshot!("render", shown(folder.path(), &["render", "run.yaml", "-o", "out"]));
    let first = tree(&folder.path().join("out"));
    let output = run(folder.path(), &["render", "run.yaml", "-o", "out", "--format", "json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tree(&folder.path().join("out")), first);
    let mut paths: Vec<&str> =
        listed["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    let written: Vec<String> = first.keys().map(|name| format!("out/{name}")).collect();
    assert_eq!(paths, written);
    assert!(listed["files"][0]["kind"].is_string() && listed["files"][0]["name"].is_string());
}

#[test]
fn a_manifest_of_an_older_render_is_not_left_beside_the_new_ones() {
    let folder = folder();
    assert!(run(folder.path(), &["render", "run.yaml", "-o", "out"]).status.success());
    let before = tree(&folder.path().join("out"));
    let again = ["render", "run.yaml", "-o", "out", "--built", "--launch", "2"];
    insta::assert_snapshot!("render_stranger", shown(folder.path(), &again));
    assert_eq!(tree(&folder.path().join("out")), before);
}

#[test]
fn a_run_without_a_cluster_has_no_manifests() {
    let folder = folder();
    let spec = std::fs::read_to_string(folder.path().join("run.yaml")).unwrap();
    std::fs::write(folder.path().join("run.yaml"), spec.split("  eks:").next().unwrap()).unwrap();
    insta::assert_snapshot!("render_refused", shown(folder.path(), &["render", "run.yaml", "-o", "out"]));
    assert!(!folder.path().join("out").exists());
}
