use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::watch::tests::anything::any_json;

const NOW: &str = "2026-11-29T12:00:00Z";

fn now() -> i64 {
    seconds(&json!(NOW)).unwrap()
}

fn job(name: &str, status: &Value) -> Value {
    let worker = json!({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]});
    json!({
        "metadata": {"name": name, "namespace": "training", "uid": format!("uid-{name}"),
            "labels": {(RUN_LABEL): "solar"}, "creationTimestamp": "2026-11-29T02:00:00Z"},
        "spec": {"rayClusterSpec": {"headGroupSpec": {},
            "workerGroupSpecs": [{"groupName": "od", "replicas": 4, "template": {"spec": worker}}]}},
        "status": status,
    })
}

fn cluster(name: &str, job: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "training", "uid": format!("uid-{name}"),
        "labels": {(RUN_LABEL): "solar", "ray.io/originated-from-crd": "RayJob", "ray.io/originated-from-cr-name": job},
        "creationTimestamp": "2026-11-29T02:01:00Z"}})
}

fn pod(name: &str, cluster: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "training", "uid": format!("uid-{name}"),
            "labels": {(RUN_LABEL): "solar", "ray.io/cluster": cluster}, "creationTimestamp": "2026-11-29T02:02:00Z"},
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": {"nvidia.com/gpu": 8}}}]},
        "status": {"phase": "Running"}})
}

fn held(jobs: &[Value], clusters: &[Value], pods: &[Value]) -> Holdings {
    Holdings {
        jobs: jobs.iter().map(Job::of).collect(),
        clusters: clusters.iter().map(Ray::of).collect(),
        pods: pods.iter().map(Pod::of).collect(),
        nodes: Some(BTreeMap::from([("alive".to_owned(), true), ("ill".to_owned(), false)])),
        ..Holdings::default()
    }
}

fn found(holdings: &Holdings) -> Vec<String> {
    let all = leaks(holdings, now(), false);
    all.iter()
        .map(|leak| format!("{} {} {} GPUs: {}", leak.class.name(), leak.what(), leak.gpus, leak.why))
        .collect()
}

fn running() -> Value {
    json!({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "startTime": "2026-11-29T02:05:00Z"})
}

fn complete(ended: &str) -> Value {
    json!({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "endTime": ended})
}

#[test]
fn what_works_is_no_leak() {
    let holdings = held(&[job("a-1", &running())], &[cluster("a-1-x", "a-1")], &[pod("p", "a-1-x", "alive")]);
    assert_eq!(found(&holdings), [""; 0]);
}

#[test]
fn a_refused_launch_holds_the_quota_that_it_was_given() {
    let refused = json!({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "name too long"});
    let mut holdings = held(&[job("a-1", &refused)], &[], &[]);
    assert_eq!(
        found(&holdings),
        ["refused RayJob training/a-1 0 GPUs: KubeRay refuses it: ValidationFailed: name too long"]
    );
    holdings.quota.insert("uid-a-1".into(), now() - 3_600);
    assert_eq!(
        found(&holdings),
        [
            "refused RayJob training/a-1 32 GPUs: KubeRay refuses it, and holds its quota: ValidationFailed: name too long"
        ]
    );
}

#[test]
fn a_suspended_launch_is_a_leak_only_with_quota() {
    let mut holdings = held(&[job("a-1", &json!({"jobDeploymentStatus": "Suspended"}))], &[], &[]);
    assert_eq!(found(&holdings), [""; 0], "it waits in its queue");
    holdings.quota.insert("uid-a-1".into(), now() - 60);
    assert_eq!(found(&holdings), [""; 0], "it was let in a moment ago");
    holdings.quota.insert("uid-a-1".into(), now() - 3_600);
    assert_eq!(found(&holdings), ["suspended RayJob training/a-1 32 GPUs: has quota, and is suspended"]);
}

