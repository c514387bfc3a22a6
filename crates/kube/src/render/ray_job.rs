//! The launches: one that builds the data without an accelerator, one that trains.

use eagleray_base::Result;

use super::context::{Context, SPEC_FILE, SPEC_FOLDER};
use super::{BUILD_SUFFIX, File};
use super::{pod, ray_cluster};
use crate::yaml::Map;

/// How long nodes may take to come, all of them.
const PRE_RUNNING_SECONDS: u32 = 3_600;

/// How long the head of a failed launch stays to be looked at.
const HEAD_KEPT_SECONDS: u32 = 3_600;

/// The launch that trains.
pub(super) fn train(context: &Context<'_>) -> Result<File> {
    let groups = ray_cluster::groups(context)?;
    // What is built by a launch of its own must not be built by this one, which holds accelerators.
    let built = if context.needs_build() { " --built" } else { "" };
    let command = format!("eagleray train{built} {SPEC_FOLDER}/{SPEC_FILE}");
    let why = "the driver, which outlives lost workers; KubeRay itself never tries again in the same cluster";
    let object = ray_job(context, &context.launch, Map::new().why("entrypoint", command, why), groups);
    Ok(File { path: "train/ray-job.yaml".into(), object })
}

/// The launch that builds, where there is text to build.
pub(super) fn build(context: &Context<'_>) -> Option<File> {
    let build = context.build.as_ref()?;
    let why = "all at once: as many nodes for a shorter time cost the same, and training waits";
    let group = Map::new()
        .with("groupName", "cpu")
        .why("replicas", build.nodes, why)
        .with("minReplicas", build.nodes)
        .with("maxReplicas", build.nodes)
        .with("rayStartParams", Map::new())
        .with("template", pod::builder(context, &build.instance));
    let command = format!("eagleray tokens build {SPEC_FOLDER}/{SPEC_FILE}");
    let why = "before training, so that no accelerator waits for CPUs; what is built is found, what was begun goes on";
    let name = format!("{}{BUILD_SUFFIX}", context.launch);
    let object = ray_job(context, &name, Map::new().why("entrypoint", command, why), vec![group]);
    Some(File { path: "build/ray-job.yaml".into(), object })
}

fn ray_job(context: &Context<'_>, name: &str, spec: Map, groups: Vec<Map>) -> Map {
    let why = "on the RayJob alone: its RayCluster is admitted with it. Kueue sets `suspend` itself";
    let metadata = ray_cluster::metadata(context, name, why);
    let spec = spec
        .why(
            "submissionMode",
            "HTTPMode",
            "no submitter pod to lose, and after a lost head the job is submitted again to the same cluster",
        )
        .why("jobId", name, "known before it starts, for logs and for the next submission")
        .why(
            "backoffLimit",
            1,
            "each try is a whole new cluster; what is lost within one is the driver's care",
        )
        .why(
            "preRunningDeadlineSeconds",
            PRE_RUNNING_SECONDS,
            "half a cluster that waits for its other half is paid for without end otherwise",
        );
    let spec = lifetime(context, spec).with("rayClusterSpec", ray_cluster::spec(context, groups));
    Map::new()
        .with("apiVersion", "ray.io/v1")
        .with("kind", "RayJob")
        .with("metadata", metadata)
        .with("spec", spec)
}

/// What becomes of the cluster when the job has ended.
fn lifetime(context: &Context<'_>, spec: Map) -> Map {
    if context.queued() {
        return spec
            .why("shutdownAfterJobFinishes", true, "Kueue wants it, and excludes deletion rules")
            .why("ttlSecondsAfterFinished", 0, "accelerators are paid for until then");
    }
    let rule = |key: &str, status: &str, seconds: u32, policy: &str| {
        let condition = Map::new().with(key, status).with("ttlSeconds", seconds);
        Map::new().with("condition", condition).with("policy", policy)
    };
    // The launch's status, not the job's: a launch that fails before its job exists has none of that.
    let rules = vec![
        rule("jobDeploymentStatus", "Failed", 0, "DeleteWorkers"),
        rule("jobDeploymentStatus", "Failed", HEAD_KEPT_SECONDS, "DeleteCluster"),
        rule("jobStatus", "SUCCEEDED", 0, "DeleteCluster"),
    ];
    spec.why(
        "deletionStrategy",
        Map::new().with("deletionRules", rules),
        "workers go at once; the head of a failed launch, which costs little, stays for an hour to be looked at",
    )
}
