//! Asking for what is judged, before an API server that answers from a table.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use eagleray_launch::cluster::{Cluster, Connection};
use eagleray_launch::doctor::{Level, Report, Wanted, gather, judge};
use serde_json::{Value, json};

const TOKEN: &str = "planted-token";

/// What the server answers: to an account that may launch, but not patch `RayJob`s or see nodes.
fn answer(method: &str, path: &str, body: &Value) -> (u16, String) {
    let group = |name: &str, version: &str| json!({"name": name, "versions": [{"groupVersion": format!("{name}/{version}"), "version": version}]});
    let list = |items: Value| json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
    let found = match (method, path.split('?').next().unwrap()) {
        ("GET", "/version") => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        }),
        ("GET", "/apis") => {
            json!({"kind": "APIGroupList", "groups": [group("ray.io", "v1"), group("karpenter.sh", "v1"), group("karpenter.k8s.aws", "v1")]})
        }
        ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews") => {
            json!({"status": {"userInfo": {"username": "jane"}}})
        }
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews") => {
            let asked = &body["spec"]["resourceAttributes"];
            json!({"status": {"allowed": asked["resource"] != "rayjobs" || asked["verb"] != "patch"}})
        }
        ("GET", "/apis/apps/v1/deployments") => list(json!([{
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "kuberay-operator", "namespace": "kuberay-system"},
            "spec": {"template": {"spec": {"containers": [{"image": "quay.io/kuberay/operator:v1.7.0", "env": [{"name": "PASSWORD", "value": TOKEN}]}]}}},
            "status": {"readyReplicas": 1},
        }])),
        ("GET", "/api/v1/namespaces/training") => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "training"}})
        }
        ("GET", "/api/v1/namespaces/training/secrets/wandb") => {
            return (404, status(404, "NotFound", "secrets \"wandb\" not found"));
        }
        ("GET", path) if path.starts_with("/api/v1/namespaces/training/") => list(json!([])),
        ("GET", path) if path.starts_with("/api") => {
            return (403, status(403, "Forbidden", "nodes is forbidden: User \"jane\" cannot list it"));
        }
        _ => {
            return (
                403,
                "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>".to_owned(),
            );
        }
    };
    (200, found.to_string())
}

fn status(code: u16, reason: &str, message: &str) -> String {
    let details = if code == 404 { json!({"name": "wandb", "kind": "secrets"}) } else { json!({}) };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "details": details, "code": code}).to_string()
}

fn serve(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap_or("/"));
    let (code, text) = answer(method, path, &serde_json::from_slice(&body).unwrap_or_default());
    let _ = write!(
        stream,
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    if method != "HEAD" {
        let _ = stream.write_all(text.as_bytes());
    }
}

/// A server of its own for each test, gone with the process.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// A way to the server.
fn cluster(folder: &tempfile::TempDir) -> Cluster {
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u, namespace: training}}}}]\nclusters: [{{name: c, cluster: {{server: \"http://127.0.0.1:{}\"}}}}]\nusers: [{{name: u, user: {{token: {TOKEN}}}}}]\n",
        server()
    );
    let path = folder.path().join("config");
    std::fs::write(&path, config).unwrap();
    Cluster::connect(&Connection { kubeconfig: Some(path), ..Connection::default() }).unwrap()
}

#[test]
fn each_answer_is_told_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(&folder);
    let container = json!({"name": "ray", "envFrom": [{"secretRef": {"name": "wandb"}}], "resources": {"limits": {"nvidia.com/gpu": "8"}}});
    let group = json!({"groupName": "a", "replicas": 1, "template": {"spec": {"containers": [container]}}});
    let job = json!({"kind": "RayJob", "metadata": {"name": "solar-1"}, "spec": {"rayClusterSpec": {"workerGroupSpecs": [group]}}});
    let wanted =
        Wanted { namespace: cluster.namespace().into(), rendered: vec![job], kuberay: Some("1.7".into()) };
    let facts = gather(&cluster, wanted);
    assert_eq!(facts.user.as_deref(), Some("jane"));
    assert_eq!((facts.namespace.as_str(), facts.pods.found().map(<[Value]>::len)), ("training", Some(0)));
    let report = Report(judge(&facts));
    let has = |id: &str, level: Level, words: &str| {
        let found = report
            .0
            .iter()
            .any(|finding| finding.id == id && finding.level == level && finding.seen.contains(words));
        assert!(found, "no {} `{id}` with `{words}` in\n{}", level.name(), report.text());
    };
    has("api-server", Level::Ok, "v1.36.3");
    has("rights", Level::Error, "missing for launch: patch rayjobs.ray.io");
    has("rights", Level::Ok, "all that logs needs, in `training`");
    has("kuberay-version", Level::Ok, "kuberay-system/kuberay-operator");
    has(
        "kuberay-definition",
        Level::Unknown,
        "the right to get customresourcedefinitions.apiextensions.k8s.io is missing",
    );
    has("kueue-missing", Level::Info, "no Kueue");
    has("nvidia-plugin", Level::Unknown, "the right to list nodes is missing");
    has("karpenter-pools", Level::Unknown, "the right to list nodepools.karpenter.sh is missing");
    has("namespace", Level::Ok, "`training` is there");
    has("secrets", Level::Error, "`wandb`");
    assert!(!report.text().contains(TOKEN) && !report.json().to_string().contains(TOKEN));
}
