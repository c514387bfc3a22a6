//! YAML documents as trees that know their lines.
//!
//! Manifests are read as they are written: a template's `$NUM_NODES` stands where a number will, so no
//! type is asked for until variables are filled in.

use eagleray_base::{Error, Result};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// The largest manifest that is read.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// The most values of one file, aliases expanded.
const NODES_MAX: usize = 200_000;

/// The deepest nesting that is read.
const DEPTH_MAX: usize = 64;

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

/// The objects of a file; those of a `List` one by one, and what is left of the list.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Document>> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::invalid(format!("`{file}` is larger than {} MiB", TEXT_BYTES_MAX >> 20)));
    }
    let mut reader = Reader { file, parser: Parser::new_from_str(text), anchors: Vec::new(), nodes: 0 };
    let mut documents = Vec::new();
    for root in reader.documents()? {
        if root.is_null() {
            continue;
        }
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

struct Reader<'a> {
    file: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn fail(&self, line: usize, message: &str) -> Error {
        let hint = "a Helm chart or Kustomize base is rendered first: `helm template …`, `kubectl kustomize …`; a variable inside `{…}` or `[…]` is quoted";
        Error::invalid(format!("{}:{line}: {message}", self.file)).with_hint(hint)
    }

    fn next(&mut self) -> Result<(Event<'a>, Span)> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, span)),
                Some(Err(error)) => {
                    let message = format!("not valid YAML: {}", error.info());
                    return Err(self.fail(error.marker().line(), &message));
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn documents(&mut self) -> Result<Vec<Node>> {
        let mut roots = Vec::new();
        loop {
            let (event, _) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    self.anchors.clear();
                    roots.push(self.node(event, &span, 0)?);
                }
                _ => return Ok(roots),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node> {
        let line = span.start.line();
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(self.fail(line, &format!("more than {DEPTH_MAX} levels or {NODES_MAX} values")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                (Value::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Value::Map(self.map(depth)?), anchor),
            Event::Alias(id) => return self.alias(id, line),
            _ => return Err(self.fail(line, "expected a value")),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, &span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(String, Node)>> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let Node { line, value: Value::Scalar { text: key, plain } } =
                self.node(event, &span, depth + 1)?
            else {
                return Err(self.fail(span.start.line(), "a key must be plain text"));
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span, depth + 1)?;
            if plain && key == "<<" {
                match node.value {
                    Value::List(items) => {
                        merged.extend(items.iter().flat_map(|item| item.entries().to_vec()));
                    }
                    _ => merged.extend(node.entries().to_vec()),
                }
            } else if entries.iter().any(|(name, _)| *name == key) {
                return Err(self.fail(line, &format!("`{key}` is given twice")));
            } else {
                entries.push((key, node));
            }
        }
        for (key, node) in merged {
            if !entries.iter().any(|(name, _)| *name == key) {
                entries.push((key, node));
            }
        }
        Ok(entries)
    }

    fn alias(&mut self, id: usize, line: usize) -> Result<Node> {
        let found = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id).map(|(_, node)| node.clone());
        let node = found.ok_or_else(|| self.fail(line, "an alias inside its own anchor"))?;
        node.leaves("", &mut |_, _| self.nodes += 1);
        Ok(node)
    }
}
