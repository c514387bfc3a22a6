//! What is asked of an API server, and what is made of its answers: against one that answers what a test says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Requests, listen, refusal};
use eagleray_base::Kind;
use eagleray_launch::cluster::{Cluster, Connection};
use eagleray_launch::driver;
use eagleray_launch::launches::Launch;
use eagleray_launch::leaks::{holdings, leaks};
use eagleray_launch::watch::{Phase, Watcher, groups, tell};
use serde_json::{Value, json};

mod common;

/// A server that answers each request alike, and the cluster that it plays.
fn serve(answer: impl Fn(&str) -> (u16, Value) + Send + 'static) -> (Cluster, Requests) {
    let (_folder, path, requests) = listen(answer);
    let cluster = Cluster::connect(&Connection { kubeconfig: Some(path), ..Connection::default() }).unwrap();
    (cluster, requests)
}

fn job() -> Value {
    let group = json!({"groupName": "od", "replicas": 600});
    json!({"apiVersion": "ray.io/v1", "kind": "RayJob",
        "metadata": {"name": "solar-1", "namespace": "training", "uid": "u1", "creationTimestamp": "2026-11-29T11:00:00Z",
            "labels": {"eagleray/run": "solar", "kueue.x-k8s.io/queue-name": "research"}},
        "spec": {"rayClusterSpec": {"headGroupSpec": {}, "workerGroupSpecs": [group]}},
        "status": {"jobDeploymentStatus": "Initializing", "rayClusterName": "solar-1-x"}})
}

fn ray() -> Value {
    json!({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "solar-1-x", "namespace": "training"},
        "spec": job()["spec"]["rayClusterSpec"]})
}

fn pod(number: usize) -> Value {
    json!({"metadata": {"name": format!("p{number}"), "labels": {"ray.io/group": "od", "ray.io/node-type": "worker"}},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}})
}

#[test]
fn all_pages_are_read_and_what_may_not_be_read_is_named_once() {
    let (cluster, requests) = serve(|asked| {
        let page =
            asked.split("continue=").nth(1).and_then(|rest| rest[..1].parse::<usize>().ok()).unwrap_or(0);
        match asked.split(['?', ' ']).nth(1).unwrap() {
            "/apis/ray.io/v1/namespaces/training/rayjobs/solar-1" => (200, job()),
            "/apis/ray.io/v1/namespaces/training/rayclusters/solar-1-x" => (200, ray()),
            "/api/v1/namespaces/training/pods" => {
                let next = if page < 2 { (page + 1).to_string() } else { String::new() };
                let items: Vec<Value> = (page * 200..page * 200 + 200).map(pod).collect();
                (200, json!({"metadata": {"continue": next}, "items": items}))
            }
            "/api/v1/nodes" => refusal(403, "nodes is forbidden"),
            path if path.contains("workloads") || path.contains("nodeclaims") => {
                refusal(404, "404 page not found")
            }
            _ => (200, json!({"metadata": {}, "items": null})),
        }
    });
    let launch = Launch::of(&job()).unwrap();
    let mut watcher = Watcher::new(&cluster, &launch, "memory://watched");
    let situation = watcher.look(0).unwrap();
    assert_eq!(situation.pods.len(), 600);
    let told = tell(&situation);
    assert_eq!(
        (told.phase, told.line.as_str()),
        (Phase::Images, "images and volumes of 600 pods are fetched")
    );
    assert_eq!(groups(&situation)[1].starting, 600);
    assert_eq!(
        watcher.unseen(),
        [
            "cannot look at Karpenter's machines: nodeclaims: the cluster has no such kind",
            "cannot look at Kueue's workloads: workloads: the cluster has no such kind",
            "cannot look at nodes: nodes: nodes is forbidden",
        ]
    );
    watcher.look(0).unwrap();
    assert_eq!(watcher.unseen(), [""; 0]);
    let requests = requests.lock().unwrap();
    let asked = |part: &str| requests.iter().filter(|(asked, _)| asked.contains(part)).count();
    assert_eq!((asked("/pods?"), asked("/nodes?"), asked("/workloads?")), (6, 1, 1));
    assert!(requests.iter().any(|(asked, _)| asked.contains("labelSelector=eagleray%2Flaunch%3Dsolar-1")));
}

#[test]
fn a_launch_that_is_gone_is_told_of() {
    let (cluster, _) = serve(|_| refusal(404, "rayjobs.ray.io \"solar-1\" not found"));
    let launch = Launch::of(&job()).unwrap();
    let mut watcher = Watcher::new(&cluster, &launch, "memory://gone");
    assert_eq!(tell(&watcher.look(0).unwrap()).phase, Phase::Gone);
}

