//! The launches: one that builds the data without an accelerator, one that trains.

use eagleray_base::Result;

use super::context::{Context, SPEC_FILE, SPEC_FOLDER, SPEC_HASH};
use super::pod;
use super::{BUILD_SUFFIX, File};
use crate::yaml::Map;

/// The version of Ray in the image: the one that this program is made for.
const RAY_VERSION: &str = "2.60.0";

/// How long nodes may take to come, all of them.
const PRE_RUNNING_SECONDS: u32 = 3_600;

/// How long the head of a failed launch stays to be looked at.
const HEAD_KEPT_SECONDS: u32 = 3_600;

/// The launch that trains.
pub(super) fn train(context: &Context<'_>) -> Result<File> {
    let mut groups = Vec::new();
    for nodes in &context.groups {
        let count = nodes.group.nodes;
        let group = Map::new().with("groupName", nodes.group.name.as_str());
        let group = if count.min == count.max {
            group.with("replicas", count.max)
        } else {
            let why = "the floor: the run starts on it; once it trains its driver raises this to `maxReplicas`, and takes in what comes";
            group.why("replicas", count.min, why)
        };
        let group = group.with("minReplicas", count.min).with("maxReplicas", count.max);
        groups.push(group.with("rayStartParams", Map::new()).with("template", pod::worker(context, nodes)?));
    }
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
    let mut labels = context.launch_labels();
    if let Some(queue) = &context.eks.queue {
        labels = labels.why(
            "kueue.x-k8s.io/queue-name",
            queue.as_str(),
            "on the RayJob alone: its RayCluster is admitted with it. Kueue sets `suspend` itself",
        );
        labels = labels.maybe("kueue.x-k8s.io/priority-class", context.eks.priority.as_deref());
    }
    let annotations = Map::new().why(
        SPEC_HASH,
        context.resolved.spec_hash.to_string(),
        "which spec this was rendered from",
    );
    let metadata = context.metadata(name, labels).with("annotations", annotations);
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
    let spec = lifetime(context, spec).with("rayClusterSpec", cluster(context, groups));
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

fn cluster(context: &Context<'_>, groups: Vec<Map>) -> Map {
    let parameters = Map::new()
        .why("num-cpus", "0", "no task or actor of the run is placed on the head, only the driver")
        .why("dashboard-host", "0.0.0.0", "KubeRay submits the job and asks for its status over the network");
    let head = Map::new().with("rayStartParams", parameters).with("template", pod::head(context));
    Map::new()
        .why(
            "rayVersion",
            RAY_VERSION,
            "that of the image: probes, token auth and the health endpoint go by it",
        )
        .why(
            "authOptions",
            Map::new().with("mode", "token"),
            "whoever reaches Ray's ports runs code as the run",
        )
        .why(
            "enableInTreeAutoscaling",
            false,
            "a training run wants all that it may have: nothing to decide, and workers could not restart",
        )
        .with("headGroupSpec", head)
        .with("workerGroupSpecs", groups)
}
