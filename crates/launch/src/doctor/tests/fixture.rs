//! A cluster on which nothing is wrong, and its parts.

use serde_json::{Value, json};

use crate::doctor::rights::{Part, RIGHTS};

const GIB: &str = "Gi";

/// A launch of two nodes in a queue.
pub(super) fn job() -> Value {
    let pod = |resources: Value, selector: Value| {
        json!({
            "metadata": {"labels": {"sidecar.istio.io/inject": "false"}},
            "spec": {
                "nodeSelector": selector,
                "containers": [{
                    "name": "ray", "resources": {"limits": resources, "requests": resources},
                    "envFrom": [{"secretRef": {"name": "wandb"}}],
                }],
            },
        })
    };
    let selector =
        json!({"node.kubernetes.io/instance-type": "p5.48xlarge", "karpenter.sh/capacity-type": "spot"});
    json!({
        "kind": "RayJob",
        "metadata": {"name": "solar-1", "labels": {"kueue.x-k8s.io/queue-name": "nlp"}},
        "spec": {
            "submissionMode": "HTTPMode",
            "preRunningDeadlineSeconds": 3600,
            "rayClusterSpec": {
                "headGroupSpec": {"template": pod(json!({"cpu": "8", "memory": format!("32{GIB}")}), json!({}))},
                "workerGroupSpecs": [{
                    "groupName": "a", "replicas": 2, "maxReplicas": 4,
                    "template": pod(
                        json!({"cpu": "190", "memory": format!("1800{GIB}"), "nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32"}),
                        selector,
                    ),
                }],
            },
        },
    })
}

fn deployment(namespace: &str, name: &str, container: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"readyReplicas": 1},
    })
}

pub(super) fn definition(fields: &Value) -> Value {
    json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"properties": {"spec": {"properties": fields}}}}}]}})
}

pub(super) fn served(group: &str, version: &str) -> Value {
    json!({"name": group, "versions": [{"version": version}]})
}

pub(super) fn found(objects: &[Value]) -> Value {
    json!({"found": objects})
}

/// A cluster on which nothing is wrong.
pub(super) fn fine() -> Value {
    let operator = json!({
        "image": "quay.io/kuberay/operator:v1.7.0",
        "args": ["--enable-leader-election=true", "--reconcile-concurrency=4"],
        "env": [{"name": "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS", "value": "1800"}],
        "resources": {"limits": {"memory": "2Gi"}},
    });
    let fields = json!({
        "jobId": {}, "backoffLimit": {}, "submissionMode": {}, "preRunningDeadlineSeconds": {}, "deletionStrategy": {},
        "rayClusterSpec": {"properties": {"networkPolicy": {}}},
    });
    let quota = |resource: &str, nominal: &str| json!({"name": resource, "nominalQuota": nominal});
    let resources = [
        quota("cpu", "800"),
        quota("memory", "8Ti"),
        quota("nvidia.com/gpu", "32"),
        quota("vpc.amazonaws.com/efa", "128"),
    ];
    let active = json!({"conditions": [{"type": "Active", "status": "True"}]});
    let config = "waitForPodsReady:\n  timeout: 1h\nintegrations:\n  frameworks:\n  - ray.io/rayjob\n";
    let workloads = definition(&json!({"podSets": {"maxItems": 10}}));
    json!({
        "server": "https://k8s", "namespace": "training", "kuberay": "1.7", "user": "jane",
        "version": found(&[json!("v1.36.3")]),
        "groups": found(&[
            served("ray.io", "v1"), served("kueue.x-k8s.io", "v1beta2"), served("karpenter.sh", "v1"),
            served("karpenter.k8s.aws", "v1"),
        ]),
        "rights": granted(&[Part::Launch, Part::Logs, Part::Queue], &|_, _| Some(true)),
        "definitions": {"rayjobs.ray.io": found(&[definition(&fields)]), "workloads.kueue.x-k8s.io": found(&[workloads])},
        "operators": found(&[deployment("kuberay-system", "kuberay-operator", &operator)]),
        "kueue": found(&[deployment("kueue-system", "kueue-controller-manager", &json!({}))]),
        "kueue_config": found(&[json!({"data": {"controller_manager_config.yaml": config}})]),
        "local_queues": found(&[json!({"metadata": {"name": "nlp"}, "spec": {"clusterQueue": "all"}, "status": active})]),
        "cluster_queues": found(&[json!({
            "metadata": {"name": "all"}, "status": active,
            "spec": {"namespaceSelector": {}, "resourceGroups": [{
                "coveredResources": ["cpu", "memory", "nvidia.com/gpu", "vpc.amazonaws.com/efa"],
                "flavors": [{"name": "p5", "resources": resources}],
            }]},
        })]),
        "nodes": found(&[json!({"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32"}}})]),
        "daemon_sets": found(&[json!({"metadata": {"name": "nvidia-device-plugin-daemonset"}}), json!({"metadata": {"name": "aws-efa-k8s-device-plugin"}})]),
        "node_pools": found(&[json!({
            "metadata": {"name": "gpu"},
            "spec": {
                "limits": {"nvidia.com/gpu": 64},
                "template": {"spec": {"requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]}]}},
            },
            "status": {"resources": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]},
        })]),
        "node_classes": found(&[json!({"metadata": {"name": "gpu"}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})]),
        "namespaces": found(&[json!({"metadata": {"name": "training", "labels": {"kubernetes.io/metadata.name": "training"}}})]),
        "quotas": found(&[json!({"metadata": {"name": "team"}, "spec": {"hard": {"requests.nvidia.com/gpu": "64", "pods": "20"}}, "status": {"used": {"pods": "1"}}})]),
        "limit_ranges": found(&[]),
        "pods": found(&[]),
        "secrets": {"wandb": found(&[json!({"metadata": {"name": "wandb"}})])},
        "rendered": [job(), {"kind": "ServiceAccount"}],
        "store": tried("s3://acme/runs/solar", None),
        "sources": [{"verb": "read", "url": "s3://acme/web/**/*.jsonl", "failure": null}],
    })
}

pub(super) fn tried(url: &str, failure: Option<&str>) -> Value {
    let of = |verb: &str| json!({"verb": verb, "url": url, "failure": failure});
    ["put", "conditional put", "multipart upload", "ranged get", "list", "delete"].map(of).as_slice().into()
}

pub(super) fn granted(parts: &[Part], allowed: &dyn Fn(&str, &str) -> Option<bool>) -> Value {
    let of_parts = RIGHTS.iter().filter(|right| parts.contains(&right.part));
    let verbs = of_parts.flat_map(|right| right.verbs.iter().map(move |verb| (right, verb)));
    verbs
        .map(|(right, verb)| {
            json!({"group": right.group, "resource": right.resource, "verb": verb, "allowed": allowed(right.resource, verb)})
        })
        .collect()
}
