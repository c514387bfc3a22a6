//! Objects of any form at all: what is read of them is told in one line, and never panics.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Any JSON, often with the keys that are looked at.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    const KEYS: &[&str] = &[
        "metadata",
        "name",
        "namespace",
        "labels",
        "creationTimestamp",
        "deletionTimestamp",
        "spec",
        "nodeName",
        "status",
        "phase",
        "conditions",
        "type",
        "reason",
        "message",
        "containerStatuses",
        "initContainerStatuses",
        "state",
        "waiting",
        "terminated",
        "lastState",
        "exitCode",
        "restartCount",
        "ray.io/group",
        "ray.io/node-type",
        "ray.io/cluster",
        "jobDeploymentStatus",
        "jobStatus",
        "suspend",
        "rayClusterSpec",
        "workerGroupSpecs",
        "replicas",
        "endTime",
        "deletionStrategy",
        "deletionRules",
        "condition",
        "ttlSeconds",
        "ray.io/originated-from-crd",
        "ray.io/originated-from-cr-name",
        "containers",
        "resources",
        "limits",
        "nvidia.com/gpu",
        "other",
    ];
    const WORDS: &[&str] = &[
        "",
        "a",
        "True",
        "Pending",
        "Running",
        "Failed",
        "ContainerCreating",
        "ErrImagePull",
        "RayJob",
        "head",
        "Complete",
        "ValidationFailed",
        "Suspended",
        "2026-11-29T11:00:00Z",
        "9999-12-31T23:59:59Z",
        "é",
        "PodScheduled",
        "Ready",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|number| json!(number)),
        any::<u64>().prop_map(|number| json!(number)),
        proptest::sample::select(WORDS).prop_map(|word| json!(word)),
        ".{0,20}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(6, 96, 12, |inner| {
        let entries = proptest::collection::vec((proptest::sample::select(KEYS), inner.clone()), 0..12);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::Array),
            entries.prop_map(|all| {
                Value::Object(
                    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>(),
                )
            }),
        ]
    })
}

/// A pod with something at each place that is looked at.
fn any_pod() -> impl Strategy<Value = Value> {
    (any_json(), any_json(), any_json(), any_json()).prop_map(|(metadata, status, container, node)| {
        let mut pod = json!({"metadata": metadata, "spec": {"nodeName": node}, "status": status});
        if pod["metadata"].is_object() {
            pod["metadata"]["name"] = json!("p");
        }
        if pod["status"].is_object() {
            pod["status"]["containerStatuses"] = json!([container]);
        }
        pod
    })
}

proptest! {
    #[test]
    fn no_object_makes_it_panic(
        pods in proptest::collection::vec(prop_oneof![any_pod(), any_json()], 0..6),
        job in any_json(), cluster in any_json(), workload in any_json(), other in any_json(), now in any::<i64>(),
    ) {
        let mut events = Events::default();
        events.add(&other);
        let situation = Situation {
            now,
            launch: "a".into(),
            job: Some(Job::of(&job)),
            workload: Some(Workload::of(&workload)),
            cluster: Some(Ray::of(&cluster)),
            pods: pods.iter().filter_map(Pod::of).collect(),
            claims: Claim::of(&other).into_iter().collect(),
            nodes: Node::of(&other).into_iter().collect(),
            events: events.list(),
            ledger: None,
        };
        let told = tell(&situation);
        prop_assert!(!told.line.is_empty() && !told.line.contains('\n'));
        groups(&situation);
    }
}
