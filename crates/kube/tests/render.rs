//! Whole renders, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use common::{ELASTIC, FIRST, FIXED, rendered, resolved, shown};
use eagleray_kube::lint;
use eagleray_kube::render::{Kind, Options, render};
use eagleray_kube::yaml::Node;
use serde_json::Value;

mod common;

/// The object of a file, without its reasons.
fn object(text: &str, options: Options, path: &str) -> Value {
    let rendered = rendered(text, options);
    let file = rendered.files.iter().find(|file| file.path == path);
    Node::Map(file.unwrap_or_else(|| panic!("no {path}")).object.clone()).value()
}

fn refused(text: &str, options: Options) -> String {
    render(&resolved(text), options).unwrap_err().render()
}

/// The spec with one part replaced.
fn with(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old}");
    text.replace(old, new)
}

/// A cluster to work in.
const CLUSTER: Options = Options { kind: Kind::Cluster, ..FIRST };

const REDIS: &str =
    "    redis: {address: \"rediss://cache.acme.example:6379\", secret: ray-redis}\n    labels:";

/// Both kinds of an elastic spec and of one in a queue.
fn every() -> Vec<(String, Options)> {
    let redis = with(ELASTIC, "    labels:", REDIS);
    vec![
        (ELASTIC.to_owned(), FIRST),
        (FIXED.to_owned(), Options { kueue: true, ..FIRST }),
        (redis.clone(), CLUSTER),
        (with(&redis, "    labels:", "    queue: llm\n    labels:"), Options { kueue: true, ..CLUSTER }),
        (FIXED.to_owned(), Options { kueue: true, ..CLUSTER }),
    ]
}

#[test]
fn a_cluster_to_work_in() {
    insta::assert_snapshot!(shown(&rendered(&with(ELASTIC, "    labels:", REDIS), CLUSTER)));
}

#[test]
fn a_fixed_cluster_in_a_queue() {
    let rendered = rendered(FIXED, Options { launch: 3, ..CLUSTER });
    let file = rendered.files.iter().find(|file| file.kind() == "RayCluster").unwrap();
    insta::assert_snapshot!(format!("{}{}", file.text(), rendered.notes.join("\n")));
}

#[test]
fn a_cluster_to_work_in_has_no_launch_and_shares_the_rest_with_the_run() {
    let run = rendered(ELASTIC, FIRST).files;
    let cluster = rendered(ELASTIC, CLUSTER).files;
    assert!(cluster.iter().all(|file| file.kind() != "RayJob" && file.kind() != "Role"));
    let shared = |file: &&eagleray_kube::render::File| {
        file.kind() != "ConfigMap"
            && !["build", "train", "cluster"].iter().any(|part| file.path.starts_with(part))
    };
    let mut common = 0;
    for file in cluster.iter().filter(shared) {
        let of_run = run.iter().find(|other| other.path == file.path).unwrap();
        assert_eq!(file.text(), of_run.text(), "applied by one, it would be changed by the other");
        common += 1;
    }
    assert!(common > 6, "{common}");
}

#[test]
fn kueue_counts_what_stands_beside_an_autoscaled_head() {
    let text = with(ELASTIC, "    labels:", "    queue: llm\n    labels:");
    let quota = |kind| {
        let options = Options { kind, kueue: true, ..FIRST };
        let flavors =
            object(&text, options, "queues/cluster-queue.yaml")["spec"]["resourceGroups"][0]["flavors"]
                .take();
        let cpus: u32 = flavors[0]["resources"][0]["nominalQuota"].as_str().unwrap().parse().unwrap();
        cpus
    };
    assert_eq!(quota(Kind::Cluster), quota(Kind::Run) + 1);
}

#[test]
fn kueue_takes_nine_groups_and_no_tenth() {
    let groups = |count: usize| {
        let more = (2..count).map(|index| {
            format!("\n      - {{name: g{index}, instance: p4d.24xlarge, zone: us-east-2a, nodes: 1}}")
        });
        let last = "capacity: reserved, nodes: 2}";
        with(FIXED, last, &format!("nodes: 2}}{}", more.collect::<String>()))
    };
    assert!(!rendered(&groups(9), FIRST).files.is_empty());
    insta::assert_snapshot!(refused(&groups(10), FIRST));
    let free = with(&groups(10), "    queue: llm-team\n    priority: high\n", "");
    assert!(!rendered(&free, FIRST).files.is_empty());
}

