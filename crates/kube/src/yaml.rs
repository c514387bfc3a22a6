//! YAML that is written for people: keys in the order in which they were given, a reason above each field
//! that has one, the same bytes for the same tree.
//!
//! Why not a serializer? None that there is writes comments, and a manifest whose fields do not say why
//! they are there is copied and changed until it no longer works.

use serde_json::Value;

/// A value of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A number, a boolean or text.
    Scalar(Value),
    /// Text of several lines, written as it is.
    Text(String),
    /// Values in order.
    List(Vec<Node>),
    /// Fields in order.
    Map(Map),
}

/// A field of a [`Map`].
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub key: String,
    /// Its value.
    pub node: Node,
    /// Why it is there, one line.
    pub why: Option<String>,
}

/// Fields in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(pub Vec<Field>);

impl Map {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: &str, node: impl Into<Node>) -> Self {
        self.set(key, node.into(), None);
        self
    }

    /// Adds a field that says why it is there.
    #[must_use]
    pub fn why(mut self, key: &str, node: impl Into<Node>, why: impl Into<String>) -> Self {
        self.set(key, node.into(), Some(why.into()));
        self
    }

    /// Adds a field where there is a value.
    #[must_use]
    pub fn maybe(self, key: &str, node: Option<impl Into<Node>>) -> Self {
        match node {
            Some(node) => self.with(key, node),
            None => self,
        }
    }

    /// Puts a field in place of one of the same name, or at the end.
    pub fn set(&mut self, key: &str, node: Node, why: Option<String>) {
        match self.0.iter_mut().find(|field| field.key == key) {
            Some(field) => (field.node, field.why) = (node, why),
            None => self.0.push(Field { key: key.to_owned(), node, why }),
        }
    }

    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|field| field.key == key).map(|field| &field.node)
    }

    /// The document, with a line end.
    pub fn document(&self) -> String {
        let mut text = String::new();
        write_map(self, 0, &mut text);
        text
    }
}

impl Node {
    /// The tree without its reasons.
    pub fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::Text(text) => text.clone().into(),
            Self::List(items) => items.iter().map(Self::value).collect(),
            Self::Map(map) => {
                map.0.iter().map(|field| (field.key.clone(), field.node.value())).collect::<Value>()
            }
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        match value {
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(fields) => {
                let field = |(key, value)| Field { key, node: Self::from(value), why: None };
                Self::Map(Map(fields.into_iter().map(field).collect()))
            }
            scalar => Self::Scalar(scalar),
        }
    }
}

impl From<Map> for Node {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Scalar(text.into())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Scalar(text.into())
    }
}

impl From<bool> for Node {
    fn from(flag: bool) -> Self {
        Self::Scalar(flag.into())
    }
}

impl From<u32> for Node {
    fn from(number: u32) -> Self {
        Self::Scalar(number.into())
    }
}

