//! The fields that `unknown-field` knows are those of `KubeRay`'s own definitions, where these are at hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use eagleray_kube::lint::{File, KubeRay, Options, lint};
use eagleray_kube::manifest::{self, Node, Value};

const NESTED: [&str; 5] =
    ["headGroupSpec", "workerGroupSpecs", "autoscalerOptions", "gcsFaultToleranceOptions", "authOptions"];

fn get<'a>(node: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(node, |node, key| match &node.value {
        Value::List(items) => items.first()?.entry(key).map(|entry| &entry.node),
        _ => node.entry(key).map(|entry| &entry.node),
    })
}

fn keys(node: &Node) -> Vec<&str> {
    match &node.value {
        Value::Mapping(entries) => entries.iter().map(|entry| entry.key.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// A job that sets every field of a definition, and nothing within any of them.
fn job_with_every_field(definition: &str) -> String {
    let read = manifest::read(definition);
    let root = read[0].as_ref().unwrap();
    let spec =
        get(root, &["spec", "versions", "schema", "openAPIV3Schema", "properties", "spec", "properties"])
            .unwrap();
    let cluster = get(spec, &["rayClusterSpec", "properties"]).unwrap();
    let mut job = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: a}\nspec:\n".to_owned();
    for key in keys(spec).into_iter().filter(|key| *key != "rayClusterSpec") {
        let _ = writeln!(job, "  {key}: null");
    }
    job.push_str("  rayClusterSpec:\n");
    for key in keys(cluster) {
        let inner = get(cluster, &[key]).unwrap();
        let inner = get(inner, &["properties"]).or_else(|| get(inner, &["items", "properties"]));
        let inner = inner.filter(|_| NESTED.contains(&key)).map(keys).unwrap_or_default();
        let inner: Vec<String> = inner.iter().map(|key| format!("{key}: null")).collect();
        let inner = inner.join(", ");
        let _ = match key {
            "workerGroupSpecs" => writeln!(job, "    {key}: [{{{inner}}}]"),
            _ => writeln!(job, "    {key}: {{{inner}}}"),
        };
    }
    job
}

fn unknown(job: &str, kuberay: KubeRay) -> BTreeSet<String> {
    let options = Options { kuberay: Some(kuberay), ..Options::default() };
    let report = lint(&[File { name: "job.yaml", text: job }], &options).unwrap();
    report
        .findings
        .into_iter()
        .filter(|finding| finding.rule == "unknown-field")
        .map(|finding| finding.path)
        .collect()
}

/// The paths of all keys below the spec, as findings name them.
fn paths(job: &str) -> BTreeSet<String> {
    fn walk(node: &Node, path: &str, found: &mut BTreeSet<String>) {
        match &node.value {
            Value::Mapping(entries) => {
                for entry in entries {
                    let path = format!("{path}.{}", entry.key);
                    walk(&entry.node, &path, found);
                    found.insert(path);
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, &format!("{path}[{index}]"), found);
                }
            }
            Value::Scalar { .. } => {}
        }
    }
    let read = manifest::read(job);
    let mut found = BTreeSet::new();
    walk(&read[0].as_ref().unwrap().entry("spec").unwrap().node, "spec", &mut found);
    found
}

fn definition(version: KubeRay) -> Option<String> {
    let path = match version {
        KubeRay::V1_7 => Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/fixtures/crds/kuberay-1.7-ray.io_rayjobs.yaml"),
        KubeRay::V1_6 => {
            let cache = std::env::var_os("GOMODCACHE").map(PathBuf::from);
            let cache =
                cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join("go/pkg/mod")))?;
            cache.join(
                "github.com/ray-project/kuberay/ray-operator@v1.6.2/config/crd/bases/ray.io_rayjobs.yaml",
            )
        }
    };
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!("skipped: no definition of KubeRay {} at hand", version.name());
    }
    text
}

#[test]
fn every_field_of_a_definition_is_known_to_its_version() {
    for version in [KubeRay::V1_6, KubeRay::V1_7] {
        let Some(text) = definition(version) else { continue };
        let job = job_with_every_field(&text);
        assert!(paths(&job).len() > 60, "{job}");
        assert_eq!(unknown(&job, version), BTreeSet::new(), "{}", version.name());
    }
}

#[test]
fn what_came_with_1_7_is_unknown_to_1_6() {
    let (Some(old), Some(new)) = (definition(KubeRay::V1_6), definition(KubeRay::V1_7)) else { return };
    let [old, new] = [old, new].map(|text| job_with_every_field(&text));
    let came: BTreeSet<String> = paths(&new).difference(&paths(&old)).cloned().collect();
    assert_eq!(unknown(&new, KubeRay::V1_6), came);
    assert!(!came.is_empty());
}
