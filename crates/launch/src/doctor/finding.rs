//! What is said of the facts.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::facts::Answer;

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A launch will fail.
    Error,
    /// Costs time or money, or will fail on a bad day.
    Warning,
    /// It could not be asked.
    Unknown,
    /// Worth knowing.
    Info,
    /// As it should be.
    Ok,
}

impl Level {
    /// The name, as printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Info => "info",
            Self::Ok => "ok",
        }
    }

    const fn mark(self) -> char {
        match self {
            Self::Error => '✗',
            Self::Warning => '!',
            Self::Unknown => '?',
            Self::Info => '·',
            Self::Ok => '✓',
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable, for scripts.
    pub id: &'static str,
    /// What it is part of.
    pub area: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub seen: String,
    /// Why it matters; empty where all is well.
    pub why: String,
    /// What mends it: commands or YAML to paste.
    pub remedy: Option<String>,
}

/// Areas in the order in which a launch meets them.
const AREAS: [&str; 7] = ["cluster", "rights", "kuberay", "kueue", "nodes", "namespace", "storage"];

/// Findings as they come.
#[derive(Default)]
pub(super) struct Say(Vec<Finding>);

impl Say {
    fn add(
        &mut self,
        id: &'static str,
        area: &'static str,
        level: Level,
        said: (String, String, Option<String>),
    ) {
        let (seen, why, remedy) = said;
        self.0.push(Finding { id, area, level, seen, why, remedy });
    }

    pub(super) fn ok(&mut self, id: &'static str, area: &'static str, seen: impl Into<String>) {
        self.add(id, area, Level::Ok, (seen.into(), String::new(), None));
    }

    pub(super) fn info(
        &mut self,
        id: &'static str,
        area: &'static str,
        seen: impl Into<String>,
        why: impl Into<String>,
    ) {
        self.add(id, area, Level::Info, (seen.into(), why.into(), None));
    }

    pub(super) fn warning(
        &mut self,
        id: &'static str,
        area: &'static str,
        seen: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(id, area, Level::Warning, (seen.into(), why.into(), Some(remedy.into())));
    }

    pub(super) fn error(
        &mut self,
        id: &'static str,
        area: &'static str,
        seen: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(id, area, Level::Error, (seen.into(), why.into(), Some(remedy.into())));
    }

    pub(super) fn unknown(
        &mut self,
        id: &'static str,
        area: &'static str,
        seen: impl Into<String>,
        why: impl Into<String>,
        remedy: Option<String>,
    ) {
        self.add(id, area, Level::Unknown, (seen.into(), why.into(), remedy));
    }

    /// The objects of an answer; where there is none, that is said, unless nobody asked.
    pub(super) fn objects<'a>(
        &mut self,
        id: &'static str,
        area: &'static str,
        what: &str,
        answer: &'a Answer,
    ) -> Option<&'a [Value]> {
        match answer {
            Answer::NotAsked => None,
            Answer::Refused(right) => {
                let remedy = format!(
                    "kubectl auth can-i {right}    # as whom may; `doctor` again with such an account"
                );
                self.unknown(
                    id,
                    area,
                    format!("{what} may not be looked at: the right to {right} is missing"),
                    "what cannot be seen may be wrong",
                    Some(remedy),
                );
                None
            }
            Answer::Failed(said) => {
                self.unknown(
                    id,
                    area,
                    format!("{what} could not be looked at: {said}"),
                    "what cannot be seen may be wrong",
                    None,
                );
                None
            }
            Answer::Found(_) | Answer::Missing => answer.found(),
        }
    }

    /// By area, the worst first; what is true of the build and of the training is said once.
    pub(super) fn sorted(mut self) -> Vec<Finding> {
        let mut said = Vec::with_capacity(self.0.len());
        self.0.retain(|finding| {
            let new = !said.contains(finding);
            if new {
                said.push(finding.clone());
            }
            new
        });
        let place = |finding: &Finding| AREAS.iter().position(|area| *area == finding.area);
        self.0.sort_by_key(|finding| (place(finding), finding.level));
        self.0
    }
}

/// Findings as they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(pub Vec<Finding>);

impl Report {
    /// How many there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    /// For people: by area, each with its mark.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut area = "";
        for finding in &self.0 {
            if finding.area != area {
                area = finding.area;
                let _ = writeln!(text, "{}{area}", if text.is_empty() { "" } else { "\n" });
            }
            let Finding { id, level, seen, why, remedy, .. } = finding;
            let _ = writeln!(text, "  {} {seen} [{id}]", level.mark());
            if !why.is_empty() {
                let _ = writeln!(text, "      why: {why}");
            }
            for line in remedy.iter().flat_map(|remedy| remedy.lines()) {
                // A blank line has no blanks: what is pasted is what was meant.
                let _ = writeln!(text, "{}", format!("      | {line}").trim_end());
            }
        }
        let [errors, warnings, unknown] =
            [Level::Error, Level::Warning, Level::Unknown].map(|level| self.count(level));
        let _ = writeln!(
            text,
            "\nerrors: {errors}, warnings: {warnings}, unknown: {unknown}, of {} findings",
            self.0.len()
        );
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warning),
            "unknown": self.count(Level::Unknown),
            "findings": self.0,
        })
    }
}
