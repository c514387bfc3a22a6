//! An API server that answers what a test says, on a port of this machine; and a folder's objects served by one.

#![allow(dead_code, reason = "not every test uses all of it")]
#![allow(clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use eagleray_kube::manifest::{self, Node};
use serde_json::{Map, Value, json};

/// `GET /api/v1/pods?limit=250` and a body, in the order in which they came.
pub(crate) type Requests = Arc<Mutex<Vec<(String, String)>>>;

/// A server of plain HTTP that answers each request alike, and the kubeconfig that leads to it.
pub(crate) fn listen(
    answer: impl Fn(&str) -> (u16, Value) + Send + 'static,
) -> (tempfile::TempDir, PathBuf, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Requests::default();
    let heard = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let (mut length, mut header) = (0, String::new());
            while reader.read_line(&mut header).is_ok() && header != "\r\n" {
                if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                header.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let asked = line.rsplit_once(' ').unwrap().0.to_owned();
            let (status, value) = answer(&asked);
            heard.lock().unwrap().push((asked, String::from_utf8(body).unwrap()));
            let text = value.to_string();
            let head =
                format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let _ = write!(stream, "{head}content-length: {}\r\n\r\n{text}", text.len());
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "training"}}],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    (folder, path, requests)
}

pub(crate) fn refusal(code: u16, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "x"}),
    )
}

/// YAML as JSON, plain scalars by their own type.
fn plain(node: &Node) -> Value {
    match &node.value {
        manifest::Value::Scalar { text, plain: true } => match text.as_str() {
            "" | "~" | "null" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        },
        manifest::Value::Scalar { text, .. } => text.clone().into(),
        manifest::Value::List(items) => items.iter().map(plain).collect(),
        manifest::Value::Mapping(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), plain(&entry.node))).collect::<Map<_, _>>().into()
        }
    }
}

/// The documents of a text as JSON, empty ones left out.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let read = manifest::read(text).into_iter();
    read.map(|document| plain(&document.unwrap_or_else(|error| panic!("{error:?}\n{text}"))))
        .filter(|document| !document.is_null())
        .collect()
}

/// The objects of a text, as a cluster holds them: with what its API server and its controllers write.
pub(crate) fn stored(text: &str) -> Vec<Value> {
    let mut objects = documents(text);
    // A configuration file is no object.
    objects.retain(|object| object["metadata"].is_object());
    for (number, object) in objects.iter_mut().enumerate() {
        object["status"] =
            json!({"conditions": [{"type": "Ready", "status": "True", "message": "$NOT_FILLED_IN"}]});
        let applied = object.to_string();
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("uid".into(), format!("u{number}").into());
        metadata.insert("creationTimestamp".into(), "2026-11-29T11:00:00Z".into());
        metadata.insert("managedFields".into(), json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]));
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations["kubectl.kubernetes.io/last-applied-configuration"] = applied.into();
        defaults(object);
    }
    objects
}

/// What the definitions of `KubeRay` and Karpenter fill in.
fn defaults(object: &mut Value) {
    let fill = |value: &mut Value, given: Value| {
        if let (Value::Object(fields), Value::Object(given)) = (value, given) {
            for (key, value) in given {
                fields.entry(key).or_insert(value);
            }
        }
    };
    let kind = object["kind"].clone();
    let spec = &mut object["spec"];
    if kind == "RayJob" {
        fill(spec, json!({"backoffLimit": 0, "submissionMode": "K8sJobMode", "ttlSecondsAfterFinished": 0}));
    }
    let cluster = if kind == "RayJob" { &mut spec["rayClusterSpec"] } else { &mut *spec };
    if kind == "RayJob" || kind == "RayCluster" {
        for group in cluster["workerGroupSpecs"].as_array_mut().into_iter().flatten() {
            fill(group, json!({"minReplicas": 0, "maxReplicas": i32::MAX, "numOfHosts": 1, "replicas": 0}));
        }
    }
    if kind == "NodePool" {
        fill(spec, json!({"disruption": {}}));
        let disruption = json!({"consolidateAfter": "0s", "consolidationPolicy": "WhenEmptyOrUnderutilized",
            "budgets": [{"nodes": "10%"}]});
        fill(&mut spec["disruption"], disruption);
        fill(&mut spec["template"]["spec"], json!({"expireAfter": "720h"}));
    }
}

/// `rayjobs` of `RayJob`.
fn plural(kind: &str) -> String {
    let name = kind.to_lowercase();
    if name.ends_with("class") { format!("{name}es") } else { format!("{name}s") }
}

/// Answers as an API server that holds these objects, one to a page; kinds of which it has none are not served.
pub(crate) fn hold(objects: Vec<Value>) -> impl Fn(&str) -> (u16, Value) + Send + 'static {
    move |asked| {
        let (path, query) = asked.split_once(' ').unwrap().1.split_once('?').unwrap_or((&asked[4..], ""));
        let mut steps: Vec<&str> = path.split('/').skip(1).collect();
        let version =
            if steps[0] == "api" { steps[1].to_owned() } else { format!("{}/{}", steps[1], steps[2]) };
        steps.drain(..if steps[0] == "api" { 2 } else { 3 });
        let namespace = (steps[0] == "namespaces" && steps.len() > 2).then(|| steps[1].to_owned());
        steps.drain(..if namespace.is_some() { 2 } else { 0 });
        let served = |object: &&Value| {
            object["apiVersion"] == version && plural(object["kind"].as_str().unwrap()) == steps[0]
        };
        let there = |object: &&Value| {
            namespace.as_ref().is_none_or(|name| object["metadata"]["namespace"].as_str() == Some(name))
        };
        if !objects.iter().any(|object| served(&object)) {
            return refusal(404, "404 page not found");
        }
        let mut found: Vec<&Value> = objects.iter().filter(served).filter(there).collect();
        if let Some(name) = steps.get(1) {
            found.retain(|object| object["metadata"]["name"] == *name);
            return found.first().map_or_else(
                || refusal(404, &format!("{} \"{name}\" not found", steps[0])),
                |object| (200, (*object).clone()),
            );
        }
        let page = query
            .split("continue=")
            .nth(1)
            .and_then(|rest| rest.split('&').next()?.parse().ok())
            .unwrap_or(0);
        let next = if page + 1 < found.len() { (page + 1).to_string() } else { String::new() };
        let mut items: Vec<Value> = found.into_iter().skip(page).take(1).cloned().collect();
        for item in items.iter_mut().filter(|_| !version.contains('.')) {
            // The items of kinds that Kubernetes brings do not say what they are.
            item.as_object_mut().unwrap().retain(|key, _| key != "apiVersion" && key != "kind");
        }
        (200, json!({"metadata": {"continue": next}, "items": items}))
    }
}
