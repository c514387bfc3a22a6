//! `eagleray launch`, `eagleray resume` and `eagleray diff`: a run's objects on a live cluster.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use eagleray_base::{Error, Result};
use eagleray_checkpoint::Save;
use eagleray_kube::lint::{File, Finding, Options as LintOptions, Severity, lint};
use eagleray_kube::render::{self, BUILD_SUFFIX, Rendered, SPEC_FILE, render};
use eagleray_launch::change::{Change, change};
use eagleray_launch::cluster::Apply;
use eagleray_launch::launches::{Launch as Launched, Phase};
use eagleray_launch::resource::CONFIG_MAP;
use eagleray_launch::wait;
use eagleray_launch::watch::Watcher;
use eagleray_run::{claim, stop};
use eagleray_spec::Purpose;
use eagleray_store::Store;
use serde_json::{Value, json};

use super::SpecArgs;
use super::live::{ClusterArgs, Patience, Run, patience};
use super::watch::line_beside;
use crate::output::Output;

const AFTER_HELP: &str = "\
What `eagleray render` writes is checked by every lint, then applied server-side under the name `eagleray`: nodes, \
queues, what launches share, and the launch. Where some text is to be built, the launch that builds comes first and \
holds no accelerator; the same command again, or --wait, goes on with the one that trains.

The exit code is 0 when the launch is made (with --wait: when the run is complete), 1 when it was refused or has \
failed, 2 when the cluster does not answer or the time is up.

With --rejoin the command may be given again, as a step of a pipeline is when its pod is lost: a launch of this very \
spec that is alive is waited for, one that is complete is done, one that failed is followed by the next, one that was \
never made to its end is made. One that was stopped or deleted stays so.

  eagleray launch run.yaml --wait --timeout 3d
  eagleray launch run.yaml --wait --rejoin";

/// On the spec of a launch: the newest job of it that was made. By this a job that is gone is told from one that never
/// was, because whoever launched was cut off or the job refused.
const MADE: &str = "eagleray/made";

/// How often a wait looks at all that a launch depends on.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// Put a run on its cluster.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Launch {
    #[command(flatten)]
    how: How,
    /// The number of the launch, part of its name; 1
    #[arg(long = "launch", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99_999))]
    number: Option<u32>,
    #[command(flatten)]
    waiting: Waiting,
    /// Take up what this spec has launched: wait for it, be done with it, or go on after it failed
    #[arg(long, requires = "wait", conflicts_with = "number")]
    rejoin: bool,
}

/// Go on with a run whose launch has ended, as its next launch.
#[derive(clap::Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    waiting: Waiting,
}

/// Show what a launch would change on the cluster.
#[derive(clap::Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    how: How,
    /// The number of the launch; the one that is alive, or the next
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    launch: Option<u32>,
}

#[derive(clap::Args)]
struct How {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Apply the flavors and queues of Kueue too, with the quota that this run needs
    #[arg(long)]
    kueue: bool,
    /// The data is built: make no launch that builds it
    #[arg(long)]
    built: bool,
    /// Go on in spite of what this lint finds; may be repeated
    #[arg(long, value_name = "RULE")]
    accept: Vec<String>,
    /// Take fields over that others have set
    #[arg(long)]
    force_conflicts: bool,
}

#[derive(clap::Args)]
struct Waiting {
    /// Wait until the run is complete or has failed
    #[arg(long)]
    wait: bool,
    /// How long at most, such as 90s, 30m, 2h or 3d; the launch goes on after
    #[arg(long, value_name = "TIME", value_parser = patience, requires = "wait")]
    timeout: Option<Patience>,
}

