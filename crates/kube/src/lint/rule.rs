//! What a rule is.

use serde::Serialize;

use super::report::Say;
use super::scene::{Group, Object, Ray, Scene};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Refused by a controller, or loses the run or its quota.
    Error,
    /// Costs time or money, or will fail on a bad day.
    Warning,
    /// Worth a look.
    Info,
}

impl Severity {
    /// The name, as printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// How the workers of a Ray cluster are counted; some rules hold in one mode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every group has one number: a gang.
    Fixed,
    /// A group has a range, and Eagle Ray's driver raises it.
    Elastic,
    /// A group has a range, and nobody is known to move within it.
    Range,
    /// Ray's own autoscaler moves within the range.
    Autoscaled,
}

impl Mode {
    /// The name, as printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Elastic => "elastic",
            Self::Range => "range",
            Self::Autoscaled => "autoscaled",
        }
    }
}

/// One thing that can be wrong with manifests.
#[derive(Debug)]
pub struct Rule {
    /// The id: stable, so that `--accept` and suppressions in code scanners last.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The kinds that it looks at.
    pub kinds: &'static str,
    /// The only mode it holds in, where there is one.
    pub mode: Option<Mode>,
    /// What is wrong, in a few words.
    pub summary: &'static str,
    /// Why it matters: what happens.
    pub why: &'static str,
    /// What mends it.
    pub remedy: &'static str,
    /// Where it is discussed or written down upstream.
    pub upstream: &'static [&'static str],
    pub(crate) check: Check,
}

/// What a rule looks at, and the function that looks.
#[derive(Debug)]
pub(crate) enum Check {
    /// The reader of files itself.
    Text,
    /// All objects together.
    Scene(fn(&Scene<'_>, &mut Say<'_, '_, '_>)),
    /// Each object of some kinds.
    Object(&'static [&'static str], fn(&Object<'_>, &mut Say<'_, '_, '_>)),
    /// Each object that holds a Ray cluster.
    Ray(fn(&Ray<'_>, &mut Say<'_, '_, '_>)),
    /// Each group of each Ray cluster, the head's too.
    Group(fn(&Ray<'_>, &Group<'_>, &mut Say<'_, '_, '_>)),
}

impl Rule {
    /// The whole rule, as `--explain` prints it.
    pub fn explain(&self) -> String {
        let mode = self.mode.map(|mode| format!(", in mode {}", mode.name())).unwrap_or_default();
        let mut text = format!(
            "{}: {}\n  severity  {}\n  looks at  {}{mode}\n  why       {}\n  remedy    {}\n",
            self.id,
            self.summary,
            self.severity.name(),
            self.kinds,
            self.why,
            self.remedy
        );
        for source in self.upstream {
            text.push_str("  upstream  ");
            text.push_str(&link(source));
            text.push('\n');
        }
        text
    }
}

/// `kuberay#1` as an address; anything else as it is.
pub(crate) fn link(source: &str) -> String {
    let Some((name, number)) = source.split_once('#') else { return source.to_owned() };
    let repository = match name {
        "kuberay" => "ray-project/kuberay",
        "kueue" => "kubernetes-sigs/kueue",
        "ray" => "ray-project/ray",
        other => other,
    };
    format!("https://github.com/{repository}/issues/{number}")
}
