//! Kueue: whether the queue that a spec names will ever admit its launch.

use std::collections::BTreeMap;

use eagleray_kube::manifest;
use serde_json::Value;

use super::facts::{Answer, Facts, amount, condition, condition_message, list, name, text};
use super::finding::Say;
use super::need::{self, Pods, shown};

const AREA: &str = "kueue";

/// What machines with accelerators take to come, where the launch does not say.
const PROVISIONING_SECONDS: f64 = 1_800.0;

pub(super) fn judge(facts: &Facts, say: &mut Say) {
    let queue = facts.queue();
    match (facts.serves("kueue.x-k8s.io"), queue) {
        (Some(false), Some(queue)) => {
            let version = "0.18.2";
            return say.error("kueue-missing", AREA, format!("`cluster.eks.queue` is `{queue}`, and the cluster has no Kueue"), "the launch is made suspended, and nobody lets it in", format!("helm upgrade --install kueue oci://registry.k8s.io/kueue/charts/kueue --version {version} --namespace kueue-system --create-namespace"));
        }
        (Some(false), None) => {
            return say.info(
                "kueue-missing",
                AREA,
                "the cluster has no Kueue",
                "launches take nodes as they come, without a queue",
            );
        }
        (None, None) => return,
        (Some(true) | None, _) => {}
    }
    if facts.serves_version("kueue.x-k8s.io", "v1beta2") == Some(false) {
        say.error("kueue-api", AREA, "kueue.x-k8s.io/v1beta2 is not served", "queues and workloads are read and rendered as v1beta2: Kueue 0.15 or later", "helm upgrade kueue oci://registry.k8s.io/kueue/charts/kueue --version 0.18.2 --namespace kueue-system --reuse-values");
    }
    manager(facts, queue.is_some(), say);
    let Some(queue) = queue else { return };
    configuration(facts, say);
    let Some(locals) = say.objects("kueue-local-queue", AREA, "LocalQueues", &facts.local_queues) else {
        return;
    };
    let Some(local) = locals.iter().find(|local| name(local) == queue) else {
        let there = if locals.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", need::names(locals))
        };
        return say.error(
            "kueue-local-queue",
            AREA,
            format!("`{}` has no LocalQueue `{queue}`; {there}", facts.namespace),
            "the launch stays suspended",
            "eagleray launch run.yaml --kueue",
        );
    };
    active(local, "LocalQueue", say);
    let Some(all) = say.objects("kueue-cluster-queue", AREA, "ClusterQueues", &facts.cluster_queues) else {
        return;
    };
    let wanted = text(&local["spec"]["clusterQueue"]);
    match all.iter().find(|one| name(one) == wanted) {
        None => say.error(
            "kueue-cluster-queue",
            AREA,
            format!("LocalQueue `{queue}` is of ClusterQueue `{wanted}`, which there is not"),
            "the launch stays suspended",
            "kubectl get clusterqueues\neagleray launch run.yaml --kueue",
        ),
        Some(cluster_queue) => {
            active(cluster_queue, "ClusterQueue", say);
            admits_namespace(facts, cluster_queue, say);
            for job in facts.rendered("RayJob") {
                holds(job, cluster_queue, say);
            }
            pod_sets(facts, say);
        }
    }
}

fn manager(facts: &Facts, needed: bool, say: &mut Say) {
    let Some(managers) = say.objects("kueue-manager", AREA, "Deployments", &facts.kueue) else { return };
    let is_ready = |manager: &Value| manager["status"]["readyReplicas"].as_u64().unwrap_or(0) > 0;
    if managers.iter().any(is_ready) {
        return say.ok("kueue-manager", AREA, format!("{} is ready", need::names(managers)));
    }
    let (seen, why) = (
        "no manager of Kueue is ready",
        "nothing is admitted; and its webhook, which every RayJob passes, does not answer",
    );
    let remedy = "kubectl -n kueue-system get pods\nkubectl -n kueue-system describe deployment kueue-controller-manager";
    if needed {
        say.error("kueue-manager", AREA, seen, why, remedy);
    } else {
        say.warning("kueue-manager", AREA, seen, why, remedy);
    }
}

