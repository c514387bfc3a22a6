//! What was found, and how it is printed.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::at::At;
use super::rule::{Rule, Severity};
use super::scene::Scene;
use super::{File, rule, rules, sarif};
use crate::manifest::{Broken, Node};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The id of the rule.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 of an object that has none, as of one of a cluster.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: usize,
    /// The column, from 1, in characters; 0 without a line.
    #[serde(skip_serializing_if = "is_zero")]
    pub column: usize,
    /// The path of the value, `spec.entrypoint`; empty for a whole file.
    pub path: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What mends it.
    pub remedy: String,
}

/// What was found in all files.
#[derive(Clone, Debug)]
pub struct Report {
    /// The findings, by file and line.
    pub findings: Vec<Finding>,
    /// How many files were read, or objects of a cluster.
    pub files: usize,
    /// Whether it is of a cluster's objects.
    pub live: bool,
    /// How many objects rules looked at.
    pub objects: usize,
    /// How many objects are of kinds that no rule looks at.
    pub passed_over: usize,
    /// How many findings were left out, as accepted.
    pub accepted: usize,
}

impl Report {
    /// How many findings have a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The report for people: findings, then one line that sums them up.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { rule, severity, file, line, column, path, message, remedy } in &self.findings {
            let place = if *line == 0 { file.clone() } else { format!("{file}:{line}:{column}") };
            let _ = writeln!(text, "{place}: {}[{rule}]: {message}", severity.name());
            if !path.is_empty() {
                let _ = writeln!(text, "  at {path}");
            }
            let _ = writeln!(text, "  hint: {remedy}");
        }
        let _ = writeln!(
            text,
            "{} in {}: {}, {}, {} infos; {} of other kinds passed over, {} accepted",
            plural(self.objects, "object"),
            if self.live { "the cluster".to_owned() } else { plural(self.files, "file") },
            plural(self.count(Severity::Error), "error"),
            plural(self.count(Severity::Warning), "warning"),
            self.count(Severity::Info),
            self.passed_over,
            self.accepted
        );
        text
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let files = (!self.live).then_some(self.files);
        json!({
            "version": 1,
            "findings": self.findings,
            "summary": {
                "files": files, "objects": self.objects, "passed_over": self.passed_over,
                "accepted": self.accepted, "errors": self.count(Severity::Error),
                "warnings": self.count(Severity::Warning), "infos": self.count(Severity::Info),
            },
        })
    }

    /// The report in the Static Analysis Results Interchange Format, version 2.1.0.
    pub fn sarif(&self) -> Value {
        sarif::document(self)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Gathers findings.
pub(crate) struct Out<'s, 'a> {
    scene: &'s Scene<'a>,
    found: Vec<(usize, Finding)>,
}

/// Says what one rule finds in one file.
pub(crate) struct Say<'o, 's, 'a> {
    out: &'o mut Out<'s, 'a>,
    pub(crate) rule: &'static Rule,
    file: usize,
}

impl<'s, 'a> Out<'s, 'a> {
    pub(crate) fn new(scene: &'s Scene<'a>) -> Self {
        Self { scene, found: Vec::new() }
    }

    pub(crate) fn of(&mut self, rule: &'static Rule, file: usize) -> Say<'_, 's, 'a> {
        Say { out: self, rule, file }
    }

    pub(crate) fn finish(
        mut self,
        files: &[File<'_>],
        read: &[Vec<Result<Node, Broken>>],
        accept: &[String],
    ) -> Report {
        let (objects, passed_over) = (self.scene.objects.len(), self.scene.passed_over);
        if let Ok(unreadable) = rule(rules::files::UNREADABLE) {
            for (file, documents) in read.iter().enumerate() {
                for broken in documents.iter().filter_map(|read| read.as_ref().err()) {
                    let at = At::nowhere(broken.place);
                    let template = files[file].text.contains("{{");
                    let remedy = if template {
                        "this is a template: render it first, such as by `helm template`, and look at what comes out"
                    } else {
                        unreadable.remedy
                    };
                    self.of(unreadable, file).with(&at, broken.message.clone(), remedy);
                }
            }
        }
        self.found.sort_by(|(file_a, a), (file_b, b)| {
            (file_a, a.line, a.column, a.rule, &a.path, &a.message)
                .cmp(&(file_b, b.line, b.column, b.rule, &b.path, &b.message))
        });
        self.found.dedup();
        let all = self.found.len();
        let mut findings = Vec::new();
        for (file, mut finding) in self.found {
            if !accept.iter().any(|id| id == finding.rule) {
                files[file].name.clone_into(&mut finding.file);
                findings.push(finding);
            }
        }
        let accepted = all - findings.len();
        Report { findings, files: files.len(), live: false, objects, passed_over, accepted }
    }
}

impl<'s, 'a> Say<'_, 's, 'a> {
    /// Everything that was read.
    pub(crate) fn scene(&self) -> &'s Scene<'a> {
        self.out.scene
    }

    /// A finding with the rule's remedy.
    pub(crate) fn at(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.with(at, message, self.rule.remedy);
    }

    /// A finding in another file.
    pub(crate) fn in_file(&mut self, file: usize, at: &At<'_>, message: impl Into<String>) {
        self.file = file;
        self.at(at, message);
    }

    /// A finding with a remedy of its own.
    pub(crate) fn with(&mut self, at: &At<'_>, message: impl Into<String>, remedy: impl Into<String>) {
        let finding = Finding {
            rule: self.rule.id,
            severity: self.rule.severity,
            file: String::new(),
            line: at.place.line,
            column: at.place.column,
            path: at.path(),
            message: message.into(),
            remedy: remedy.into(),
        };
        self.out.found.push((self.file, finding));
    }
}
