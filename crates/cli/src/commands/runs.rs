//! `eagleray runs`: the runs on a store, their state, steps and age; and what is left on a cluster.

use std::fmt::Write as _;

use eagleray_base::{Error, Result, units};
use eagleray_run::runs::{self, Summary};
use eagleray_store::Store;
use serde_json::{Value, json};

use super::leaks::Leaks;
use crate::output::Output;

const AFTER_HELP: &str = "\
With --leaks no store is listed but a cluster looked at. The exit code is 1 where something is found and not deleted.

  eagleray runs s3://acme/runs
  eagleray runs --leaks --all-namespaces
  eagleray runs --leaks --fix --namespace training";

/// List the runs of a folder or bucket, or what is held for nothing on a cluster.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Runs {
    /// A folder or bucket prefix with runs in it, or one run
    #[arg(value_name = "DIR", required_unless_present = "leaks")]
    path: Option<String>,
    #[command(flatten)]
    leaks: Leaks,
}

impl Runs {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        if self.leaks.is_wanted() {
            return self.leaks.run(output);
        }
        let store = Store::open(self.path.as_deref().unwrap_or_default())?;
        if store.local_path("").is_some_and(|folder| !folder.is_dir()) {
            return Err(Error::not_found(format!("there is no folder `{}`", store.url())));
        }
        let rows: Vec<Row> = runs::find(&store)?.iter().map(row).collect();
        if output.is_json() {
            output.json(&json!({"runs": rows.iter().map(json).collect::<Vec<_>>()}));
        } else if rows.is_empty() {
            output.print(&format!("no runs in {}", store.url()));
        } else {
            output.print(&table(&rows));
        }
        Ok(())
    }
}

/// One run; what is wrong with a damaged one does not hide the others.
struct Row {
    store: String,
    found: Result<(Summary, Option<u64>)>,
}

fn row(store: &Store) -> Row {
    let read = || {
        let saves = eagleray_checkpoint::list(store)?;
        let newest = saves.iter().find(|save| save.newest).map(|save| save.step);
        Ok((runs::summary(store)?, newest))
    };
    Row { store: store.url().to_owned(), found: read() }
}

fn json(row: &Row) -> Value {
    match &row.found {
        Ok((summary, checkpoint)) => {
            let mut value = serde_json::to_value(summary).unwrap_or_default();
            value["checkpoint_step"] = json!(checkpoint);
            value
        }
        Err(error) => json!({"store": row.store, "error": error.message()}),
    }
}

fn table(rows: &[Row]) -> String {
    let names = rows.iter().filter_map(|row| row.found.as_ref().ok());
    let width = names.map(|(run, _)| run.name.chars().count()).max().unwrap_or(0).max(4);
    let mut shown = format!(
        "{:<width$}  {:<9}  {:>17}  {:>10}  {:>8}  {:>14}  store\n",
        "name", "state", "steps", "checkpoint", "attempts", "last written"
    );
    for Row { store, found } in rows {
        let (run, checkpoint) = match found {
            Ok(found) => found,
            Err(error) => {
                let _ = writeln!(shown, "{:<width$}  damaged    {}", "?", error.message());
                continue;
            }
        };
        let planned = if run.steps_planned > 0 { run.steps_planned.to_string() } else { "?".to_owned() };
        let steps = format!("{}/{planned}", run.steps);
        let checkpoint = checkpoint.map_or_else(|| "none".to_owned(), |step| format!("step {step}"));
        let age = format!("{} ago", units::format_seconds(run.age_seconds));
        let Summary { name, attempts, state, .. } = run;
        let _ = writeln!(
            shown,
            "{name:<width$}  {:<9}  {steps:>17}  {checkpoint:>10}  {attempts:>8}  {age:>14}  {store}",
            state.name()
        );
    }
    shown
}