impl Launch {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let run = Run::open(&self.how.spec, &self.how.cluster)?;
        if self.rejoin && run.newest > 0 {
            return self.rejoin(&run, output);
        }
        let number = match self.number {
            Some(number) => number,
            // What builds is part of the launch that it prepares; one that was not made to its end is made again.
            None if run.launches.iter().all(|launch| launch.builds) => run.newest.max(1),
            None => return Err(launched_before(&run)),
        };
        go(&run, &self.how, number, self.how.built, &self.waiting, output)
    }

    /// What a pipeline's step does when it is tried again: the same, without doing it twice.
    fn rejoin(&self, run: &Run, output: &Output) -> Result<()> {
        let (number, how) = (run.newest, &self.how);
        let name = format!("{}-{number}", run.resolved.spec.name);
        let made = made_of_this_spec(run, &name)?;
        let going = Going::new(run, how, &self.waiting, output);
        match (run.find(number, false), run.find(number, true)) {
            (None, _) if made.as_ref() == Some(&name) => return Err(ended_by_hand(&name, "is gone")),
            (None, None) if let Some(build) = made => return Err(ended_by_hand(&build, "is gone")),
            (Some(launch), _) if launch.phase == Phase::Succeeded => {
                if matches!(was_stopped(&run.resolved.spec.store), Ok(true)) {
                    return Err(ended_by_hand(&name, "was stopped"));
                }
                going.tell_end(&name, launch);
            }
            (Some(launch), _) if !launch.phase.is_over() => {
                output.note(&format!("waits for launch `{name}`, which is {}", told(launch)));
                going.note_made(&name, &name);
                let end = going.wait(&name)?;
                going.tell_end(&name, &end);
            }
            (Some(launch), _) | (None, Some(launch)) if launch.phase == Phase::Stopped => {
                return Err(ended_by_hand(&launch.name, "was stopped"));
            }
            (Some(failed), _) | (None, Some(failed)) if failed.phase == Phase::Failed => {
                // One that was asked, and did not come to a good end: of an older image, or killed on the way.
                if matches!(is_asked_to_stop(&run.resolved.spec.store), Ok(true)) {
                    return Err(ended_by_hand(&failed.name, "was stopped"));
                }
                output.note(&format!("launch `{}` has {}: goes on after it", failed.name, told(failed)));
                let built = how.built || matches!(newest_commit(&run.resolved.spec.store), Ok(Some(_)));
                return go(run, how, run.next(), built, &self.waiting, output);
            }
            // Whoever launched was cut off, before the build was done or before there was any job.
            _ => return go(run, how, number, how.built, &self.waiting, output),
        }
        Ok(())
    }
}

/// Whoever stopped a run does not want it back because a pipeline tries its step again.
fn ended_by_hand(name: &str, how: &str) -> Error {
    Error::conflict(format!("launch `{name}` of this run {how}"))
        .with_hint("`eagleray resume` goes on from its newest checkpoint")
}

/// The newest job of a launch that was made. A launch of another spec is refused, whatever has become of it.
fn made_of_this_spec(run: &Run, name: &str) -> Result<Option<String>> {
    let hint = "another `name` makes another run; `eagleray resume` goes on with this spec";
    let Some(object) = run.cluster.get(CONFIG_MAP, Some(&run.namespace), name)? else {
        return Err(Error::conflict(format!(
            "the spec of launch `{name}` is gone, and may have been another"
        ))
        .with_hint(hint));
    };
    let kept = object["data"][SPEC_FILE].as_str().unwrap_or_default();
    if kept.trim_end() != run.resolved.document.trim_end() {
        return Err(Error::conflict(format!("launch `{name}` of this run has another spec")).with_hint(hint));
    }
    Ok(object["metadata"]["annotations"][MADE].as_str().map(str::to_owned))
}

/// Whether the newest attempt ended because it was asked to, before its last step.
fn was_stopped(store: &str) -> Result<bool> {
    of_newest_attempt(store, |store, attempt| {
        Ok(claim::end_of(store, attempt)?.is_some_and(|end| end.outcome == "stopped"))
    })
}

/// Whether somebody asked the driver of the newest attempt to stop.
fn is_asked_to_stop(store: &str) -> Result<bool> {
    of_newest_attempt(store, stop::is_asked)
}

/// Whether something holds of the newest attempt; false where there is none.
fn of_newest_attempt(store: &str, holds: impl Fn(&Store, u32) -> Result<bool>) -> Result<bool> {
    let store = Store::open(store)?;
    claim::all(&store)?.last().map_or(Ok(false), |newest| holds(&store, newest.attempt))
}

impl Resume {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let run = Run::open(&self.how.spec, &self.how.cluster)?;
        if run.newest == 0 {
            let (name, namespace) = (&run.resolved.spec.name, &run.namespace);
            return Err(Error::not_found(format!("`{name}` was never launched in `{namespace}`"))
                .with_hint("`eagleray launch` makes the first launch"));
        }
        let newest = newest_commit(&run.resolved.spec.store);
        output.note(&match &newest {
            Ok(Some(save)) => format!("goes on from step {}", save.step),
            Ok(None) => "no checkpoint yet: begins at the first step".to_owned(),
            Err(error) => format!("cannot look at the store from here, the driver will: {}", error.message()),
        });
        let built = self.how.built || matches!(newest, Ok(Some(_)));
        go(&run, &self.how, run.next(), built, &self.waiting, output)
    }
}

fn newest_commit(store: &str) -> Result<Option<Save>> {
    Ok(eagleray_checkpoint::list(&Store::open(store)?)?.into_iter().find(|save| save.newest))
}