#[test]
fn a_cluster_may_stay_as_long_as_its_job_says_and_not_longer() {
    let mut ended = job("a-1", &complete("2026-11-29T11:30:00Z"));
    let of = |job: &Value| {
        found(&held(std::slice::from_ref(job), &[cluster("a-1-x", "a-1")], &[pod("p", "a-1-x", "alive")]))
    };
    let past = "past-its-job RayCluster training/a-1-x 8 GPUs: its RayJob `a-1` has succeeded";
    assert_eq!(of(&ended), [past]);
    ended["spec"]["deletionStrategy"]["deletionRules"] = json!([{"condition": {"ttlSeconds": 3600}}]);
    assert_eq!(
        of(&ended),
        [
            "idle-gpus RayCluster training/a-1-x 8 GPUs: its RayJob `a-1` has succeeded, and keeps its GPUs for 1 h 00 m"
        ]
    );
    ended["spec"]["deletionStrategy"]["deletionRules"][0]["condition"]["ttlSeconds"] = json!(60);
    assert_eq!(of(&ended), [past]);
    assert_eq!(of(&job("a-1", &complete("2026-11-29T11:58:00Z"))), [""; 0], "KubeRay is at it");
}

#[test]
fn a_cluster_without_its_job_and_pods_without_their_cluster_are_found() {
    let alone = held(&[], &[cluster("a-1-x", "a-1")], &[pod("p", "a-1-x", "alive")]);
    assert_eq!(found(&alone), ["past-its-job RayCluster training/a-1-x 8 GPUs: its RayJob `a-1` is gone"]);
    let orphan = held(&[], &[], &[pod("p", "a-1-x", "alive")]);
    assert_eq!(found(&orphan), ["idle-gpus Pod training/p 8 GPUs: its RayCluster `a-1-x` is gone"]);
    let mut standing = cluster("notebook", "");
    standing["metadata"]["labels"] = json!({(RUN_LABEL): "solar"});
    assert_eq!(found(&held(&[], &[standing], &[pod("p", "notebook", "alive")])), [""; 0], "nobody's job");
}

#[test]
fn a_cluster_for_people_that_has_nothing_to_do_is_told_of_and_left() {
    let mut standing = cluster("notebook", "");
    standing["metadata"]["labels"] = json!({(RUN_LABEL): "solar"});
    let mut holdings = held(&[], &[standing], &[pod("p", "notebook", "alive")]);
    assert!(holdings.clusters[0].alone && !Ray::of(&cluster("a-1-x", "a-1")).alone);
    holdings.clusters[0].idle = Some(now() - 50_400);
    assert_eq!(
        found(&holdings),
        ["idle-cluster RayCluster training/notebook 8 GPUs: no job has run on it for 14 h 00 m"]
    );
    let leak = leaks(&holdings, now(), false).remove(0);
    assert_eq!((leak.since, leak.fix.is_safe()), (now() - 50_400, false));
    assert_eq!(leak.remedy(), "kubectl -n training delete raycluster notebook");
    holdings.clusters[0].name.deleting = Some(now());
    assert_eq!(found(&holdings), [""; 0]);
}

#[test]
fn a_head_is_as_old_as_its_container_of_ray() {
    let mut head = pod("p", "notebook", "alive");
    head["spec"]["containers"][0]["name"] = json!("ray-head");
    head["status"]["containerStatuses"] = json!([
        {"name": "autoscaler", "state": {"running": {"startedAt": "2026-11-29T11:59:00Z"}}},
        {"name": "ray-head", "state": {"running": {"startedAt": NOW}}},
    ]);
    assert_eq!(Pod::of(&head).head_since, None, "a worker");
    head["metadata"]["labels"]["ray.io/node-type"] = json!("head");
    assert_eq!(Pod::of(&head).head_since, Some(now()));
    head["status"]["containerStatuses"][1]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    assert_eq!(Pod::of(&head).head_since, None);
}

