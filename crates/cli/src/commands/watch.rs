//! `eagleray watch`: why a launch waits, or what it does.

use std::thread::sleep;
use std::time::{Duration, Instant};

use eagleray_base::units::format_seconds;
use eagleray_base::{Error, Kind, Result};
use eagleray_launch::launches::Launch;
use eagleray_launch::wait::AWAY_MAX;
use eagleray_launch::watch::{Group, Phase, Told, Watcher, groups, tell};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::live::{LaunchArgs, Patience, now, patience};
use crate::output::Output;

const AFTER_HELP: &str = "\
One line says what a launch waits for: quota, its cluster, machines, images, containers, Ray, its driver. Or what it does: \
step, speed, loss, ranks, newest checkpoint. It is put together from RayJob, Workload, RayCluster, pods, events, \
NodeClaims, nodes and the run's ledger; what this account may not read is named once and done without.

On a terminal the picture is redrawn in place; elsewhere, and with --format json (one object a line), it is said again \
when it changes. The exit code is 0 when the launch is complete, or alive with --once; 1 when it failed, was stopped or is \
gone; 2 when the cluster stays away.

  eagleray watch run.yaml
  eagleray watch run.yaml --once --format json";

/// How often it is looked, and what is looked at costs the API server a list of pods.
const INTERVAL: Patience = Patience::of_seconds(5);

/// Say what a launch waits for, or what it does
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Watch {
    #[command(flatten)]
    launch: LaunchArgs,
    /// Say it once, and end
    #[arg(long)]
    once: bool,
    /// How long between two looks, such as 2s or 1m; 5s
    #[arg(long, value_name = "TIME", value_parser = patience, conflicts_with = "once")]
    interval: Option<Patience>,
}

impl Watch {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let (run, launch) = self.launch.open()?;
        let mut watcher = Watcher::new(&run.cluster, &launch, &run.resolved.spec.store);
        let interval = self.interval.unwrap_or(INTERVAL).duration().max(Duration::from_secs(1));
        let mut screen = Screen::new(output, &launch, self.once);
        let (mut answered, mut away) = (Instant::now(), false);
        loop {
            match look(&mut watcher) {
                Ok((told, groups)) => {
                    (answered, away) = (Instant::now(), false);
                    for missing in watcher.unseen() {
                        screen.note(&missing);
                    }
                    screen.show(&told, &groups);
                    if told.phase.is_over() || self.once {
                        screen.close();
                        return end(output, &launch, &told);
                    }
                }
                Err(error)
                    if error.kind() == Kind::Unavailable && !self.once && answered.elapsed() < AWAY_MAX =>
                {
                    if !away {
                        screen.note(&format!("{}; trying on", error.message()));
                    }
                    away = true;
                }
                Err(error) => return Err(error),
            }
            sleep(interval);
        }
    }
}

/// What is told of a launch now.
pub(crate) fn look(watcher: &mut Watcher) -> Result<(Told, Vec<Group>)> {
    let situation = watcher.look(now())?;
    Ok((tell(&situation), groups(&situation)))
}

/// The line of a launch whose `RayJob` has just been answered.
pub(crate) fn line_beside(watcher: &mut Watcher, job: &Value) -> Result<String> {
    Ok(tell(&watcher.look_beside(job, now())?).line)
}

fn end(output: &Output, launch: &Launch, told: &Told) -> Result<()> {
    let error = match told.phase {
        Phase::Gone => Error::not_found(format!("launch `{}` is gone", launch.name)),
        Phase::Failed | Phase::Stopped => Error::invalid(format!("launch `{}`: {}", launch.name, told.line)),
        _ => return Ok(()),
    };
    // It has been printed as what the launch is at.
    Err(output.reported(error))
}

/// Where a launch is shown.
struct Screen<'a> {
    output: &'a Output,
    launch: &'a Launch,
    drawn: Option<(MultiProgress, Vec<ProgressBar>)>,
    last: Option<(Told, Vec<Group>)>,
}