impl<T: Into<Node>> From<Vec<T>> for Node {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

fn write_map(map: &Map, depth: usize, text: &mut String) {
    for (index, field) in map.0.iter().enumerate() {
        // The first field of a list's item stands behind its dash; a reason there stands above the item.
        if index > 0 || !text.ends_with("- ") {
            write_why(field, depth, text);
            indent(depth, text);
        }
        text.push_str(&scalar(&field.key));
        text.push(':');
        write_node(&field.node, depth, text);
    }
}

fn write_why(field: &Field, depth: usize, text: &mut String) {
    if let Some(why) = &field.why {
        indent(depth, text);
        text.push_str("# why: ");
        text.push_str(&why.replace('\n', " "));
        text.push('\n');
    }
}

/// What follows a key's colon.
fn write_node(node: &Node, depth: usize, text: &mut String) {
    match node {
        Node::Map(map) if map.0.is_empty() => text.push_str(" {}\n"),
        Node::List(items) if items.is_empty() => text.push_str(" []\n"),
        Node::Map(map) => {
            text.push('\n');
            write_map(map, depth + 1, text);
        }
        Node::List(items) => {
            text.push('\n');
            for item in items {
                write_item(item, depth + 1, text);
            }
        }
        Node::Text(lines) => write_text(lines, depth + 1, text),
        Node::Scalar(value) => {
            text.push(' ');
            text.push_str(&scalar_value(value));
            text.push('\n');
        }
    }
}

fn write_item(item: &Node, depth: usize, text: &mut String) {
    if let Node::Map(Map(fields)) = item
        && let Some(first) = fields.first()
    {
        write_why(first, depth, text);
    }
    indent(depth, text);
    match item {
        Node::Map(map) if !map.0.is_empty() => {
            text.push_str("- ");
            write_map(map, depth + 1, text);
        }
        other => {
            text.push('-');
            write_node(other, depth, text);
        }
    }
}

/// A literal block where it can hold the text, else a quoted line.
fn write_text(lines: &str, depth: usize, text: &mut String) {
    let printable = |c: char| c == '\n' || c == '\t' || !c.is_control();
    let literal = lines.ends_with('\n')
        && !lines.ends_with("\n\n")
        && !lines.starts_with([' ', '\n', '\t'])
        && lines.chars().all(|c| printable(c) && !"\u{85}\u{2028}\u{2029}\u{feff}".contains(c));
    if !literal {
        text.push(' ');
        text.push_str(&quoted(lines));
        text.push('\n');
        return;
    }
    text.push_str(" |\n");
    for line in lines.lines() {
        if !line.is_empty() {
            indent(depth, text);
            text.push_str(line);
        }
        text.push('\n');
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn scalar_value(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Text without quotes where every reader of YAML takes it for text.
fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan"];
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let quantity = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let quantity = ["Gi", "Mi", "m", "s", "h"].contains(&&text[quantity.len()..])
        && !quantity.is_empty()
        && quantity.chars().all(|c| c.is_ascii_digit());
    let word = WORDS.contains(&text.to_ascii_lowercase().as_str());
    (starts || quantity) && text.chars().all(legal) && !word
}

/// What JSON quotes is quoted in YAML too, but for characters that end lines there.
fn quoted(text: &str) -> String {
    let mut json = Value::from(text).to_string();
    for (character, escape) in [
        ('\u{7f}', "\\x7f"),
        ('\u{85}', "\\N"),
        ('\u{2028}', "\\L"),
        ('\u{2029}', "\\P"),
        ('\u{feff}', "\\uFEFF"),
    ] {
        json = json.replace(character, escape);
    }
    json
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_reason_stands_above_its_field_and_above_the_item_that_it_begins() {
        let item = Map::new().why("name", "a", "first").why("value", "b", "second");
        let map = Map::new().with("kind", "X").why("list", vec![item], "items");
        assert_eq!(
            map.document(),
            "kind: X\n# why: items\nlist:\n  # why: first\n  - name: a\n    # why: second\n    value: b\n"
        );
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let words = json!([
            "true",
            "No",
            "null",
            "~",
            "",
            "0",
            "1e3",
            "0x1f",
            "1_000",
            ".5",
            "-1",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "32Gi",
            "110s",
            "1:30",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a`",
            "'",
            "\"",
            "\\",
            "a\tb",
            "é",
            "\u{85}",
            "\u{2028}",
            "\u{7f}",
            "\u{feff}a",
            " a",
            "a ",
            "=",
            "<<",
            "{a}",
            "[a]",
            "s3://a/b",
            "2026-11-01",
            "NaN",
            "y",
            "12",
            "3.0",
            "1.7"
        ]);
        let tree = json!({
            "words": words, "numbers": [1, -2, 3.5], "flags": [true, false], "empty": [[], {}, null],
            "deep": [{"a": [{"b": {"c": [1, [2, [3]]]}}]}], "a: b": {"0": 1, "": 2}
        });
        let map = Map::new().with("tree", tree.clone());
        assert_eq!(read(&map.document())["tree"], tree, "{}", map.document());
    }

    #[test]
    fn every_text_of_one_or_two_characters_stays_text() {
        let characters: Vec<char> = (0..=127_u8).map(char::from).collect();
        let one = characters.iter().map(char::to_string);
        let two = characters
            .iter()
            .flat_map(|first| characters.iter().map(move |second| format!("{first}{second}")));
        let texts: Vec<String> = one.chain(two).collect();
        let read = read(&Map::new().with("texts", texts.clone()).document());
        assert_eq!(read["texts"], json!(texts));
    }

    #[test]
    fn text_of_several_lines_is_what_is_read() {
        for text in [
            "a: 1\n\nb:\n  - c\n",
            "one",
            "two\n\n",
            " led\n",
            "\n",
            "",
            "a\r\nb\n",
            "# a\n\tb\n",
            "a\u{2028}b\n",
        ] {
            let map = Map::new()
                .with("data", Map::new().with("run.yaml", Node::Text(text.to_owned())))
                .with("z", 1);
            assert_eq!(read(&map.document())["data"]["run.yaml"], text, "{}", map.document());
        }
    }
}