#[test]
fn an_elastic_run_on_two_kinds_of_capacity() {
    insta::assert_snapshot!(shown(&rendered(ELASTIC, FIRST)));
}

#[test]
fn a_gang_in_a_queue() {
    insta::assert_snapshot!(shown(&rendered(
        FIXED,
        Options { kind: Kind::Run, launch: 7, kueue: true, built: false }
    )));
}

#[test]
fn the_same_input_gives_the_same_bytes_and_a_launch_changes_nothing_of_the_nodes() {
    let texts = |launch| -> Vec<(String, String)> {
        let options = Options { launch, ..FIRST };
        rendered(ELASTIC, options).files.iter().map(|file| (file.path.clone(), file.text())).collect()
    };
    assert_eq!(texts(1), texts(1));
    for ((path, first), (_, second)) in texts(1).iter().zip(&texts(2)) {
        assert_eq!(first == second, path.starts_with("nodes/") || second.find("-2").is_none(), "{path}");
    }
}

#[test]
fn what_is_written_is_what_was_meant() {
    for (text, options) in every() {
        for file in rendered(&text, options).files {
            let read: Value = serde_saphyr::from_str(&file.text()).unwrap();
            assert_eq!(read, Node::Map(file.object.clone()).value(), "{}", file.path);
        }
    }
}

#[test]
fn the_lint_finds_nothing_in_what_is_rendered() {
    for (text, options) in every() {
        let texts: Vec<(String, String)> =
            rendered(&text, options).files.iter().map(|file| (file.path.clone(), file.text())).collect();
        let files: Vec<lint::File<'_>> = texts.iter().map(|(name, text)| lint::File { name, text }).collect();
        let report = lint::lint(&files, &lint::Options::default()).unwrap();
        let found: Vec<String> = report
            .findings
            .iter()
            .map(|found| format!("{} {}: {}", found.rule, found.path, found.message))
            .collect();
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn no_two_objects_share_a_path_or_a_name() {
    for (text, options) in every() {
        let files = rendered(&text, options).files;
        for (index, file) in files.iter().enumerate() {
            let same = |other: &&_| {
                let other: &eagleray_kube::render::File = other;
                other.path == file.path || (other.kind(), other.name()) == (file.kind(), file.name())
            };
            assert!(!files[..index].iter().any(|other| same(&other)), "{}", file.path);
        }
    }
}

#[test]
fn a_launch_that_fails_before_its_job_exists_leaves_no_worker() {
    let job = object(ELASTIC, FIRST, "train/ray-job.yaml");
    let rules = job["spec"]["deletionStrategy"]["deletionRules"].as_array().unwrap();
    let workers = rules.iter().find(|rule| rule["policy"] == "DeleteWorkers").unwrap();
    assert_eq!(workers["condition"], serde_json::json!({"jobDeploymentStatus": "Failed", "ttlSeconds": 0}));
    assert!(job["spec"]["shutdownAfterJobFinishes"].is_null());
}

#[test]
fn a_pod_on_spot_capacity_may_be_evicted_and_others_may_not() {
    let job = object(ELASTIC, FIRST, "train/ray-job.yaml");
    let cluster = &job["spec"]["rayClusterSpec"];
    let kept =
        |template: &Value| template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true";
    assert!(kept(&cluster["headGroupSpec"]["template"]));
    assert!(kept(&cluster["workerGroupSpecs"][0]["template"]));
    assert!(!kept(&cluster["workerGroupSpecs"][1]["template"]));
}

#[test]
fn an_elastic_run_starts_on_its_floor_and_its_head_alone_may_raise_it() {
    let job = object(ELASTIC, FIRST, "train/ray-job.yaml");
    let cluster = &job["spec"]["rayClusterSpec"];
    let spot = &cluster["workerGroupSpecs"][1];
    assert_eq!((&spot["replicas"], &spot["maxReplicas"]), (&0.into(), &4.into()));
    let account = &cluster["headGroupSpec"]["template"]["spec"]["serviceAccountName"];
    let binding = object(ELASTIC, FIRST, "run/role-binding-head.yaml");
    assert_eq!(&binding["subjects"][0]["name"], account);
    assert_ne!(&spot["template"]["spec"]["serviceAccountName"], account);
    let fixed = rendered(FIXED, FIRST);
    assert!(!fixed.files.iter().any(|file| file.kind() == "Role"));
}

#[test]
fn under_kueue_no_head_class_sets_the_priority_of_the_whole_workload() {
    let job = object(FIXED, FIRST, "train/ray-job.yaml");
    assert_eq!(job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"], "high");
    for file in rendered(FIXED, FIRST).files {
        assert!(
            !file.text().contains("priorityClassName") && file.kind() != "PriorityClass",
            "{}",
            file.path
        );
    }
    assert_eq!(job["spec"]["shutdownAfterJobFinishes"], true);
    assert!(job["spec"]["deletionStrategy"].is_null());
}

#[test]
fn a_thousand_nodes_have_a_head_that_holds_them() {
    let text = with(ELASTIC, "nodes: {min: 0, max: 4}", "nodes: {min: 0, max: 1000}");
    let job = object(&text, FIRST, "train/ray-job.yaml");
    let head = &job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0];
    assert_eq!(head["resources"]["limits"], serde_json::json!({"cpu": "60", "memory": "409600Mi"}));
    assert_eq!(head["resources"]["limits"], head["resources"]["requests"]);
}

#[test]
fn huge_pages_are_asked_for_where_the_spec_turns_them_on() {
    let text = with(ELASTIC, "NCCL_DEBUG: WARN", "FI_EFA_USE_HUGE_PAGE: \"1\"");
    let job = object(&text, FIRST, "train/ray-job.yaml");
    let worker = &job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0];
    assert_eq!(worker["resources"]["limits"]["hugepages-2Mi"], "5120Mi");
    let names: Vec<&str> =
        worker["env"].as_array().unwrap().iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "FI_EFA_USE_HUGE_PAGE").count(), 1);
}

