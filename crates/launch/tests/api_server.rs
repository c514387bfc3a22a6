//! What is asked of an API server, and what is made of its answers: against one that answers what a test says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Requests, listen, refusal};
use eagleray_base::Kind;
use eagleray_launch::cluster::{Cluster, Connection};
use eagleray_launch::driver;
use eagleray_launch::launches::Launch;
use eagleray_launch::leaks::{Class, ask_heads, holdings, leaks};
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

/// A cluster for people, as `render --kind cluster` makes it.
fn standing(name: &str) -> Value {
    json!({"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": {},
        "metadata": {"name": name, "namespace": "training", "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-11-29T11:00:00Z", "labels": {"eagleray/run": "solar"}},
        "status": {"head": {"serviceName": format!("{name}-head-svc")}}})
}

#[test]
fn a_cluster_for_people_is_idle_by_its_own_word_alone_and_never_deleted() {
    let created = 1_795_950_000;
    let hour = 3_600;
    let (cluster, requests) = serve(move |asked| {
        let job = |kind: &str, status: &str, ended: i64| json!({"type": kind, "status": status, "end_time": ended * 1_000});
        let done = job("SUBMISSION", "SUCCEEDED", created + hour);
        let mut all: Vec<Value> =
            ["busy", "empty", "ended", "forbidden", "recent", "starting", "token"].map(standing).into();
        all[5]["status"]["conditions"] =
            json!([{"type": "HeadPodReady", "status": "False", "reason": "Pending"}]);
        all[6]["spec"]["authOptions"] = json!({"mode": "token"});
        // What somebody else labelled so little is not ours, and what a service made has its own work.
        let mut foreign = standing("foreign");
        foreign["metadata"]["labels"] = json!({});
        let mut service = standing("service");
        service["metadata"]["labels"]["ray.io/originated-from-crd"] = json!("RayService");
        all.extend([foreign, service]);
        let path = asked.split(['?', ' ']).nth(1).unwrap();
        let of =
            |name: &str| format!("/api/v1/namespaces/training/services/{name}-head-svc:8265/proxy/api/jobs/");
        if path == of("busy") {
            return (200, json!([done, job("DRIVER", "RUNNING", 0)]));
        } else if path == of("empty") {
            return (200, json!([]));
        } else if path == of("ended") || path == of("token") {
            return (200, json!([done, job("DRIVER", "SUCCEEDED", created + 2 * hour)]));
        } else if path == of("forbidden") {
            return refusal(403, "services is forbidden");
        } else if path == of("recent") {
            return (200, json!([job("DRIVER", "SUCCEEDED", created + 20 * hour), done]));
        }
        if let Some(name) = path.strip_prefix("/apis/ray.io/v1/namespaces/training/rayclusters/") {
            let found = all.into_iter().find(|ray| ray["metadata"]["name"] == name).unwrap();
            return (200, found);
        }
        match path.rsplit('/').next() {
            Some("rayclusters") => (200, json!({"metadata": {}, "items": all})),
            Some("token") => (200, json!({"data": {"auth_token": "c2VjcmV0"}})),
            Some("pods") => {
                let mut held = pod(1);
                held["metadata"]["namespace"] = json!("training");
                held["metadata"]["labels"] = json!({"eagleray/run": "solar", "ray.io/cluster": "ended"});
                held["spec"]["containers"] = json!([{"resources": {"limits": {"nvidia.com/gpu": 8}}}]);
                (200, json!({"metadata": {}, "items": [held]}))
            }
            _ => (200, json!({"metadata": {}, "items": []})),
        }
    });
    let now = created + 24 * hour;
    let mut held = holdings(&cluster, Some("training")).unwrap();
    assert!(leaks(&held, now, true).is_empty(), "nobody has asked");
    ask_heads(&cluster, &mut held, now, Duration::from_hours(12));
    let found = leaks(&held, now, true);
    let told: Vec<(&str, u64, i64)> =
        found.iter().map(|leak| (leak.object.name.as_str(), leak.gpus, leak.since)).collect();
    assert_eq!(
        told,
        [("ended", 8, created + 2 * hour), ("empty", 0, created), ("token", 0, created + 2 * hour)]
    );
    assert!(found.iter().all(|leak| leak.class == Class::IdleCluster));
    assert_eq!(
        held.unseen,
        [
            "cannot ask the head of `forbidden` whether anything runs on it: /api/v1/namespaces/training/services/forbidden-head-svc:8265/proxy/api/jobs/: services is forbidden",
            "cannot ask the head of `starting` whether anything runs on it: it is not ready: Pending",
        ]
    );
    let error = found[0].mend(&cluster).unwrap_err();
    assert_eq!(error.message(), "somebody may work on RayCluster training/ended");
    let asked = requests.lock().unwrap().clone();
    assert!(asked.iter().all(|(asked, _)| asked.starts_with("GET ")), "{asked:?}");
    assert!(!asked.iter().any(|(asked, _)| asked.contains("foreign") || asked.contains("/service-head")));
    // Nobody is asked what a cluster did that is younger than the patience.
    let mut young = holdings(&cluster, Some("training")).unwrap();
    let before = requests.lock().unwrap().len();
    ask_heads(&cluster, &mut young, now, Duration::from_hours(25));
    assert_eq!(requests.lock().unwrap().len(), before);
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

/// The cluster whose API server is a listener of the test.
fn at(listener: &TcpListener) -> (tempfile::TempDir, Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": format!("http://{}", listener.local_addr().unwrap())}}],
        "users": [{"name": "a", "user": {}}], "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
    std::fs::write(&path, config.to_string()).unwrap();
    let cluster = Cluster::connect(&Connection { kubeconfig: Some(path), ..Connection::default() }).unwrap();
    (folder, cluster)
}

/// How an output ends.
#[derive(Clone, Copy)]
enum End {
    Silent,
    Broken,
    Whole,
}

/// What following an output gives whose connections, one after the other, bring these lines and end so; and what was
/// asked for.
fn followed(
    connections: Vec<(&'static str, End)>,
    silence: Duration,
) -> (eagleray_base::Result<()>, Vec<String>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_folder, cluster) = at(&listener);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for (lines, end) in connections {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).unwrap() > 2 {}
            heard.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
            let text = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{lines}\r\n",
                lines.len()
            );
            stream.write_all(text.as_bytes()).unwrap();
            match end {
                End::Silent => open.push(stream),
                End::Broken => {}
                End::Whole => stream.write_all(b"0\r\n\r\n").unwrap(),
            }
        }
    });
    let mut told = Vec::new();
    let done = cluster.follow(("training", "p1", None), 2, silence, &mut |line| {
        told.push(line.to_owned());
        Ok(())
    });
    let asked = asked.lock().unwrap().clone();
    (done, told, asked)
}

