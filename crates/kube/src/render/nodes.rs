//! Karpenter: a pool for the head, one for each group, one for the build, and what their nodes are made of.

use eagleray_base::Result;
use eagleray_plan::Instance;
use eagleray_spec::types::{Capacity, Karpenter};

use super::File;
use super::context::{Context, Nodes};
use super::pod;
use crate::yaml::{Map, Node};

/// The root volume: images with CUDA take tens of GB, and a full disk evicts the pod.
const ROOT_VOLUME: &str = "200Gi";

/// A node that may be made beyond those wanted, while one that is drained still counts.
const SPARE_NODES: u32 = 1;

pub(super) fn render(context: &Context<'_>) -> Result<Vec<File>> {
    let Some(karpenter) = &context.eks.karpenter else { return Ok(Vec::new()) };
    let mut files = vec![class(context, karpenter, None)];
    let mut instances: Vec<&Instance> = Vec::new();
    for nodes in &context.groups {
        if !instances.contains(&&nodes.instance) {
            instances.push(&nodes.instance);
            files.push(class(context, karpenter, Some(&nodes.instance)));
        }
    }
    files.push(head_pool(context)?);
    files.extend(context.groups.iter().map(|nodes| group_pool(context, nodes)));
    files.extend(context.build.as_ref().map(|build| build_pool(context, &build.instance, build.nodes)));
    Ok(files)
}

fn file(name: &str, object: Map) -> File {
    File { path: format!("nodes/{name}.yaml"), object }
}

/// What nodes are made of; with an instance to train on, its network cards too.
fn class(context: &Context<'_>, karpenter: &Karpenter, instance: Option<&Instance>) -> File {
    let slug = instance.map_or_else(|| "general".to_owned(), Instance::slug);
    let name = context.shared(&slug);
    let id = karpenter.ami.starts_with("ami-");
    let term = Map::new().with(if id { "id" } else { "alias" }, karpenter.ami.as_str());
    let mut spec = Map::new();
    if id {
        spec = spec.with("amiFamily", "AL2023");
    }
    let discover = || {
        vec![Map::new().with("tags", Map::new().with("karpenter.sh/discovery", karpenter.discovery.as_str()))]
    };
    let efa = instance.map_or(0, |instance| instance.efa);
    let groups = "one of them must let everything through between its own members: EFA has no other way";
    spec = spec
        .why(
            "amiSelectorTerms",
            vec![term],
            "pinned: an image that moves is drift, and drifted nodes are replaced",
        )
        .with("role", karpenter.role.as_str())
        .with("subnetSelectorTerms", discover());
    spec = if efa > 0 {
        spec.why("securityGroupSelectorTerms", discover(), groups)
    } else {
        spec.with("securityGroupSelectorTerms", discover())
    };
    let reserved =
        |nodes: &&Nodes| nodes.group.capacity == Capacity::Reserved && Some(&nodes.instance) == instance;
    if context.groups.iter().any(|nodes| reserved(&nodes)) {
        let terms: Vec<Map> =
            karpenter.reservations.iter().map(|id| Map::new().with("id", id.as_str())).collect();
        spec = spec.with("capacityReservationSelectorTerms", terms);
    }
    spec = hardware(spec, instance);
    let tags = Node::Map(context.cost_labels());
    let spec = spec.why("tags", tags, "instances and volumes in the bill, by the same words as pods");
    let metadata = Map::new().with("name", name).with("labels", context.run_labels());
    let object = Map::new()
        .with("apiVersion", "karpenter.k8s.aws/v1")
        .with("kind", "EC2NodeClass")
        .with("metadata", metadata)
        .with("spec", spec);
    file(&format!("ec2-node-class-{slug}"), object)
}

/// Disks and network cards.
fn hardware(mut spec: Map, instance: Option<&Instance>) -> Map {
    let disk = Map::new()
        .with("volumeSize", ROOT_VOLUME)
        .with("volumeType", "gp3")
        .with("encrypted", true)
        .with("deleteOnTermination", true);
    let mapping = Map::new().with("deviceName", "/dev/xvda").with("ebs", disk);
    spec = spec.why(
        "blockDeviceMappings",
        vec![mapping],
        "the default of 20 GiB is smaller than an image with CUDA",
    );
    if instance.is_some_and(|instance| instance.nvme_gb > 0) {
        spec = spec.why(
            "instanceStorePolicy",
            "RAID0",
            "pods' folders lie on the node's own disks: spilled objects, sessions",
        );
    }
    let efa = instance.map_or(0, |instance| instance.efa);
    if efa > 0 {
        spec = spec
            .why(
                "associatePublicIPAddress",
                false,
                "with several interfaces a public address fails the launch",
            )
            .why(
                "networkInterfaces",
                interfaces(efa),
                "the first card carries IP, all others EFA alone: they take no address of the subnet",
            );
    }
    spec
}

