//! All objects of all files, and what rules ask of them: Ray clusters, their groups, the pools they land in.

use super::at::At;
use super::facts;
use super::rule::Mode;
use super::{File, KubeRay};
use crate::manifest::{Broken, Node};

pub(crate) const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
pub(crate) const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
pub(crate) const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
pub(crate) const EFA: &str = "vpc.amazonaws.com/efa";
pub(crate) const QUEUE: &str = "kueue.x-k8s.io/queue-name";
pub(crate) const ELASTIC_JOB: &str = "kueue.x-k8s.io/elastic-job";

/// What a pod gets between SIGTERM and SIGKILL, and what Ray drains for, where neither is set: seconds.
pub(crate) const GRACE_DEFAULT_S: f64 = 30.0;

/// The lists that `kubectl get -o yaml` nests; deeper ones are not made by any tool.
const LISTS_DEPTH_MAX: usize = 4;

/// One object of Kubernetes.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    pub(crate) file: usize,
    pub(crate) at: At<'a>,
    pub(crate) api_version: &'a str,
    /// One of [`known`]'s names, empty for a kind that no rule looks at.
    pub(crate) kind: &'static str,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

/// Where a group's nodes come from, as far as the manifests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    Spot,
    OnDemand,
    Unknown,
}

/// The head or a group of workers.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) at: At<'a>,
    pub(crate) template: At<'a>,
    pub(crate) pod: At<'a>,
    /// The container that `KubeRay` starts Ray in: the first.
    pub(crate) container: At<'a>,
    pub(crate) is_head: bool,
    pub(crate) name: &'a str,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) hosts: i64,
    pub(crate) gpus: f64,
    pub(crate) capacity: Capacity,
    pub(crate) instances: Vec<&'a str>,
    pub(crate) zones: Vec<&'a str>,
    /// Indices into [`Scene::pools`].
    pub(crate) pools: Vec<usize>,
}

/// An object that holds a Ray cluster.
#[derive(Clone, Debug)]
pub(crate) struct Ray<'a> {
    pub(crate) object: Object<'a>,
    pub(crate) spec: At<'a>,
    pub(crate) cluster: At<'a>,
    /// The head first, where there is one.
    pub(crate) groups: Vec<Group<'a>>,
    pub(crate) mode: Mode,
    pub(crate) kuberay: KubeRay,
    pub(crate) queue: Option<&'a str>,
}

/// Everything that was read.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) objects: Vec<Object<'a>>,
    pub(crate) rays: Vec<Ray<'a>>,
    pub(crate) pools: Vec<Object<'a>>,
    pub(crate) passed_over: usize,
    /// What findings call the files.
    pub(crate) names: Vec<String>,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(
        files: &[File<'_>],
        read: &'a [Vec<Result<Node, Broken>>],
        kuberay: Option<KubeRay>,
    ) -> Self {
        debug_assert_eq!(files.len(), read.len());
        let mut objects = Vec::new();
        for (file, documents) in read.iter().enumerate() {
            for node in documents.iter().flatten() {
                collect(file, &At::root(node), 0, &mut objects);
            }
        }
        let all = objects.len();
        objects.retain(|object| !object.kind.is_empty());
        let passed_over = all - objects.len();
        let pools: Vec<Object<'a>> =
            objects.iter().filter(|object| object.kind == "NodePool").cloned().collect();
        let rays = objects.iter().filter_map(|object| Ray::new(object, &pools, kuberay)).collect();
        let names = files.iter().map(|file| file.name.to_owned()).collect();
        Self { objects, rays, pools, passed_over, names }
    }

    pub(crate) fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &Object<'a>> {
        self.objects.iter().filter(move |object| object.kind == kind)
    }
}

