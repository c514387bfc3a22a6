//! YAML documents as trees that know their lines.
//!
//! Manifests are read as they are written: a template's `$NUM_NODES` stands where a number will, so no
//! type is asked for until variables are filled in.

use eagleray_base::{Error, Result};

use crate::live;
use crate::manifest::{self, Broken};

/// One value and the line it stands on.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value as written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Its text, and whether it was unquoted, so that it may be a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// One Kubernetes object of a file.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The file, as the user named it.
    pub(super) file: String,
    /// What stands before every path: `items[2].` inside a list of objects.
    pub(super) prefix: String,
    pub(super) root: Node,
}

impl Node {
    /// The value under `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value under a chain of keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The entries of a mapping; none of anything else.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Whether nothing is written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of a scalar that is not null.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// The text under a chain of keys.
    pub(super) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys)?.text()
    }

    /// As JSON, unquoted scalars read as numbers and booleans.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => serde_json::Value::Null,
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" | "True" | "TRUE" => true.into(),
                "false" | "False" | "FALSE" => false.into(),
                number => number.parse::<i64>().map_or_else(|_| number.into(), Into::into),
            },
            Value::Scalar { text, .. } => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, node)| (key.clone(), node.to_json())).collect(),
            ),
        }
    }

    /// Calls `leaf` with the path of every scalar and of every list or mapping without content.
    pub(super) fn leaves(&self, path: &str, leaf: &mut dyn FnMut(String, &Self)) {
        match &self.value {
            Value::List(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    item.leaves(&format!("{path}[{index}]"), leaf);
                }
            }
            Value::Map(entries) if !entries.is_empty() => {
                for (key, node) in entries {
                    node.leaves(&join(path, key), leaf);
                }
            }
            _ => leaf(path.to_owned(), self),
        }
    }

    /// As [`Node::leaves`], with the text of scalars to change.
    pub(super) fn leaves_mut(&mut self, path: &str, leaf: &mut dyn FnMut(&str, usize, &mut String)) {
        match &mut self.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.leaves_mut(&format!("{path}[{index}]"), leaf);
                }
            }
            Value::Map(entries) => {
                for (key, node) in entries {
                    node.leaves_mut(&join(path, key), leaf);
                }
            }
            Value::Scalar { text, .. } => leaf(path, self.line, text),
        }
    }
}

/// A path with one more key; a key with dots stands in brackets, as in `labels["a.b/c"]`.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match (path.is_empty(), !key.is_empty() && key.chars().all(plain)) {
        (true, true) => key.to_owned(),
        (_, true) if path.ends_with('.') => format!("{path}{key}"),
        (_, true) => format!("{path}.{key}"),
        (_, false) => format!("{}[\"{key}\"]", path.trim_end_matches('.')),
    }
}

impl Document {
    /// `kind` and `apiVersion`, as written.
    pub(super) fn kind(&self) -> (&str, &str) {
        (
            self.root.text_at(&["kind"]).unwrap_or_default(),
            self.root.text_at(&["apiVersion"]).unwrap_or_default(),
        )
    }

    /// `metadata.name`.
    pub(super) fn name(&self) -> &str {
        self.root.text_at(&["metadata", "name"]).unwrap_or_default()
    }
}

/// An object of a cluster, without what the cluster wrote into it; nothing of it has a line.
pub(super) fn of_cluster(object: &serde_json::Value) -> Document {
    let root = live::node(&live::bare(object.clone())).into();
    Document { file: live::name(object), prefix: String::new(), root }
}

/// The objects of a file; those of a `List` one by one, and what is left of the list.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for root in manifest::read(text) {
        let root = root.map_err(|broken| fail(file, &broken))?.into();
        let document = Document { file: file.to_owned(), prefix: String::new(), root };
        match list_items(&document) {
            Some((list, items)) => documents.extend(items.into_iter().chain([list])),
            None => documents.push(document),
        }
    }
    Ok(documents)
}

fn list_items(document: &Document) -> Option<(Document, Vec<Document>)> {
    if !document.kind().0.ends_with("List") {
        return None;
    }
    let items = document.root.get("items")?.items();
    let items = items.iter().enumerate().map(|(index, root)| Document {
        file: document.file.clone(),
        prefix: format!("items[{index}]."),
        root: root.clone(),
    });
    let items = items.collect();
    let mut list = document.clone();
    if let Value::Map(entries) = &mut list.root.value {
        entries.retain(|(key, _)| key != "items");
    }
    Some((list, items))
}

fn fail(file: &str, Broken { place, message }: &Broken) -> Error {
    let hint = "a Helm chart or Kustomize base is rendered first: `helm template …`, `kubectl kustomize …`; a variable inside `{…}` or `[…]` is quoted";
    Error::invalid(format!("{file}:{}: {message}", place.line)).with_hint(hint)
}

impl From<manifest::Node> for Node {
    fn from(node: manifest::Node) -> Self {
        let value = match node.value {
            manifest::Value::Scalar { text, plain } => Value::Scalar { text, plain },
            manifest::Value::List(items) => Value::List(items.into_iter().map(Self::from).collect()),
            manifest::Value::Mapping(entries) => {
                Value::Map(entries.into_iter().map(|entry| (entry.key, Self::from(entry.node))).collect())
            }
        };
        Self { line: node.place.line, value }
    }
}
