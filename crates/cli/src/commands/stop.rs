//! `eagleray stop`: save, stop, and leave nothing that is paid for.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use eagleray_base::{Error, Result};
use eagleray_launch::resource::RAY_JOB;
use eagleray_launch::wait;
use eagleray_run::{Claim, claim, runs, stop};
use eagleray_store::Store;
use serde_json::json;

use super::SpecArgs;
use super::live::{ClusterArgs, Patience, Run, patience};
use crate::output::Output;

const AFTER_HELP: &str = "\
RUN is the spec of a run, or its store. The driver is asked through the store, from wherever that can be reached: it \
saves after the step that it is in, and ends. Then the launches of a run on EKS are deleted with their clusters, and \
this waits until no pod of theirs is left. What a launch has saved stays; `eagleray resume` or `eagleray train` goes on.

  eagleray stop run.yaml
  eagleray stop s3://acme/runs/solar-8b        # the driver alone, wherever it runs";

/// How long the driver may take to see the wish, end its step and save.
const GRACE: Patience = Patience::of_seconds(900);

/// How long pods may take to go.
const GONE_SECONDS: u64 = 300;

/// How often the store is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// Have a run save and stop, and delete its launches
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Stop {
    /// The run spec, or the store of the run
    #[arg(value_name = "RUN")]
    target: String,
    /// Override one value of the spec, as the launch did; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How long the driver may take to save
    #[arg(long, value_name = "TIME", value_parser = patience)]
    timeout: Option<Patience>,
    /// Ask no driver: the steps since the newest checkpoint are lost
    #[arg(long)]
    no_save: bool,
}

impl Stop {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let path = Path::new(&self.target);
        let names_spec = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if !names_spec && !path.is_file() {
            if self.no_save {
                return Err(Error::invalid(
                    "`--no-save` deletes the launches of a run, and a store has none",
                )
                .with_hint("name the run spec"));
            }
            let store = Store::open(&self.target)?;
            if !runs::is_run(&store)? {
                return Err(Error::not_found(format!(
                    "`{}` is no run spec, and no store of a run",
                    self.target
                ))
                .with_hint("`eagleray runs DIR` lists the runs of a folder or bucket"));
            }
            let saved = self.save(&store, output)?;
            tell(output, saved.as_deref(), &[]);
            return Ok(());
        }
        let spec = SpecArgs { path: PathBuf::from(path), overrides: self.overrides.clone() };
        let resolved = spec.resolve()?;
        if resolved.spec.cluster.eks.is_none() {
            let saved = self.save(&Store::open(&resolved.spec.store)?, output)?;
            tell(output, saved.as_deref(), &[]);
            return Ok(());
        }
        let run = Run::open(&spec, &self.cluster)?;
        let saved = if self.no_save || !run.alive().any(|launch| !launch.builds) {
            None
        } else {
            let asked = Store::open(&run.resolved.spec.store).and_then(|store| self.save(&store, output));
            asked.map_err(|error| {
                Error::new(error.kind(), error.message().to_owned())
                    .with_hint("nothing was deleted; `--no-save` deletes without asking for a save")
            })?
        };
        delete(&run, output)?;
        let names: Vec<&str> = run.launches.iter().map(|launch| launch.name.as_str()).collect();
        tell(output, saved.as_deref(), &names);
        Ok(())
    }

    /// Asks the driver, and waits for its end; how it ended.
    fn save(&self, store: &Store, output: &Output) -> Result<Option<String>> {
        let Some(asked) = stop::ask(store)? else { return Ok(None) };
        output.note(&format!("asked attempt {} to save and stop", asked.attempt));
        let deadline = self.timeout.unwrap_or(GRACE).deadline();
        loop {
            if let Some(end) = claim::end_of(store, asked.attempt)? {
                return Ok(Some(format!("{} after step {}", end.outcome, end.step)));
            }
            if is_dead(store, &asked)? {
                return Ok(Some("dead already: no driver gives a sign of life".to_owned()));
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable(format!("attempt {} has not stopped in time", asked.attempt)));
            }
            sleep(PERIOD);
        }
    }
}

fn delete(run: &Run, output: &Output) -> Result<()> {
    for launch in &run.launches {
        if run.cluster.delete(RAY_JOB, Some(&run.namespace), &launch.name)? {
            output.note(&format!("deleting {}", launch.name));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(GONE_SECONDS);
    for launch in &run.launches {
        wait::until_gone(&run.cluster, &run.namespace, &launch.name, deadline)?;
    }
    Ok(())
}

fn tell(output: &Output, saved: Option<&str>, deleted: &[&str]) {
    if output.is_json() {
        output.json(&json!({"driver": saved, "deleted": deleted}));
        return;
    }
    if saved.is_none() && deleted.is_empty() {
        output.print("nothing to stop: no driver is at work");
        return;
    }
    if let Some(saved) = saved {
        output.print(&format!("the driver is {saved}"));
    }
    for name in deleted {
        output.print(&format!("{name} is gone, with its cluster"));
    }
}

fn is_dead(store: &Store, asked: &Claim) -> Result<bool> {
    Ok(!claim::is_alive(store, asked, &runs::this_host())?)
}
