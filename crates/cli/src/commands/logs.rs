//! `eagleray logs`: what the driver or a pod of a launch says.

use std::thread::sleep;

use eagleray_base::{Error, Kind, Result};
use eagleray_kube::render::LAUNCH_LABEL;
use eagleray_launch::cluster::SILENCE_MAX;
use eagleray_launch::driver;
use eagleray_launch::launches::Launch;
use eagleray_launch::resource::{POD, RAY_JOB};
use eagleray_launch::wait::PERIOD;
use serde_json::json;

use super::live::{LaunchArgs, Run};
use crate::output::Output;

const AFTER_HELP: &str = "\
The driver's output comes from Ray's job API on the head, through the API server: no port has to be forwarded. That of \
pods comes from Kubernetes.

  eagleray logs run.yaml --follow
  eagleray logs run.yaml --pod solar-8b-1-x4k2q-spot-a-worker-9xkzp";

/// Show what the driver or a pod of a launch says.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Logs {
    #[command(flatten)]
    launch: LaunchArgs,
    /// A pod instead of the driver; `list` names them
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Go on until it ends; of a driver that has not begun, wait until it does
    #[arg(long, short)]
    follow: bool,
    /// How many lines at most, from the end
    #[arg(long, default_value_t = 200)]
    lines: u32,
}

impl Logs {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let (run, launch) = self.launch.open()?;
        match self.pod.as_deref() {
            None => self.driver(&run, launch, output),
            Some("list") => list(&run, &launch, output),
            Some(pod) if self.follow => {
                let which = (run.namespace.as_str(), pod, None);
                run.cluster.follow(which, i64::from(self.lines), SILENCE_MAX, &mut |line| {
                    output.print(line);
                    Ok(())
                })
            }
            Some(pod) => {
                let text = run.cluster.log(&run.namespace, pod, None, i64::from(self.lines))?;
                tell(output, &launch.name, &text);
                Ok(())
            }
        }
    }

    fn driver(&self, run: &Run, mut launch: Launch, output: &Output) -> Result<()> {
        let (mut said, mut waits) = (None, String::new());
        loop {
            let over = launch.phase.is_over();
            match driver::output(&run.cluster, &launch) {
                Ok(text) => {
                    match said {
                        None => tell(output, &launch.name, last_lines(&text, self.lines as usize)),
                        // The head may be replaced meanwhile: its successor begins a new output.
                        Some(said) => match text.get(said..).unwrap_or(&text) {
                            "" => {}
                            new => output.print(new),
                        },
                    }
                    (said, waits) = (Some(text.len()), String::new());
                }
                Err(error) if self.follow && matches!(error.kind(), Kind::Unavailable | Kind::NotFound) => {
                    match (over, said) {
                        (true, Some(_)) => return Ok(()),
                        (true, None) => return Err(error),
                        (false, _) if waits == error.message() => {}
                        (false, _) => {
                            error.message().clone_into(&mut waits);
                            output.note(&waits);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            if over || !self.follow {
                return Ok(());
            }
            sleep(PERIOD);
            let job = run.cluster.get(RAY_JOB, Some(&run.namespace), &launch.name)?;
            launch = match (job.as_ref().and_then(Launch::of), said) {
                (Some(now), _) => now,
                (None, Some(_)) => return Ok(()),
                (None, None) => {
                    let name = &launch.name;
                    return Err(Error::not_found(format!(
                        "launch `{name}` is gone, and its driver never began"
                    )));
                }
            };
        }
    }
}

fn list(run: &Run, launch: &Launch, output: &Output) -> Result<()> {
    let pods = run.cluster.list(POD, Some(&run.namespace), &format!("{LAUNCH_LABEL}={}", launch.name))?;
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    if output.is_json() {
        output.json(&json!({"launch": launch.name, "pods": names}));
    } else {
        output.print(&names.join("\n"));
    }
    Ok(())
}

fn tell(output: &Output, launch: &str, text: &str) {
    if output.is_json() {
        output.json(&json!({"launch": launch, "logs": text}));
    } else {
        output.print(text);
    }
}

fn last_lines(text: &str, count: usize) -> &str {
    let mut ends = text.trim_end_matches('\n').rmatch_indices('\n');
    match count.checked_sub(1).map(|before| ends.nth(before)) {
        Some(Some((end, _))) => &text[end + 1..],
        Some(None) => text,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", 1), "c");
        assert_eq!(last_lines("a\n", 5), "a\n");
        assert_eq!(last_lines("é\nü\n", 1), "ü\n");
        assert_eq!(last_lines("a\n", 0), "");
        assert_eq!(last_lines("", 3), "");
    }
}