#[test]
fn a_pod_that_does_not_go_is_a_leak_on_a_dead_node_alone() {
    let of = |node: &str, gone_by: &str| {
        let mut pod = pod("p", "a-1-x", node);
        pod["metadata"]["deletionTimestamp"] = json!(gone_by);
        found(&held(&[job("a-1", &running())], &[cluster("a-1-x", "a-1")], &[pod]))
    };
    let late = "2026-11-29T11:50:00Z";
    let why = |state| format!("terminating Pod training/p 8 GPUs: its grace is over, and its node {state}");
    assert_eq!(of("alive", late), [""; 0]);
    assert_eq!(of("ill", late), [why("`ill` is not ready")]);
    assert_eq!(of("lost", late), [why("`lost` is gone")]);
    assert_eq!(of("lost", "2026-11-29T11:59:30Z"), [""; 0]);
    let mut blind = held(&[], &[], &[pod("p", "a-1-x", "lost")]);
    blind.pods[0].name.deleting = Some(0);
    blind.nodes = None;
    assert_eq!(found(&blind), [""; 0], "nobody knows the nodes");
}

#[test]
fn a_launch_is_told_of_whose_driver_is_silent_since_it_began() {
    let mut holdings = held(&[job("a-1", &running())], &[], &[]);
    let mut of = |state, last| {
        holdings.jobs[0].driver = Some(Driver { state, last });
        found(&holdings)
    };
    let silent = ["no-driver RayJob training/a-1 32 GPUs: its driver gives no sign of life"];
    assert_eq!(of(RunState::Dead, now() - 7_200), silent);
    assert_eq!(of(RunState::Dead, now() - 60), [""; 0]);
    assert_eq!(of(RunState::New, 0), silent);
    assert_eq!(of(RunState::Running, 0), [""; 0]);
    holdings.jobs[0].started = Some(now() - 60);
    holdings.jobs[0].driver = Some(Driver { state: RunState::Dead, last: now() - 7_200 });
    assert_eq!(found(&holdings), [""; 0], "what died is the launch before");
}

#[test]
fn what_is_not_ours_is_told_of_only_when_asked_for() {
    let mut other = cluster("a-1-x", "a-1");
    other["metadata"]["labels"].as_object_mut().unwrap().remove(RUN_LABEL);
    let holdings = held(&[], &[other], &[]);
    assert_eq!(leaks(&holdings, now(), false), []);
    assert_eq!(leaks(&holdings, now(), true).len(), 1);
}

#[test]
fn remedies_can_be_pasted_and_the_dearest_stands_first() {
    let mut stuck = pod("p", "a-1-x", "lost");
    stuck["metadata"]["deletionTimestamp"] = json!("2026-11-29T11:00:00Z");
    let refused = job("a-1", &json!({"jobDeploymentStatus": "ValidationFailed"}));
    let found = leaks(&held(&[refused], &[], &[stuck]), now(), false);
    let remedies: Vec<String> = found.iter().map(Leak::remedy).collect();
    assert_eq!(
        remedies,
        [
            "kubectl -n training delete pod p --force --grace-period=0",
            "kubectl -n training delete rayjob a-1"
        ]
    );
}

#[test]
fn quota_is_whose_workload_it_is() {
    let mut workload = json!({
        "metadata": {"ownerReferences": [{"kind": "RayJob", "uid": "u"}]},
        "status": {"conditions": [{"type": "QuotaReserved", "status": "True", "lastTransitionTime": NOW}]},
    });
    assert_eq!(quota(&workload), Some(("u".to_owned(), now())));
    workload["status"]["conditions"][0]["status"] = json!("False");
    assert_eq!(quota(&workload), None);
}

proptest! {
    #[test]
    fn no_object_makes_it_panic(jobs in any_json(), clusters in any_json(), pods in any_json(), now in any::<i64>()) {
        let holdings = held(&[jobs], &[clusters], &[pods]);
        leaks(&holdings, now, true);
    }
}
