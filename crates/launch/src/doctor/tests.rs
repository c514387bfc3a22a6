use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::rights::Part;
use super::*;
use fixture::{definition, fine, found, granted, job, served, tried};

mod fixture;

fn judged(facts: &Value) -> Vec<Finding> {
    judge(&serde_json::from_value(facts.clone()).unwrap())
}

/// The facts with one value in place of another.
fn with(pointer: &str, value: Value) -> Value {
    let mut facts = fine();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = facts.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        other => other[key.replace("~1", "/")] = value,
    }
    facts
}

#[test]
fn of_a_cluster_without_faults_every_finding_is_fine() {
    insta::assert_snapshot!("fine", Report(judged(&fine())).text());
}

/// What one change to a cluster without faults makes of the findings.
#[test]
fn each_fault_has_its_finding() {
    const OPERATOR: &str = "/operators/found/0/spec/template/spec/containers/0";
    const QUEUE: &str = "/cluster_queues/found/0";
    const LABELS: &str = "/namespaces/found/0/metadata/labels";
    let at = |root: &str, rest: &str| format!("{root}{rest}");
    let quota = "/spec/resourceGroups/0/flavors/0/resources";
    let flavors: Value = (0..2).map(|_| json!({"resources": [{"name": "cpu", "nominalQuota": "300"}, {"name": "memory", "nominalQuota": "8Ti"}, {"name": "nvidia.com/gpu", "nominalQuota": "32"}, {"name": "vpc.amazonaws.com/efa", "nominalQuota": "128"}]})).collect();
    let cases: Vec<(&str, String, Value)> = vec![
        ("nobody answers", "/version".into(), json!({"failed": "`https://k8s` does not answer"})),
        (
            "a verb is missing",
            "/rights".into(),
            granted(&[Part::Launch, Part::Logs, Part::Queue], &|resource, verb| {
                Some((resource, verb) != ("rayjobs", "patch"))
            }),
        ),
        ("nobody says what is allowed", "/rights".into(), json!([])),
        (
            "no KubeRay",
            "/groups".into(),
            found(&[
                served("kueue.x-k8s.io", "v1beta2"),
                served("karpenter.sh", "v1"),
                served("karpenter.k8s.aws", "v1"),
            ]),
        ),
        ("old KubeRay", "/groups/found/0".into(), served("ray.io", "v1alpha1")),
        ("no operator", "/operators".into(), found(&[])),
        ("operator elsewhere", at(OPERATOR, "/args"), json!(["--watch-namespace", "a,b"])),
        ("two operators", "/operators/found".into(), {
            let one = fine()["operators"]["found"][0].clone();
            json!([one, one])
        }),
        ("operator without pods", "/operators/found/0/status".into(), json!({})),
        ("operator of another version", at(OPERATOR, "/image"), json!("kuberay/operator:v1.6.2")),
        ("operator by digest", at(OPERATOR, "/image"), json!("kuberay/operator@sha256:00")),
        ("default time-outs", at(OPERATOR, "/env"), json!([])),
        (
            "short transition",
            at(OPERATOR, "/env/0"),
            json!({"name": "RAYJOB_DEPLOYMENT_STATUS_TRANSITION_GRACE_PERIOD_SECONDS", "value": "60"}),
        ),
        ("little memory", at(OPERATOR, "/resources/limits/memory"), json!("512Mi")),
        (
            "old definitions",
            "/definitions/rayjobs.ray.io".into(),
            found(&[definition(&json!({"jobId": {}}))]),
        ),
        (
            "no Kueue",
            "/groups".into(),
            found(&[served("ray.io", "v1"), served("karpenter.sh", "v1"), served("karpenter.k8s.aws", "v1")]),
        ),
        ("old Kueue", "/groups/found/1".into(), served("kueue.x-k8s.io", "v1beta1")),
        ("Kueue's manager is down", "/kueue/found/0/status".into(), json!({"readyReplicas": 0})),
        (
            "no integration",
            "/kueue_config/found/0/data/controller_manager_config.yaml".into(),
            json!("integrations: {frameworks: [batch/job]}\n"),
        ),
        (
            "impatient Kueue",
            "/kueue_config/found/0/data/controller_manager_config.yaml".into(),
            json!("integrations: {frameworks: [ray.io/rayjob]}\nwaitForPodsReady: {timeout: 5m}\n"),
        ),
        ("no such queue", "/local_queues/found/0/metadata/name".into(), json!("vision")),
        ("queue on hold", at(QUEUE, "/spec/stopPolicy"), json!("HoldAndDrain")),
        (
            "inactive queue",
            at(QUEUE, "/status/conditions/0"),
            json!({"type": "Active", "status": "False", "message": "flavor p5 not found"}),
        ),
        ("queue for nobody", at(QUEUE, "/spec/namespaceSelector"), Value::Null),
        (
            "queue for others",
            at(QUEUE, "/spec/namespaceSelector"),
            json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["vision"]}]}),
        ),
        (
            "EFA not covered",
            at(QUEUE, "/spec/resourceGroups/0"),
            json!({"coveredResources": ["cpu", "memory", "nvidia.com/gpu"], "flavors": []}),
        ),
        ("small quota", at(QUEUE, &format!("{quota}/2/nominalQuota")), json!("8")),
        ("small quota, in a cohort", at(QUEUE, "/spec"), {
            let mut spec = fine()["cluster_queues"]["found"][0]["spec"].clone();
            spec["cohortName"] = json!("all");
            spec["resourceGroups"][0]["flavors"][0]["resources"][2]["nominalQuota"] = json!("8");
            spec
        }),
        ("no flavor holds a group", at(QUEUE, "/spec/resourceGroups/0/flavors"), flavors),
        (
            "many groups",
            "/definitions/workloads.kueue.x-k8s.io".into(),
            found(&[definition(&json!({"podSets": {"maxItems": 1}}))]),
        ),
        ("no plugins", "/daemon_sets".into(), found(&[])),
        ("no plugins, no devices", String::new(), Value::Null),
        (
            "no Karpenter",
            "/groups".into(),
            found(&[served("ray.io", "v1"), served("kueue.x-k8s.io", "v1beta2")]),
        ),
        ("no pool", "/node_pools".into(), found(&[])),
        (
            "pool of other instances",
            "/node_pools/found/0/spec/template/spec/requirements/0/values".into(),
            json!(["g6.xlarge"]),
        ),
        ("small pool", "/node_pools/found/0/spec/limits".into(), json!({"nvidia.com/gpu": "16"})),
        (
            "pool not ready",
            "/node_pools/found/0/status/conditions/0".into(),
            json!({"type": "Ready", "status": "False", "message": "NodeClassNotFound"}),
        ),
        (
            "class not ready",
            "/node_classes/found/0/status/conditions/0".into(),
            json!({"type": "Ready", "status": "False", "message": "SubnetsNotFound"}),
        ),
        (
            "metadata for pods",
            "/node_classes/found/0/spec".into(),
            json!({"metadataOptions": {"httpPutResponseHopLimit": 2}}),
        ),
        ("no identity", "/rendered/1".into(), json!({"kind": "ConfigMap"})),
        ("no namespace", "/namespaces".into(), found(&[])),
        (
            "small ResourceQuota",
            "/quotas/found/0/spec/hard".into(),
            json!({"requests.nvidia.com/gpu": "8", "limits.memory": "1Ti"}),
        ),
        ("no room to grow", "/quotas/found/0/spec/hard".into(), json!({"requests.nvidia.com/gpu": "16"})),
        (
            "quota with scopes",
            "/quotas/found/0/spec".into(),
            json!({"scopes": ["BestEffort"], "hard": {"pods": "0"}}),
        ),
        (
            "small LimitRange",
            "/limit_ranges".into(),
            found(&[
                json!({"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "16"}}]}}),
            ]),
        ),
        ("restricted", at(LABELS, "/pod-security.kubernetes.io~1enforce"), json!("restricted")),
        ("baseline", at(LABELS, "/pod-security.kubernetes.io~1enforce"), json!("baseline")),
        ("sidecars", at(LABELS, "/istio-injection"), json!("enabled")),
        ("ambient", at(LABELS, "/istio.io~1dataplane-mode"), json!("ambient")),
        (
            "strict",
            "/peers".into(),
            found(&[json!({"metadata": {"name": "default"}, "spec": {"mtls": {"mode": "STRICT"}}})]),
        ),
        ("no secret", "/secrets/wandb".into(), found(&[])),
        (
            "images that do not come",
            "/pods".into(),
            found(&[
                json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{"image": "acme/x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "token=hunter2"}}}]}}),
            ]),
        ),
        ("store refuses", "/store".into(), tried("s3://acme/runs/solar", Some("access was denied"))),
        (
            "data refuses",
            "/sources/0".into(),
            json!({"verb": "read", "url": "s3://acme/web/**/*.jsonl", "failure": "access was denied"}),
        ),
    ];
    let usual = judged(&fine());
    let mut told = String::new();
    for (what, pointer, value) in cases {
        let facts = if pointer.is_empty() {
            let mut facts = with("/daemon_sets", found(&[]));
            facts["nodes"] = found(&[]);
            facts
        } else {
            with(&pointer, value)
        };
        let _ = writeln!(told, "# {what}");
        for finding in
            judged(&facts).iter().filter(|finding| !usual.contains(finding) && finding.level != Level::Ok)
        {
            let _ = writeln!(
                told,
                "{} {}: {}\n    {}",
                finding.level.name(),
                finding.id,
                finding.seen,
                finding.why
            );
            for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
                let _ = writeln!(told, "    | {line}");
            }
        }
    }
    insta::assert_snapshot!("faults", told);
}

