//! `eagleray render`, as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

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

#[test]
fn a_cluster_to_work_in_is_rendered_in_place_of_the_launches() {
    let folder = folder();
    insta::assert_snapshot!(
        "render_cluster",
        shown(folder.path(), &["render", "run.yaml", "--kind", "cluster", "-o", "out"])
    );
}

#[test]
fn an_operator_needs_no_spec_and_takes_one() {
    let folder = folder();
    insta::assert_snapshot!("render_operator", shown(folder.path(), &["render", "--operator", "-o", "out"]));
    let first = tree(&folder.path().join("out"));
    let output = run(folder.path(), &["render", "--operator", "run.yaml", "-o", "out", "--format", "json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["files"][0]["path"], "out/operator/values.yaml");
    assert_eq!(
        tree(&folder.path().join("out")),
        first,
        "a small run changes nothing of what is there at least"
    );
    let refused = [
        &["render", "-o", "out"][..],
        &["render", "run.yaml", "--watch", "nlp", "-o", "out"],
        &["render", "--operator", "run.yaml", "--kuberay", "1.6", "-o", "out"],
        &["render", "--operator", "--launch", "2", "-o", "out"],
        &["render", "--operator", "run.yaml", "--watch", "nlp", "-o", "out"],
    ];
    for arguments in refused {
        assert_eq!(run(folder.path(), arguments).status.code(), Some(1), "{arguments:?}");
    }
}

/// What `install.sh` says and does: `deployments` are those of the cluster, one a line, `newer` whether the definitions
/// are of 1.7.
fn installed(arguments: &[&str], deployments: &str, newer: bool) -> (Option<i32>, String, String) {
    const KUBECTL: &str = r#"#!/usr/bin/env bash
echo "kubectl $*" >>"$CALLS"
case "$*" in
  "config current-context") echo test ;;
  *"get deployments"*) printf '%s' "$DEPLOYMENTS" ;;
  *"get crd"*) printf '%s' "$NEWER" ;;
  *"get namespace missing"*) echo "Error: namespaces \"missing\" not found" >&2; exit 1 ;;
  *apply*) cat >>"$CALLS" ;;
esac
"#;
    const HELM: &str = r#"#!/usr/bin/env bash
echo "helm $*" >>"$CALLS"
case "$*" in *"show crds"*) echo "definitions of the chart" ;; esac
"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, text) in [("kubectl", KUBECTL), ("helm", HELM)] {
        std::fs::write(path.join(name), text).unwrap();
        std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let all = [&["render", "--operator", "-o", "out dir"], arguments].concat();
    assert!(run(path, &all).status.success());
    let calls = path.join("calls");
    let output = Command::new("bash")
        .arg(path.join("out dir/operator/install.sh"))
        .current_dir("/")
        .env("PATH", format!("{}:{}", path.display(), std::env::var("PATH").unwrap()))
        .env("CALLS", &calls)
        .env("DEPLOYMENTS", deployments)
        .env("NEWER", if newer { "object" } else { "" })
        .env_remove("CONTEXT")
        .env_remove("NAMESPACE")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let script = format!("{}/out\\ dir/operator/install.sh", path.display());
    let said = said.replace(&script, "[SCRIPT]");
    (output.status.code(), said, std::fs::read_to_string(calls).unwrap())
}

const KUBEFLOW: &str = "kube-system coredns eks/coredns:1 [\"-conf\"]\n\
    kubeflow kuberay-operator quay.io/kuberay/operator:v1.5.0 [\"--feature-gates=A=true\"]\n";

#[test]
fn the_script_installs_definitions_before_the_chart_and_may_be_run_again() {
    let own = "kuberay-system kuberay-operator quay.io/kuberay/operator:v1.6.2 [\"--enable-leader-election=true\"]\n";
    for deployments in ["", own] {
        let (code, said, calls) = installed(&["--kuberay", "1.6"], deployments, false);
        assert_eq!(code, Some(0), "{said}");
        insta::assert_snapshot!("operator_installed", calls);
    }
}

#[test]
fn the_script_changes_nothing_beside_an_operator_of_the_same_namespaces() {
    let (code, said, calls) = installed(&[], KUBEFLOW, false);
    assert_eq!(code, Some(1));
    assert!(!calls.contains("helm") && !calls.contains("apply"), "{calls}");
    insta::assert_snapshot!("operator_beside_kubeflow", said);
}

#[test]
fn the_script_stands_beside_an_operator_of_other_namespaces() {
    for spelled in
        [r#"["--watch-namespace","alice,bob"]"#, r#"["--a=1","--watch-namespace=alice,bob","--b=2"]"#]
    {
        let other = format!("kubeflow kuberay-operator quay.io/kuberay/operator:v1.6.2 {spelled}\n");
        let (code, said, _) = installed(&["--watch", "nlp"], &other, false);
        assert_eq!(code, Some(0), "{said}");
        let (code, said, _) = installed(&["--watch", "nlp", "--watch", "bob"], &other, false);
        assert!(
            code == Some(1) && said.contains("looks at alice,bob, this one would look at nlp,bob"),
            "{said}"
        );
        let (code, said, _) = installed(&[], &other, false);
        assert!(code == Some(1) && said.contains("would look at all namespaces"), "{said}");
    }
}

#[test]
fn the_script_names_a_namespace_that_is_not_there_and_definitions_that_are_newer() {
    let (code, said, calls) = installed(&["--watch", "missing"], "", false);
    assert!(
        code == Some(1) && said.contains("create namespace missing") && !calls.contains("helm"),
        "{said}"
    );
    let (code, said, calls) = installed(&["--kuberay", "1.6"], "", true);
    assert!(code == Some(1) && said.contains("of KubeRay 1.7 or later") && !calls.contains("helm"), "{said}");
    assert_eq!(installed(&["--kuberay", "1.7"], "", true).0, Some(0));
}
