//! The launches of a run as the cluster knows them: `RayJobs`, and what has become of each.

use eagleray_base::Result;
use eagleray_kube::render::{BUILD_SUFFIX, LAUNCH_LABEL, RUN_LABEL};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::resource::{CONFIG_MAP, RAY_JOB};

/// What has become of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for quota, or somebody suspended it.
    Suspended,
    /// Its cluster is being made: pods, machines, images.
    Starting,
    /// Its driver is at work.
    Running,
    /// `KubeRay` makes a new cluster after a failure.
    Retrying,
    /// Its driver has done all steps.
    Succeeded,
    /// Its driver was stopped.
    Stopped,
    /// It failed, and will not be tried again by itself.
    Failed,
}

impl Phase {
    /// Whether nothing will happen any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Stopped | Self::Failed)
    }

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// A launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Launch {
    /// `solar-8b-2`, or `solar-8b-2-build`.
    pub name: String,
    /// Where it is.
    pub namespace: String,
    /// Its run.
    pub run: String,
    /// Its number.
    pub number: u32,
    /// Whether it makes text into tokens, on CPUs alone.
    pub builds: bool,
    /// What has become of it.
    pub phase: Phase,
    /// Why, where the cluster says so.
    pub reason: String,
    /// The name of its cluster, once there is one.
    pub cluster: String,
    /// When it was made, as the API server writes it.
    pub created: String,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Launch {
    /// Reads a `RayJob`; none where it is no launch of ours.
    pub fn of(job: &Value) -> Option<Self> {
        let metadata = &job["metadata"];
        let name = metadata["name"].as_str()?;
        let run = metadata["labels"][RUN_LABEL].as_str()?;
        let builds = name.ends_with(BUILD_SUFFIX);
        let number = name.strip_suffix(BUILD_SUFFIX).unwrap_or(name).rsplit_once('-')?.1.parse().ok()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some(Self {
            name: name.to_owned(),
            namespace: text(&metadata["namespace"]),
            run: run.to_owned(),
            number,
            builds,
            phase: phase(job),
            reason: reason(job),
            cluster: text(&job["status"]["rayClusterName"]),
            created: text(&metadata["creationTimestamp"]),
            deleting: !metadata["deletionTimestamp"].is_null(),
        })
    }
}

/// What has become of a `RayJob`, of ours or not.
pub fn phase(job: &Value) -> Phase {
    let status = &job["status"];
    let ended = status["jobStatus"].as_str().unwrap_or_default();
    match status["jobDeploymentStatus"].as_str().unwrap_or_default() {
        "Complete" | "Failed" if ended == "STOPPED" => Phase::Stopped,
        "Complete" if ended != "FAILED" => Phase::Succeeded,
        "Complete" | "Failed" | "ValidationFailed" => Phase::Failed,
        "Retrying" => Phase::Retrying,
        "Suspended" | "Suspending" => Phase::Suspended,
        "Running" => Phase::Running,
        "" | "Initializing" | "Waiting" if job["spec"]["suspend"] == true => Phase::Suspended,
        // A word of a later KubeRay, too: on the way, as far as anyone here knows.
        _ => Phase::Starting,
    }
}

fn reason(job: &Value) -> String {
    let status = &job["status"];
    let parts = ["reason", "message"].map(|key| status[key].as_str().unwrap_or_default().trim());
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(": ")
}

/// The launches of a run in a namespace, or of all runs; by number, the build before the training.
///
/// # Errors
/// As [`Cluster::list`].
pub fn launches(cluster: &Cluster, namespace: Option<&str>, run: Option<&str>) -> Result<Vec<Launch>> {
    let labels = run.map_or_else(|| RUN_LABEL.to_owned(), |run| format!("{RUN_LABEL}={run}"));
    let jobs = cluster.list(RAY_JOB, namespace, &labels)?;
    let mut found: Vec<Launch> = jobs.iter().filter_map(Launch::of).collect();
    found.sort_by(|a, b| {
        (&a.namespace, &a.run, a.number, !a.builds).cmp(&(&b.namespace, &b.run, b.number, !b.builds))
    });
    Ok(found)
}

/// The newest number that a launch of a run has had; 0 where there was none. A launch that was deleted has left its
/// spec, which costs nothing.
///
/// # Errors
/// As [`Cluster::list`].
pub fn newest_number(cluster: &Cluster, namespace: &str, run: &str) -> Result<u32> {
    let specs = cluster.list(CONFIG_MAP, Some(namespace), &format!("{RUN_LABEL}={run}"))?;
    let labels = specs.iter().filter_map(|spec| spec["metadata"]["labels"][LAUNCH_LABEL].as_str());
    Ok(labels.filter_map(|name| name.rsplit_once('-')?.1.parse().ok()).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(name: &str, status: &Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "training", "labels": {(RUN_LABEL): "solar"},
                "creationTimestamp": "2026-11-29T01:00:00Z"},
            "spec": {},
            "status": status,
        })
    }

    #[test]
    fn a_launch_is_read_from_its_ray_job() {
        let text = job(
            "solar-12-build",
            &json!({"jobDeploymentStatus": "Running", "rayClusterName": "solar-12-build-x"}),
        );
        let launch = Launch::of(&text).unwrap();
        assert_eq!((launch.number, launch.builds, launch.phase), (12, true, Phase::Running));
        assert_eq!(launch.cluster, "solar-12-build-x");
        assert_eq!(Launch::of(&json!({"metadata": {"name": "a-1"}})), None, "somebody else's");
        assert_eq!(Launch::of(&job("solar", &json!({}))), None, "no number");
    }

    #[test]
    fn a_phase_is_the_job_s_end_where_the_deployment_only_says_that_it_is_over() {
        let of = |deployment: &str, status: &str| {
            phase(&job("solar-1", &json!({"jobDeploymentStatus": deployment, "jobStatus": status})))
        };
        assert_eq!(of("Complete", "SUCCEEDED"), Phase::Succeeded);
        assert_eq!(of("Complete", "FAILED"), Phase::Failed);
        assert_eq!(of("Complete", "STOPPED"), Phase::Stopped);
        assert_eq!(of("Failed", ""), Phase::Failed);
        assert_eq!(of("ValidationFailed", ""), Phase::Failed);
        assert_eq!(of("Retrying", "FAILED"), Phase::Retrying);
        assert_eq!(of("", ""), Phase::Starting);
        let held = json!({"spec": {"suspend": true}, "status": {}});
        assert_eq!(phase(&held), Phase::Suspended, "Kueue has not let it in yet");
    }

    #[test]
    fn a_reason_is_both_of_its_words() {
        let status = json!({"reason": "DeadlineExceeded", "message": "the launch took too long"});
        assert_eq!(reason(&job("solar-1", &status)), "DeadlineExceeded: the launch took too long");
    }
}
