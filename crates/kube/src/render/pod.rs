//! Pod templates: the head, training workers, workers of the build.

use eagleray_base::Result;
use eagleray_plan::Instance;
use eagleray_spec::types::Capacity;

use super::context::{Context, Nodes, ROLE_LABEL, SPEC_FOLDER};
use super::merge::merge;
use crate::yaml::{Map, Node};

/// Seconds of a notice of two minutes that a node's work may use, and the grace around it: what is left is
/// for the way of the notice itself, 5 to 20 s.
const DRAIN_SECONDS: u32 = 90;
const WORKER_GRACE_SECONDS: u32 = 110;
const HEAD_GRACE_SECONDS: u32 = 120;

/// Huge pages that EFA takes where its variable does not turn them off.
pub(super) const HUGE_PAGES_MIB: u32 = 5_120;
const HUGE_PAGES_VARIABLE: &str = "FI_EFA_USE_HUGE_PAGE";

/// The class that keeps a head before its workers.
pub(super) const HEAD_PRIORITY: &str = "eagleray-head";

/// What a pod asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    pub(super) gpus: u32,
    pub(super) efa: u32,
    pub(super) huge_pages_mib: u32,
}

impl Request {
    pub(super) fn of_head(context: &Context<'_>) -> Self {
        let (_, head) = context.head();
        Self { cpus: head.cpus, memory_mib: head.memory_gib * 1_024, ..Self::default() }
    }

    /// All of a head's pod, with what `KubeRay` puts beside it: the autoscaler asks for half a CPU and 512 MiB.
    pub(super) fn of_head_pod(context: &Context<'_>) -> Self {
        let head = Self::of_head(context);
        let beside = context.autoscaled();
        let (cpus, memory_mib) = if beside { (1, 512) } else { (0, 0) };
        Self { cpus: head.cpus + cpus, memory_mib: head.memory_mib + memory_mib, ..head }
    }

    pub(super) fn of_worker(context: &Context<'_>, instance: &Instance) -> Self {
        let Instance { cpus, memory_mib, gpus, efa, .. } = *instance;
        let huge_pages = efa > 0 && context.variable(HUGE_PAGES_VARIABLE).is_some_and(|value| value != "0");
        Self { cpus, memory_mib, gpus, efa, huge_pages_mib: if huge_pages { HUGE_PAGES_MIB } else { 0 } }
    }

    /// Name and amount of what is asked for.
    pub(super) fn amounts(self) -> Vec<(&'static str, String)> {
        let mut amounts = vec![("cpu", self.cpus.to_string()), ("memory", format!("{}Mi", self.memory_mib))];
        for (name, amount) in [("nvidia.com/gpu", self.gpus), ("vpc.amazonaws.com/efa", self.efa)] {
            if amount > 0 {
                amounts.push((name, amount.to_string()));
            }
        }
        if self.huge_pages_mib > 0 {
            amounts.push(("hugepages-2Mi", format!("{}Mi", self.huge_pages_mib)));
        }
        amounts
    }

    fn resources(self, why: &str) -> Map {
        let map =
            || self.amounts().into_iter().fold(Map::new(), |map, (name, amount)| map.with(name, amount));
        Map::new().why("limits", map(), why).why(
            "requests",
            map(),
            "equal to the limits: the last class of pods to be evicted, and what Ray reads",
        )
    }
}

/// A head: alone on capacity that is not taken away.
pub(super) fn head(context: &Context<'_>) -> Map {
    let (nodes, head) = context.head();
    let mut selector = Map::new();
    if context.eks.karpenter.is_some() {
        selector.set("karpenter.sh/nodepool", context.shared("head").into(), None);
    }
    let selector = selector.why(
        "karpenter.sh/capacity-type",
        "on-demand",
        if context.is_long_lived() {
            "a head that is reclaimed takes what people do in the cluster with it"
        } else {
            "a head that is reclaimed takes the driver and every worker's cluster with it"
        },
    );
    let mut spec = Map::new();
    if let Some(account) = context.head_account() {
        spec.set("serviceAccountName", account.into(), None);
    }
    spec = automount(spec, context.elastic);
    // Kueue takes the priority of a workload from the first pod set that names a class: it would be the head's.
    if !context.queued() {
        spec = spec.why("priorityClassName", HEAD_PRIORITY, "kept before every worker where a node is short");
    }
    let container = container(context, "ray-head")
        .with("resources", Request::of_head(context).resources(&head.rule(nodes)))
        .maybe("env", variables(context, Vec::new()))
        .maybe("envFrom", env_from(context));
    let config = Map::new().with("name", "spec").with("mountPath", SPEC_FOLDER).with("readOnly", true);
    let container = container.with("volumeMounts", mounts(context, Some(config)));
    let config =
        Map::new().with("name", "spec").with("configMap", Map::new().with("name", context.launch.as_str()));
    let tolerate = toleration("llm/head", Some("true"));
    let spec = spec
        .why(
            "terminationGracePeriodSeconds",
            HEAD_GRACE_SECONDS,
            if context.is_long_lived() {
                "what runs on the head ends in order before it goes"
            } else {
                "the driver writes its last events before it goes"
            },
        )
        .with("nodeSelector", selector)
        .with("tolerations", vec![tolerate])
        .with("containers", vec![container])
        .with("volumes", volumes(context, Some(config)));
    template(labels(context, "head"), true, spec)
}