fn launched_before(run: &Run) -> Error {
    let Some(last) = run.launches.iter().rfind(|launch| !launch.builds) else {
        return Error::internal("a run without launches was launched before");
    };
    let error = Error::conflict(format!("launch `{}` of this run is {}", last.name, told(last)));
    if last.phase.is_over() {
        return error.with_hint(format!("`eagleray resume` goes on as launch {}", run.next()));
    }
    error.with_hint("`eagleray watch` shows it, `eagleray stop` ends it")
}

impl Diff {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let run = Run::open(&self.how.spec, &self.how.cluster)?;
        let alive = run.alive().map(|launch| launch.number).max();
        let number = self.launch.or(alive).unwrap_or_else(|| run.next());
        let rendered = rendered(&run, &self.how, number, self.how.built)?;
        tell_findings(&findings(&rendered, &[])?, output);
        let changes: Vec<Change> =
            rendered.files.iter().map(|file| change(&run.cluster, &file.value())).collect::<Result<_>>()?;
        if output.is_json() {
            output.json(&json!({"launch": number, "changes": changes}));
        } else {
            output.print(&changes.iter().map(Change::text).collect::<String>());
        }
        Ok(())
    }
}

fn rendered(run: &Run, how: &How, number: u32, built: bool) -> Result<Rendered> {
    run.resolved.refuse_unavailable(Purpose::Train)?;
    render(
        &run.resolved,
        render::Options { kind: render::Kind::Run, launch: number, kueue: how.kueue, built },
    )
}

fn findings(rendered: &Rendered, accept: &[String]) -> Result<Vec<Finding>> {
    let texts: Vec<String> = rendered.files.iter().map(render::File::text).collect();
    let files: Vec<File<'_>> =
        rendered.files.iter().zip(&texts).map(|(file, text)| File { name: &file.path, text }).collect();
    Ok(lint(&files, &LintOptions { kuberay: None, accept: accept.to_vec() })?.findings)
}

fn tell_findings(findings: &[Finding], output: &Output) {
    for finding in findings {
        let Finding { file, rule, message, .. } = finding;
        output.note(&format!("{}: {file}: {message} [{rule}]", finding.severity.name()));
    }
}

/// One launch, from its build to its end as far as this is wanted.
fn go(run: &Run, how: &How, number: u32, built: bool, waiting: &Waiting, output: &Output) -> Result<()> {
    if let Some(alive) = run.alive().find(|launch| launch.number != number || !launch.builds) {
        return Err(Error::conflict(format!("launch `{}` of this run is {}", alive.name, told(alive)))
            .with_hint("`eagleray watch` shows it, `eagleray stop` ends it: two launches of a run would fight for it"));
    }
    let rendered = rendered(run, how, number, built)?;
    let findings = findings(&rendered, &how.accept)?;
    tell_findings(&findings, output);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors > 0 {
        return Err(Error::invalid(format!("{errors} errors in the manifests; nothing was applied"))
            .with_hint("mend them, or `--accept RULE` each; `eagleray lint --explain RULE` says why"));
    }
    for note in &rendered.notes {
        output.note(&format!("note: {note}"));
    }
    let going = Going::new(run, how, waiting, output);
    let name = format!("{}-{number}", run.resolved.spec.name);
    let builds = rendered.files.iter().any(|file| file.path.starts_with("build/"));
    let is_of = |file: &render::File, folder: &str| file.path.split('/').next() == Some(folder);
    going.apply(rendered.files.iter().filter(|file| !is_of(file, "build") && !is_of(file, "train")))?;
    if builds && run.find(number, true).is_none_or(|build| build.phase != Phase::Succeeded) {
        let build = format!("{name}{BUILD_SUFFIX}");
        if let Some(failed) = run.find(number, true).filter(|build| build.phase.is_over()) {
            return Err(Error::conflict(format!("`{build}` has {}", told(failed)))
                .with_hint(format!("`eagleray logs` shows why; then `--launch {}`", number + 1)));
        }
        going.apply(rendered.files.iter().filter(|file| is_of(file, "build")))?;
        going.note_made(&name, &build);
        if !waiting.wait {
            output.print(&going.said(
                &build,
                "builds the data, without an accelerator; the same command again, once it is done, trains",
            ));
            return Ok(());
        }
        going.wait(&build)?;
    }
    going.apply(rendered.files.iter().filter(|file| is_of(file, "train")))?;
    going.note_made(&name, &name);
    if !waiting.wait {
        output.print(&going.said(&name, "`eagleray watch` shows it"));
        return Ok(());
    }
    let end = going.wait(&name)?;
    going.tell_end(&name, &end);
    Ok(())
}