fn collect<'a>(file: usize, at: &At<'a>, depth: usize, objects: &mut Vec<Object<'a>>) {
    let (api_version, kind) = (at.key("apiVersion").str(), at.key("kind").str());
    if kind == "List" && depth < LISTS_DEPTH_MAX {
        for item in at.key("items").items() {
            collect(file, &item, depth + 1, objects);
        }
        return;
    }
    let namespace = at.get("metadata.namespace").text().unwrap_or("default");
    let name = at.get("metadata.name").str();
    let kind = known(api_version.split_once('/').map_or("", |(group, _)| group), kind);
    objects.push(Object { file, at: at.clone(), api_version, kind, name, namespace });
}

/// The kinds that rules look at, under one name each.
fn known(group: &str, kind: &str) -> &'static str {
    match (group, kind) {
        ("ray.io", "RayJob") => "RayJob",
        ("ray.io", "RayCluster") => "RayCluster",
        ("ray.io", "RayService") => "RayService",
        ("karpenter.sh", "NodePool") => "NodePool",
        ("karpenter.sh", "Provisioner") => "Provisioner",
        ("karpenter.k8s.aws", "EC2NodeClass") => "EC2NodeClass",
        ("kueue.x-k8s.io", "LocalQueue") => "LocalQueue",
        ("kueue.x-k8s.io", "ClusterQueue") => "ClusterQueue",
        ("kueue.x-k8s.io", "ResourceFlavor") => "ResourceFlavor",
        ("kueue.x-k8s.io", "WorkloadPriorityClass") => "WorkloadPriorityClass",
        ("config.kueue.x-k8s.io", "Configuration") => "Configuration",
        ("kubeflow.org", "PyTorchJob" | "MPIJob" | "TFJob" | "JAXJob")
        | ("trainer.kubeflow.org", "TrainJob") => "TrainingJob",
        ("kubeflow.org", "Profile") => "Profile",
        ("policy", "PodDisruptionBudget") => "PodDisruptionBudget",
        ("ec2.services.k8s.aws", "SecurityGroup") => "SecurityGroup",
        ("apps", "DaemonSet") => "DaemonSet",
        ("", "PersistentVolumeClaim") => "PersistentVolumeClaim",
        ("", "PersistentVolume") => "PersistentVolume",
        ("", "Namespace") => "Namespace",
        _ => "",
    }
}

impl<'a> Object<'a> {
    pub(crate) fn label(&self, key: &'static str) -> At<'a> {
        self.at.get("metadata.labels").key(key)
    }

    pub(crate) fn annotation(&self, key: &'static str) -> At<'a> {
        self.at.get("metadata.annotations").key(key)
    }

    /// A pool's values of a requirement with `In`, or of a label; empty where it says nothing.
    pub(crate) fn pool_values(&self, key: &str) -> Vec<&'a str> {
        if let Some(label) = self.at.get("spec.template.metadata.labels").text_of(key) {
            return vec![label];
        }
        let requirement = self.requirement(key, "In");
        requirement.iter().flat_map(|at| at.key("values").items()).filter_map(|value| value.text()).collect()
    }

    pub(crate) fn requirement(&self, key: &str, operator: &str) -> Option<At<'a>> {
        let requirements = self.at.get("spec.template.spec.requirements").items();
        requirements
            .into_iter()
            .find(|item| item.key("key").str() == key && item.key("operator").str() == operator)
    }

    /// Whether a pool is for accelerators, as far as its instance types, taints and limits say.
    pub(crate) fn is_gpu_pool(&self) -> bool {
        let instances = self.pool_values(INSTANCE_TYPE);
        let families = self.pool_values("karpenter.k8s.aws/instance-family");
        let accelerated =
            |name: &str| facts::gpus(name).is_some() || facts::efa_devices(name).is_some_and(|n| n > 0);
        instances.iter().any(|name| accelerated(name))
            || families
                .iter()
                .any(|name| ["p4d", "p4de", "p5", "p5e", "p5en", "p6-b200", "g5", "g6", "g6e"].contains(name))
            || self.requirement("karpenter.k8s.aws/instance-gpu-count", "Gt").is_some()
            || self.requirement("karpenter.k8s.aws/instance-gpu-name", "In").is_some()
            || self
                .at
                .get("spec.template.spec.taints")
                .items()
                .iter()
                .any(|taint| is_gpu(taint.key("key").str()))
            || self.at.get("spec.limits").entries().iter().any(|(key, _)| is_gpu(key))
    }

