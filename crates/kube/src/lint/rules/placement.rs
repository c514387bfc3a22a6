//! Where pods land and how long they have: spot, the head, grace and drain, labels for the bill.

use crate::lint::Rule;
use crate::lint::facts;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{Capacity, DO_NOT_DISRUPT, Group, Ray, Scene, tolerates};

const GIB: f64 = 1_073_741_824.0;
/// Below this a save hardly ends before the drain does, in seconds.
const SPOT_DRAIN_MIN_S: f64 = 60.0;
/// What a spot notice gives: AWS ends the instance 120 s after it.
const SPOT_NOTICE_S: f64 = 120.0;
/// Labels by which bills are split; compared with what stands behind the last `/`.
const COST_KEYS: [&str; 9] = [
    "team",
    "cost-center",
    "costcenter",
    "project",
    "owner",
    "model",
    "run-id",
    "department",
    "business-unit",
];

pub(super) const RULES: &[Rule] = &[
    rule!("head-on-spot" Error "RayJob, RayCluster, RayService": "the head may be reclaimed",
        why "with the head go the driver, the job and every worker's connection; its price is under 1 % of the workers'",
        fix "place the head on on-demand nodes: `nodeSelector: {karpenter.sh/capacity-type: on-demand}`"; Check::Group(head_spot)),
    rule!("head-num-cpus" Warning "RayJob": "the head takes work",
        why "tasks and actors on the head compete with what keeps the cluster alive",
        fix "set `rayStartParams: {num-cpus: \"0\"}` on the head"; Check::Ray(head_cpus)),
    rule!("head-too-small" Warning "RayJob": "the head is below Ray's floor",
        why "Ray asks for 8 CPUs and 32 GiB for heads of production clusters: the object table, the dashboard and the driver live there",
        fix "give the head at least 8 CPUs and 32Gi"; Check::Ray(head_small)),
    rule!("head-too-small-for-nodes" Warning "RayJob, RayCluster, RayService": "the head is too small for its nodes",
        why "heartbeats, logs and the object table grow with the number of nodes, not of accelerators",
        fix "17 nodes and more: 16 CPUs, 64Gi; 100 and more: 30 CPUs, 64Gi; 1000 and more: 60 CPUs, 400Gi", see "skypilot-org/skypilot#9192"; Check::Ray(head_nodes)),
    rule!("head-disruptable" Warning "RayJob": "Karpenter may move the head",
        why "consolidation and drift evict it like any pod, and the job with it",
        fix "annotate the head's pod template with `karpenter.sh/do-not-disrupt: \"true\"`"; Check::Ray(head_disruptable)),
    rule!("do-not-disrupt-on-cr" Warning "RayJob, RayCluster, RayService": "the annotation stands where Karpenter does not look",
        why "Karpenter reads pods; KubeRay does not copy annotations of its objects to them",
        fix "move `karpenter.sh/do-not-disrupt` to the head's `template.metadata.annotations`"; Check::Ray(disrupt_cr)),
    rule!("do-not-disrupt-on-spot" Error "RayJob, RayCluster, RayService": "spot pods that must not be disturbed",
        why "Karpenter does not evict them on a reclaim notice either: they get no SIGTERM, and die with the instance",
        fix "remove the annotation from spot groups, or set the NodePool's `terminationGracePeriod`"; Check::Group(disrupt_spot)),
    rule!("grace-shorter-than-drain" Warning "RayJob, RayCluster, RayService": "the pod is killed before Ray has drained",
        why "SIGKILL comes at the end of the grace period, whatever is being saved",
        fix "set `terminationGracePeriodSeconds` 20 s above RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S (each is 30 where it is not set)", see "kuberay#5004"; Check::Group(grace)),
    rule!("drain-timeout-short" Warning "RayJob, RayCluster": "spot workers drain for less than they have",
        why "a notice leaves 120 s; Ray drains for 30 s unless told, too short to save",
        fix "set RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S to 90 and `terminationGracePeriodSeconds` to 110", see "kuberay#5004"; Check::Group(drain)),
    rule!("grace-over-notice" Warning "RayJob, RayCluster, RayService": "spot pods plan with more time than there is",
        why "the instance ends 120 s after its notice, whatever the grace period says",
        fix "set `terminationGracePeriodSeconds` to 110 and the drain to 90 on spot groups"; Check::Group(over_notice)),
    rule!("group-spans-zones" Warning "RayJob": "one gang over several zones",
        why "EFA does not reach across zones, and traffic between them is billed by the byte",
        fix "one group a zone: select one `topology.kubernetes.io/zone`"; Check::Group(zones)),
    rule!("group-mixes-instances" Warning "RayJob": "a group takes several instance types",
        why "the slowest sets the pace of the gang, and its number of devices is that of none",
        fix "one group an instance type: select one `node.kubernetes.io/instance-type`"; Check::Group(mixed)),
    rule!("no-pool-for-group" Warning "RayJob, RayCluster, RayService, NodePool": "no NodePool here makes nodes for a group",
        why "its pods wait for ever unless nodes come from elsewhere",
        fix "compare `nodeSelector`, affinity and tolerations with the requirements, labels and taints of the NodePools"; Check::Group(no_pool)),
    rule!("host-network" Warning "RayJob, RayCluster": "Ray pods use the node's network",
        why "two Ray pods on one node fight for the same ports",
        fix "remove `hostNetwork`, or make sure by anti-affinity that a node has one Ray pod"; Check::Group(host_network)),
    rule!("cost-labels-missing" Warning "RayJob, RayCluster, RayService": "pods with accelerators carry no label for the bill",
        why "bills are split by the labels of pods; those of the job are not copied",
        fix "put `team`, `project`, `cost-center` or the like onto the pod templates of head and workers"; Check::Group(cost)),
    rule!("istio-injection" Warning "RayJob, RayCluster, RayService, Namespace, Profile": "Istio's proxy joins the Ray pods",
        why "it cuts Ray's own connections, delays every start, and keeps finished pods alive",
        fix "label the pod templates with `sidecar.istio.io/inject: \"false\"`", see "kuberay#1005", "kubeflow/community-distribution#2742"; Check::Group(istio)),
];

