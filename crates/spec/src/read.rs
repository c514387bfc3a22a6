//! From text to types, reporting as much as can be found in one go.
//!
//! serde stops at the first value that it refuses. So the value is taken out of the tree, or a
//! stand-in put where a key is missing, and the tree is read again, until it reads.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::granit_parser::Span;

use crate::de::{Reader, Refused};
use crate::overrides;
use crate::problem::{Place, Problem, Problems};
use crate::types::RunSpec;
use crate::yaml::{self, Node, Step};

/// The most problems that one check reports.
const PROBLEMS_MAX: usize = 50;

/// A spec as it lies before the program: its name, its text, and where it stands.
///
/// This crate opens no file and asks no environment: both come in here.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The name for messages: the path as the user gave it.
    pub name: &'a str,
    /// The text of the YAML.
    pub text: &'a str,
    /// The absolute folder that relative paths start from.
    pub base: &'a Path,
    /// `--set` overrides, `a.b=c`.
    pub overrides: &'a [String],
    /// The environment that `${NAME}` reads.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// A spec that reads, with the tree it was read from.
pub(crate) struct Read {
    pub(crate) spec: RunSpec,
    pub(crate) tree: Node,
    pub(crate) problems: Vec<Problem>,
    /// Paths of values that were refused: what is said about their surroundings means little.
    pub(crate) removed: Vec<Vec<Step>>,
    /// Paths of keys that were missing and have a stand-in.
    pub(crate) filled: Vec<Vec<Step>>,
}

/// Parses the text, lays the overrides over it, and deserializes.
pub(crate) fn read(source: &Source<'_>) -> Result<Read, Problems> {
    let fail = |problems| Problems::new(source.name, source.text, problems);
    let lines = source.text.lines().count().max(1);
    let place_of = |span: &Span| place_of(span, source.text, lines);
    let mut tree = yaml::parse(source.text, &place_of).map_err(|problem| fail(vec![problem]))?;
    if tree.is_null() {
        let mut empty = Problem::new(Place::Whole, "the spec is empty");
        empty.hint = Some("`eagleray init DIR` writes one to start from".into());
        return Err(fail(vec![empty]));
    }
    for text in source.overrides {
        overrides::apply(&mut tree, text).map_err(|problem| fail(vec![problem]))?;
    }
    let mut salvage =
        Salvage { tree: tree.clone(), problems: Vec::new(), removed: Vec::new(), filled: Vec::new() };
    loop {
        let refused = match RunSpec::deserialize(Reader(&salvage.tree)) {
            Ok(spec) => {
                let Salvage { problems, removed, filled, .. } = salvage;
                return Ok(Read { spec, tree, problems, removed, filled });
            }
            Err(refused) => refused,
        };
        if !salvage.pass(&refused) || salvage.problems.len() >= PROBLEMS_MAX {
            return Err(fail(salvage.problems));
        }
    }
}

/// A tree on its way to one that reads.
struct Salvage {
    tree: Node,
    problems: Vec<Problem>,
    removed: Vec<Vec<Step>>,
    filled: Vec<Vec<Step>>,
}

impl Salvage {
    /// Reports what was refused, unless it follows from something reported, and changes the tree so
    /// that reading gets past it; false where that cannot be.
    fn pass(&mut self, refused: &Refused) -> bool {
        let path = refused.path();
        if let Some(stand_in) = self.filled.iter().find(|filled| path.starts_with(filled)).cloned() {
            return self.fill_otherwise(&stand_in);
        }
        let Some(key) = &refused.missing else {
            self.report(refused, &path);
            return self.remove(refused, path);
        };
        let full = [path.as_slice(), &[Step::Key(key.clone())]].concat();
        if !self.removed.contains(&full) {
            self.report(refused, &full);
        }
        self.tree.insert(&full, "1");
        self.filled.push(full);
        true
    }

    fn report(&mut self, refused: &Refused, path: &[Step]) {
        self.problems.push(Problem {
            place: refused.place.clone().unwrap_or(Place::Whole),
            path: show_path(path),
            message: with_owner(&refused.message, path, refused.missing.is_some()),
            hint: refused.hint.clone(),
            secret: false,
        });
    }

    /// `1` reads as a number and as text; nothing reads as a mapping; what is neither goes with its owner.
    fn fill_otherwise(&mut self, path: &[Step]) -> bool {
        let tried = self.tree.get(path).is_none_or(Node::is_null);
        self.tree.remove(path);
        if !tried {
            self.tree.insert(path, "");
            return true;
        }
        let Some((_, owner)) = path.split_last() else { return false };
        self.removed.push(owner.to_vec());
        self.tree.remove(owner)
    }

    fn remove(&mut self, refused: &Refused, mut path: Vec<Step>) -> bool {
        if !self.tree.remove(&path) {
            return false;
        }
        // A value that was removed shifts the indices after it: what is said of the list means little.
        while matches!(path.last(), Some(Step::Index(_))) {
            path.pop();
        }
        // A misspelt key is not missing too.
        if let (Some(meant), Some((_, owner))) = (&refused.meant, path.split_last()) {
            self.removed.push([owner, &[Step::Key(meant.clone())]].concat());
        }
        self.removed.push(path);
        true
    }
}

/// Says which mapping an unknown or missing key belongs to.
fn with_owner(message: &str, path: &[Step], missing: bool) -> String {
    let owner = path.split_last().map_or(path, |(_, owner)| owner);
    if owner.is_empty() || !(missing || message.starts_with("unknown key")) {
        return message.to_owned();
    }
    if missing {
        let key = message.trim_start_matches("the key ").trim_end_matches(" is missing");
        return format!("the key {key} is missing in `{}`", show_path(owner));
    }
    format!("{message} in `{}`", show_path(owner))
}

/// `data.sources.web.filters[0]`.
pub(crate) fn show_path(path: &[Step]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Key(key) if shown.is_empty() => shown.push_str(key),
            Step::Key(key) => {
                shown.push('.');
                shown.push_str(key);
            }
            Step::Index(index) => {
                let _ = write!(shown, "[{index}]");
            }
        }
    }
    shown
}

/// Lines and columns from 1; what spans lines is underlined at its start alone.
/// The values of any YAML text, as JSON; `name` is what errors call it. For files that are not ours in form.
///
/// # Errors
/// `Invalid` with line and column.
pub fn yaml_values(name: &str, text: &str) -> eagleray_base::Result<serde_json::Value> {
    let lines = text.lines().count().max(1);
    let tree = yaml::parse(text, &|span| place_of(span, text, lines));
    tree.map(|tree| tree.to_json()).map_err(|problem| Problems::new(name, text, vec![problem]).into_error())
}

fn place_of(span: &Span, text: &str, lines: usize) -> Place {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()).max(1) } else { 1 };
    // The end of the text has no line of its own: point behind the last one.
    if start.line() > lines {
        let column = text.lines().last().map_or(1, |line| line.chars().count() + 1);
        return Place::File { line: lines, column, width: 1 };
    }
    Place::File { line: start.line(), column: start.col() + 1, width }
}
