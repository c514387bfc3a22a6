//! A place in a document that may not exist: what rules walk with.

use crate::manifest::{Entry, Node, Place, Value};

/// A value, or where it would stand; its place is that of the nearest thing that exists.
#[derive(Clone, Debug, Default)]
pub(crate) struct At<'a> {
    node: Option<&'a Node>,
    pub(crate) place: Place,
    pub(crate) path: String,
}

impl<'a> At<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { node: Some(node), place: node.place, path: String::new() }
    }

    /// A place without a value.
    pub(crate) fn nowhere(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// The value under one key, which may hold dots.
    pub(crate) fn key(&self, key: &str) -> Self {
        let path = self.joined(key);
        match self.node.and_then(|node| node.entry(key)) {
            Some(entry) => Self { node: Some(&entry.node), place: entry.place, path },
            None => Self { node: None, place: self.place, path },
        }
    }

    /// The value under several keys, parted by dots.
    pub(crate) fn get(&self, path: &str) -> Self {
        path.split('.').fold(self.clone(), |at, key| at.key(key))
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Vec<Self> {
        let Some(Node { value: Value::List(items), .. }) = self.node else { return Vec::new() };
        let item = |(index, node): (usize, &'a Node)| Self {
            node: Some(node),
            place: node.place,
            path: format!("{}[{index}]", self.path),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The entries of a mapping.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Some(Node { value: Value::Mapping(entries), .. }) = self.node else { return Vec::new() };
        let item = |entry: &'a Entry| {
            let at = Self { node: Some(&entry.node), place: entry.place, path: self.joined(&entry.key) };
            (entry.key.as_str(), at)
        };
        entries.iter().map(item).collect()
    }

    /// Whether there is something but null.
    pub(crate) fn exists(&self) -> bool {
        self.node.is_some_and(|node| !node.is_null())
    }

    /// A scalar's text, quoted or not.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node?.value {
            Value::Scalar { text, .. } if self.exists() => Some(text),
            _ => None,
        }
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

    fn joined(&self, key: &str) -> String {
        let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        match (plain, self.path.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.path),
            (false, _) => format!("{}[{key:?}]", self.path),
        }
    }
}
