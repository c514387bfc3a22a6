//! A place in a document that may not exist: what rules walk with.

use std::fmt::Write as _;

use crate::manifest::{Entry, Node, Place, Value};

/// A value, or where it would stand; its place is that of the nearest thing that exists.
///
/// Rules walk a thousand values for each that they speak of, so a path is put together when it is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct At<'a> {
    node: Option<&'a Node>,
    pub(crate) place: Place,
    /// The document, and the nearest value that exists.
    root: Option<&'a Node>,
    near: Option<&'a Node>,
    /// The keys from there to where the value would stand.
    missing: Vec<&'a str>,
}

impl<'a> At<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { node: Some(node), place: node.place, root: Some(node), near: Some(node), missing: Vec::new() }
    }

    /// A place without a value.
    pub(crate) fn nowhere(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// The path from the document, `spec.rayClusterSpec.workerGroupSpecs[1]`.
    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        if let (Some(root), Some(near)) = (self.root, self.near) {
            find(root, near, &mut path);
        }
        for key in &self.missing {
            join(&mut path, key);
        }
        path
    }

    fn child(&self, node: &'a Node, place: Place) -> Self {
        Self { node: Some(node), place, root: self.root, near: Some(node), missing: Vec::new() }
    }

    /// The value under one key, which may hold dots.
    pub(crate) fn key(&self, key: &'a str) -> Self {
        if let Some(entry) = self.node.and_then(|node| node.entry(key)) {
            return self.child(&entry.node, entry.place);
        }
        let mut at = Self { node: None, ..self.clone() };
        at.missing.push(key);
        at
    }

    /// The text under one key; the key may be of somebody else's document.
    pub(crate) fn text_of(&self, key: &str) -> Option<&'a str> {
        text(&self.node?.entry(key)?.node)
    }

    /// The value under several keys, parted by dots.
    pub(crate) fn get(&self, path: &'a str) -> Self {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let at = self.key(first);
        if rest.is_empty() { at } else { rest.split('.').fold(at, |at, key| at.key(key)) }
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Vec<Self> {
        let Some(Node { value: Value::List(items), .. }) = self.node else { return Vec::new() };
        items.iter().map(|node| self.child(node, node.place)).collect()
    }

    /// The entries of a mapping.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Some(Node { value: Value::Mapping(entries), .. }) = self.node else { return Vec::new() };
        let item = |entry: &'a Entry| (entry.key.as_str(), self.child(&entry.node, entry.place));
        entries.iter().map(item).collect()
    }

    /// Whether there is something but null.
    pub(crate) fn exists(&self) -> bool {
        self.node.is_some_and(|node| !node.is_null())
    }

    /// A scalar's text, quoted or not.
    pub(crate) fn text(&self) -> Option<&'a str> {
        text(self.node?)
    }

    /// The same, empty where there is none.
    pub(crate) fn str(&self) -> &'a str {
        self.text().unwrap_or_default()
    }

    /// A whole number.
    pub(crate) fn int(&self) -> Option<i64> {
        self.text()?.parse().ok()
    }

    /// Whether it is a mapping.
    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.node, Some(Node { value: Value::Mapping(_), .. }))
    }

    /// Whether it is `true`.
    pub(crate) fn is_true(&self) -> bool {
        matches!(self.text(), Some("true" | "True" | "TRUE"))
    }

    /// A scalar that YAML reads as a number or a boolean, where text is wanted.
    pub(crate) fn untyped(&self) -> Option<&'a str> {
        match &self.node?.value {
            Value::Scalar { text, plain: true } if self.exists() => {
                let boolean = matches!(text.as_str(), "true" | "True" | "TRUE" | "false" | "False" | "FALSE");
                (boolean || text.parse::<f64>().is_ok_and(f64::is_finite)).then_some(text.as_str())
            }
            _ => None,
        }
    }

    /// Calls `visit` with every scalar below.
    pub(crate) fn each_scalar(&self, visit: &mut dyn FnMut(&Self, &'a str)) {
        if let Some(text) = self.text() {
            visit(self, text);
        }
        for item in self.items() {
            item.each_scalar(visit);
        }
        for (_, entry) in self.entries() {
            entry.each_scalar(visit);
        }
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } if !node.is_null() => Some(text),
        _ => None,
    }
}

/// Extends `path` by the way from `from` to this very node; false, and as it was, where it is not below.
fn find(from: &Node, node: &Node, path: &mut String) -> bool {
    if std::ptr::eq(from, node) {
        return true;
    }
    let length = path.len();
    match &from.value {
        Value::Scalar { .. } => false,
        Value::List(items) => items.iter().enumerate().any(|(index, item)| {
            path.truncate(length);
            let _ = write!(path, "[{index}]");
            find(item, node, path)
        }),
        Value::Mapping(entries) => entries.iter().any(|entry| {
            path.truncate(length);
            join(path, &entry.key);
            find(&entry.node, node, path)
        }),
    }
}

fn join(path: &mut String, key: &str) {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if plain && !path.is_empty() {
        path.push('.');
    }
    let _ = if plain { write!(path, "{key}") } else { write!(path, "[{key:?}]") };
}