    pub(crate) fn is_spot_pool(&self) -> bool {
        self.pool_values(CAPACITY_TYPE).contains(&"spot")
    }

    /// Whether a pool's nodes suit a pod: its selector, its required affinity, its tolerations.
    fn takes(&self, pod: &At<'a>) -> bool {
        let selector = pod.key("nodeSelector").entries();
        let selected = selector.iter().all(|(key, value)| self.offers(key, &[value.str()]));
        selected
            && affinities(pod).iter().all(|(key, values)| self.offers(key, values))
            && self.at.get("spec.template.spec.taints").items().iter().all(|taint| tolerates(pod, taint))
    }

    fn offers(&self, key: &str, values: &[&str]) -> bool {
        if key == "karpenter.sh/nodepool" {
            return values.contains(&self.name);
        }
        let offered = self.pool_values(key);
        if !offered.is_empty() {
            return offered.iter().any(|value| values.contains(value));
        }
        if let Some(refused) = self.requirement(key, "NotIn") {
            let refused: Vec<&str> = refused.key("values").items().iter().map(At::str).collect();
            return values.iter().any(|value| !refused.contains(value));
        }
        if key == CAPACITY_TYPE {
            // A pool that says nothing makes on-demand nodes.
            return values.contains(&"on-demand");
        }
        let own = ["karpenter.k8s.aws/", "topology.kubernetes.io/", "node.kubernetes.io/", "kubernetes.io/"];
        own.iter().any(|prefix| key.starts_with(prefix)) || self.requirement(key, "Exists").is_some()
    }
}

/// Whether a pod tolerates a taint that keeps pods away.
pub(crate) fn tolerates(pod: &At<'_>, taint: &At<'_>) -> bool {
    let (key, value, effect) = (taint.key("key").str(), taint.key("value").str(), taint.key("effect").str());
    effect == "PreferNoSchedule"
        || pod.key("tolerations").items().iter().any(|toleration| {
            let own = |name: &str| toleration.text_of(name);
            let key_matches = own("key").is_none_or(|own| own == key);
            let exists = own("operator") == Some("Exists");
            let value_matches = exists || (own("key").is_some() && own("value").unwrap_or_default() == value);
            key_matches && value_matches && own("effect").is_none_or(|own| own == effect)
        })
}

pub(crate) fn is_gpu(resource: &str) -> bool {
    resource.ends_with(".com/gpu") || resource.starts_with("aws.amazon.com/neuron")
}

/// The keys that required node affinity binds to values, the values of all terms together.
fn affinities<'a>(pod: &At<'a>) -> Vec<(&'a str, Vec<&'a str>)> {
    let required = pod.get("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution");
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for term in required.key("nodeSelectorTerms").items() {
        for expression in term.key("matchExpressions").items() {
            if expression.key("operator").str() != "In" {
                continue;
            }
            let key = expression.key("key").str();
            let values = expression.key("values").items().into_iter().filter_map(|value| value.text());
            match found.iter_mut().find(|(own, _)| *own == key) {
                Some((_, all)) => all.extend(values),
                None => found.push((key, values.collect())),
            }
        }
    }
    found
}

/// The values that a pod's own selector or required affinity allows for a label of its node.
pub(crate) fn wants<'a>(pod: &At<'a>, key: &str) -> Vec<&'a str> {
    match pod.key("nodeSelector").text_of(key) {
        Some(value) => vec![value],
        None => {
            affinities(pod).into_iter().find(|(own, _)| *own == key).map(|(_, all)| all).unwrap_or_default()
        }
    }
}