/// Device 0 of card 0 carries IP; EFA stands beside it as device 1, on other cards as device 1 too.
fn interfaces(efa: u32) -> Vec<Map> {
    let interface = |card: u32, device: u32, kind: &str| {
        Map::new().with("networkCardIndex", card).with("deviceIndex", device).with("interfaceType", kind)
    };
    let first = interface(0, 0, "interface");
    std::iter::once(first).chain((0..efa).map(|card| interface(card, 1, "efa-only"))).collect()
}

/// What one pool is.
struct Pool<'a> {
    suffix: &'a str,
    class: String,
    instances: Vec<&'a str>,
    capacity: &'a str,
    zone: Option<&'a str>,
    taints: Vec<Map>,
    consolidate_after: &'a str,
    limits: Map,
    limits_why: String,
}

fn head_pool(context: &Context<'_>) -> Result<File> {
    let (_, head) = context.head();
    let largest = head.instances.iter().map(|name| Instance::cpu(name)).collect::<Result<Vec<_>>>()?;
    let cpus = largest.iter().map(|instance| instance.cpus + 2).max().unwrap_or_default();
    Ok(pool(
        context,
        Pool {
            suffix: "head",
            class: context.shared("general"),
            instances: head.instances.to_vec(),
            capacity: "on-demand",
            zone: None,
            taints: vec![taint("llm/head", Some("true"))],
            consolidate_after: "10m",
            limits: Map::new().with("cpu", (2 * cpus).to_string()),
            limits_why: "two heads at most: one that runs, one that follows it".into(),
        },
    ))
}

fn group_pool(context: &Context<'_>, nodes: &Nodes) -> File {
    let Nodes { group, instance } = nodes;
    let name = context.shared(&group.name);
    let mut taints = vec![taint("nvidia.com/gpu", Some("true")), taint("llm/run", Some(&name))];
    let spot = group.capacity == Capacity::Spot;
    if spot {
        taints.push(taint("llm/spot", Some("true")));
    }
    let most = group.nodes.max + SPARE_NODES;
    pool(
        context,
        Pool {
            suffix: &group.name,
            class: context.shared(&instance.slug()),
            instances: vec![&instance.name],
            capacity: pod::capacity(group.capacity),
            zone: group.zone.as_deref(),
            taints,
            consolidate_after: if spot { "2m" } else { "10m" },
            limits: Map::new().with("nvidia.com/gpu", (most * instance.gpus).to_string()),
            limits_why: format!(
                "a bound on the bill: {} nodes, and one more while a node that is drained still counts",
                group.nodes.max
            ),
        },
    )
}

fn build_pool(context: &Context<'_>, instance: &Instance, nodes: u32) -> File {
    let name = context.shared("cpu");
    pool(
        context,
        Pool {
            suffix: "cpu",
            class: context.shared("general"),
            instances: vec![&instance.name],
            capacity: "on-demand",
            zone: None,
            taints: vec![taint("llm/run", Some(&name))],
            consolidate_after: "2m",
            limits: Map::new().with("cpu", ((nodes + SPARE_NODES) * (instance.cpus + 2)).to_string()),
            limits_why: format!("a bound on the bill: {nodes} nodes, and one more"),
        },
    )
}

fn pool(context: &Context<'_>, pool: Pool<'_>) -> File {
    let requirement = |key: &str, values: Vec<&str>| {
        Map::new().with("key", key).with("operator", "In").with("values", values)
    };
    let mut requirements = vec![
        requirement("node.kubernetes.io/instance-type", pool.instances),
        requirement("karpenter.sh/capacity-type", vec![pool.capacity]),
    ];
    requirements.extend(pool.zone.map(|zone| requirement("topology.kubernetes.io/zone", vec![zone])));
    let class =
        Map::new().with("group", "karpenter.k8s.aws").with("kind", "EC2NodeClass").with("name", pool.class);
    let node = Map::new()
        .with("nodeClassRef", class)
        .with("requirements", requirements)
        .why("taints", pool.taints, "nothing but what is meant for these nodes")
        .why("expireAfter", "Never", "the default takes a node after 30 days, in the middle of a run");
    let labels = Map::new().with("labels", context.run_labels());
    let budget = Map::new().with("nodes", "0").with("reasons", vec!["Drifted", "Underutilized"]);
    let disruption = Map::new()
        .why("consolidationPolicy", "WhenEmpty", "a node that trains is never moved to save money")
        .with("consolidateAfter", pool.consolidate_after)
        .why("budgets", vec![budget], "no voluntary disruption; reclaims and repairs do not ask for budgets");
    let spec = Map::new()
        .with("template", Map::new().with("metadata", labels).with("spec", node))
        .with("disruption", disruption)
        .why("limits", pool.limits, pool.limits_why);
    let metadata = Map::new().with("name", context.shared(pool.suffix)).with("labels", context.run_labels());
    let object = Map::new()
        .with("apiVersion", "karpenter.sh/v1")
        .with("kind", "NodePool")
        .with("metadata", metadata)
        .with("spec", spec);
    file(&format!("node-pool-{}", pool.suffix), object)
}

fn taint(key: &str, value: Option<&str>) -> Map {
    Map::new().with("key", key).maybe("value", value).with("effect", "NoSchedule")
}
