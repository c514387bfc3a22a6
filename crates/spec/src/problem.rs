//! What is wrong with a spec, where, and what to do about it.

use std::fmt::Write as _;

use eagleray_base::Error;

use crate::is_secret_name;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file: line and column, counted from 1 in characters, and the width to underline.
    File {
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// How many characters to underline, at least 1.
        width: usize,
    },
    /// In an override, given as typed: `a.b=c`.
    Override(String),
    /// The spec as a whole.
    Whole,
}

impl Place {
    /// `line 3, column 5`, or the override.
    pub(crate) fn line_column(&self) -> String {
        match self {
            Self::File { line, column, .. } => format!("line {line}, column {column}"),
            Self::Override(text) => format!("`--set {}`", redacted(text)),
            Self::Whole => "the top".into(),
        }
    }
}

/// One thing wrong with a spec.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// The key it is about, `data.sources.web.weight`; empty where there is none.
    pub path: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
    /// Whether the text at the place may hold a secret, so that it is not repeated.
    pub secret: bool,
}

impl Problem {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, path: String::new(), message: message.into(), hint: None, secret: false }
    }
}

/// Everything wrong with a spec, in the order of its text, with what is needed to show it.
#[derive(Clone, Debug)]
pub struct Problems {
    name: String,
    text: String,
    list: Vec<Problem>,
}

impl Problems {
    pub(crate) fn new(name: &str, text: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| match problem.place {
            Place::Whole => (0, 0, 0),
            Place::File { line, column, .. } => (1, line, column),
            Place::Override(_) => (2, 0, 0),
        });
        Self { name: name.to_owned(), text: text.to_owned(), list }
    }

    /// The problems, in the order of the text.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// The name of the spec, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `run.yaml:12:3`, `run.yaml`, or `--set a.b=c`.
    pub fn location(&self, problem: &Problem) -> String {
        match &problem.place {
            Place::File { line, column, .. } => format!("{}:{line}:{column}", self.name),
            Place::Override(text) if problem.secret => {
                format!("--set {}=…", text.split_once('=').map_or("", |(key, _)| key))
            }
            Place::Override(text) => format!("--set {}", redacted(text)),
            Place::Whole => self.name.clone(),
        }
    }

    /// One problem as people read it: place, message, the line with a caret, the hint.
    pub fn show(&self, problem: &Problem) -> String {
        let mut shown = format!("{}: {}", self.location(problem), problem.message);
        if let Place::File { line, column, width } = problem.place
            && !problem.secret
        {
            self.snippet(&mut shown, line, column, width);
        }
        if let Some(hint) = &problem.hint {
            let _ = write!(shown, "\n  hint: {hint}");
        }
        shown
    }

    /// All problems as one error of kind `Invalid`, ready for `Error::render`.
    pub fn into_error(self) -> Error {
        let shown: Vec<String> = self.list.iter().map(|problem| self.show(problem)).collect();
        Error::invalid(shown.join("\nerror: "))
    }

    fn snippet(&self, shown: &mut String, line: usize, column: usize, width: usize) {
        const CHARS_MAX: usize = 100;
        let Some(source) = self.text.lines().nth(line - 1).filter(|source| !source.trim().is_empty()) else {
            return;
        };
        // A long line is cut so that the place stays in view.
        let skipped = if column > CHARS_MAX { column - CHARS_MAX / 2 } else { 0 };
        let cut: String = without_secrets(&redacted(source))
            .chars()
            .skip(skipped)
            .take(CHARS_MAX)
            .map(|c| if c == '\t' { ' ' } else { c })
            .collect();
        let margin = " ".repeat(line.to_string().len());
        let carets =
            "^".repeat(width.clamp(1, (cut.chars().count() + 1).saturating_sub(column - 1 - skipped).max(1)));
        let indent = " ".repeat(column - 1 - skipped);
        let _ = write!(shown, "\n{margin} |\n{line} | {}\n{margin} | {indent}{carets}", cut.trim_end());
    }
}

/// The text without what stands between `://` and `@`, as wide as before.
pub(crate) fn redacted(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(after.len());
        let secret = after[..end].rfind('@').unwrap_or(0);
        shown.extend(after[..secret].chars().map(|_| '*'));
        rest = &after[secret..];
    }
    shown + rest
}

/// A line without what stands behind a key whose name says that it is a secret, as wide as before.
fn without_secrets(line: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let behind = line.match_indices(':').find_map(|(at, _)| {
        let key = line[..at].trim_end_matches(['"', '\'', ' ']);
        let key = &key
            [key.char_indices().rev().find(|(_, c)| !is_word(*c)).map_or(0, |(end, c)| end + c.len_utf8())..];
        let ends = line[at + 1..].chars().next().is_none_or(char::is_whitespace);
        (ends && is_secret_name(key)).then_some(at + 1)
    });
    let (shown, hidden) = line.split_at(behind.unwrap_or(line.len()));
    shown.chars().chain(hidden.chars().map(|c| if c.is_whitespace() { c } else { '*' })).collect()
}

/// The candidate nearest to `found`, where one is near enough to be meant.
pub(crate) fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&found, candidate), candidate))
        .filter(|(likeness, candidate)| {
            *likeness > 0.8 || strsim::damerau_levenshtein(&found, candidate) <= 1 + candidate.len() / 6
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