#[test]
fn the_quota_covers_everything_that_the_pods_ask_for() {
    let rendered = rendered(FIXED, Options { kueue: true, ..FIRST });
    let value = |file: &eagleray_kube::render::File| Node::Map(file.object.clone()).value();
    let queue = rendered.files.iter().find(|file| file.kind() == "ClusterQueue").map(value).unwrap();
    let covered = &queue["spec"]["resourceGroups"][0]["coveredResources"];
    let job = rendered.files.iter().find(|file| file.kind() == "RayJob").map(value).unwrap();
    let cluster = &job["spec"]["rayClusterSpec"];
    let workers = cluster["workerGroupSpecs"].as_array().unwrap().iter();
    for group in workers.chain([&cluster["headGroupSpec"]]) {
        let limits = group["template"]["spec"]["containers"][0]["resources"]["limits"].as_object().unwrap();
        for name in limits.keys() {
            assert!(covered.as_array().unwrap().iter().any(|covered| covered == name.as_str()), "{name}");
        }
    }
}

#[test]
fn each_pod_in_a_queue_is_admitted_to_one_flavor_alone() {
    let text = with(ELASTIC, "    labels:", "    queue: llm\n    labels:");
    let rendered = rendered(&text, Options { kueue: true, ..FIRST });
    let values: Vec<Value> =
        rendered.files.iter().map(|file| Node::Map(file.object.clone()).value()).collect();
    let flavors: Vec<&Value> = values.iter().filter(|value| value["kind"] == "ResourceFlavor").collect();
    // Kueue's rule: of a pod's selector those keys count that some flavor has, and each taint is tolerated.
    let keys: Vec<&String> =
        flavors.iter().flat_map(|flavor| flavor["spec"]["nodeLabels"].as_object().unwrap().keys()).collect();
    let admits = |flavor: &Value, spec: &Value| {
        let selector = spec["nodeSelector"].as_object().unwrap();
        let selected = selector
            .iter()
            .filter(|(key, _)| keys.contains(key))
            .all(|(key, value)| flavor["spec"]["nodeLabels"][key] == *value);
        let tolerated = |taint: &Value| {
            spec["tolerations"].as_array().unwrap().iter().any(|toleration| {
                toleration["key"] == taint["key"]
                    && (toleration["operator"] == "Exists" || toleration["value"] == taint["value"])
            })
        };
        selected && flavor["spec"]["nodeTaints"].as_array().into_iter().flatten().all(tolerated)
    };
    let mut pods = 0;
    for job in values.iter().filter(|value| value["kind"] == "RayJob") {
        let cluster = &job["spec"]["rayClusterSpec"];
        for group in cluster["workerGroupSpecs"].as_array().unwrap().iter().chain([&cluster["headGroupSpec"]])
        {
            let spec = &group["template"]["spec"];
            let admitting = flavors.iter().filter(|flavor| admits(flavor, spec)).count();
            assert_eq!(admitting, 1, "{}", group["groupName"]);
            pods += 1;
        }
    }
    assert_eq!((pods, flavors.len()), (5, 4));
}

