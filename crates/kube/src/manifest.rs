//! Files of manifests: several YAML documents, each value with its line.
//!
//! A file is cut at its `---` lines before anything is parsed, so that a broken document hides none of its
//! neighbours. That is safe: at the start of a line `---` means nothing else, not even within a block of text.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

/// The largest file that is read.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// The most values a document may hold, aliases expanded.
pub const NODES_MAX: usize = 500_000;

/// The deepest nesting that is read; schemas within definitions of custom resources reach about 60.
pub const DEPTH_MAX: usize = 128;

/// A line and a column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
}

/// One value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// A value as written.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text, and whether it was written without quotes, so that it may be a number, a boolean or null.
    Scalar {
        /// The text.
        text: String,
        /// Whether it was written without quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the text.
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub node: Node,
}

/// What keeps a document from being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where it was noticed.
    pub place: Place,
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

impl Node {
    /// Whether this is `null`, `~` or nothing at all.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The entry of a mapping under `key`.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }
}

/// The documents of a file, in order; those without a value are left out.
pub fn read(text: &str) -> Vec<Result<Node, Broken>> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("larger than {} MiB", TEXT_BYTES_MAX >> 20);
        return vec![Err(Broken { place: Place { line: 1, column: 1 }, message })];
    }
    let pieces = pieces(text.strip_prefix('\u{feff}').unwrap_or(text));
    pieces.into_iter().filter_map(|(line, piece)| parse(piece, line).transpose()).collect()
}

/// The text between `---` lines, each with how many lines stand before it.
fn pieces(text: &str) -> Vec<(usize, &str)> {
    let marks = |line: &str| {
        ["---", "..."].iter().any(|mark| {
            line.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        })
    };
    let mut pieces = Vec::new();
    let (mut first, mut start, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        // What stands behind the mark belongs to the document that it opens.
        if number > first && marks(line) {
            pieces.push((first, &text[start..offset]));
            (first, start) = (number, offset);
        }
        offset += line.len();
    }
    pieces.push((first, &text[start..]));
    pieces.retain(|(_, piece)| {
        piece.lines().any(|line| {
            let line = if marks(line) { line[3..].trim() } else { line.trim() };
            !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
        })
    });
    pieces
}

fn parse(text: &str, lines_before: usize) -> Result<Option<Node>, Broken> {
    let mut builder =
        Builder { parser: Parser::new_from_str(text), lines_before, anchors: Vec::new(), nodes: 0 };
    let node = builder.document()?;
    Ok(node.filter(|node| !node.is_null()))
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    lines_before: usize,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), Broken> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, self.place(&span))),
                Some(Err(error)) => return Err(self.syntax(&error)),
                None => return Ok((Event::StreamEnd, Place::default())),
            }
        }
    }

    fn place(&self, span: &Span) -> Place {
        Place { line: self.lines_before + span.start.line().max(1), column: span.start.col() + 1 }
    }

    fn syntax(&self, error: &ScanError) -> Broken {
        let place = self.place(&Span::empty(*error.marker()));
        Broken { place, message: format!("not valid YAML: {}", error.info()) }
    }

    fn document(&mut self) -> Result<Option<Node>, Broken> {
        let mut root = None;
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) => {
                    if root.is_some() {
                        let message = "expected `---` before another document".to_owned();
                        return Err(Broken { place, message });
                    }
                    let (event, place) = self.next()?;
                    root = Some(self.node(event, place, 0)?);
                }
                _ => return Ok(root),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, place: Place, depth: usize) -> Result<Node, Broken> {
        self.count(1, place)?;
        if depth > DEPTH_MAX {
            return Err(Broken { place, message: format!("nested deeper than {DEPTH_MAX} levels") });
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.as_ref().is_some_and(|tag| tag.suffix() == "str");
                let plain = matches!(style, ScalarStyle::Plain) && !text_tag;
                (Value::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Value::Mapping(self.mapping(depth)?), anchor),
            Event::Alias(id) => return self.alias(id, place),
            _ => return Err(Broken { place, message: "expected a value".to_owned() }),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Broken> {
        let mut items = Vec::new();
        loop {
            let (event, place) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, place, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Broken> {
        let (mut entries, mut merged): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        loop {
            let (event, place) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, place, depth + 1)?;
            let Value::Scalar { text: key, plain } = key.value else {
                // A template that was not filled in, `{{ value }}`, is a mapping as a key.
                return Err(Broken { place, message: "a key must be plain text".to_owned() });
            };
            let (event, value_place) = self.next()?;
            let node = self.node(event, value_place, depth + 1)?;
            if plain && key == "<<" {
                merge(node, &mut merged)?;
            } else if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("`{key}` is given twice, first in line {}", first.place.line);
                return Err(Broken { place, message });
            } else {
                entries.push(Entry { key, place, node });
            }
        }
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<Node, Broken> {
        let found = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id).map(|(_, node)| node.clone());
        let node =
            found.ok_or_else(|| Broken { place, message: "an alias inside its own anchor".to_owned() })?;
        self.count(size(&node), place)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Broken> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(Broken { place, message: format!("more than {NODES_MAX} values") });
        }
        Ok(())
    }
}

fn merge(node: Node, into: &mut Vec<Entry>) -> Result<(), Broken> {
    match node.value {
        Value::Mapping(entries) => into.extend(entries),
        Value::List(items) => {
            for item in items {
                merge(item, into)?;
            }
        }
        Value::Scalar { .. } => {
            let message = "`<<` merges mappings, found plain text".to_owned();
            return Err(Broken { place: node.place, message });
        }
    }
    Ok(())
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| size(&entry.node)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_hides_none_of_its_neighbours() {
        let read = read("a: 1\n---\nb: [\n---\n# nothing\n---\nc:\n  d: 2\n");
        assert_eq!(read.len(), 3);
        assert_eq!(read[1].as_ref().unwrap_err().place.line, 3);
        let entry = read[2].as_ref().unwrap().entry("c").unwrap();
        assert_eq!(entry.node.entry("d").unwrap().place, Place { line: 8, column: 3 });
    }

    #[test]
    fn what_stands_behind_a_mark_is_read() {
        let read = read("--- {a: 1}\n--- # comment\nb: 2\n...\n");
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].as_ref().unwrap().entry("a").unwrap().place, Place { line: 1, column: 6 });
    }

    #[test]
    fn anchors_merge_and_a_key_given_twice_is_refused() {
        let read = read("a: &x {b: 1}\nc: {<<: *x, d: 2}\n---\na: 1\na: 2\n");
        assert!(read[0].as_ref().unwrap().entry("c").unwrap().node.entry("b").is_some());
        assert_eq!(read[1].as_ref().unwrap_err().message, "`a` is given twice, first in line 4");
    }

    #[test]
    fn aliases_that_grow_are_stopped() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let items = vec![format!("*a{}", n - 1); 10].join(", ");
            text.extend([format!("a{n}: &a{n} [{items}]\n")]);
        }
        assert!(read(&text)[0].as_ref().unwrap_err().message.starts_with("more than"));
    }
}
