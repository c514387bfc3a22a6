//! How `KubeRay` is installed, held against its own chart.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use common::{ELASTIC, FIXED, resolved};
use eagleray_kube::render::operator::{Options, Text, render};
use eagleray_spec::types::KubeRay;
use serde_json::Value;

#[allow(dead_code, reason = "what other tests use of it")]
mod common;

/// The keys of a chart's values, the gates of its operator with their defaults, and the variables that it names: one a
/// line. `{}` and `[]` are mappings and lists that the chart leaves to its user.
const CHARTS: [(KubeRay, &str); 2] = [
    (KubeRay::V1_6, include_str!("data/kuberay-operator-1.6.2.txt")),
    (KubeRay::V1_7, include_str!("data/kuberay-operator-1.7.0.txt")),
];

fn of(kuberay: KubeRay, watch: &[&str]) -> Vec<Text> {
    let watch = watch.iter().map(|name| (*name).to_owned()).collect();
    render(None, &Options { kuberay: Some(kuberay), watch, ..Options::default() }).unwrap()
}

fn values(files: &[Text]) -> Value {
    serde_saphyr::from_str(&files[0].text).unwrap()
}

/// Whether a chart has a key, or leaves what is below one of its parents to its user.
fn has(chart: &str, key: &str) -> bool {
    let open = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap_or((line, ""));
        name == key || (kind == "{}" && key.starts_with(&format!("{name}.")))
    };
    // Requests are a comment in the chart, beside the limits that are not: what both are is Kubernetes' business.
    chart.lines().any(open)
        || (key.starts_with("resources.requests.") && chart.contains("\nresources.limits."))
}

fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                keys(inner, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_value_is_one_of_the_chart() {
    for (version, chart) in CHARTS {
        for watch in [&[][..], &["training", "nlp"]] {
            let mut found = Vec::new();
            keys(&values(&of(version, watch)), "", &mut found);
            let unknown: Vec<&String> = found.iter().filter(|key| !has(chart, key)).collect();
            assert!(unknown.is_empty(), "{version:?}: {unknown:?}");
            assert!(found.len() > 8);
        }
        assert!(!has(chart, "featureGate") && !has(chart, "resources.limit.cpu") && !has(chart, "image"));
    }
}

#[test]
fn the_gates_are_all_of_the_version_and_as_it_has_them() {
    for (version, chart) in CHARTS {
        let lines = |prefix: &str| -> BTreeSet<String> {
            chart.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        let values = values(&of(version, &[]));
        let gates = values["featureGates"].as_array().unwrap().iter();
        let gates: BTreeSet<String> =
            gates.map(|gate| format!("{} {}", gate["name"].as_str().unwrap(), gate["enabled"])).collect();
        assert_eq!(gates, lines("gate "));
        let variables = lines("env ");
        for variable in values["env"].as_array().unwrap() {
            assert!(variables.contains(variable["name"].as_str().unwrap()), "{version:?}: {variable}");
            assert!(variable["value"].is_string(), "Kubernetes takes text alone: {variable}");
        }
    }
    assert!(!of(KubeRay::V1_6, &[]).iter().any(|file| file.text.contains("STATUS_CHECK")));
    assert!(of(KubeRay::V1_7, &[]).iter().all(|file| file.text.contains("STATUS_CHECK")));
}

#[test]
fn an_operator_beside_another_one() {
    insta::assert_snapshot!(of(KubeRay::V1_7, &["training", "nlp"])[0].text);
}

#[test]
fn it_is_sized_by_the_pods_of_the_spec_or_by_those_that_are_said() {
    let memory = |spec: &str, pods| {
        let files = render(Some(&resolved(spec)), &Options { pods, ..Options::default() }).unwrap();
        let values = values(&files);
        let limit = values["resources"]["limits"]["memory"].as_str().unwrap().to_owned();
        assert_eq!(values["resources"]["requests"]["memory"], limit.as_str());
        assert!(files[1].text.contains(&format!("memory={limit}")), "the script says it too");
        (limit, values["reconcileConcurrency"].as_u64().unwrap())
    };
    assert_eq!(memory(ELASTIC, None), ("1536Mi".into(), 4));
    assert_eq!(memory(ELASTIC, Some(10)), ("1024Mi".into(), 4));
    assert_eq!(memory(ELASTIC, Some(3_000)), ("6656Mi".into(), 12));
    let large = ELASTIC.replace("max: 4}", "max: 996}");
    // 2 and 996 nodes, 4 that build, 2 heads; and as many again.
    assert_eq!(memory(&large, None), ("4608Mi".into(), 8));
}

#[test]
fn the_version_is_that_of_the_spec() {
    let script = |spec: &str| {
        render(Some(&resolved(spec)), &Options::default()).unwrap().into_iter().nth(1).unwrap().text
    };
    assert!(script(FIXED).contains("version=\"1.6.2\"") && script(ELASTIC).contains("version=\"1.7.0\""));
    let place = |piece: &str| !piece.is_empty() && piece.chars().all(|c| c.is_ascii_uppercase());
    assert!(!script(FIXED).split('@').any(place), "every place is filled in");
}

#[test]
fn namespaces_that_cannot_be_are_refused_by_name() {
    let refused = |spec: Option<&str>, watch: &str| {
        let options = Options { watch: vec![watch.to_owned()], ..Options::default() };
        let resolved = spec.map(resolved);
        render(resolved.as_ref(), &options).unwrap_err().render()
    };
    let all = [refused(Some(ELASTIC), "nlp"), refused(None, "a;reboot"), refused(None, "Training")];
    insta::assert_snapshot!(all.join("\n\n"));
}