#[test]
fn an_output_is_followed_over_connections_that_die() {
    let connections = vec![
        ("2026-11-29T11:00:05.1Z step 1\n2026-11-29T11:00:05.2Z step 2\n", End::Silent),
        (
            "2026-11-29T11:00:05.1Z step 1\n2026-11-29T11:00:05.2Z step 2\n2026-11-29T11:00:09.5Z step 3\n",
            End::Broken,
        ),
        ("2026-11-29T11:00:09.5Z step 3\n2026-11-29T11:00:09.6Z step 4\n", End::Whole),
    ];
    let (done, told, asked) = followed(connections, Duration::from_millis(300));
    done.unwrap();
    assert_eq!(told, ["step 1", "step 2", "step 3", "step 4"]);
    assert!(asked[0].contains("tailLines=2") && !asked[0].contains("sinceTime"), "{asked:?}");
    let since = |index: usize, time: &str| {
        asked[index].contains(&format!("sinceTime=2026-11-29T11%3A00%3A{time}"))
            && !asked[index].contains("tail")
    };
    assert!(since(1, "03") && since(2, "07"), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.contains("follow=true") && asked.contains("timestamps=true")));
}

#[test]
fn an_output_that_breaks_off_again_and_again_is_given_up() {
    let line = "2026-11-29T11:00:05Z step 1\n";
    let (done, told, asked) = followed(vec![(line, End::Broken); 6], Duration::from_mins(1));
    let error = done.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Unavailable, "the output of pod `p1` broke off"));
    assert_eq!((told.len(), asked.len()), (1, 6));
}

#[test]
fn a_head_that_takes_a_request_and_never_answers_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_folder, cluster) = at(&silent);
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