#[test]
fn an_operator_that_does_one_thing_at_a_time_is_slow_for_many_pods() {
    let mut facts = with("/rendered/0/spec/rayClusterSpec/workerGroupSpecs/0/maxReplicas", json!(600));
    let is_told = |facts: &Value| judged(facts).iter().any(|finding| finding.id == "kuberay-concurrency");
    assert!(!is_told(&facts), "it does four");
    facts["operators"]["found"][0]["spec"]["template"]["spec"]["containers"][0]["args"] = json!([]);
    assert!(is_told(&facts));
}

#[test]
fn what_was_pasted_for_another_account_stays() {
    let roles = ["jane", "arn:aws:sts::1:assumed-role/dev/kim"].map(|user| {
        let mut facts = with("/rights", granted(&[Part::Launch], &|_, _| Some(false)));
        facts["user"] = json!(user);
        let found = judged(&facts).into_iter().find(|finding| finding.level == Level::Error);
        let remedy = found.and_then(|finding| finding.remedy).unwrap();
        let (role, binding) = remedy.split_once("---\n").unwrap();
        (role.to_owned(), binding.lines().nth(3).unwrap().to_owned())
    });
    assert_eq!(roles[0].0, roles[1].0);
    assert_eq!(roles[0].1, "  name: \"eagleray-launch:jane\"");
    assert_eq!(roles[1].1, "  name: \"eagleray-launch:arn:aws:sts::1:assumed-role-dev-kim\"");
}

