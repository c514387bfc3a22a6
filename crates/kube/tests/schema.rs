//! Every object against the schema that an API server would hold it to.
//!
//! The schemas are those of the real definitions (CRDs), which are no part of this repository: they are
//! looked for in the folders of `EAGLERAY_CRDS`, separated by `:`, then in `../shared/fixtures/crds` beside
//! it. Kinds whose definition is not there are named and left out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{ELASTIC, FIRST, FIXED, rendered};
use eagleray_kube::render::Options;
use eagleray_kube::yaml::Node;
use serde_json::{Value, json};

#[allow(dead_code, reason = "each test uses what it needs")]
mod common;

/// Kinds of Kubernetes itself, which have no definition.
const BUILT_IN: [&str; 7] = [
    "ConfigMap",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PriorityClass",
    "Role",
    "RoleBinding",
    "ServiceAccount",
];

fn folders() -> Vec<PathBuf> {
    let named = std::env::var("EAGLERAY_CRDS").unwrap_or_default();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/crds");
    named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).chain([beside]).collect()
}

/// Schemas by `group/version` and kind; the first folder that has one wins.
fn schemas() -> BTreeMap<(String, String), Value> {
    let mut schemas = BTreeMap::new();
    for folder in folders() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let spec = &definition["spec"];
            for version in spec["versions"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let group = format!("{}/{}", text(&spec["group"]), text(&version["name"]));
                let key = (group, text(&spec["names"]["kind"]));
                schemas.entry(key).or_insert_with(|| version["schema"]["openAPIV3Schema"].clone());
            }
        }
    }
    schemas
}

/// What is wrong with a value: unknown and missing fields, types, words that are not listed, bounds.
fn judge(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_string() || value.is_i64()) {
            wrong.push(format!("{path}: {value} is no quantity"));
        }
        return;
    }
    let holds = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    };
    if !holds {
        wrong.push(format!("{path}: {value} is no {}", schema["type"]));
        return;
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        wrong.push(format!("{path}: {value} is none of {}", schema["enum"]));
    }
    for (key, within) in [("maxLength", false), ("minLength", true)] {
        let Some((bound, text)) = schema[key].as_u64().zip(value.as_str()) else { continue };
        let length = text.chars().count() as u64;
        if if within { length < bound } else { length > bound } {
            wrong.push(format!("{path}: {value} against {key} {bound}"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        judge(&schema["items"], item, &format!("{path}[{index}]"), wrong);
    }
    if let Some(fields) = value.as_object() {
        judge_fields(schema, fields, path, wrong);
    }
}

fn judge_fields(
    schema: &Value,
    fields: &serde_json::Map<String, Value>,
    path: &str,
    wrong: &mut Vec<String>,
) {
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            wrong.push(format!("{path}: `{required}` is missing"));
        }
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || (schema["properties"].is_null() && schema["additionalProperties"].is_null());
    for (key, value) in fields {
        let below = format!("{path}.{key}");
        if let Some(schema) = schema["properties"].get(key) {
            judge(schema, value, &below, wrong);
        } else if schema["additionalProperties"].is_object() {
            judge(&schema["additionalProperties"], value, &below, wrong);
        } else if !open {
            wrong.push(format!("{below}: unknown"));
        }
    }
}

#[test]
fn the_judge_finds_what_an_api_server_refuses() {
    let schema = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "enum": ["x"]}, "b": {"type": "array", "items": {"type": "integer"}},
        "c": {"x-kubernetes-int-or-string": true}, "d": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let judged = |value: Value| {
        let mut wrong = Vec::new();
        judge(&schema, &value, "", &mut wrong);
        wrong.len()
    };
    assert_eq!(judged(json!({"a": "x", "b": [1], "c": "1Gi", "d": {"k": "v"}})), 0);
    assert_eq!(judged(json!({"b": [1, "2"], "e": 1, "c": true, "d": {"k": 1}})), 5);
    assert_eq!(judged(json!({"a": "y"})), 1);
}

#[test]
fn every_object_fits_its_definition() {
    let schemas = schemas();
    if schemas.is_empty() {
        eprintln!("skipped: no definitions in {:?}; set EAGLERAY_CRDS to folders with CRDs", folders());
        return;
    }
    let kueue = Options { kueue: true, ..FIRST };
    let spot = ELASTIC
        .replace("nodes: 2", "capacity: reserved, nodes: 2")
        .replace("ami: al", "reservations: [cr-0a], ami: al");
    let ami = ELASTIC
        .replace("al2023@v20261112", "ami-0123456789abcdef0")
        .replace("    labels:", "    queue: llm\n    labels:");
    let mut without = Vec::new();
    let mut judged = 0;
    for (text, options) in [(ELASTIC, FIRST), (FIXED, kueue), (&spot, FIRST), (&ami, kueue)] {
        for file in rendered(text, options).files {
            let object = Node::Map(file.object.clone()).value();
            let version = object["apiVersion"].as_str().unwrap().to_owned();
            let Some(schema) = schemas.get(&(version, file.kind())) else {
                without.extend((!BUILT_IN.contains(&file.kind().as_str())).then(|| file.kind()));
                continue;
            };
            let mut wrong = Vec::new();
            judge(schema, &object, &file.path, &mut wrong);
            assert!(wrong.is_empty(), "{wrong:#?}");
            judged += 1;
        }
    }
    without.sort();
    without.dedup();
    if !without.is_empty() {
        eprintln!("skipped for want of a definition: {without:?}");
    }
    assert!(judged > 0, "no object has a definition in {:?}", folders());
}
