//! What a run will need, take and cost, before it is paid for: every number with its formula and source.
//!
//! Numbers that nobody can know before are bands: what share of the peak a model reaches, what spot
//! capacity costs, how often nodes are lost. A band's ends go through every formula, so that the cost of the
//! whole run is a band too. What the spec does not say enough for is listed as unknown, with the reason.

mod cluster;
mod figure;
pub mod formulas;
mod risk;
mod run;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use eagleray_base::Result;
use eagleray_spec::Resolved;
use serde::Serialize;

use crate::accelerator::Accelerator;
use crate::band::Band;
use crate::prices::{Date, Prices};
use cluster::Fleet;
pub use cluster::needs_build;
pub use figure::{Figure, Unit, show};
pub use risk::Risk;

/// What nobody knows before a run, with the bands that are taken where a user says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Assumptions {
    /// The share of the peak that the model's own operations reach.
    pub mfu: Band,
    /// The seconds that a spot node lives.
    pub spot_mtbf_seconds: f64,
    /// The seconds that any node lives before it fails.
    pub node_mtbf_seconds: f64,
    /// The seconds from a loss until training goes on.
    pub recovery_seconds: Band,
    /// What a node moves to the store, in Gbit/s, where its network card carries that much.
    pub store_gbps: f64,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            mfu: Band { low: 0.30, high: 0.45 },
            spot_mtbf_seconds: 86_400.0,
            node_mtbf_seconds: 6_330.0 * 3_600.0,
            recovery_seconds: Band { low: 15.0, high: 107.0 },
            store_gbps: 25.0,
        }
    }
}

/// Where each assumption comes from.
mod source {
    pub(super) const MFU: &str = "assumed (`--mfu`): torchtitan measured 33 to 39 % with Llama 3.1 8B on H100, Llama 3's authors 38 to 43 % on up to 16,384";
    pub(super) const SPOT_MTBF: &str =
        "assumed (`--spot-mtbf`): a day a node; AWS publishes rates by the month only";
    pub(super) const NODE_MTBF: &str = "assumed (`--node-mtbf`): 419 unexpected interruptions in 54 days on 2,048 nodes (Llama 3, arXiv:2407.21783, section 3.3.4)";
    pub(super) const RECOVERY: &str = "assumed (`--recovery`): 15 s where surviving workers stay warm; 107 s with stock detection and restart, which took 71 to 78 s, and a load";
    pub(super) const STORE: &str = "assumed (`--store-gbps`), at most what the first network card carries (Karpenter's table of bandwidths ÷ cards)";
    pub(super) const SPEC: &str = "the spec";
}

/// A part of an outlook.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// What it is about.
    pub title: &'static str,
    /// Its numbers.
    pub figures: Vec<Figure>,
}

impl Section {
    /// For people: labels as wide as `width`, with how numbers came about beneath where `explain` asks for it.
    pub fn show(&self, width: usize, explain: bool) -> String {
        let mut shown = format!("\n{}\n", self.title);
        for figure in &self.figures {
            let _ = writeln!(shown, "  {:<width$}  {}", figure.label, figure.show());
            if explain {
                let _ = writeln!(shown, "      = {}\n      from {}", figure.formula, figure.source);
            }
        }
        shown
    }
}

/// What cannot be said, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unknown {
    /// What.
    pub what: &'static str,
    /// Why, and what would change that.
    pub why: String,
}

/// What a run will need, take and cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// The run.
    pub name: String,
    /// The day that ages of prices are counted to.
    pub as_of: Date,
    /// What was assumed.
    pub assumptions: Assumptions,
    /// The numbers.
    pub sections: Vec<Section>,
    /// What may go wrong, in plain words.
    pub risks: Vec<Risk>,
    /// What cannot be said.
    pub unknown: Vec<Unknown>,
}

impl Outlook {
    /// A number by its key.
    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.sections.iter().flat_map(|section| &section.figures).find(|figure| figure.key == key)
    }
}

/// What an outlook is made from.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The run.
    pub resolved: &'a Resolved,
    /// What instances cost.
    pub prices: &'a Prices,
    /// What nobody knows.
    pub assumptions: Assumptions,
    /// The day on which it is asked.
    pub as_of: Date,
    /// The accelerator of a run that names no instances.
    pub accelerator: Option<Accelerator>,
}

/// The numbers as they are found, and what is said beside them.
#[derive(Debug, Default)]
struct Draft {
    sections: Vec<Section>,
    risks: Vec<Risk>,
    unknown: Vec<Unknown>,
}

impl Draft {
    fn section(&mut self, title: &'static str) {
        self.sections.push(Section { title, figures: Vec::new() });
    }

    fn add(
        &mut self,
        key: &'static str,
        label: impl Into<String>,
        unit: Unit,
        value: Band,
        how: [String; 2],
    ) {
        let [formula, source] = how;
        if let Some(section) = self.sections.last_mut() {
            section.figures.push(Figure { key, label: label.into(), unit, value, formula, source });
        }
    }

    fn risk(&mut self, id: &'static str, message: String, remedy: &str) {
        self.risks.push(Risk { id, message, remedy: remedy.to_owned() });
    }

    fn unknown(&mut self, what: &'static str, why: impl Into<String>) {
        self.unknown.push(Unknown { what, why: why.into() });
    }
}

/// What a run will need, take and cost.
///
/// # Errors
/// `Invalid` where a group's instance is not known.
pub fn outlook(question: &Question<'_>) -> Result<Outlook> {
    let mut draft = Draft::default();
    let fleet = Fleet::of(question)?;
    cluster::nodes(&fleet, &mut draft);
    cluster::memory(question, &mut draft);
    let dollars = cluster::prices(question, &fleet, &mut draft);
    run::tell(question, &fleet, dollars, &mut draft);
    risk::tell(question, &fleet, &mut draft);
    let Draft { mut sections, risks, unknown } = draft;
    sections.retain(|section| !section.figures.is_empty());
    Ok(Outlook {
        name: question.resolved.spec.name.clone(),
        as_of: question.as_of,
        assumptions: question.assumptions,
        sections,
        risks,
        unknown,
    })
}
