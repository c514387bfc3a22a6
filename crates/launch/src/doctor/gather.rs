//! Asking: every question once, and no answer is taken for another's.

use std::collections::BTreeMap;

use eagleray_base::{Error, Kind, Result};
use serde_json::{Value, json};

use super::facts::{Answer, Facts, Granted, list, text};
use super::need;
use super::rights::{self, RIGHTS};
use super::storage::without_password;
use crate::cluster::{Cluster, HINT_RIGHTS};
use crate::resource::{
    CLUSTER_QUEUE, CONFIG_MAP, DAEMON_SET, DEFINITION, DEPLOYMENT, EC2_NODE_CLASS, LIMIT_RANGE, LOCAL_QUEUE,
    NAMESPACE, NODE, NODE_POOL, PEER_AUTHENTICATION, POD, RESOURCE_QUOTA, Resource, SECRET,
};

/// The definitions that are looked into.
const DEFINITIONS: [&str; 2] = ["rayjobs.ray.io", "workloads.kueue.x-k8s.io"];

/// The labels of `KubeRay`'s chart, and of Kubeflow's manifests.
const OPERATOR_LABELS: &str = "app.kubernetes.io/name in (kuberay-operator, kuberay)";
const KUEUE_LABELS: &str = "app.kubernetes.io/name=kueue,control-plane=controller-manager";

/// Where operators are, where an account may not look everywhere.
const OPERATOR_NAMESPACES: [&str; 4] = ["kuberay-system", "kuberay-operator", "kubeflow", "ray-system"];
const KUEUE_NAMESPACE: &str = "kueue-system";

/// What a launch would be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Where it would be.
    pub namespace: String,
    /// What it would apply; empty without a run spec.
    pub rendered: Vec<Value>,
    /// The version of `KubeRay` that the spec names.
    pub kuberay: Option<String>,
}

/// Asks a cluster for everything that is judged, but what is on stores.
pub fn gather(cluster: &Cluster, wanted: Wanted) -> Facts {
    let Wanted { namespace, rendered, kuberay } = wanted;
    let mut facts = Facts {
        server: without_password(cluster.server()),
        namespace,
        rendered,
        kuberay,
        ..Facts::default()
    };
    facts.version = match cluster.version() {
        Ok(version) => Answer::Found(vec![version.into()]),
        // Asked once: where nobody answers, each further question would wait as long.
        Err(error) => {
            facts.version = Answer::Failed(told(&error));
            return facts;
        }
    };
    facts.user = user(cluster);
    facts.groups =
        answer("get /apis", cluster.get_path("/apis").map(|found| list(&found["groups"]).to_vec()));
    facts.rights = granted(cluster, &facts);
    of_cluster(cluster, &mut facts);
    of_namespace(cluster, &mut facts);
    facts
}

/// Whom the API server takes this for.
fn user(cluster: &Cluster) -> Option<String> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = cluster.review("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).ok()?;
    Some(answer["status"]["userInfo"]["username"].as_str()?.to_owned())
}