/// What the manager was told: whether it looks at `RayJob`s, and how long it waits for pods.
fn configuration(facts: &Facts, say: &mut Say) {
    let Some(maps) = say.objects("kueue-rayjobs", AREA, "the configuration of Kueue", &facts.kueue_config)
    else {
        return;
    };
    let Some(written) = maps.iter().find_map(|map| map["data"]["controller_manager_config.yaml"].as_str())
    else {
        return say.unknown(
            "kueue-rayjobs",
            AREA,
            "no ConfigMap holds the configuration of Kueue",
            "whether it looks at RayJobs stands there",
            Some("kubectl -n kueue-system get configmaps".into()),
        );
    };
    let Some(Ok(root)) = manifest::read(written).into_iter().next() else {
        return say.unknown(
            "kueue-rayjobs",
            AREA,
            "the configuration of Kueue is no YAML",
            "whether it looks at RayJobs stands there",
            None,
        );
    };
    let root = plain(&root);
    let edit = "kubectl -n kueue-system edit configmap kueue-manager-config";
    let restart = "kubectl -n kueue-system rollout restart deployment/kueue-controller-manager";
    if list(&root["integrations"]["frameworks"]).iter().any(|framework| framework == "ray.io/rayjob") {
        say.ok("kueue-rayjobs", AREA, "Kueue looks at RayJobs");
    } else {
        say.error(
            "kueue-rayjobs",
            AREA,
            "`integrations.frameworks` of Kueue has no `ray.io/rayjob`",
            "it does not look at RayJobs: a launch would start without quota",
            format!("{edit}    # integrations: {{frameworks: [ray.io/rayjob, …]}}\n{restart}"),
        );
    }
    let waiting = &root["waitForPodsReady"];
    if !waiting.is_object() || text(&waiting["enable"]) == "false" {
        return;
    }
    let timeout = eagleray_kube::seconds(text(&waiting["timeout"])).unwrap_or(300.0);
    let takes = facts
        .rendered("RayJob")
        .filter_map(|job| job["spec"]["preRunningDeadlineSeconds"].as_f64())
        .fold(0.0, f64::max);
    let takes = if takes > 0.0 { takes } else { PROVISIONING_SECONDS };
    if timeout < takes {
        say.warning("kueue-pods-ready", AREA, format!("`waitForPodsReady.timeout` is {timeout:.0} s"), format!("pods that are not ready by then send the launch back to the queue; nodes with accelerators may take {takes:.0} s"), format!("{edit}    # waitForPodsReady: {{timeout: {takes:.0}s}}\n{restart}"));
    }
}

