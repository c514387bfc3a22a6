//! Waiting for a launch to end, and for what it leaves behind to go.

use std::thread::sleep;
use std::time::{Duration, Instant};

use eagleray_base::{Error, Kind, Result};
use eagleray_kube::render::LAUNCH_LABEL;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::launches::Launch;
use crate::resource::{POD, RAY_CLUSTER, RAY_JOB};

/// How often the cluster is asked.
pub const PERIOD: Duration = Duration::from_secs(2);

/// An API server may be away for so long before a wait gives up: control planes are upgraded under running jobs.
pub const AWAY_MAX: Duration = Duration::from_mins(10);

/// Asks for a launch until it is over, telling each of its states, with the `RayJob` as it was answered.
///
/// # Errors
/// `NotFound` where it is gone, `Unavailable` at the deadline or where the API server stays away; what `tell` gives.
pub fn until_over(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    deadline: Option<Instant>,
    tell: &mut dyn FnMut(&Launch, &Value) -> Result<()>,
) -> Result<Launch> {
    let mut answered = Instant::now();
    loop {
        match cluster.get(RAY_JOB, Some(namespace), name) {
            Ok(Some(job)) => {
                answered = Instant::now();
                let launch = Launch::of(&job)
                    .ok_or_else(|| Error::invalid(format!("RayJob `{name}` is no launch of Eagle Ray")))?;
                tell(&launch, &job)?;
                if launch.phase.is_over() {
                    return Ok(launch);
                }
            }
            Ok(None) => {
                return Err(Error::not_found(format!("launch `{name}` is gone: somebody deleted it"))
                    .with_hint("what it saved is on its store: `eagleray resume` goes on from there"));
            }
            Err(error) if error.kind() == Kind::Unavailable && answered.elapsed() < AWAY_MAX => {}
            Err(error) => return Err(error),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::unavailable(format!("launch `{name}` is not over yet; it goes on"))
                .with_hint("`eagleray watch` shows it"));
        }
        sleep(PERIOD);
    }
}

/// Waits until a deleted launch has left nothing that is paid for: no job, no cluster, no pod.
///
/// # Errors
/// `Unavailable` naming what is still there at the deadline; as [`Cluster::list`].
pub fn until_gone(cluster: &Cluster, namespace: &str, name: &str, deadline: Instant) -> Result<()> {
    loop {
        let mut left = Vec::new();
        if cluster.get(RAY_JOB, Some(namespace), name)?.is_some() {
            left.push(format!("RayJob `{name}`"));
        }
        for resource in [RAY_CLUSTER, POD] {
            for object in cluster.list(resource, Some(namespace), &format!("{LAUNCH_LABEL}={name}"))? {
                left.push(format!(
                    "{} `{}`",
                    resource.kind,
                    object["metadata"]["name"].as_str().unwrap_or("?")
                ));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::unavailable(format!("still there: {}", left.join(", "))).with_hint(
                "a pod that stays Terminating on a dead node: `eagleray runs --leaks --fix` removes it",
            ));
        }
        sleep(PERIOD);
    }
}