/// One review a verb: the list that there is too may be incomplete, on EKS it is.
fn granted(cluster: &Cluster, facts: &Facts) -> Vec<Granted> {
    let parts = rights::needed(facts);
    let wanted = RIGHTS.iter().filter(|right| parts.contains(&right.part));
    let each = wanted.flat_map(|right| right.verbs.iter().map(move |verb| (right, *verb)));
    let ask = |(right, verb): (&rights::Right, &str)| {
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
        let mut attributes =
            json!({"group": right.group, "resource": resource, "subresource": subresource, "verb": verb});
        if right.part.namespaced() {
            attributes["namespace"] = facts.namespace.as_str().into();
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let answer = cluster.review("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review);
        let allowed = answer.ok().and_then(|answer| answer["status"]["allowed"].as_bool());
        Granted { group: right.group.into(), resource: right.resource.into(), verb: verb.into(), allowed }
    };
    each.map(ask).collect()
}

fn of_cluster(cluster: &Cluster, facts: &mut Facts) {
    let mut definitions = BTreeMap::new();
    for name in DEFINITIONS {
        let group = name.split_once('.').map_or(name, |(_, group)| group);
        if facts.serves(group) != Some(false) {
            definitions.insert(name.to_owned(), get(cluster, DEFINITION, None, name));
        }
    }
    facts.definitions = definitions;
    let own = facts.namespace.clone();
    facts.operators = operators(cluster, &own);
    facts.nodes = all(cluster, NODE, None);
    facts.daemon_sets = all(cluster, DAEMON_SET, None);
    if facts.serves("kueue.x-k8s.io") != Some(false) {
        facts.kueue = everywhere(cluster, DEPLOYMENT, KUEUE_LABELS, [KUEUE_NAMESPACE]);
        let found = facts.kueue.found().and_then(|found| found.first());
        let place =
            found.map_or(KUEUE_NAMESPACE, |manager| text(&manager["metadata"]["namespace"])).to_owned();
        facts.kueue_config = get(cluster, CONFIG_MAP, Some(&place), rights::KUEUE_CONFIG);
        facts.cluster_queues = all(cluster, CLUSTER_QUEUE, None);
        facts.local_queues = all(cluster, LOCAL_QUEUE, Some(&own));
    }
    if facts.serves("karpenter.sh") != Some(false) {
        facts.node_pools = all(cluster, NODE_POOL, None);
    }
    if facts.serves("karpenter.k8s.aws") != Some(false) {
        facts.node_classes = all(cluster, EC2_NODE_CLASS, None);
    }
}

fn of_namespace(cluster: &Cluster, facts: &mut Facts) {
    let namespace = facts.namespace.clone();
    facts.namespaces = get(cluster, NAMESPACE, None, &namespace);
    facts.quotas = all(cluster, RESOURCE_QUOTA, Some(&namespace));
    facts.limit_ranges = all(cluster, LIMIT_RANGE, Some(&namespace));
    facts.pods = all(cluster, POD, Some(&namespace));
    if facts.serves("security.istio.io") == Some(true) {
        facts.peers = all(cluster, PEER_AUTHENTICATION, Some(&namespace));
    }
    let there = |name: &String| {
        let found = cluster.exists(SECRET, Some(&namespace), name);
        let found =
            found.map(|there| if there { vec![json!({"metadata": {"name": name}})] } else { Vec::new() });
        (name.clone(), answer(&asked("get", SECRET, Some(&namespace)), found))
    };
    facts.secrets = need::secrets(&facts.rendered).iter().map(there).collect();
}

fn get(cluster: &Cluster, resource: Resource, namespace: Option<&str>, name: &str) -> Answer {
    let found = cluster.get(resource, namespace, name).map(|found| found.into_iter().collect());
    answer(&asked("get", resource, namespace), found)
}

fn all(cluster: &Cluster, resource: Resource, namespace: Option<&str>) -> Answer {
    answer(&asked("list", resource, namespace), cluster.list(resource, namespace, ""))
}

/// The Deployments of `KubeRay`'s operator.
pub(crate) fn operators(cluster: &Cluster, own: &str) -> Answer {
    everywhere(cluster, DEPLOYMENT, OPERATOR_LABELS, OPERATOR_NAMESPACES.into_iter().chain([own]))
}

/// In all namespaces at once, or, where that may not be, in the usual ones.
fn everywhere<'a>(
    cluster: &Cluster,
    resource: Resource,
    labels: &str,
    places: impl IntoIterator<Item = &'a str>,
) -> Answer {
    let whole = answer(&asked("list", resource, None), cluster.list(resource, None, labels));
    if !matches!(whole, Answer::Refused(_)) {
        return whole;
    }
    let seen = places.into_iter().filter_map(|place| cluster.list(resource, Some(place), labels).ok());
    let found: Vec<Value> = seen.flatten().collect();
    // None in the places that may be seen says nothing of the others.
    if found.is_empty() { whole } else { Answer::Found(found) }
}

/// `list nodes`, as `kubectl auth can-i` takes it.
fn asked(verb: &str, resource: Resource, namespace: Option<&str>) -> String {
    let kind = if resource.group.is_empty() {
        resource.plural.to_owned()
    } else {
        format!("{}.{}", resource.plural, resource.group)
    };
    match namespace {
        Some(namespace) if resource.namespaced => format!("{verb} {kind} -n {namespace}"),
        None if resource.namespaced => format!("{verb} {kind} -A"),
        _ => format!("{verb} {kind}"),
    }
}

fn answer(right: &str, found: Result<Vec<Value>>) -> Answer {
    match found {
        Ok(found) => Answer::Found(found),
        Err(error) if error.hint() == Some(HINT_RIGHTS) => Answer::Refused(right.to_owned()),
        Err(error) if error.kind() == Kind::NotFound => Answer::Missing,
        Err(error) => Answer::Failed(told(&error)),
    }
}

fn told(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{}; {hint}", error.message()),
        None => error.message().to_owned(),
    }
}