#[test]
fn pods_that_are_privileged_are_refused_under_baseline() {
    let mut facts =
        with("/namespaces/found/0/metadata/labels/pod-security.kubernetes.io~1enforce", json!("baseline"));
    facts["rendered"][0]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["hostNetwork"] =
        json!(true);
    let findings = judged(&facts);
    let found = findings.iter().find(|finding| finding.id == "pod-security").unwrap();
    assert_eq!(found.level, Level::Error);
    assert!(found.seen.contains("group `a`: hostNetwork"), "{}", found.seen);
}

#[test]
fn what_may_not_be_asked_is_unknown_and_names_the_right() {
    for key in [
        "groups",
        "operators",
        "kueue",
        "kueue_config",
        "local_queues",
        "cluster_queues",
        "nodes",
        "daemon_sets",
        "node_pools",
        "node_classes",
        "namespaces",
        "quotas",
        "limit_ranges",
        "pods",
    ] {
        let right = format!("list {key} -A");
        let findings = judged(&with(&format!("/{key}"), json!({"refused": right})));
        let unknown: Vec<&Finding> =
            findings.iter().filter(|finding| finding.level == Level::Unknown).collect();
        assert!(unknown.iter().any(|finding| finding.seen.contains(&right)), "{key}: {unknown:?}");
        for finding in unknown {
            let fine = findings.iter().any(|other| {
                other.id == finding.id && other.level == Level::Ok && other.seen == finding.seen
            });
            assert!(!fine, "{key}: {finding:?} is fine as well");
        }
    }
    let findings = judged(&json!({"version": found(&[json!("v1.36.3")]), "namespace": "training"}));
    assert!(findings.iter().all(|finding| finding.area != "kuberay" || finding.level != Level::Ok));
}

#[test]
fn a_missing_right_comes_with_a_role_for_whoever_asked() {
    let mut facts = with(
        "/rights",
        granted(&[Part::Launch, Part::Logs, Part::Queue], &|resource, _| Some(resource != "secrets")),
    );
    facts["user"] = json!("system:serviceaccount:ci:launcher");
    let findings = judged(&facts);
    let remedy = findings
        .iter()
        .find(|finding| finding.id == "rights" && finding.level == Level::Error)
        .unwrap()
        .remedy
        .clone()
        .unwrap();
    insta::assert_snapshot!("role", remedy);
}

