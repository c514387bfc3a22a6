//! The outlook of a whole run: reading what is asked, showing what is found.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result, units};
use eagleray_plan::Band;
use eagleray_plan::accelerator::Accelerator;
use eagleray_plan::outlook::{Assumptions, Outlook, Question, outlook};
use eagleray_plan::prices::{Date, Prices, TABLE};
use serde_json::json;

use super::super::{SpecArgs, cannot_read};
use crate::output::Output;

/// What an outlook is asked with.
#[derive(clap::Args)]
pub(super) struct Asked {
    /// Show the formula and the source of every number
    #[arg(long, conflicts_with = "memory")]
    explain: bool,
    /// A table of prices, YAML or JSON, laid over the one that comes with the program
    #[arg(long, value_name = "FILE", conflicts_with = "memory")]
    prices: Option<PathBuf>,
    /// Print the table of prices that comes with the program, to start one's own from
    #[arg(long, conflicts_with_all = ["path", "memory"])]
    show_prices: bool,
    /// The share of the peak that the model reaches, such as 0.4 or 0.35..0.45 [default: 0.3..0.45]
    #[arg(long, value_name = "SHARE", conflicts_with = "memory")]
    mfu: Option<String>,
    /// How long a spot node lives on average [default: 24h]
    #[arg(long, value_name = "DURATION", conflicts_with = "memory")]
    spot_mtbf: Option<String>,
    /// How long any node works on average before it fails [default: 6330h]
    #[arg(long, value_name = "DURATION", conflicts_with = "memory")]
    node_mtbf: Option<String>,
    /// How long from a loss until training goes on, such as 20s or 15s..2m [default: 15s..107s]
    #[arg(long, value_name = "DURATION", conflicts_with = "memory")]
    recovery: Option<String>,
    /// What a node moves to the store, in Gbit/s [default: 25, or what its network card carries]
    #[arg(long, value_name = "GBPS", conflicts_with = "memory")]
    store_gbps: Option<f64>,
    /// The day that ages of prices are counted to, such as 2026-11-29 [default: today]
    #[arg(long, value_name = "DAY", conflicts_with = "memory")]
    as_of: Option<String>,
}

impl Asked {
    pub(super) fn run(
        self,
        path: Option<PathBuf>,
        overrides: Vec<String>,
        accelerator: Option<Accelerator>,
        output: &Output,
    ) -> Result<()> {
        let Some(path) = path.filter(|_| !self.show_prices) else {
            output.print(TABLE);
            return Ok(());
        };
        let resolved = SpecArgs { path, overrides }.resolve()?;
        let prices = Prices::embedded()?;
        let prices = match &self.prices {
            Some(file) => laid(prices, file)?,
            None => prices,
        };
        let as_of = self
            .as_of
            .clone()
            .unwrap_or_else(|| jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string());
        let as_of = Date::parse(&as_of).map_err(|error| error.at("`--as-of`"))?;
        let assumptions = self.assumptions()?;
        let question = Question { resolved: &resolved, prices: &prices, assumptions, as_of, accelerator };
        let found = outlook(&question)?;
        if output.is_json() {
            output.json(&json!({"plan": found}));
        } else {
            output.print(&shown(&found, self.explain));
        }
        Ok(())
    }

    fn assumptions(&self) -> Result<Assumptions> {
        let mut assumed = Assumptions::default();
        if let Some(text) = &self.mfu {
            assumed.mfu = Band::parse(text, share).map_err(|error| error.at("`--mfu`"))?;
        }
        if let Some(text) = &self.spot_mtbf {
            assumed.spot_mtbf_seconds = lifetime(text).map_err(|error| error.at("`--spot-mtbf`"))?;
        }
        if let Some(text) = &self.node_mtbf {
            assumed.node_mtbf_seconds = lifetime(text).map_err(|error| error.at("`--node-mtbf`"))?;
        }
        if let Some(text) = &self.recovery {
            assumed.recovery_seconds =
                Band::parse(text, duration).map_err(|error| error.at("`--recovery`"))?;
        }
        if let Some(gbps) = self.store_gbps {
            if !(gbps > 0.0 && gbps.is_finite()) {
                return Err(Error::invalid("`--store-gbps`: expected more than 0 Gbit/s"));
            }
            assumed.store_gbps = gbps;
        }
        Ok(assumed)
    }
}

pub(in crate::commands) fn laid(prices: Prices, file: &Path) -> Result<Prices> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::from(error)
            .at(format!("`{name}`"))
            .with_hint("`eagleray plan --show-prices` prints a table to start from"),
        _ => cannot_read(error, &name),
    })?;
    prices.overlaid(&text).map_err(|error| error.at(format!("`{name}`")))
}

fn share(text: &str) -> Result<f64> {
    match text.trim().parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(Error::invalid(format!("`{text}` is not a share above 0 and up to 1"))),
    }
}

fn duration(text: &str) -> Result<f64> {
    Ok(units::parse_duration(text)?.as_secs_f64())
}

fn lifetime(text: &str) -> Result<f64> {
    match duration(text)? {
        seconds if seconds > 0.0 => Ok(seconds),
        _ => Err(Error::invalid(format!("`{text}` is no time to live"))),
    }
}

/// Labels and numbers in two columns, with how they came about beneath where that is asked for.
fn shown(found: &Outlook, explain: bool) -> String {
    let figures = || found.sections.iter().flat_map(|section| &section.figures);
    let width = figures().map(|figure| figure.label.chars().count()).max().unwrap_or_default();
    let mut shown = format!("{}\n", found.name);
    for section in &found.sections {
        shown += &section.show(width, explain);
    }
    if !found.unknown.is_empty() {
        shown.push_str("\nnot known\n");
        for unknown in &found.unknown {
            let _ = writeln!(shown, "  {}: {}", unknown.what, unknown.why);
        }
    }
    if !found.risks.is_empty() {
        shown.push_str("\nrisks\n");
        for risk in &found.risks {
            let _ = writeln!(shown, "  {} [{}]\n      {}", risk.message, risk.id, risk.remedy);
        }
    }
    if !explain {
        shown.push_str("\n`--explain` shows the formula and the source of every number\n");
    }
    shown
}
