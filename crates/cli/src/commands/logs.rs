//! `eagleray logs`: what the driver or a pod of a launch says.

use std::thread::sleep;

use eagleray_base::{Kind, Result};
use eagleray_kube::render::LAUNCH_LABEL;
use eagleray_launch::driver;
use eagleray_launch::launches::Launch;
use eagleray_launch::resource::POD;
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
    /// Go on until it ends
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
                run.cluster.follow(&run.namespace, pod, None, i64::from(self.lines), &mut |line| {
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
        let text = driver::output(&run.cluster, &launch)?;
        tell(output, &launch.name, last_lines(&text, self.lines as usize));
        let mut said = text.len();
        while self.follow && !launch.phase.is_over() {
            sleep(PERIOD);
            // The head may be replaced meanwhile: its successor begins a new output.
            match driver::output(&run.cluster, &launch) {
                Ok(text) => {
                    let new = text.get(said..).unwrap_or(&text);
                    if !new.is_empty() {
                        output.print(new);
                    }
                    said = text.len();
                }
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
            let job =
                run.cluster.get(eagleray_launch::resource::RAY_JOB, Some(&run.namespace), &launch.name)?;
            match job.as_ref().and_then(Launch::of) {
                Some(now) => launch = now,
                None => return Ok(()),
            }
        }
        Ok(())
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
