//! `eagleray lint`: what is wrong with manifests, before a cluster sees them.
//!
//! Definitions of custom resources let most faults through: a field that does not exist is dropped without a
//! word, a mode that does not exist is stored, and what costs money or a run is legal. The rules here read
//! what people wrote: Ray's objects, Karpenter's, Kueue's, budgets, volumes, and what was left of training
//! operators, each alone and all against each other.
//!
//! A rule has an id that never changes, a severity, a reason and a remedy ([`rules`]). An error is what is
//! refused, or what loses the run or its quota; a warning costs time or money; an info is worth a look.

mod at;
mod facts;
mod report;
mod rule;
mod rules;
mod sarif;
mod scene;

pub use report::{Finding, Report};
pub use rule::{Mode, Rule, Severity};

use eagleray_base::{Error, Result};

use serde_json::Value;

use crate::live;
use crate::manifest::{self, Broken, Node};
pub use facts::{quantity, seconds};
use report::Out;
use rule::Check;
use scene::Scene;

/// One file of manifests.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// What findings call it.
    pub name: &'a str,
    /// What it holds.
    pub text: &'a str,
}

/// The minor versions of `KubeRay` that rules know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KubeRay {
    /// 1.6.
    V1_6,
    /// 1.7.
    #[default]
    V1_7,
}

impl KubeRay {
    /// The version in a label such as `v1.6.2`; `None` for one that no rule knows.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').split('.');
        match (parts.next(), parts.next()) {
            (Some("1"), Some("6")) => Some(Self::V1_6),
            (Some("1"), Some("7")) => Some(Self::V1_7),
            _ => None,
        }
    }

    /// `1.6` or `1.7`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
        }
    }
}

/// How to look.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The version of `KubeRay`; by each object's label `ray.io/kuberay-version` where it is left out, else 1.7.
    pub kuberay: Option<KubeRay>,
    /// The rules whose findings are left out, and counted.
    pub accept: Vec<String>,
}

/// Every rule, by topic.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    rules::ALL.iter().copied().flatten()
}

/// The rule of an id.
///
/// # Errors
/// `NotFound`, with the nearest id, where there is none.
pub fn rule(id: &str) -> Result<&'static Rule> {
    rules().find(|rule| rule.id == id).ok_or_else(|| {
        let near = rules()
            .map(|rule| (strsim::jaro_winkler(id, rule.id), rule.id))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match near {
            Some((likeness, near)) if likeness > 0.8 => format!("did you mean `{near}`?"),
            _ => "`docs/lint.md` lists every rule".to_owned(),
        };
        Error::not_found(format!("no rule is called `{id}`")).with_hint(hint)
    })
}

/// Looks at all files together.
///
/// # Errors
/// `NotFound` where `options.accept` names no rule.
pub fn lint(files: &[File<'_>], options: &Options) -> Result<Report> {
    for id in &options.accept {
        rule(id)?;
    }
    let read: Vec<_> = files.iter().map(|file| manifest::read(file.text)).collect();
    Ok(look(files, &read, options))
}

/// Looks at objects of a cluster together; of what the cluster itself wrote into them nothing is looked at.
///
/// A finding's file is `live:NAMESPACE/KIND/NAME`, its line and column are 0.
///
/// # Errors
/// As [`lint`].
pub fn lint_live(objects: &[Value], options: &Options) -> Result<Report> {
    for id in &options.accept {
        rule(id)?;
    }
    let names: Vec<String> = objects.iter().map(live::name).collect();
    let files: Vec<File<'_>> = names.iter().map(|name| File { name, text: "" }).collect();
    let read: Vec<_> =
        objects.iter().map(|object| vec![Ok(live::node(&live::bare(object.clone())))]).collect();
    Ok(Report { live: true, ..look(&files, &read, options) })
}

fn look(files: &[File<'_>], read: &[Vec<Result<Node, Broken>>], options: &Options) -> Report {
    let scene = Scene::new(files, read, options.kuberay);
    let mut out = Out::new(&scene);
    for rule in rules() {
        apply(rule, &scene, &mut out);
    }
    out.finish(files, read, &options.accept)
}

fn apply(rule: &'static Rule, scene: &Scene<'_>, out: &mut Out<'_, '_>) {
    let wanted = |mode: Mode| rule.mode.is_none_or(|only| only == mode);
    match rule.check {
        Check::Text => {}
        Check::Scene(check) => check(scene, &mut out.of(rule, 0)),
        Check::Object(kinds, check) => {
            for object in scene.objects.iter().filter(|object| kinds.contains(&object.kind)) {
                check(object, &mut out.of(rule, object.file));
            }
        }
        Check::Ray(check) => {
            for ray in scene.rays.iter().filter(|ray| wanted(ray.mode)) {
                check(ray, &mut out.of(rule, ray.object.file));
            }
        }
        Check::Group(check) => {
            for ray in scene.rays.iter().filter(|ray| wanted(ray.mode)) {
                for group in &ray.groups {
                    check(ray, group, &mut out.of(rule, ray.object.file));
                }
            }
        }
    }
}