/// Secrets lie in variables, arguments, messages and addresses; none of those is told.
#[test]
fn no_secret_is_told() {
    const PLANTED: &str = "hunter2";
    let mut facts = fine();
    let operator = &mut facts["operators"]["found"][0]["spec"]["template"]["spec"]["containers"][0];
    operator["env"] = json!([{"name": "REDIS_PASSWORD", "value": PLANTED}]);
    operator["args"] = json!([format!("--token={PLANTED}")]);
    facts["secrets"]["wandb"] =
        found(&[json!({"metadata": {"name": "wandb"}, "data": {"WANDB_API_KEY": PLANTED}})]);
    facts["kueue_config"]["found"][0]["data"]["other"] = json!(PLANTED);
    facts["rendered"][0]["spec"]["runtimeEnvYAML"] = json!(PLANTED);
    facts["pods"] = found(&[json!({
        "metadata": {"name": "p", "annotations": {"token": PLANTED}},
        "spec": {"containers": [{"env": [{"name": "A", "value": PLANTED}], "command": [PLANTED]}]},
        "status": {"containerStatuses": [{"image": "a", "state": {"waiting": {"reason": "ErrImagePull", "message": PLANTED}}}]},
    })]);
    facts["nodes"]["found"][0]["metadata"]["annotations"] = json!({"csi": PLANTED});
    let report = Report(judged(&facts));
    assert!(
        !report.text().contains(PLANTED) && !report.json().to_string().contains(PLANTED),
        "{}",
        report.text()
    );
    assert_eq!(storage::without_password("https://jane:hunter2@k8s:6443/a"), "https://k8s:6443/a");
    assert_eq!(storage::without_password("https://k8s/a@b"), "https://k8s/a@b");
}

#[test]
fn a_store_is_tried_verb_by_verb_and_left_as_it_was() {
    let tried = try_store("memory://doctor-store/runs/solar");
    assert_eq!(tried.iter().filter(|tried| tried.failure.is_some()).count(), 0, "{tried:?}");
    assert_eq!(tried.len(), 6);
    let store = eagleray_store::Store::open("memory://doctor-store").unwrap();
    assert_eq!(store.list("").unwrap(), vec![]);
    let unknown = try_store("ftp://host/a");
    assert!(unknown[0].failure.is_some() && unknown[0].verb == "open");
}

#[test]
fn data_is_read_by_its_first_object() {
    let store = eagleray_store::Store::open("memory://doctor-data").unwrap();
    store.put("web/2026/a.jsonl", "{}").unwrap();
    store.put("tokenizer.json", "{}").unwrap();
    for there in ["web/**/*.jsonl", "web", "web/2026/a.jsonl", "tokenizer.json", "web/2026/"] {
        assert_eq!(try_source(&format!("memory://doctor-data/{there}")).failure, None, "{there}");
    }
    for absent in ["books/**/*.jsonl", "we", "tokenizer"] {
        let failure = try_source(&format!("memory://doctor-data/{absent}")).failure;
        assert!(failure.is_some_and(|failure| failure.contains("nothing lies below")), "{absent}");
    }
}

/// Keys that judging looks at, so that odd values lie where they are read.
const KEYS: [&str; 40] = [
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "spec",
    "status",
    "conditions",
    "type",
    "message",
    "template",
    "containers",
    "initContainers",
    "resources",
    "limits",
    "requests",
    "cpu",
    "memory",
    "nvidia.com/gpu",
    "env",
    "args",
    "image",
    "value",
    "versions",
    "version",
    "schema",
    "flavors",
    "resourceGroups",
    "coveredResources",
    "nominalQuota",
    "hard",
    "used",
    "requirements",
    "key",
    "values",
    "operator",
    "rayClusterSpec",
    "workerGroupSpecs",
    "replicas",
    "found",
];

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~é]{0,12}".prop_map(Value::from),
        proptest::sample::select(vec![
            "v1.7.0",
            "a:b:",
            ":",
            "--watch-namespace",
            "1e400Gi",
            "-5",
            "s3://",
            "RayJob",
            "K8sJobMode"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(KEYS.to_vec()), inner), 0..6).prop_map(
                |fields| {
                    fields
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect::<Map<_, _>>()
                        .into()
                }
            ),
        ]
    })
}

/// Every place of a tree.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), all));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, item)| {
            places(item, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
        }),
        _ => {}
    }
}

proptest! {
    #[test]
    fn judging_takes_any_json(values in proptest::collection::vec(anything(), 18)) {
        let mut facts = fine();
        let keys = [
            "groups", "operators", "kueue", "kueue_config", "local_queues", "cluster_queues", "nodes", "daemon_sets",
            "node_pools", "node_classes", "namespaces", "quotas", "limit_ranges", "peers", "pods", "version",
        ];
        for (key, value) in keys.iter().zip(&values) {
            facts[*key] = json!({"found": [value]});
        }
        let mut launch = job();
        launch["spec"] = values[16].clone();
        facts["rendered"] = json!([launch, values[17]]);
        let _ = Report(judged(&facts)).text();
    }

    #[test]
    fn judging_takes_any_value_at_any_place(place in any::<prop::sample::Index>(), value in anything()) {
        let mut facts = fine();
        let mut all = Vec::new();
        places(&facts, "", &mut all);
        *facts.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
        // What is no answer at all is refused by the reader, not judged.
        if let Ok(facts) = serde_json::from_value::<Facts>(facts) {
            let _ = Report(judge(&facts)).json();
        }
    }
}