#[test]
fn what_cannot_be_rendered_is_refused_by_name() {
    let built = Options { built: true, ..FIRST };
    let pods = "nodes: 2}\n      - {name: b";
    let cases = [
        (with(ELASTIC, "max: 48", "max: 64"), FIRST),
        (with(ELASTIC, "min: 16", "min: 17"), FIRST),
        (with(ELASTIC, "    cpu: {instance: m7i.8xlarge, nodes: 4}\n", ""), FIRST),
        (with(ELASTIC, "m7i.8xlarge", "t3.large"), FIRST),
        (with(ELASTIC, "s3://acme-llm/runs/solar-8b", "runs/solar-8b"), FIRST),
        (with(ELASTIC, "s3://acme-llm/tokenizers/solar/tokenizer.json", "tokenizer.json"), FIRST),
        (with(ELASTIC, "s3://acme-llm/runs", "s3://${BUCKET}/runs"), FIRST),
        (with(ELASTIC, "name: solar-8b", "name: solar-8b-with-a-name-of-forty-characters"), FIRST),
        (with(ELASTIC, "capacity: spot", "capacity: reserved"), FIRST),
        (with(ELASTIC, "name: steady", "name: head"), FIRST),
        (ELASTIC.to_owned(), Options { kueue: true, ..FIRST }),
        (with(ELASTIC, "NCCL_DEBUG: WARN", "REDIS_USERNAME: jane"), CLUSTER),
        (
            with(ELASTIC, "name: solar-8b", "name: solar-8b-with-a-name-of-forty-characters"),
            Options { launch: 99_999, ..CLUSTER },
        ),
        (with(FIXED, "spec: {containers", "template: {containers"), FIRST),
        (
            with(
                FIXED,
                pods,
                "nodes: 4}\n      - {name: c, instance: p3.16xlarge, nodes: 1}\n      - {name: b",
            ),
            FIRST,
        ),
        (ELASTIC.split("  eks:").next().unwrap().to_owned(), built),
    ];
    let messages: Vec<String> = cases.iter().map(|(text, options)| refused(text, *options)).collect();
    insta::assert_snapshot!(messages.join("\n\n"));
}

#[test]
fn a_variable_of_the_pods_makes_the_spec_the_same_there() {
    let text = with(ELASTIC, "s3://acme-llm/runs", "s3://${BUCKET}/runs");
    let text = with(&text, "NCCL_DEBUG: WARN", "BUCKET: acme");
    assert!(!rendered(&text, FIRST).files.is_empty());
    let other = with(&text, "BUCKET: acme", "BUCKET: other");
    assert!(refused(&other, FIRST).contains("`store` is"));
}

#[test]
fn what_is_worth_knowing_is_said() {
    let text = with(ELASTIC, "zone: us-east-2a, nodes: 2", "nodes: 2");
    let text = with(&text, "max: 48", "max: 40");
    let text = with(&text, "    labels:", "    queue: llm\n    labels:");
    insta::assert_snapshot!(rendered(&text, FIRST).notes.join("\n"));
}
