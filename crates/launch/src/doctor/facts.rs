//! What was answered, as it was answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What came of one question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was of no interest.
    #[default]
    NotAsked,
    /// The objects that there are, perhaps none.
    Found(Vec<Value>),
    /// The cluster has no such kind, or nothing of that name.
    Missing,
    /// It may not be asked; the right that is missing.
    Refused(String),
    /// There was no answer; what was said instead.
    Failed(String),
}

impl Answer {
    /// The objects, where there was an answer.
    pub fn found(&self) -> Option<&[Value]> {
        match self {
            Self::Found(found) => Some(found),
            Self::Missing => Some(&[]),
            Self::NotAsked | Self::Refused(_) | Self::Failed(_) => None,
        }
    }
}

/// Whether the account may do one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// The group; empty for the core one.
    pub group: String,
    /// `pods`, or `pods/log`.
    pub resource: String,
    /// `get`.
    pub verb: String,
    /// None where the API server did not say.
    pub allowed: Option<bool>,
}

/// One verb that was tried on a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// `put`, `list`.
    pub verb: String,
    /// The store, or the data.
    pub url: String,
    /// What went wrong; none where nothing did.
    pub failure: Option<String>,
}

/// All that is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The address of the API server, without a password.
    pub server: String,
    /// Where launches are to be.
    pub namespace: String,
    /// The version of the API server, one text.
    pub version: Answer,
    /// Who asks: the name that the API server knows.
    pub user: Option<String>,
    /// The groups of kinds that the API server serves.
    pub groups: Answer,
    /// What the account may do.
    pub rights: Vec<Granted>,
    /// Definitions of custom resources by name.
    pub definitions: BTreeMap<String, Answer>,
    /// The Deployments of `KubeRay`'s operator.
    pub operators: Answer,
    /// The Deployments of Kueue's manager.
    pub kueue: Answer,
    /// The `ConfigMap` of Kueue's manager.
    pub kueue_config: Answer,
    /// The queues of the namespace.
    pub local_queues: Answer,
    /// All queues with quota.
    pub cluster_queues: Answer,
    /// Machines.
    pub nodes: Answer,
    /// `DaemonSet`s everywhere.
    pub daemon_sets: Answer,
    /// Karpenter's pools.
    pub node_pools: Answer,
    /// How Karpenter makes machines on EC2.
    pub node_classes: Answer,
    /// The namespace itself.
    pub namespaces: Answer,
    /// `ResourceQuota`s of the namespace.
    pub quotas: Answer,
    /// `LimitRange`s of the namespace.
    pub limit_ranges: Answer,
    /// Istio's `PeerAuthentication`s of the namespace.
    pub peers: Answer,
    /// The pods of the namespace.
    pub pods: Answer,
    /// The secrets that a launch names: whether there are such, never what is in them.
    pub secrets: BTreeMap<String, Answer>,
    /// What a launch would apply; empty without a run spec.
    pub rendered: Vec<Value>,
    /// The version of `KubeRay` that the spec names.
    pub kuberay: Option<String>,
    /// What was tried on the store of the run.
    pub store: Vec<Tried>,
    /// What was tried on its data.
    pub sources: Vec<Tried>,
}

impl Facts {
    /// Whether the API server serves a group; none where it did not say.
    pub(super) fn serves(&self, group: &str) -> Option<bool> {
        Some(self.groups.found()?.iter().any(|known| known["name"] == group))
    }

    /// Whether the API server serves a version of a group.
    pub(super) fn serves_version(&self, group: &str, version: &str) -> Option<bool> {
        let known = self.groups.found()?.iter().find(|known| known["name"] == group)?;
        Some(list(&known["versions"]).iter().any(|served| served["version"] == version))
    }

    /// What a launch would apply, of one kind.
    pub(super) fn rendered(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.rendered.iter().filter(move |object| object["kind"] == kind)
    }

    /// The queue that the launches name.
    pub(super) fn queue(&self) -> Option<&str> {
        self.rendered("RayJob")
            .find_map(|job| job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"].as_str())
    }
}

/// The items of a list; of anything else none.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text; of anything else the empty one.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The name of an object.
pub(super) fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// A quantity of Kubernetes in its base unit.
pub(crate) fn amount(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => eagleray_kube::quantity(text),
        _ => None,
    }
}

/// Whether a condition of an object's status is true; none where there is no such condition.
pub(super) fn condition(object: &Value, kind: &str) -> Option<bool> {
    let found = list(&object["status"]["conditions"]).iter().find(|condition| condition["type"] == kind)?;
    Some(found["status"] == "True")
}

/// What a condition says.
pub(super) fn condition_message<'a>(object: &'a Value, kind: &str) -> &'a str {
    list(&object["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == kind)
        .map_or("", |condition| text(&condition["message"]))
}
