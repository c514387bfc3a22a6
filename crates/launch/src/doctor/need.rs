//! What a launch asks of a cluster, read from what would be applied.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::facts::{amount, list, name, text};

/// Pods of one kind.
#[derive(Clone, Debug)]
pub(super) struct Pods<'a> {
    /// `head`, or the name of the group.
    pub(super) group: String,
    /// How many at first, and at most.
    pub(super) count: (f64, f64),
    /// The template.
    pub(super) template: &'a Value,
}

/// A count of a kind of thing, such as `nvidia.com/gpu`.
pub(super) type Amounts = BTreeMap<String, f64>;

impl Pods<'_> {
    /// What one pod requests (`requests`) or is limited to (`limits`).
    pub(super) fn amounts(&self, which: &str) -> Amounts {
        let mut sum = Amounts::new();
        for container in list(&self.template["spec"]["containers"]) {
            for (resource, value) in of(container, which) {
                *sum.entry(resource).or_default() += value;
            }
        }
        for container in list(&self.template["spec"]["initContainers"]) {
            for (resource, value) in of(container, which) {
                let most = sum.entry(resource).or_default();
                *most = most.max(value);
            }
        }
        sum
    }

    /// The containers, and those before them.
    pub(super) fn containers(&self) -> impl Iterator<Item = &Value> {
        let spec = &self.template["spec"];
        list(&spec["initContainers"]).iter().chain(list(&spec["containers"]))
    }
}

/// Requests default to limits.
fn of(container: &Value, which: &str) -> Amounts {
    let resources = &container["resources"];
    let read = |key: &str| resources[key].as_object().into_iter().flatten();
    let mut found = Amounts::new();
    if which == "requests" {
        found.extend(read("limits").filter_map(|(key, value)| Some((key.clone(), amount(value)?))));
    }
    found.extend(read(which).filter_map(|(key, value)| Some((key.clone(), amount(value)?))));
    found
}

/// The pods of a launch: its head and its groups.
pub(super) fn pods(job: &Value) -> Vec<Pods<'_>> {
    let cluster = &job["spec"]["rayClusterSpec"];
    let head =
        Pods { group: "head".into(), count: (1.0, 1.0), template: &cluster["headGroupSpec"]["template"] };
    let count = |value: &Value| value.as_f64().filter(|count| *count >= 0.0);
    let groups = list(&cluster["workerGroupSpecs"]).iter().map(|group| {
        let hosts = count(&group["numOfHosts"]).unwrap_or(1.0);
        let replicas = count(&group["replicas"]).unwrap_or(0.0);
        let most = count(&group["maxReplicas"]).unwrap_or(replicas).max(replicas);
        Pods {
            group: text(&group["groupName"]).to_owned(),
            count: (replicas * hosts, most * hosts),
            template: &group["template"],
        }
    });
    std::iter::once(head).chain(groups).collect()
}

/// What all pods of a launch take together, at first or at most.
pub(super) fn total(pods: &[Pods<'_>], which: &str, most: bool) -> Amounts {
    let mut sum = Amounts::new();
    for pods in pods {
        let count = if most { pods.count.1 } else { pods.count.0 };
        for (resource, value) in pods.amounts(which) {
            *sum.entry(resource).or_default() += value * count;
        }
    }
    sum
}

/// The secrets that pods name; without them a pod does not start.
pub(super) fn secrets(rendered: &[Value]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for job in rendered.iter().filter(|object| object["kind"] == "RayJob") {
        for pods in pods(job) {
            let spec = &pods.template["spec"];
            names.extend(
                list(&spec["imagePullSecrets"]).iter().map(|secret| text(&secret["name"]).to_owned()),
            );
            for container in pods.containers() {
                let from = list(&container["envFrom"]).iter().map(|from| &from["secretRef"]);
                let keys =
                    list(&container["env"]).iter().map(|variable| &variable["valueFrom"]["secretKeyRef"]);
                let needed = from.chain(keys).filter(|secret| secret["optional"] != true);
                names.extend(needed.map(|secret| text(&secret["name"]).to_owned()));
            }
            names.extend(
                list(&spec["volumes"]).iter().map(|volume| text(&volume["secret"]["secretName"]).to_owned()),
            );
        }
    }
    names.remove("");
    names
}

/// A quantity for people.
pub(super) fn shown(resource: &str, value: f64) -> String {
    if resource.contains("memory") || resource.contains("hugepages") || resource.contains("storage") {
        format!("{:.0} GiB", value / f64::from(1_u32 << 30))
    } else if (value - value.round()).abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

/// Names in a list for people.
pub(super) fn names<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    let names: Vec<String> = objects.into_iter().map(|object| format!("`{}`", name(object))).collect();
    names.join(", ")
}
