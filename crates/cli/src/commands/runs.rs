//! `eagleray runs`: the runs on a store, their state, steps and age.

use std::fmt::Write as _;

use eagleray_base::{Result, units};
use eagleray_run::runs::{self, Summary};
use eagleray_store::Store;
use serde_json::json;

use crate::output::Output;

/// List the runs of a folder or bucket.
#[derive(clap::Args)]
pub(crate) struct Runs {
    /// A folder or bucket prefix with runs in it, or one run
    #[arg(value_name = "DIR")]
    path: String,
}

impl Runs {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let store = Store::open(&self.path)?;
        let found = runs::find(&store)?;
        let summaries = found.iter().map(runs::summary).collect::<Result<Vec<_>>>()?;
        if output.is_json() {
            output.json(&json!({"runs": summaries}));
        } else if summaries.is_empty() {
            output.print(&format!("no runs in {}", store.url()));
        } else {
            output.print(&table(&summaries));
        }
        Ok(())
    }
}

fn table(summaries: &[Summary]) -> String {
    let width = summaries.iter().map(|run| run.name.len()).max().unwrap_or(0).max(4);
    let mut shown = format!(
        "{:<width$}  {:<9}  {:>17}  {:>8}  {:>12}  store\n",
        "name", "state", "steps", "attempts", "last event"
    );
    for run in summaries {
        let steps = format!("{}/{}", run.steps, run.steps_planned);
        let age = format!("{} ago", units::format_seconds(run.age_seconds));
        let Summary { name, attempts, store, .. } = run;
        let _ = writeln!(
            shown,
            "{name:<width$}  {:<9}  {steps:>17}  {attempts:>8}  {age:>12}  {store}",
            run.state.name()
        );
    }
    shown
}