struct Going<'a> {
    run: &'a Run,
    how: &'a How,
    waiting: &'a Waiting,
    output: &'a Output,
    deadline: Option<Instant>,
}

impl<'a> Going<'a> {
    fn new(run: &'a Run, how: &'a How, waiting: &'a Waiting, output: &'a Output) -> Self {
        Self { run, how, waiting, output, deadline: waiting.timeout.map(Patience::deadline) }
    }

    fn tell_end(&self, name: &str, end: &Launched) {
        let store = &self.run.resolved.spec.store;
        self.output.print(&self.said(name, &format!("{}; `eagleray report {store}`", told(end))));
    }

    fn apply<'b>(&self, files: impl Iterator<Item = &'b render::File>) -> Result<()> {
        for file in files {
            let how = Apply { dry_run: false, force: self.how.force_conflicts };
            self.run.cluster.apply(&file.value(), how).map_err(|error| match error.kind() {
                eagleray_base::Kind::Conflict => {
                    error.with_hint("`--force-conflicts` takes the fields over; `eagleray diff` shows them")
                }
                _ => error,
            })?;
            self.output.note(&format!("applied {} {}", file.kind(), file.name()));
        }
        Ok(())
    }

    /// Notes with the spec of a launch that a job of it was made. The launch stands without: it is the next `--rejoin`
    /// that would take a job that was deleted for one that never was.
    fn note_made(&self, launch: &str, job: &str) {
        let Run { cluster, namespace, .. } = self.run;
        let change = json!({"metadata": {"annotations": {MADE: job}}});
        if let Err(error) = cluster.merge(CONFIG_MAP, Some(namespace), launch, &change) {
            self.output.note(&format!("cannot note that `{job}` was made: {}", error.message()));
        }
    }

    /// Waits for an end that is good, saying what `eagleray watch` says.
    fn wait(&self, name: &str) -> Result<Launched> {
        let Run { cluster, namespace, resolved, .. } = self.run;
        let mut looking: Option<(Watcher, Phase, Instant)> = None;
        let mut last = String::new();
        let mut end = wait::until_over(cluster, namespace, name, self.deadline, &mut |launch, job| {
            // To look costs a list of pods: seldom, but at once when something has happened.
            let mut watcher = match looking.take() {
                Some((watcher, phase, at)) if phase == launch.phase && at.elapsed() < LOOK_PERIOD => {
                    looking = Some((watcher, phase, at));
                    return Ok(());
                }
                Some((watcher, ..)) => watcher,
                None => Watcher::new(cluster, launch, &resolved.spec.store),
            };
            // What cannot be asked now can be asked the next time: the wait itself knows what is too long.
            let line = line_beside(&mut watcher, job).unwrap_or_else(|_| told(launch));
            for missing in watcher.unseen() {
                self.output.note(&missing);
            }
            if line != last {
                self.output.note(&format!("{name}: {line}"));
                last = line;
            }
            looking = Some((watcher, launch.phase, Instant::now()));
            Ok(())
        })?;
        if end.phase == Phase::Succeeded && !end.builds {
            match was_stopped(&resolved.spec.store) {
                Ok(true) => end.phase = Phase::Stopped,
                Ok(false) => {}
                Err(error) => self.output.note(&format!(
                    "cannot look whether `{name}` did all its steps or was asked to stop: {}",
                    error.message()
                )),
            }
        }
        if end.phase == Phase::Succeeded {
            return Ok(end);
        }
        Err(Error::invalid(format!("launch `{name}` has {}", told(&end))).with_hint(
            "`eagleray logs` shows its last words, `eagleray resume` goes on from the newest checkpoint",
        ))
    }

    fn said(&self, name: &str, what: &str) -> String {
        let namespace = &self.run.namespace;
        if self.output.is_json() {
            let resolved = &self.run.resolved;
            let value: Value = json!({"run": resolved.spec.name, "launch": name, "namespace": namespace,
                "digest": resolved.spec_hash, "store": resolved.spec.store, "waited": self.waiting.wait, "said": what});
            return format!("{value:#}");
        }
        let mut text = String::new();
        let _ = write!(text, "{namespace}/{name}: {what}");
        text
    }
}

/// `running`, `failed (AppFailed: …)`.
fn told(launch: &Launched) -> String {
    let word = if launch.deleting { "being deleted" } else { launch.phase.name() };
    if launch.reason.is_empty() { word.to_owned() } else { format!("{word} ({})", launch.reason) }
}
