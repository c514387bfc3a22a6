//! What is within a job and a long-lived cluster alike, and the latter.

use eagleray_base::Result;
use eagleray_spec::types::Redis;

use super::File;
use super::context::{Context, SPEC_HASH};
use super::pod;
use crate::yaml::Map;

/// The version of Ray in the image: the one that this program is made for.
const RAY_VERSION: &str = "2.60.0";

/// How long a node of a long-lived cluster may stand idle. Ray's default is 60 s.
const IDLE_SECONDS: u32 = 600;

/// A cluster to work in, until somebody deletes it.
pub(super) fn render(context: &Context<'_>) -> Result<File> {
    let why = "Kueue admits the cluster as a whole, and sets `suspend` itself";
    let mut metadata = metadata(context, &context.launch, why);
    if context.autoscaled() && context.queued() {
        let why = "Kueue admits what is added as a slice of its own; else it refuses a cluster that scales";
        let annotations = Map::new().with(SPEC_HASH, context.resolved.spec_hash.to_string()).why(
            "kueue.x-k8s.io/elastic-job",
            "true",
            why,
        );
        metadata.set("annotations", annotations.into(), None);
    }
    let object = Map::new()
        .with("apiVersion", "ray.io/v1")
        .with("kind", "RayCluster")
        .with("metadata", metadata)
        .with("spec", spec(context, groups(context)?));
    Ok(File { path: "cluster/ray-cluster.yaml".into(), object })
}

/// `metadata` of what Kueue admits, with why the queue is named there.
pub(super) fn metadata(context: &Context<'_>, name: &str, why: &str) -> Map {
    let mut labels = context.launch_labels();
    if let Some(queue) = &context.eks.queue {
        labels = labels.why("kueue.x-k8s.io/queue-name", queue.as_str(), why);
        labels = labels.maybe("kueue.x-k8s.io/priority-class", context.eks.priority.as_deref());
    }
    let annotations = Map::new().why(
        SPEC_HASH,
        context.resolved.spec_hash.to_string(),
        "which spec this was rendered from",
    );
    context.metadata(name, labels).with("annotations", annotations)
}

/// The groups that train.
pub(super) fn groups(context: &Context<'_>) -> Result<Vec<Map>> {
    let mut groups = Vec::new();
    for nodes in &context.groups {
        let count = nodes.group.nodes;
        let group = Map::new().with("groupName", nodes.group.name.as_str());
        let group = if count.min == count.max {
            group.with("replicas", count.max)
        } else if context.autoscaled() {
            let why = "where it starts; then the autoscaler sets this by what tasks and actors ask for";
            group.why("replicas", count.min, why)
        } else {
            let why = "the floor: the run starts on it; once it trains its driver raises this to `maxReplicas`, and takes in what comes";
            group.why("replicas", count.min, why)
        };
        let group = group.with("minReplicas", count.min).with("maxReplicas", count.max);
        groups.push(group.with("rayStartParams", Map::new()).with("template", pod::worker(context, nodes)?));
    }
    Ok(groups)
}

/// `spec` of a `RayCluster`.
pub(super) fn spec(context: &Context<'_>, groups: Vec<Map>) -> Map {
    let (cpus, dashboard) = if context.is_long_lived() {
        (
            "no task or actor is placed on the head: one that takes its memory takes the cluster",
            "people reach it by `kubectl port-forward`, and KubeRay over the network",
        )
    } else {
        (
            "no task or actor of the run is placed on the head, only the driver",
            "KubeRay submits the job and asks for its status over the network",
        )
    };
    let parameters = Map::new().why("num-cpus", "0", cpus).why("dashboard-host", "0.0.0.0", dashboard);
    let head = Map::new().with("rayStartParams", parameters).with("template", pod::head(context));
    let spec = Map::new()
        .why(
            "rayVersion",
            RAY_VERSION,
            "that of the image: probes, token auth and the health endpoint go by it",
        )
        .why(
            "authOptions",
            Map::new().with("mode", "token"),
            "whoever reaches Ray's ports runs code as the run",
        );
    let spec = autoscaler(context, spec);
    let redis = context.eks.redis.as_ref().filter(|_| context.is_long_lived());
    let spec = match redis {
        Some(redis) => spec.why(
            "gcsFaultToleranceOptions",
            fault_tolerance(context, redis),
            "a head that is replaced finds its jobs and actors again, and workers wait for it for ten minutes",
        ),
        None => spec,
    };
    spec.with("headGroupSpec", head).with("workerGroupSpecs", groups)
}

fn autoscaler(context: &Context<'_>, spec: Map) -> Map {
    if !context.is_long_lived() {
        let why =
            "a training run wants all that it may have: nothing to decide, and workers could not restart";
        return spec.why("enableInTreeAutoscaling", false, why);
    }
    if !context.autoscaled() {
        let why = "every group has one number: nothing to decide, and workers could not restart";
        return spec.why("enableInTreeAutoscaling", false, why);
    }
    let options = Map::new()
        .why("version", "v2", "Ray's default since 2.47, by its name: what restarts goes by it")
        .why(
            "idleTimeoutSeconds",
            IDLE_SECONDS,
            "a node with accelerators takes minutes to come: 60 s of thought, the default, would send it away",
        );
    spec.why(
        "enableInTreeAutoscaling",
        true,
        "people come and go: nodes come when tasks ask for them, and go when they are idle",
    )
    .with("autoscalerOptions", options)
}

fn fault_tolerance(context: &Context<'_>, redis: &Redis) -> Map {
    let namespace = format!("{}-{}", context.eks.namespace, context.launch);
    let options = Map::new().with("redisAddress", redis.address.as_str()).why(
        "externalStorageNamespace",
        namespace,
        "of this cluster alone: two that share one take each other's nodes for their own",
    );
    let Some(secret) = &redis.secret else { return options };
    let key = Map::new().with("name", secret.as_str()).with("key", redis.key.as_str());
    let from = Map::new().with("secretKeyRef", key);
    options.with("redisPassword", Map::new().with("valueFrom", from))
}