fn head_spot(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    if group.is_head && group.capacity == Capacity::Spot {
        say.at(&group.pod, "the head may land on spot nodes");
    }
}

fn head_cpus(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let Some(head) = ray.head().filter(|_| ray.trains()) else { return };
    let (at, cpus) = (head.at.get("rayStartParams.num-cpus"), head.at.get("resources.CPU"));
    if at.str() != "0" && cpus.str() != "0" {
        say.at(&at, "the head offers its CPUs to tasks");
    }
}

fn head_size(head: &Group<'_>) -> (Option<f64>, Option<f64>) {
    let size = |name: &'static str| head.resource(name).map(|(amount, _)| amount);
    (size("cpu"), size("memory").map(|bytes| bytes / GIB))
}

fn head_small(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let Some(head) = ray.head().filter(|_| ray.trains()) else { return };
    let (cpus, gib) = head_size(head);
    if cpus.is_some_and(|cpus| cpus < 8.0) || gib.is_some_and(|gib| gib < 32.0) {
        let shown = format!("the head has {} CPUs and {} GiB", shown(cpus), shown(gib));
        say.at(&head.container.key("resources"), format!("{shown}: expected at least 8 and 32"));
    }
}

fn shown(amount: Option<f64>) -> String {
    amount.map_or("unknown".to_owned(), |amount| format!("{}", (amount * 10.0).round() / 10.0))
}

fn head_nodes(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let nodes = ray.nodes();
    let Some(head) = ray.head().filter(|_| nodes > 16) else { return };
    let ((cpus, gib), (cpus_min, gib_min)) = (head_size(head), facts::head_size(nodes));
    if cpus.is_some_and(|cpus| cpus < cpus_min) || gib.is_some_and(|gib| gib < gib_min) {
        let has = format!("{} CPUs and {} GiB for {nodes} nodes", shown(cpus), shown(gib));
        say.at(
            &head.container.key("resources"),
            format!("the head has {has}: expected {cpus_min} and {gib_min}"),
        );
    }
}

fn head_disruptable(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let Some(head) = ray.head().filter(|_| ray.trains()) else { return };
    let at = head.annotation(DO_NOT_DISRUPT);
    if !at.exists() && !ray.groups.iter().any(Group::of_another_cloud) {
        say.at(&at, "Karpenter may evict the head to save a node");
    }
}

fn disrupt_cr(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.object.annotation(DO_NOT_DISRUPT);
    if at.exists() {
        say.at(&at, format!("Karpenter reads pods, not a {}", ray.object.kind));
    }
}

fn disrupt_spot(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.annotation(DO_NOT_DISRUPT);
    if group.is_head || group.capacity != Capacity::Spot || !at.exists() || at.str() == "false" {
        return;
    }
    let pools = &say.scene().pools;
    let bounded = |index: &usize| pools[*index].at.get("spec.template.spec.terminationGracePeriod").exists();
    if group.pools.is_empty() || !group.pools.iter().all(bounded) {
        say.at(&at, format!("{} gets no SIGTERM when its nodes are reclaimed", group.shown()));
    }
}