/// A worker that trains, on a node of its own.
pub(super) fn worker(context: &Context<'_>, nodes: &Nodes) -> Result<Map> {
    let Nodes { group, instance } = nodes;
    let request = Request::of_worker(context, instance);
    let mut env = vec![drain_variable()];
    if instance.efa > 0 {
        env.push(variable(
            HUGE_PAGES_VARIABLE,
            "0",
            "else EFA wants huge pages, and a pod without them does not start",
        ));
    }
    env.push(variable(
        "NCCL_SOCKET_IFNAME",
        "^docker,lo,veth",
        "NCCL would take the first interface, which may be a bridge",
    ));
    let memory = "the node's CPUs but two and nine tenths of its memory: daemons take the rest";
    let container = container(context, "ray-worker")
        .with("resources", request.resources(memory))
        .maybe("env", variables(context, env))
        .maybe("envFrom", env_from(context))
        .with("volumeMounts", mounts(context, None));
    let mut selector = Map::new()
        .with("node.kubernetes.io/instance-type", group.instance.as_str())
        .with("karpenter.sh/capacity-type", capacity(group.capacity));
    if let Some(zone) = &group.zone {
        selector = selector.why(
            "topology.kubernetes.io/zone",
            zone.as_str(),
            "one group, one zone: EFA does not cross zones",
        );
    }
    let mut tolerations =
        vec![toleration("nvidia.com/gpu", None), toleration("llm/run", Some(&context.shared(&group.name)))];
    if group.capacity == Capacity::Spot {
        tolerations.push(toleration("llm/spot", None));
    }
    let mut spec = automount(account(context), false);
    if let Some(priority) = context.eks.priority.as_ref().filter(|_| !context.queued()) {
        spec = spec.with("priorityClassName", priority.as_str());
    }
    let spec = restart(context, spec)
        .with("nodeSelector", selector)
        .with("tolerations", tolerations)
        .with("containers", vec![container])
        .with("volumes", volumes(context, None));
    // A pod with the annotation is not evicted on a spot interruption either: it would get no notice at all.
    let template = template(labels(context, "worker"), group.capacity != Capacity::Spot, spec);
    merge(template, &context.eks.pod)
}

/// A worker that builds: no accelerator.
pub(super) fn builder(context: &Context<'_>, instance: &Instance) -> Map {
    let container = container(context, "ray-worker")
        .with("resources", Request::of_worker(context, instance).resources("the node less what daemons take"))
        .maybe("env", variables(context, vec![drain_variable()]))
        .maybe("envFrom", env_from(context))
        .with("volumeMounts", mounts(context, None));
    let selector = Map::new()
        .with("node.kubernetes.io/instance-type", instance.name.as_str())
        .with("karpenter.sh/capacity-type", "on-demand");
    let spec = restart(context, automount(account(context), false))
        .with("nodeSelector", selector)
        .with("tolerations", vec![toleration("llm/run", Some(&context.shared("cpu")))])
        .with("containers", vec![container])
        .with("volumes", volumes(context, None));
    template(labels(context, "builder"), false, spec)
}

/// The word of Karpenter's label.
pub(super) fn capacity(capacity: Capacity) -> &'static str {
    match capacity {
        Capacity::OnDemand => "on-demand",
        Capacity::Spot => "spot",
        Capacity::Reserved => "reserved",
    }
}