/// YAML without its places; scalars stay text.
fn plain(node: &manifest::Node) -> Value {
    match &node.value {
        manifest::Value::Scalar { text, .. } => Value::String(text.clone()),
        manifest::Value::List(items) => items.iter().map(plain).collect(),
        manifest::Value::Mapping(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone(), plain(&entry.node)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn active(object: &Value, kind: &str, say: &mut Say) {
    let id = if kind == "LocalQueue" { "kueue-local-queue" } else { "kueue-cluster-queue" };
    let own = name(object);
    let stopped = text(&object["spec"]["stopPolicy"]);
    if !stopped.is_empty() && stopped != "None" {
        let plural = kind.to_lowercase();
        return say.error(
            id,
            AREA,
            format!("{kind} `{own}` is stopped (`stopPolicy: {stopped}`)"),
            "nothing is admitted while it is",
            format!(
                "kubectl patch {plural} {own} --type merge -p '{{\"spec\":{{\"stopPolicy\":\"None\"}}}}'"
            ),
        );
    }
    match condition(object, "Active") {
        Some(true) => say.ok(id, AREA, format!("{kind} `{own}` is active")),
        Some(false) => say.error(
            id,
            AREA,
            format!("{kind} `{own}` is not active: {}", condition_message(object, "Active")),
            "nothing is admitted until it is",
            format!("kubectl describe {} {own}", kind.to_lowercase()),
        ),
        None => say.unknown(
            id,
            AREA,
            format!("{kind} `{own}` has no condition `Active`"),
            "its controller has not looked at it yet",
            None,
        ),
    }
}

/// A selector that is not there selects nothing; an empty one everything.
fn admits_namespace(facts: &Facts, queue: &Value, say: &mut Say) {
    let selector = &queue["spec"]["namespaceSelector"];
    let why = "launches of other namespaces are not admitted";
    let remedy = format!(
        "kubectl patch clusterqueue {} --type merge -p '{{\"spec\":{{\"namespaceSelector\":{{\"matchLabels\":{{\"kubernetes.io/metadata.name\":\"{}\"}}}}}}}}'",
        name(queue),
        facts.namespace
    );
    if selector.is_null() {
        return say.error(
            "kueue-namespace",
            AREA,
            format!("ClusterQueue `{}` has no `namespaceSelector`", name(queue)),
            why,
            remedy,
        );
    }
    let Answer::Found(found) = &facts.namespaces else { return };
    let Some(labels) = found.first().map(|namespace| &namespace["metadata"]["labels"]) else { return };
    let wanted: Vec<(&String, &Value)> = selector["matchLabels"].as_object().into_iter().flatten().collect();
    let by_labels = wanted.iter().all(|(key, value)| labels[key.as_str()] == **value);
    let by_terms = list(&selector["matchExpressions"]).iter().all(|term| {
        let value = &labels[text(&term["key"])];
        let within = list(&term["values"]).contains(value);
        match text(&term["operator"]) {
            "In" => within,
            "NotIn" => !within,
            "Exists" => !value.is_null(),
            "DoesNotExist" => value.is_null(),
            _ => true,
        }
    });
    if !by_labels || !by_terms {
        say.error(
            "kueue-namespace",
            AREA,
            format!("ClusterQueue `{}` does not select `{}`", name(queue), facts.namespace),
            why,
            remedy,
        );
    }
}

/// The quota of a resource: all flavors together, and the largest one.
#[derive(Clone, Copy, Debug, Default)]
struct Quota {
    all: f64,
    largest: f64,
}

fn quotas(queue: &Value) -> BTreeMap<&str, Quota> {
    let mut quotas: BTreeMap<&str, Quota> = BTreeMap::new();
    for group in list(&queue["spec"]["resourceGroups"]) {
        for covered in list(&group["coveredResources"]) {
            quotas.entry(text(covered)).or_default();
        }
        for resource in list(&group["flavors"]).iter().flat_map(|flavor| list(&flavor["resources"])) {
            let quota = quotas.entry(text(&resource["name"])).or_default();
            let nominal = amount(&resource["nominalQuota"]).unwrap_or(0.0);
            quota.all += nominal;
            quota.largest = quota.largest.max(nominal);
        }
    }
    quotas
}

/// Whether a launch fits into a queue that nobody else uses.
fn holds(job: &Value, queue: &Value, say: &mut Say) {
    let (own, quotas, pods) = (name(queue), quotas(queue), need::pods(job));
    let cohort = ["cohortName", "cohort"].iter().any(|key| !text(&queue["spec"][*key]).is_empty());
    let total = need::total(&pods, "requests", false);
    let edit = format!(
        "kubectl edit clusterqueue {own}    # or, for a queue of the run's own: eagleray launch run.yaml --kueue"
    );
    let missing: Vec<&str> = total
        .iter()
        .filter(|(resource, value)| **value > 0.0 && !quotas.contains_key(resource.as_str()))
        .map(|(resource, _)| resource.as_str())
        .collect();
    if !missing.is_empty() {
        return say.error(
            "kueue-covered",
            AREA,
            format!(
                "`{}` asks for {}, which ClusterQueue `{own}` does not cover",
                name(job),
                missing.join(", ")
            ),
            "one resource that no flavor covers makes a launch inadmissible, for ever",
            edit,
        );
    }
    let mut short = Vec::new();
    for (resource, wanted) in &total {
        let quota = quotas.get(resource.as_str()).copied().unwrap_or_default();
        if *wanted > quota.all {
            short.push(format!("{} {resource} of {}", shown(resource, *wanted), shown(resource, quota.all)));
        }
        // A set of pods has one flavor: what two flavors hold together does not help it.
        let largest =
            |pods: &Pods<'_>| pods.count.0 * pods.amounts("requests").get(resource).copied().unwrap_or(0.0);
        if let Some(pods) =
            pods.iter().find(|pods| largest(pods) > quota.largest).filter(|_| *wanted <= quota.all)
        {
            short.push(format!(
                "{} {resource} in one flavor for group `{}`, the largest has {}",
                shown(resource, largest(pods)),
                pods.group,
                shown(resource, quota.largest)
            ));
        }
    }
    if short.is_empty() {
        return say.ok(
            "kueue-quota",
            AREA,
            format!("ClusterQueue `{own}` covers and holds `{}` when it is empty", name(job)),
        );
    }
    let seen = format!("`{}` asks ClusterQueue `{own}` for {}", name(job), short.join(", "));
    if cohort {
        say.warning(
            "kueue-quota",
            AREA,
            seen,
            "the rest would be borrowed from its cohort, and may be taken back",
            edit,
        );
    } else {
        say.error("kueue-quota", AREA, seen, "more than the quota of an empty queue is never admitted", edit);
    }
}

/// The definition of workloads says how many sets of pods it takes.
fn pod_sets(facts: &Facts, say: &mut Say) {
    let Some(Answer::Found(found)) = facts.definitions.get("workloads.kueue.x-k8s.io") else { return };
    let versions = found.first().map_or(&[][..], |definition| list(&definition["spec"]["versions"]));
    let most = versions.iter().filter_map(|version| {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["podSets"]["maxItems"]
            .as_u64()
    });
    let Some(most) = most.min() else { return };
    for job in facts.rendered("RayJob") {
        // What submits a job is a set of its own, where there is such.
        let submitter = usize::from(
            text(&job["spec"]["submissionMode"]) == "K8sJobMode" || job["spec"]["submissionMode"].is_null(),
        );
        let sets = need::pods(job).len() + submitter;
        if sets as u64 > most {
            say.error(
                "kueue-pod-sets",
                AREA,
                format!("`{}` has {sets} sets of pods, this Kueue takes {most}", name(job)),
                "its workload is refused, and the launch stays suspended",
                "join groups of `cluster.eks.groups`, or leave `cluster.eks.queue` out",
            );
        }
    }
}
