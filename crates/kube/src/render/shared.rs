//! What the launches of a run share: accounts and rights, the spec, who may reach Ray, what protects the head.

use super::File;
use super::context::{Context, ROLE_LABEL, RUN_LABEL, SPEC_FILE};
use super::pod::HEAD_PRIORITY;
use crate::yaml::{Map, Node};

/// Above every default, below the classes of Kubernetes itself.
const HEAD_PRIORITY_VALUE: u32 = 1_000_000;

/// More heads than a run ever has: the one that trains, and those of failed launches that are looked at.
const HEADS_NEVER: u32 = 1_000;

/// Where `KubeRay` reaches the head: submission and status of jobs.
const DASHBOARD_PORT: u32 = 8_265;

/// What the operator's pods are called, by its chart and by the manifests of its repository.
const OPERATOR_NAMES: [&str; 2] = ["kuberay-operator", "kuberay"];

pub(super) fn render(context: &Context<'_>) -> Vec<File> {
    let mut files = accounts(context);
    // KubeRay itself gives the account of an autoscaled head its rights.
    if context.elastic && !context.is_long_lived() {
        files.extend(rights(context));
    }
    files.push(spec(context));
    files.push(network_policy(context));
    files.push(disruption_budget(context));
    if !context.queued() {
        files.push(priority_class());
    }
    files
}

fn file(name: &str, object: Map) -> File {
    File { path: format!("run/{name}.yaml"), object }
}

fn object(version: &str, kind: &str, metadata: Map) -> Map {
    Map::new().with("apiVersion", version).with("kind", kind).with("metadata", metadata)
}

fn accounts(context: &Context<'_>) -> Vec<File> {
    let role = context.eks.service_account.as_ref().and_then(|account| account.role.as_ref());
    let account = |name: &str, path: &str| {
        let mut metadata = context.metadata(name, context.run_labels());
        if let Some(role) = role {
            let annotation = Map::new().with("eks.amazonaws.com/role-arn", role.as_str());
            metadata =
                metadata.why("annotations", annotation, "IRSA: the right to reach S3 comes with this role");
        }
        file(path, object("v1", "ServiceAccount", metadata))
    };
    let mut files = Vec::new();
    if let Some(given) = &context.eks.service_account {
        files.push(account(&given.name, "service-account"));
    }
    if context.elastic
        && let Some(name) = context.head_account()
    {
        files.push(account(&name, "service-account-head"));
    }
    files
}

/// The head of an elastic run may raise the replicas of its own cluster.
fn rights(context: &Context<'_>) -> Vec<File> {
    let name = context.shared("head");
    let rule = Map::new()
        .with("apiGroups", vec!["ray.io"])
        .why(
            "resources",
            vec!["rayclusters"],
            "all of the namespace: KubeRay gives the cluster its name when it is made",
        )
        .why(
            "verbs",
            vec!["get", "patch"],
            "once the run trains, its head may raise `replicas` to `maxReplicas`",
        );
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let metadata = || context.metadata(&name, context.run_labels());
    let role = object(&version, "Role", metadata()).with("rules", vec![rule]);
    let subject = Map::new()
        .with("kind", "ServiceAccount")
        .with("name", context.head_account().unwrap_or_default())
        .with("namespace", context.eks.namespace.as_str());
    let reference = Map::new().with("apiGroup", group).with("kind", "Role").with("name", name.as_str());
    let binding = object(&version, "RoleBinding", metadata())
        .with("roleRef", reference)
        .with("subjects", vec![subject]);
    vec![file("role-head", role), file("role-binding-head", binding)]
}

fn spec(context: &Context<'_>) -> File {
    let metadata = context.metadata(&context.launch, context.launch_labels());
    let document = context.resolved.document.as_str();
    let end = if document.ends_with('\n') { "" } else { "\n" };
    let data = Map::new().with(SPEC_FILE, Node::Text(format!("{document}{end}")));
    let object = object("v1", "ConfigMap", metadata)
        .why("immutable", true, "a launch has one spec; another spec is another launch")
        .with("data", data);
    file("config-map", object)
}

fn network_policy(context: &Context<'_>) -> File {
    let run = || Map::new().with("matchLabels", Map::new().with(RUN_LABEL, context.name()));
    let within = Map::new().why(
        "from",
        vec![Map::new().with("podSelector", run())],
        "Ray and NCCL take ports as they come",
    );
    let named = Map::new().with("key", "app.kubernetes.io/name").with("operator", "In").why(
        "values",
        OPERATOR_NAMES.to_vec(),
        "as its chart calls it, and as its own manifests do",
    );
    let operator = Map::new()
        .with("namespaceSelector", Map::new())
        .with("podSelector", Map::new().with("matchExpressions", vec![named]));
    let port = Map::new().with("protocol", "TCP").with("port", DASHBOARD_PORT);
    let submit = Map::new()
        .why(
            "from",
            vec![operator],
            "KubeRay submits the job and asks for its status, from whichever namespace it runs in",
        )
        .with("ports", vec![port]);
    let spec = Map::new()
        .with("podSelector", run())
        .why("policyTypes", vec!["Ingress"], "whoever reaches Ray's ports runs code as the run")
        .with("ingress", vec![within, submit]);
    let metadata = context.metadata(context.name(), context.run_labels());
    file("network-policy", object("networking.k8s.io/v1", "NetworkPolicy", metadata).with("spec", spec))
}

/// For the head alone: on workers it would stand in the way of the eviction that is a reclaim's notice.
fn disruption_budget(context: &Context<'_>) -> File {
    let labels = Map::new().with(RUN_LABEL, context.name()).with(ROLE_LABEL, "head");
    let spec = Map::new()
        .why(
            "minAvailable",
            HEADS_NEVER,
            "more than there are, so none is evicted: a drain by hand waits for the run. `maxUnavailable` counts by a scale that RayClusters do not have; workers have no budget, eviction is their notice",
        )
        .with("selector", Map::new().with("matchLabels", labels));
    let metadata = context.metadata(&context.shared("head"), context.run_labels());
    file(
        "pod-disruption-budget-head",
        object("policy/v1", "PodDisruptionBudget", metadata).with("spec", spec),
    )
}

fn priority_class() -> File {
    let object = object("scheduling.k8s.io/v1", "PriorityClass", Map::new().with("name", HEAD_PRIORITY))
        .why("value", HEAD_PRIORITY_VALUE, "above every default: where a node is short, others go first")
        .with("description", "The heads of Eagle Ray runs.");
    file("priority-class-head", object)
}
