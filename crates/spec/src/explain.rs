//! The JSON schema of the spec, and every key with its default and its line of doc, out of the
//! same types that read it.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::types::RunSpec;

/// The JSON schema of the run spec, draft 2020-12.
pub fn schema() -> Value {
    serde_json::to_value(schemars::schema_for!(RunSpec)).unwrap_or_default()
}

/// One key of the spec.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Key {
    /// `data.sources.NAME.weight`; `[]` stands for an item of a list.
    pub path: String,
    /// The kind of value: `text`, `number`, `a | b | c`.
    pub kind: String,
    /// The default; `None` where the key is required.
    pub default: Option<Value>,
    /// What it means.
    pub doc: String,
}

/// Every key of the spec, in the order of the types.
pub fn keys() -> Vec<Key> {
    let root = schema();
    let mut keys = Vec::new();
    let definitions = root["$defs"].as_object().cloned().unwrap_or_default();
    Walk { definitions: &definitions, keys: &mut keys }.object("", &root, false);
    keys
}

struct Walk<'a> {
    definitions: &'a Map<String, Value>,
    keys: &'a mut Vec<Key>,
}

impl Walk<'_> {
    /// The keys of an object; those of a `choice` are its kinds, of which one is given.
    fn object(&mut self, path: &str, schema: &Value, choice: bool) {
        let list = schema["required"].as_array();
        let required = |key: &str| !choice && list.is_some_and(|list| list.iter().any(|name| name == key));
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let place = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let target = self.target(property);
            // A kind is described where it stands, before what it holds.
            let places = if choice { [schema, property, &target] } else { [property, &target, schema] };
            let descriptions = places.map(|place| place["description"].as_str());
            let doc = descriptions.into_iter().flatten().next();
            self.keys.push(Key {
                path: place.clone(),
                kind: self.kind(property),
                default: (!required(key)).then(|| property["default"].clone()),
                doc: doc.unwrap_or_default().replace('\n', " "),
            });
            self.inner(&place, &target);
        }
    }

    /// Goes into what a key holds: an object, the values of a mapping, the items of a list, the variants of an enum.
    fn inner(&mut self, path: &str, schema: &Value) {
        self.object(path, schema, false);
        if schema["additionalProperties"].is_object() {
            let value = self.target(&schema["additionalProperties"]);
            self.inner(&format!("{path}.NAME"), &value);
        }
        if schema["items"].is_object() {
            let item = self.target(&schema["items"]);
            self.inner(&format!("{path}[]"), &item);
        }
        for variants in ["oneOf", "anyOf"] {
            for variant in schema[variants].as_array().into_iter().flatten() {
                let variant = self.target(variant);
                if variants == "oneOf" {
                    self.object(path, &variant, true);
                } else if variant["type"] != "null" {
                    self.inner(path, &variant);
                }
            }
        }
    }

    /// The schema behind a reference; behind an optional one too.
    fn target(&self, schema: &Value) -> Value {
        if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
            return self.definitions.get(name).cloned().unwrap_or_default();
        }
        schema.clone()
    }

    fn kind(&self, schema: &Value) -> String {
        let target = self.target(schema);
        if let Some(values) = target["enum"].as_array() {
            return values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | ");
        }
        for variants in ["oneOf", "anyOf"] {
            if let Some(list) = target[variants].as_array() {
                let mut kinds: Vec<String> = Vec::new();
                for kind in list.iter().filter(|one| one["type"] != "null").map(|one| self.kind(one)) {
                    if !kinds.contains(&kind) {
                        kinds.push(kind);
                    }
                }
                return kinds.join(" | ");
            }
        }
        if let Some(value) = target["const"].as_str() {
            return value.to_owned();
        }
        let name = match &target["type"] {
            Value::Array(types) => types.iter().find(|one| *one != "null").cloned().unwrap_or_default(),
            one => one.clone(),
        };
        match name.as_str().unwrap_or_default() {
            "object" => "mapping",
            "array" => "list",
            "string" => "text",
            "integer" => "whole number",
            "number" => "number",
            "boolean" => "true | false",
            _ => "any",
        }
        .to_owned()
    }
}

/// `--show-defaults`: one key a line with kind and default, its meaning below.
pub fn show_defaults() -> String {
    let mut shown = String::new();
    for key in keys() {
        let default = match &key.default {
            None => "required".to_owned(),
            Some(Value::Null) => "left out".to_owned(),
            Some(Value::String(text)) if !text.is_empty() => format!("default {text}"),
            Some(value) => format!("default {value}"),
        };
        let _ = writeln!(shown, "{} ({}; {default})\n    {}", key.path, key.kind, key.doc);
    }
    shown
}
