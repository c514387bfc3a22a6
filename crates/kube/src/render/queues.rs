//! Kueue, on request: flavors by instance and capacity, a queue with what the run asks for at most.

use eagleray_plan::Instance;

use super::File;
use super::context::Context;
use super::pod::{Request, capacity};
use crate::yaml::Map;

/// A flavor, and what all pods on it ask for.
struct Flavor {
    name: String,
    labels: Map,
    taints: Vec<Map>,
    /// Name, amount and unit of each resource.
    quota: Vec<(&'static str, u64, &'static str)>,
}

pub(super) fn render(context: &Context<'_>) -> Vec<File> {
    let Some(queue) = context.eks.queue.as_ref().filter(|_| context.options.kueue) else {
        return Vec::new();
    };
    let flavors = flavors(context, queue);
    let mut files: Vec<File> = flavors.iter().map(|flavor| flavor_file(context, queue, flavor)).collect();
    files.push(cluster_queue(context, queue, &flavors));
    let spec = Map::new().with("clusterQueue", queue.as_str());
    let object = object("LocalQueue")
        .with("metadata", context.metadata(queue, context.cost_labels()))
        .with("spec", spec);
    files.push(File { path: "queues/local-queue.yaml".into(), object });
    files
}

fn object(kind: &str) -> Map {
    Map::new().with("apiVersion", "kueue.x-k8s.io/v1beta2").with("kind", kind)
}

fn flavors(context: &Context<'_>, queue: &str) -> Vec<Flavor> {
    let taint = |key: &str, value: &str| {
        vec![Map::new().with("key", key).with("value", value).with("effect", "NoSchedule")]
    };
    let labels = |instance: &Instance, word: &str| {
        Map::new()
            .with("node.kubernetes.io/instance-type", instance.name.as_str())
            .with("karpenter.sh/capacity-type", word)
    };
    let mut all = vec![Flavor {
        name: format!("{queue}-head"),
        labels: Map::new().with("karpenter.sh/capacity-type", "on-demand"),
        taints: Vec::new(),
        quota: quota(Request::of_head_pod(context), 1),
    }];
    // A flavor of its own: a pod that names its instance is admitted to no flavor that does not.
    if let Some(build) = &context.build {
        all.push(Flavor {
            name: format!("{queue}-{}-on-demand", build.instance.slug()),
            labels: labels(&build.instance, "on-demand"),
            taints: taint("llm/run", &context.shared("cpu")),
            quota: quota(Request::of_worker(context, &build.instance), build.nodes),
        });
    }
    for nodes in &context.groups {
        let word = capacity(nodes.group.capacity);
        let name = format!("{queue}-{}-{word}", nodes.instance.slug());
        let more = quota(Request::of_worker(context, &nodes.instance), nodes.group.nodes.max);
        if let Some(flavor) = all.iter_mut().find(|flavor| flavor.name == name) {
            add(&mut flavor.quota, more);
            continue;
        }
        let (labels, taints) = (labels(&nodes.instance, word), taint("nvidia.com/gpu", "true"));
        all.push(Flavor { name, labels, taints, quota: more });
    }
    all
}

fn quota(request: Request, pods: u32) -> Vec<(&'static str, u64, &'static str)> {
    let each = [
        ("cpu", request.cpus, ""),
        ("memory", request.memory_mib, "Mi"),
        ("nvidia.com/gpu", request.gpus, ""),
        ("vpc.amazonaws.com/efa", request.efa, ""),
        ("hugepages-2Mi", request.huge_pages_mib, "Mi"),
    ];
    each.into_iter().map(|(name, amount, unit)| (name, u64::from(amount) * u64::from(pods), unit)).collect()
}

fn add(quota: &mut [(&'static str, u64, &'static str)], more: Vec<(&'static str, u64, &'static str)>) {
    for (sum, more) in quota.iter_mut().zip(more) {
        sum.1 += more.1;
    }
}

fn flavor_file(context: &Context<'_>, queue: &str, flavor: &Flavor) -> File {
    let mut spec = Map::new().with("nodeLabels", flavor.labels.clone());
    if !flavor.taints.is_empty() {
        let why = "a pod that does not tolerate it, the head's, is not admitted here";
        spec = spec.why("nodeTaints", flavor.taints.clone(), why);
    }
    let metadata = Map::new().with("name", flavor.name.as_str()).with("labels", context.cost_labels());
    let object = object("ResourceFlavor").with("metadata", metadata).with("spec", spec);
    let suffix = flavor.name.strip_prefix(queue).unwrap_or(&flavor.name);
    File { path: format!("queues/resource-flavor{suffix}.yaml"), object }
}

fn cluster_queue(context: &Context<'_>, queue: &str, flavors: &[Flavor]) -> File {
    // A resource that no flavor has needs no cover; one that is asked for and not covered is never admitted.
    let names = flavors[0].quota.iter().map(|(name, ..)| *name);
    let covered: Vec<&str> = names
        .enumerate()
        .filter(|(index, _)| flavors.iter().any(|flavor| flavor.quota[*index].1 > 0))
        .map(|(_, name)| name)
        .collect();
    let flavor = |flavor: &Flavor| {
        let resources: Vec<Map> = flavor
            .quota
            .iter()
            .filter(|(name, ..)| covered.contains(name))
            .map(|(name, amount, unit)| {
                Map::new().with("name", *name).with("nominalQuota", format!("{amount}{unit}"))
            })
            .collect();
        Map::new().with("name", flavor.name.as_str()).with("resources", resources)
    };
    let group = Map::new()
        .why(
            "coveredResources",
            covered.clone(),
            "all that the pods ask for: one that is missing makes a launch inadmissible",
        )
        .why(
            "flavors",
            flavors.iter().map(flavor).collect::<Vec<_>>(),
            "what this run asks for at most; raise it for more runs",
        );
    let namespace = Map::new().with("kubernetes.io/metadata.name", context.eks.namespace.as_str());
    let selector = Map::new().with("matchLabels", namespace);
    let spec = Map::new()
        .why("namespaceSelector", selector, "without one no namespace may use the queue")
        .with("resourceGroups", vec![group]);
    let metadata = Map::new().with("name", queue).with("labels", context.cost_labels());
    let object = object("ClusterQueue").with("metadata", metadata).with("spec", spec);
    File { path: "queues/cluster-queue.yaml".into(), object }
}