fn template(labels: Map, keep: bool, spec: Map) -> Map {
    let mut annotations = Map::new();
    if keep {
        annotations = annotations.why(
            "karpenter.sh/do-not-disrupt",
            "true",
            "Karpenter leaves the node alone; heard on pods, not on the RayCluster",
        );
    }
    let annotations = annotations.why(
        "sidecar.istio.io/inject",
        "false",
        "a sidecar takes Ray's ports and mutual TLS breaks its processes' talk",
    );
    let metadata = Map::new().with("labels", labels).with("annotations", annotations);
    Map::new().with("metadata", metadata).with("spec", spec)
}

fn labels(context: &Context<'_>, role: &str) -> Map {
    context.launch_labels().with(ROLE_LABEL, role).with("sidecar.istio.io/inject", "false")
}

fn account(context: &Context<'_>) -> Map {
    Map::new().maybe(
        "serviceAccountName",
        context.eks.service_account.as_ref().map(|account| account.name.as_str()),
    )
}

fn automount(spec: Map, needed: bool) -> Map {
    if needed {
        return spec;
    }
    spec.why("automountServiceAccountToken", false, "user code has no business with the API server")
}

fn restart(context: &Context<'_>, spec: Map) -> Map {
    let (policy, why) = if context.autoscaled() {
        (
            "Never",
            "the autoscaler wants it: it replaces pods, and would count a restarted one as the same node",
        )
    } else {
        (
            "Always",
            "a raylet that lost the head ends with code 0; only Always keeps the pod and its node for the next head",
        )
    };
    spec.why("restartPolicy", policy, why).why(
        "terminationGracePeriodSeconds",
        WORKER_GRACE_SECONDS,
        "the default of 30 s would waste most of a notice of 120 s",
    )
}

fn container(context: &Context<'_>, name: &str) -> Map {
    Map::new().with("name", name).with("image", context.eks.image.as_str())
}

fn toleration(key: &str, value: Option<&str>) -> Map {
    let operator = if value.is_some() { "Equal" } else { "Exists" };
    let toleration = Map::new().with("key", key).with("operator", operator);
    toleration.maybe("value", value).with("effect", "NoSchedule")
}

fn variable(name: &str, value: &str, why: &str) -> Map {
    Map::new().why("name", name, why).with("value", Node::Scalar(value.into()))
}

fn drain_variable() -> Map {
    variable(
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S",
        &DRAIN_SECONDS.to_string(),
        "what SIGTERM leaves for a save; the default is 30 s, and the pod's grace must be longer",
    )
}

/// Our variables, then those of the spec, which win.
fn variables(context: &Context<'_>, ours: Vec<Map>) -> Option<Vec<Map>> {
    let given = |map: &Map| {
        map.get("name").map(Node::value).and_then(|name| context.variable(name.as_str()?)).is_some()
    };
    let mut all: Vec<Map> = ours.into_iter().filter(|map| !given(map)).collect();
    all.extend(
        context
            .eks
            .env
            .iter()
            .map(|(name, value)| Map::new().with("name", name).with("value", value.as_str())),
    );
    (!all.is_empty()).then_some(all)
}

fn env_from(context: &Context<'_>) -> Option<Vec<Map>> {
    let source =
        |(kind, name): (&str, &String)| Map::new().with(kind, Map::new().with("name", name.as_str()));
    let all: Vec<Map> = context
        .eks
        .env_from
        .iter()
        .flat_map(|from| {
            let secret = from.secret.as_ref().map(|name| ("secretRef", name));
            secret.into_iter().chain(from.config_map.as_ref().map(|name| ("configMapRef", name))).map(source)
        })
        .collect();
    (!all.is_empty()).then_some(all)
}

/// Ray's own folder first: on nodes with disks of their own it lies on them.
fn mounts(context: &Context<'_>, more: Option<Map>) -> Vec<Map> {
    let ray = Map::new()
        .why("name", "ray", "sessions and spilled objects, off the container's layer; on the node's own disks where it has some")
        .with("mountPath", "/tmp/ray");
    let claims = context.eks.volumes.iter().enumerate().map(|(index, volume)| {
        Map::new().with("name", format!("volume-{index}")).with("mountPath", volume.mount.as_str())
    });
    std::iter::once(ray).chain(more).chain(claims).collect()
}

fn volumes(context: &Context<'_>, more: Option<Map>) -> Vec<Map> {
    let ray = Map::new().with("name", "ray").with("emptyDir", Map::new());
    let claims = context.eks.volumes.iter().enumerate().map(|(index, volume)| {
        let claim = Map::new().with("claimName", volume.claim.as_str());
        Map::new().with("name", format!("volume-{index}")).with("persistentVolumeClaim", claim)
    });
    std::iter::once(ray).chain(more).chain(claims).collect()
}