impl<'a> Screen<'a> {
    fn new(output: &'a Output, launch: &'a Launch, once: bool) -> Self {
        let redraws = output.is_tty() && !output.is_json() && !output.is_quiet() && !once;
        let drawn =
            redraws.then(|| (MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), Vec::new()));
        Self { output, launch, drawn, last: None }
    }

    fn note(&self, text: &str) {
        match &self.drawn {
            Some((all, _)) => {
                let _ = all.println(text);
            }
            None => self.output.note(text),
        }
    }

    fn show(&mut self, told: &Told, groups: &[Group]) {
        let changed = self.last.as_ref().is_none_or(|(before, counted)| {
            (before.phase, &before.line) != (told.phase, &told.line) || counted != groups
        });
        self.last = Some((told.clone(), groups.to_vec()));
        if let Some((all, bars)) = &mut self.drawn {
            draw(all, bars, &picture(self.launch, told, groups));
            return;
        }
        if !changed {
            return;
        }
        if self.output.is_json() {
            let Launch { name, namespace, run, .. } = self.launch;
            let value = json!({"at": now(), "launch": name, "namespace": namespace, "run": run, "phase": told.phase,
                "line": told.line, "details": told.details, "since": told.since, "groups": groups});
            self.output.print(&value.to_string());
        } else {
            self.output.print(&picture(self.launch, told, groups).join("\n"));
        }
    }

    /// Leaves the last picture on the terminal, as a result.
    fn close(&mut self) {
        if let (Some((all, _)), Some((told, groups))) = (self.drawn.take(), &self.last) {
            let _ = all.clear();
            self.output.print(&picture(self.launch, told, groups).join("\n"));
        }
    }
}

fn draw(all: &MultiProgress, bars: &mut Vec<ProgressBar>, lines: &[String]) {
    let plain =
        || ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    while bars.len() < lines.len() {
        bars.push(all.add(ProgressBar::new(0).with_style(plain())));
    }
    for bar in bars.drain(lines.len()..) {
        bar.finish_and_clear();
        all.remove(&bar);
    }
    for (bar, line) in bars.iter().zip(lines) {
        bar.set_message(line.clone());
        bar.tick();
    }
}

/// The line, the groups, and what else there is to know.
fn picture(launch: &Launch, told: &Told, groups: &[Group]) -> Vec<String> {
    let since = told.since.map(|since| format_seconds((now() - since).max(0) as f64));
    let age =
        since.filter(|_| !told.phase.is_over()).map(|age| format!(" (since {age})")).unwrap_or_default();
    let mut lines = vec![format!("{}: {}{age}", launch.name, told.line)];
    if told.phase.is_over() {
        return lines;
    }
    let width = groups.iter().map(|group| group.name.chars().count()).max().unwrap_or(0);
    for group in groups {
        let Group { name, wanted, ready, starting, pending, terminating } = group;
        let more = [(starting, "starting"), (pending, "pending"), (terminating, "terminating")];
        let mut counts = vec![format!("{ready}/{wanted} ready")];
        counts.extend(
            more.iter().filter(|(number, _)| **number > 0).map(|(number, word)| format!("{number} {word}")),
        );
        lines.push(format!("  {name:<width$}  {}", counts.join(", ")));
    }
    lines.extend(told.details.iter().map(|detail| format!("  {detail}")));
    lines
}

#[cfg(test)]
mod tests {
    use eagleray_launch::launches;

    use super::*;

    #[test]
    fn the_picture_is_the_line_the_groups_and_the_details() {
        let launch = Launch {
            name: "solar-1".into(),
            namespace: "training".into(),
            run: "solar".into(),
            number: 1,
            builds: false,
            phase: launches::Phase::Starting,
            reason: String::new(),
            cluster: String::new(),
            created: String::new(),
            deleting: false,
        };
        let told = Told {
            phase: Phase::Nodes,
            line: "waits for nodes for 2 pods: …".into(),
            details: vec!["1 node draining".into()],
            since: None,
        };
        let group = Group { name: "od".into(), wanted: 4, ready: 1, starting: 1, pending: 2, terminating: 0 };
        let head = Group { name: "headgroup".into(), wanted: 1, ready: 1, ..Group::default() };
        assert_eq!(
            picture(&launch, &told, &[head.clone(), group]),
            [
                "solar-1: waits for nodes for 2 pods: …",
                "  headgroup  1/1 ready",
                "  od         1/4 ready, 1 starting, 2 pending",
                "  1 node draining"
            ]
        );
        let over = Told { phase: Phase::Failed, line: "failed: AppFailed".into(), ..told };
        assert_eq!(picture(&launch, &over, &[head]), ["solar-1: failed: AppFailed"]);
    }
}