#[test]
fn a_leak_is_mended_by_its_identity_and_a_dead_pod_at_once() {
    let (cluster, requests) = serve(|asked| {
        let mut stuck = pod(1);
        stuck["metadata"]["uid"] = json!("u2");
        stuck["metadata"]["namespace"] = json!("training");
        stuck["metadata"]["deletionTimestamp"] = json!("2026-11-29T11:00:00Z");
        stuck["metadata"]["labels"]["eagleray/run"] = json!("solar");
        match asked.split(['?', ' ']).nth(1).unwrap() {
            "/api/v1/namespaces/training/pods" => (200, json!({"metadata": {}, "items": [stuck]})),
            path if path.ends_with("/pods/p1") => refusal(404, "pods \"p1\" not found"),
            _ => (200, json!({"metadata": {}, "items": []})),
        }
    });
    let held = holdings(&cluster, Some("training")).unwrap();
    let found = leaks(&held, 1_900_000_000, false);
    assert_eq!(found.len(), 1);
    assert!(!found[0].mend(&cluster).unwrap(), "it went by itself meanwhile");
    let requests = requests.lock().unwrap();
    let (asked, body) = requests.last().unwrap();
    assert!(asked.starts_with("DELETE /api/v1/namespaces/training/pods/p1"), "{asked}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["gracePeriodSeconds"], &body["preconditions"]["uid"]), (&json!(0), &json!("u2")));
}

#[test]
fn a_leak_that_may_not_be_ended_is_told_with_the_key_that_gives_the_right() {
    let (cluster, _) = serve(|asked| {
        let mut orphan = ray();
        let labels = json!({"eagleray/run": "solar", "ray.io/originated-from-crd": "RayJob",
            "ray.io/originated-from-cr-name": "solar-1"});
        orphan["metadata"]["labels"] = labels;
        if asked.starts_with("DELETE") {
            return refusal(403, "rayclusters.ray.io \"solar-1-x\" is forbidden: User \"bot\" cannot delete");
        }
        let items = if asked.contains("/rayclusters?") { vec![orphan] } else { Vec::new() };
        (200, json!({"metadata": {}, "items": items}))
    });
    let found = leaks(&holdings(&cluster, Some("training")).unwrap(), 1_900_000_000, false);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].mend(&cluster).unwrap_err().hint(),
        Some(
            "it takes the right to delete rayclusters.ray.io in `training`; `rights.leaks` of the chart gives it"
        )
    );
}

#[test]
fn a_head_that_is_not_ready_is_told_of_and_not_asked() {
    let (cluster, requests) = serve(|_| {
        let mut starting = ray();
        starting["status"]["conditions"] = json!([{"type": "HeadPodReady", "status": "False",
            "reason": "ContainersNotReady", "message": "containers with unready status: [ray-head]"}]);
        (200, starting)
    });
    let error = driver::output(&cluster, &Launch::of(&job()).unwrap()).unwrap_err();
    assert_eq!(
        error.message(),
        "the head of launch `solar-1` is not ready: ContainersNotReady: containers with unready status: [ray-head]"
    );
    assert_eq!(requests.lock().unwrap().len(), 1);
    let mut suspended = job();
    suspended["status"] = json!({"jobDeploymentStatus": "Suspended"});
    let error = driver::output(&cluster, &Launch::of(&suspended).unwrap()).unwrap_err();
    assert_eq!(error.message(), "launch `solar-1` is suspended, and has no cluster yet");
}

#[test]
fn a_head_that_takes_a_request_and_never_answers_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": format!("http://{}", silent.local_addr().unwrap())}}],
        "users": [{"name": "a", "user": {}}], "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
    std::fs::write(&path, config.to_string()).unwrap();
    let cluster = Cluster::connect(&Connection { kubeconfig: Some(path), ..Connection::default() }).unwrap();
    let error = cluster.get_behind("/logs", None, Duration::from_millis(200)).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Unavailable, "/logs: no answer within 0.2 s"));
}

#[test]
fn what_is_tried_again_is_tried_again_here_alone() {
    let answered: Mutex<Option<Instant>> = Mutex::new(None);
    let pauses: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let noted = Arc::clone(&pauses);
    let (cluster, _) = serve(move |_| {
        if let Some(before) = answered.lock().unwrap().replace(Instant::now()) {
            noted.lock().unwrap().push(before.elapsed());
            return (200, json!({"logs": "step 1"}));
        }
        refusal(503, "no endpoints available for service \"solar-1-x-head-svc\"")
    });
    cluster.get_behind("/logs", None, Duration::from_mins(1)).unwrap();
    // Who asks again pauses behind the answer, so a busy machine only makes it longer.
    let pauses = pauses.lock().unwrap();
    assert!(matches!(pauses[..], [pause] if pause >= Duration::from_millis(500)), "{pauses:?}");
}