/// Where a pod's nodes come from by its own words.
pub(crate) fn capacity(pod: &At<'_>, pools: &[&Object<'_>]) -> Capacity {
    let mut values: Vec<String> = wants(pod, CAPACITY_TYPE).into_iter().map(str::to_owned).collect();
    values.extend(wants(pod, "eks.amazonaws.com/capacityType").iter().map(|value| value.to_lowercase()));
    if values.is_empty() {
        values = pools.iter().flat_map(|pool| pool.pool_values(CAPACITY_TYPE)).map(str::to_owned).collect();
    }
    let spot_taint = |at: &At<'_>| at.key("key").str().to_lowercase().contains("spot");
    if values.iter().any(|value| value == "spot") {
        Capacity::Spot
    } else if !values.is_empty() {
        Capacity::OnDemand
    } else if pod.key("tolerations").items().iter().any(spot_taint) {
        Capacity::Spot
    } else {
        Capacity::Unknown
    }
}

impl<'a> Group<'a> {
    fn new(at: At<'a>, is_head: bool, pools: &[Object<'a>]) -> Self {
        let template = at.key("template");
        let pod = template.key("spec");
        let container =
            pod.key("containers").items().into_iter().next().unwrap_or_else(|| pod.key("containers"));
        let landing: Vec<usize> = (0..pools.len()).filter(|index| pools[*index].takes(&pod)).collect();
        let landed: Vec<&Object<'a>> = landing.iter().map(|index| &pools[*index]).collect();
        let or_pools = |key: &str| {
            let own = wants(&pod, key);
            if own.is_empty() { landed.iter().flat_map(|pool| pool.pool_values(key)).collect() } else { own }
        };
        let count = |key: &str, default: i64| at.key(key).int().unwrap_or(default);
        let replicas = if is_head { 1 } else { count("replicas", 0) };
        let resources = container.get("resources.limits").entries();
        let gpus = resources
            .iter()
            .filter(|(key, _)| is_gpu(key))
            .filter_map(|(_, at)| facts::quantity(at.str()))
            .sum();
        Self {
            is_head,
            name: if is_head { "head" } else { at.key("groupName").str() },
            min: if is_head { 1 } else { count("minReplicas", 0) },
            max: if is_head { 1 } else { count("maxReplicas", i64::from(i32::MAX)).max(replicas) },
            hosts: count("numOfHosts", 1).clamp(1, 100_000),
            gpus,
            capacity: capacity(&pod, &landed),
            instances: or_pools(INSTANCE_TYPE),
            zones: or_pools(ZONE),
            pools: landing,
            at,
            template,
            pod,
            container,
        }
    }

    /// What is asked for of a resource: the limit, else the request.
    pub(crate) fn resource(&self, name: &'static str) -> Option<(f64, At<'a>)> {
        ["limits", "requests"].iter().find_map(|side| {
            let at = self.container.key("resources").key(side).key(name);
            Some((facts::quantity(at.text()?)?, at))
        })
    }

    /// The entry of a variable of the Ray container.
    pub(crate) fn env(&self, name: &str) -> Option<At<'a>> {
        self.container.key("env").items().into_iter().find(|entry| entry.key("name").str() == name)
    }

    /// The pods that `KubeRay` makes at first: `replicas`, which are 0 where they are left out, bent up to the minimum.
    pub(crate) fn pods_at_first(&self) -> i64 {
        let replicas = self.at.key("replicas").int().unwrap_or(0).max(self.min).clamp(0, 1_000_000);
        if self.is_head { 1 } else { replicas * self.hosts }
    }

    /// The pods of the group at most; a range without an end counts as what it begins with.
    pub(crate) fn pods(&self) -> i64 {
        let endless = self.max >= i64::from(i32::MAX);
        if self.is_head || endless { self.pods_at_first() } else { self.max.clamp(0, 1_000_000) * self.hosts }
    }

    pub(crate) fn drain_s(&self) -> f64 {
        let set = self.env("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S");
        set.and_then(|entry| entry.key("value").str().parse().ok()).unwrap_or(GRACE_DEFAULT_S)
    }

    pub(crate) fn grace_s(&self) -> f64 {
        let set = self.pod.key("terminationGracePeriodSeconds").int();
        set.map_or(GRACE_DEFAULT_S, |seconds| seconds as f64)
    }

    pub(crate) fn label(&self, key: &'static str) -> At<'a> {
        self.template.get("metadata.labels").key(key)
    }

    pub(crate) fn annotation(&self, key: &'static str) -> At<'a> {
        self.template.get("metadata.annotations").key(key)
    }

    /// Whether its pods ask for nodes or volumes of a cloud whose nodes Karpenter for EKS does not make.
    pub(crate) fn of_another_cloud(&self) -> bool {
        const PREFIXES: [&str; 3] = ["cloud.google.com/", "gke-gcsfuse/", "kubernetes.azure.com/"];
        let keys = [self.pod.key("nodeSelector"), self.template.get("metadata.annotations")];
        keys.iter()
            .flat_map(At::entries)
            .any(|(key, _)| PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
    }

    /// How a message calls it.
    pub(crate) fn shown(&self) -> String {
        if self.is_head { "the head".to_owned() } else { format!("group `{}`", self.name) }
    }
}

impl<'a> Ray<'a> {
    fn new(object: &Object<'a>, pools: &[Object<'a>], kuberay: Option<KubeRay>) -> Option<Self> {
        let spec = object.at.key("spec");
        let cluster = match object.kind {
            "RayJob" => spec.key("rayClusterSpec"),
            "RayService" => spec.key("rayClusterConfig"),
            "RayCluster" => spec.clone(),
            _ => return None,
        };
        let head = cluster.key("headGroupSpec");
        let mut groups = Vec::new();
        if head.exists() {
            groups.push(Group::new(head, true, pools));
        }
        let workers = cluster.key("workerGroupSpecs").items();
        groups.extend(workers.into_iter().map(|at| Group::new(at, false, pools)));
        let label = object.label("ray.io/kuberay-version").text();
        let label = label.or(object.annotation("ray.io/kuberay-version").text()).and_then(KubeRay::parse);
        Some(Self {
            mode: mode(&spec, &cluster, &groups),
            kuberay: kuberay.or(label).unwrap_or_default(),
            queue: object.label(QUEUE).text(),
            object: object.clone(),
            spec,
            cluster,
            groups,
        })
    }

    pub(crate) fn is_job(&self) -> bool {
        self.object.kind == "RayJob"
    }

    /// The groups of workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &Group<'a>> {
        self.groups.iter().filter(|group| !group.is_head)
    }

    pub(crate) fn head(&self) -> Option<&Group<'a>> {
        self.groups.first().filter(|group| group.is_head)
    }

    pub(crate) fn has_gpus(&self) -> bool {
        self.groups.iter().any(|group| group.gpus > 0.0)
    }

    /// Whether it is a job on accelerators: what the rules for training look at.
    pub(crate) fn trains(&self) -> bool {
        self.is_job() && self.workers().any(|group| group.gpus > 0.0)
    }

    /// The worker pods at most.
    pub(crate) fn nodes(&self) -> i64 {
        self.workers().map(Group::pods).sum()
    }

    pub(crate) fn ray_version(&self) -> Option<(u32, u32, u32)> {
        facts::version(self.cluster.key("rayVersion").str())
    }
}

fn mode(spec: &At<'_>, cluster: &At<'_>, groups: &[Group<'_>]) -> Mode {
    let ranges = groups.iter().any(|group| !group.is_head && group.min != group.max);
    let driven = spec.key("entrypoint").str().contains("eagleray");
    match (cluster.key("enableInTreeAutoscaling").is_true(), ranges) {
        (true, _) => Mode::Autoscaled,
        (false, false) => Mode::Fixed,
        (false, true) if driven => Mode::Elastic,
        (false, true) => Mode::Range,
    }
}