fn grace(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.pod.key("terminationGracePeriodSeconds");
    let set = at.exists() || group.env("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S").is_some();
    let (grace, drain) = (group.grace_s(), group.drain_s());
    if (set || group.capacity == Capacity::Spot) && !group.is_head && grace <= drain {
        say.at(&at, format!("{} has {grace} s until SIGKILL, and drains for {drain} s", group.shown()));
    }
}

fn drain(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let drain = group.drain_s();
    if group.capacity == Capacity::Spot && !group.is_head && group.gpus > 0.0 && drain < SPOT_DRAIN_MIN_S {
        let entry =
            group.env("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S").unwrap_or_else(|| group.container.key("env"));
        let wasted = SPOT_NOTICE_S - drain;
        say.at(
            &entry,
            format!(
                "{} drains for {drain} s of the {SPOT_NOTICE_S} that a notice gives: {wasted} are wasted",
                group.shown()
            ),
        );
    }
}

fn over_notice(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let (grace, drain) = (group.grace_s(), group.drain_s());
    if group.capacity == Capacity::Spot && !group.is_head && grace.max(drain) > SPOT_NOTICE_S {
        let at = group.pod.key("terminationGracePeriodSeconds");
        say.at(
            &at,
            format!(
                "{} plans with {} s after a notice of {SPOT_NOTICE_S} s",
                group.shown(),
                grace.max(drain)
            ),
        );
    }
}

fn zones(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let mut zones = group.zones.clone();
    zones.sort_unstable();
    zones.dedup();
    if ray.trains() && !group.is_head && group.pods() > 1 && zones.len() > 1 {
        say.at(&group.pod, format!("{} may land in {}", group.shown(), zones.join(", ")));
    }
}

fn mixed(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let mut types = group.instances.clone();
    types.sort_unstable();
    types.dedup();
    if ray.trains() && !group.is_head && group.gpus > 0.0 && types.len() > 1 {
        say.at(&group.pod, format!("{} may land on {}", group.shown(), types.join(", ")));
    }
}

fn no_pool(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    if scene.pools.is_empty() || !group.pools.is_empty() || !group.pod.exists() {
        return;
    }
    let reason = nearest_reason(scene, group);
    say.at(&group.pod, format!("no NodePool here makes nodes for {}{reason}", group.shown()));
}

/// A taint that alone keeps a group out of a pool, where there is one.
fn nearest_reason(scene: &Scene<'_>, group: &Group<'_>) -> String {
    for pool in &scene.pools {
        let named = group.pod.get("nodeSelector").key("karpenter.sh/nodepool").text() == Some(pool.name);
        for taint in pool.at.get("spec.template.spec.taints").items() {
            if named && !tolerates(&group.pod, &taint) {
                return format!(": it does not tolerate `{}` of `{}`", taint.key("key").str(), pool.name);
            }
        }
    }
    String::new()
}

fn host_network(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.pod.key("hostNetwork");
    if at.is_true() && !group.pod.get("affinity.podAntiAffinity").exists() {
        say.at(&at, format!("{} uses the ports of its nodes", group.shown()));
    }
}

fn cost(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let labels = group.template.get("metadata.labels");
    let is_cost =
        |key: &str| COST_KEYS.contains(&key.rsplit('/').next().unwrap_or(key).to_lowercase().as_str());
    if group.gpus > 0.0 && !labels.entries().iter().any(|(key, _)| is_cost(key)) {
        say.at(&labels, format!("nobody can be billed for the pods of {}", group.shown()));
    }
}

fn istio(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let key = "sidecar.istio.io/inject";
    let own = [group.label(key), group.annotation(key)];
    let said = own.iter().find(|at| at.exists());
    let namespaces = say.scene().of_kind("Namespace").filter(|object| object.name == ray.object.namespace);
    let injected = namespaces.into_iter().any(|namespace| {
        namespace.label("istio-injection").str() == "enabled"
            || namespace.label("istio.io/rev").exists()
            || namespace.label("app.kubernetes.io/part-of").str() == "kubeflow-profile"
    });
    let profile = say.scene().of_kind("Profile").any(|object| object.name == ray.object.namespace);
    match said {
        Some(at) if at.str() == "false" => {}
        Some(at) => say.at(at, format!("{} asks for Istio's proxy", group.shown())),
        None if injected || profile => {
            let message =
                format!("namespace `{}` injects Istio's proxy into {}", ray.object.namespace, group.shown());
            say.at(&own[0], message);
        }
        None => {}
    }
}
