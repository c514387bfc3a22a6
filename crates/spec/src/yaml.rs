//! YAML as a tree that knows where each piece stands.
//!
//! serde's own data model forgets places, and stops at the first error. The spec is read in two
//! steps instead: serde-saphyr's event parser builds this tree, overrides are laid over it, and
//! [`crate::read`] deserializes the types out of it, naming the place of everything it refuses.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::problem::{Place, Problem, redacted};

/// The most values a spec may hold, aliases expanded: far above any real spec, far below harm.
pub(crate) const NODES_MAX: usize = 200_000;

/// The deepest nesting that is read.
pub(crate) const DEPTH_MAX: usize = 64;

/// The largest text of a spec.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

/// One value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value as written: scalars keep their text, so that the wanted type decides how to read it.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The text, and whether it was plain (unquoted), so that it may be a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

/// One step of a path into the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl Node {
    /// A mapping without entries.
    pub(crate) fn empty_mapping(place: Place) -> Self {
        Self { place, value: Value::Mapping(Vec::new()) }
    }

    /// Whether this is `null`, `~` or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What a message calls this value.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            _ if self.is_null() => "nothing".into(),
            Value::Scalar { text, .. } => format!("`{}`", shorten(&redacted(text))),
            Value::List(_) => "a list".into(),
            Value::Mapping(_) => "a mapping".into(),
        }
    }

    /// The entry of a mapping under `key`.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The place of the value at `path`: of its key where it has one, else of the nearest parent.
    pub(crate) fn locate(&self, path: &[Step]) -> Place {
        let mut node = self;
        let mut place = None;
        for step in path {
            match (step, &node.value) {
                (Step::Key(key), Value::Mapping(_)) => match node.entry(key) {
                    Some(entry) => {
                        place = Some(&entry.key_place);
                        node = &entry.node;
                    }
                    None => break,
                },
                (Step::Index(index), Value::List(items)) => match items.get(*index) {
                    Some(item) => {
                        place = Some(&item.place);
                        node = item;
                    }
                    None => break,
                },
                _ => break,
            }
        }
        place.unwrap_or(&self.place).clone()
    }

    /// The place of the value itself at `path` where it is a scalar, else of its key.
    pub(crate) fn locate_value(&self, path: &[Step]) -> Place {
        match self.get(path) {
            Some(node) if matches!(node.value, Value::Scalar { .. }) && !node.is_null() => node.place.clone(),
            _ => self.locate(path),
        }
    }

    /// The value at `path`.
    pub(crate) fn get(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match (step, &node.value) {
            (Step::Key(key), _) => node.entry(key).map(|entry| &entry.node),
            (Step::Index(index), Value::List(items)) => items.get(*index),
            _ => None,
        })
    }

    /// Puts plain text at `path`, whose owner is a mapping or nothing at all.
    pub(crate) fn insert(&mut self, path: &[Step], text: &str) {
        let Some((Step::Key(key), owner)) = path.split_last() else { return };
        let Some(node) = self.get_mut(owner) else { return };
        if node.is_null() {
            node.value = Value::Mapping(Vec::new());
        }
        if let Value::Mapping(entries) = &mut node.value {
            let value = Value::Scalar { text: text.to_owned(), plain: true };
            let node = Self { place: Place::Whole, value };
            entries.push(Entry { key: key.clone(), key_place: Place::Whole, node });
        }
    }

    fn get_mut(&mut self, path: &[Step]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, step| match (step, &mut node.value) {
            (Step::Key(key), Value::Mapping(entries)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
            }
            (Step::Index(index), Value::List(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Takes the value at `path` out of its mapping or list; false where there is none.
    pub(crate) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let Some(node) = self.get_mut(parents) else { return false };
        match (last, &mut node.value) {
            (Step::Key(key), Value::Mapping(entries)) => {
                let before = entries.len();
                entries.retain(|entry| entry.key != *key);
                entries.len() < before
            }
            (Step::Index(index), Value::List(items)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }

    /// The tree as JSON, plain scalars resolved by YAML's core schema.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar { text, plain } => Scalar::resolve(text, *plain).to_json(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Mapping(entries) => serde_json::Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
            ),
        }
    }
}

/// A scalar under YAML's core schema, with `_` allowed between digits.
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    pub(crate) fn resolve(text: &'a str, plain: bool) -> Self {
        if !plain {
            return Self::Text(text);
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        if let Some(value) = parse_unsigned(text) {
            return Self::Unsigned(value);
        }
        if let Some(value) =
            text.strip_prefix('-').and_then(parse_unsigned).and_then(|v| i64::try_from(v).ok())
        {
            return Self::Signed(-value);
        }
        parse_float(text).map_or(Self::Text(text), Self::Float)
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Unsigned(value) => (*value).into(),
            Self::Signed(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => (*text).into(),
        }
    }
}

/// A whole number without sign: digits, with `_` between them.
pub(crate) fn parse_unsigned(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = strip_underscores(text)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// A finite decimal number: `1`, `0.5`, `3e-4`, `-1.5E+3`.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let digits = strip_underscores(text)?;
    let numeric = digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !numeric || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// Drops `_` that stands between two digits; `None` where one stands elsewhere.
fn strip_underscores(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    if !text.contains('_') {
        return Some(text.into());
    }
    let bytes = text.as_bytes();
    let digit = |index: Option<usize>| index.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let between = |index: usize| digit(index.checked_sub(1)) && digit(Some(index + 1));
    let legal = bytes.iter().enumerate().all(|(index, byte)| *byte != b'_' || between(index));
    legal.then(|| text.replace('_', "").into())
}

fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > CHARS_MAX || line.len() < text.trim_end().len() {
        format!("{}…", line.chars().take(CHARS_MAX).collect::<String>())
    } else {
        line.to_owned()
    }
}

/// Parses one document; `place_of` turns a span into a place.
pub(crate) fn parse(text: &str, place_of: &dyn Fn(&Span) -> Place) -> Result<Node, Problem> {
    if text.len() > TEXT_BYTES_MAX {
        let limit = TEXT_BYTES_MAX >> 20;
        return Err(Problem::new(Place::Whole, format!("the spec is larger than {limit} MiB")));
    }
    let mut builder = Builder { parser: Parser::new_from_str(text), place_of, anchors: Vec::new(), nodes: 0 };
    builder.document()
}

struct Builder<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    place_of: &'a dyn Fn(&Span) -> Place,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, span)),
                Some(Err(error)) => return Err(self.syntax(&error)),
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let place = (self.place_of)(&Span::empty(*error.marker()));
        let mut problem = Problem::new(place, format!("not valid YAML: {}", error.info()));
        problem.hint = error.info().contains("tab").then(|| "indent with spaces".to_owned());
        problem
    }

    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Problem::new(
                        (self.place_of)(&span),
                        "a spec is one document, found a second",
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, &span, 0)?);
                }
                _ => break,
            }
        }
        Ok(root.unwrap_or_else(|| Node {
            place: Place::Whole,
            value: Value::Scalar { text: String::new(), plain: true },
        }))
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Problem> {
        let place = (self.place_of)(span);
        self.count(1, &place)?;
        if depth > DEPTH_MAX {
            return Err(Problem::new(place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.as_ref().is_some_and(|tag| tag.suffix() == "str");
                let plain = matches!(style, ScalarStyle::Plain) && !text_tag;
                (Value::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Value::Mapping(self.mapping(depth)?), anchor),
            Event::Alias(id) => return self.alias(id, &place),
            _ => return Err(Problem::new(place, "expected a value")),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, &span, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, &span, depth + 1)?;
            let Value::Scalar { text, plain } = key.value else {
                return Err(Problem::new(key.place, "a key must be plain text"));
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span, depth + 1)?;
            if plain && text == "<<" {
                merged.extend(merge(node)?);
            } else if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                let message = format!("`{text}` is given twice, first at {}", first.key_place.line_column());
                return Err(Problem::new(key.place, message));
            } else {
                entries.push(Entry { key: text, key_place: key.place, node });
            }
        }
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn alias(&mut self, id: usize, place: &Place) -> Result<Node, Problem> {
        let found = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id).map(|(_, node)| node.clone());
        let node = found.ok_or_else(|| Problem::new(place.clone(), "an alias inside its own anchor"))?;
        self.count(size(&node), place)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: &Place) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(Problem::new(place.clone(), format!("more than {NODES_MAX} values")));
        }
        Ok(())
    }
}

fn merge(node: Node) -> Result<Vec<Entry>, Problem> {
    match node.value {
        Value::Mapping(entries) => Ok(entries),
        Value::List(items) => Ok(items.into_iter().map(merge).collect::<Result<Vec<_>, _>>()?.concat()),
        Value::Scalar { .. } => Err(Problem::new(node.place, "`<<` merges mappings, found plain text")),
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| size(&entry.node)).sum::<usize>(),
    }
}
