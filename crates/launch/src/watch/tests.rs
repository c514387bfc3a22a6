use eagleray_run::{Recent, RunState};
use serde_json::{Value, json};

use super::pods::Pod;
use super::situation::{Claim, Events, Job, Ledger, Node, NodeTrouble, Ray, Workload, seconds, short};
use super::*;

pub(crate) mod anything;

const MADE: &str = "2026-11-29T11:00:00Z";
const NOW: &str = "2026-11-29T12:00:00Z";

fn now() -> i64 {
    seconds(&json!(NOW)).unwrap()
}

fn clusterspec() -> Value {
    json!({"headGroupSpec": {}, "workerGroupSpecs": [{"groupName": "od", "replicas": 2}, {"groupName": "spot-a", "replicas": 1}]})
}

fn job(status: &Value) -> Value {
    json!({"metadata": {"name": "solar-1", "uid": "u", "creationTimestamp": MADE},
        "spec": {"rayClusterSpec": clusterspec(), "backoffLimit": 1}, "status": status})
}

fn with(job: &Value, status: &Value) -> Situation {
    let mut job = job.clone();
    for (key, value) in status.as_object().unwrap() {
        job["status"][key] = value.clone();
    }
    Situation { now: now(), launch: "solar-1".into(), job: Some(Job::of(&job)), ..Situation::default() }
}

/// One whose pods are being made.
fn starting(pods: &[Value]) -> Situation {
    let mut situation =
        with(&job(&json!({})), &json!({"jobDeploymentStatus": "Initializing", "rayClusterName": "x"}));
    situation.cluster =
        Some(Ray::of(&json!({"metadata": {"name": "x", "creationTimestamp": MADE}, "spec": clusterspec()})));
    situation.pods = pods.iter().filter_map(Pod::of).collect();
    situation
}

fn pod(name: &str, group: &str, node: Option<&str>, status: &Value) -> Value {
    let kind = if group == "headgroup" { "head" } else { "worker" };
    json!({"metadata": {"name": name, "creationTimestamp": MADE, "labels": {"ray.io/group": group, "ray.io/node-type": kind}},
        "spec": {"nodeName": node}, "status": status})
}

fn ready(name: &str, group: &str) -> Value {
    pod(
        name,
        group,
        Some(name),
        &json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    )
}

fn unscheduled(name: &str, group: &str, message: &str) -> Value {
    let condition =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
    pod(name, group, None, &json!({"phase": "Pending", "conditions": [condition]}))
}

fn waiting(name: &str, group: &str, reason: &str, message: &str, last: &Value) -> Value {
    let container = json!({"name": "ray-worker", "image": "acme/eagleray:1", "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": message}}, "lastState": {"terminated": last}});
    pod(name, group, Some(name), &json!({"phase": "Pending", "containerStatuses": [container]}))
}

fn all_ready() -> Vec<Value> {
    vec![ready("h", "headgroup"), ready("a", "od"), ready("b", "od"), ready("c", "spot-a")]
}

fn event(kind: &str, object: &str, reason: &str, message: &str, count: u64) -> Value {
    json!({"involvedObject": {"kind": kind, "name": object}, "reason": reason, "message": message, "count": count,
        "lastTimestamp": "2026-11-29T11:59:00Z"})
}

fn events(all: &[Value]) -> Vec<situation::Event> {
    let mut events = Events::default();
    for event in all {
        events.add(event);
    }
    events.list()
}

fn queued(active: bool, conditions: &Value, checks: &Value) -> Situation {
    let mut job = job(&json!({}));
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!("research");
    job["spec"]["suspend"] = json!(true);
    let mut situation = with(&job, &json!({"jobDeploymentStatus": "Suspended"}));
    situation.workload = Some(Workload::of(
        &json!({"spec": {"active": active}, "status": {"conditions": conditions, "admissionChecks": checks}}),
    ));
    situation
}

fn training(recent: Recent) -> Situation {
    let mut situation = starting(&all_ready());
    situation.job =
        with(&job(&json!({})), &json!({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})).job;
    situation.ledger = Some(Ledger { recent, checkpoint: Some(1_100) });
    situation
}

fn at_step() -> Recent {
    Recent {
        state: RunState::Running,
        attempt: 2,
        step: 1_200,
        steps_planned: 5_000,
        tokens_per_second: 1_234_567.0,
        loss: Some(2.345_67),
        ranks: 24,
        stepped: Some(now() as f64 - 4.0),
        ..Recent::default()
    }
}

fn line(name: &str, situation: &Situation) -> String {
    let told = tell(situation);
    let word = serde_json::to_value(told.phase).unwrap();
    let first = format!("{}: {}", word.as_str().unwrap(), told.line);
    let details = if told.details.is_empty() {
        String::new()
    } else {
        format!("\n    {}", told.details.join("\n    "))
    };
    format!("{name}\n  {first}{details}\n")
}

fn quota(reserved: (&str, &str), more: &[Value]) -> Value {
    let mut all = vec![
        json!({"type": "QuotaReserved", "status": reserved.0, "reason": "Pending", "message": reserved.1}),
    ];
    all.extend_from_slice(more);
    json!(all)
}

#[test]
fn before_there_are_pods() {
    let none = json!([]);
    let short = "couldn't assign flavors to pod set od: insufficient unused quota for nvidia.com/gpu in flavor p5, 8 more needed";
    let uncovered =
        "couldn't assign flavors to pod set od: resource vpc.amazonaws.com/efa unavailable in ClusterQueue";
    let evicted = |status| json!({"type": "Evicted", "status": status, "reason": "Preempted", "message": "Preempted to accommodate a workload of a higher priority"});
    let admitted = json!({"type": "Admitted", "status": "True"});
    let check = json!([{"name": "prov", "state": "Pending", "message": "waits for a reservation"}, {"name": "b", "state": "Ready"}]);
    let mut by_hand = job(&json!({}));
    by_hand["spec"]["suspend"] = json!(true);
    let mut unknown = queued(true, &none, &none);
    unknown.workload = None;
    let mut young = unknown.clone();
    young.now = young.job.as_ref().unwrap().created + 5;
    let fresh = with(&job(&json!({})), &json!({}));
    let mut just_made = fresh.clone();
    just_made.now = just_made.job.as_ref().unwrap().created + 5;
    let mut refused = fresh.clone();
    refused.events = events(&[event(
        "RayJob",
        "solar-1",
        "FailedToCreateRayCluster",
        "admission webhook denied the request",
        4,
    )]);
    let mut no_pods = starting(&[]);
    no_pods.cluster.as_mut().unwrap().failure = Some("FailedCreate: exceeded quota: team".to_owned());
    let table = [
        ("gone", Situation::default()),
        ("suspended by hand", with(&by_hand, &json!({"jobDeploymentStatus": "Suspended"}))),
        ("unknown to kueue", unknown),
        ("just queued", young),
        ("too little quota", queued(true, &quota(("False", short), &[]), &none)),
        ("uncovered", queued(true, &quota(("False", uncovered), &[]), &none)),
        ("preempted", queued(true, &quota(("False", short), &[evicted("True")]), &none)),
        ("preempted once", queued(true, &quota(("False", short), &[evicted("False")]), &none)),
        ("deactivated", queued(false, &quota(("False", ""), &[evicted("True")]), &none)),
        ("checked", queued(true, &quota(("True", ""), &[]), &check)),
        ("let in", queued(true, &quota(("True", ""), &[admitted]), &none)),
        ("no cluster", fresh),
        ("no cluster, just made", just_made),
        ("no cluster is let in", refused),
        ("no pods are let in", no_pods),
        ("no pods", starting(&[])),
    ];
    insta::assert_snapshot!(table.iter().map(|(name, situation)| line(name, situation)).collect::<String>());
}

#[test]
fn until_there_are_machines() {
    let few = "0/12 nodes are available: 3 Insufficient nvidia.com/gpu, 9 node(s) didn't match Pod's node affinity/selector. preemption: 0/12 nodes are available: 12 Preemption is not helpful.";
    let taint = "0/12 nodes are available: 12 node(s) had untolerated taint {nvidia.com/gpu: true}.";
    let pods = || {
        [
            ready("h", "headgroup"),
            unscheduled("a", "od", few),
            unscheduled("b", "od", few),
            unscheduled("c", "spot-a", taint),
        ]
    };
    let claim = |name: &str, conditions: &Value| {
        Claim::of(
            &json!({"metadata": {"name": name, "creationTimestamp": MADE}, "status": {"conditions": conditions}}),
        )
    };
    let is = |name: &str, status: &str, reason: &str| json!({"type": name, "status": status, "reason": reason, "message": if reason.is_empty() { "" } else { "no such launch template" }});
    let mut booting = starting(&pods());
    booting.claims = [
        claim("n1", &json!([is("Launched", "Unknown", "AwaitingReconciliation")])),
        claim("n2", &json!([is("Launched", "False", "LaunchFailed")])),
        claim("n3", &json!([is("Launched", "True", ""), is("Registered", "Unknown", "NodeNotFound")])),
        claim(
            "n4",
            &json!([
                is("Launched", "True", ""),
                is("Registered", "True", ""),
                is("Initialized", "Unknown", "ResourceNotRegistered")
            ]),
        ),
        claim(
            "n5",
            &json!([is("Launched", "True", ""), is("Registered", "True", ""), is("Initialized", "True", "")]),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut empty = starting(&pods());
    let ice = "NodeClaim solar-od-x event: creating instance, insufficient capacity, all requested instance types were unavailable";
    empty.events = events(&[
        event("NodeClaim", "solar-od-x", "InsufficientCapacityError", ice, 4),
        event("NodeClaim", "solar-od-x", "InsufficientCapacityError", ice, 1),
    ]);
    let mut unfit = starting(&pods());
    unfit.events = events(&[event(
        "Pod",
        "a",
        "FailedScheduling",
        "Failed to schedule pod, all available instance types exceed limits for nodepool: \"solar-od\"",
        9,
    )]);
    let mut old = empty.clone();
    old.now += 7_200;
    let table = [
        ("the scheduler says why", starting(&pods())),
        (
            "the scheduler is silent",
            starting(&[ready("h", "headgroup"), pod("a", "od", None, &json!({"phase": "Pending"}))]),
        ),
        ("machines come", booting),
        ("no capacity", empty),
        ("no capacity, hours ago", old),
        ("no machine fits", unfit),
    ];
    insta::assert_snapshot!(table.iter().map(|(name, situation)| line(name, situation)).collect::<String>());
}

#[test]
fn until_pods_are_ready() {
    let none = Value::Null;
    let killed = json!({"reason": "OOMKilled", "exitCode": 137});
    let pull = "Back-off pulling image \"acme/eagleray:1\": 403 Forbidden";
    let one = |pod: Value| starting(&[ready("h", "headgroup"), pod, ready("b", "od"), ready("c", "spot-a")]);
    let creating = || waiting("a", "od", "ContainerCreating", "", &none);
    let mut mount = one(creating());
    mount.events = events(&[event(
        "Pod",
        "a",
        "FailedMount",
        "MountVolume.SetUp failed for volume \"shared\": claim not found",
        3,
    )]);
    let started = |name: &str, group: &str| {
        pod(name, group, Some(name), &json!({"phase": "Running", "containerStatuses": [{"restartCount": 2}]}))
    };
    let init = |name: &str| {
        pod(
            name,
            "od",
            Some(name),
            &json!({"phase": "Pending", "initContainerStatuses": [{"name": "wait-gcs-ready", "state": {"running": {}}}]}),
        )
    };
    let leaving = |name: &str, by: &str| {
        let mut pod = ready(name, "od");
        pod["metadata"]["deletionTimestamp"] = json!(by);
        pod
    };
    let mut dead = one(leaving("a", "2026-11-29T11:50:00Z"));
    dead.nodes.push(Node { name: "a".into(), trouble: NodeTrouble::NotReady });
    let evicted = pod(
        "a",
        "od",
        Some("a"),
        &json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage"}),
    );
    let table = [
        ("no image", one(waiting("a", "od", "ImagePullBackOff", pull, &none))),
        (
            "no image anywhere",
            starting(&["h", "a", "b"].map(|name| {
                waiting(name, if name == "h" { "headgroup" } else { "od" }, "ErrImagePull", pull, &none)
            })),
        ),
        (
            "no secret",
            one(waiting("a", "od", "CreateContainerConfigError", "secret \"hf\" not found", &none)),
        ),
        ("too little memory", one(waiting("a", "od", "CrashLoopBackOff", "back-off 40s", &killed))),
        (
            "crashes",
            one(waiting(
                "a",
                "od",
                "CrashLoopBackOff",
                "back-off 40s",
                &json!({"reason": "Error", "exitCode": 1}),
            )),
        ),
        (
            "the head crashes",
            starting(&[
                waiting("h", "headgroup", "CrashLoopBackOff", "", &json!({"exitCode": 2})),
                waiting("a", "od", "CrashLoopBackOff", "", &json!({"exitCode": 1})),
            ]),
        ),
        ("evicted", one(evicted)),
        ("pulls", one(creating())),
        ("cannot mount", mount),
        ("the head starts", starting(&[started("h", "headgroup"), init("a"), init("b")])),
        ("a worker waits", one(init("a"))),
        ("a worker starts", one(started("a", "od"))),
        ("a pod is missing", starting(&[ready("h", "headgroup"), ready("a", "od"), ready("c", "spot-a")])),
        ("a pod goes", one(leaving("a", "2026-11-29T12:01:00Z"))),
        ("a pod does not go", dead),
        ("all are ready", starting(&all_ready())),
    ];
    insta::assert_snapshot!(table.iter().map(|(name, situation)| line(name, situation)).collect::<String>());
}

#[test]
fn while_it_trains() {
    let mut no_ledger = training(Recent::default());
    no_ledger.ledger = None;
    let mut pending = no_ledger.clone();
    pending.job.as_mut().unwrap().status = "PENDING".into();
    let mut builds = no_ledger.clone();
    builds.job.as_mut().unwrap().builds = true;
    let mut drained = training(at_step());
    drained.nodes.push(Node { name: "c".into(), trouble: NodeTrouble::Draining });
    let mut forming = training(Recent {
        forming: Some(now() as f64 - 30.0),
        failure: Some("a worker died".into()),
        ..at_step()
    });
    forming.pods.retain(|pod| pod.name != "c");
    forming.pods.extend(Pod::of(&unscheduled(
        "d",
        "spot-a",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    )));
    let mut headless = training(at_step());
    headless.pods.retain(|pod| !pod.is_head());
    headless.pods.extend(Pod::of(&unscheduled("h2", "headgroup", "0/3 nodes are available")));
    let table = [
        ("trains", training(at_step())),
        ("trains, nothing saved", {
            let mut situation = training(at_step());
            situation.ledger.as_mut().unwrap().checkpoint = None;
            situation
        }),
        ("a node drains", drained),
        ("stalls", training(Recent { stepped: Some(now() as f64 - 1_500.0), ..at_step() })),
        ("begins", training(Recent { state: RunState::New, ..Recent::default() })),
        ("ranks come", training(Recent { forming: Some(now() as f64 - 30.0), ..at_step() })),
        ("no rank yet", training(Recent { state: RunState::Running, ..Recent::default() })),
        ("forms again", forming),
        ("silent", training(Recent { state: RunState::Dead, ..at_step() })),
        (
            "silent before this launch",
            training(Recent { state: RunState::Dead, stepped: Some(1e9), ..at_step() }),
        ),
        ("completed", training(Recent { state: RunState::Completed, ..at_step() })),
        ("failed", training(Recent { state: RunState::Failed, ..at_step() })),
        ("head lost", headless),
        ("no ledger", no_ledger),
        ("submitted", pending),
        ("builds", builds),
    ];
    insta::assert_snapshot!(table.iter().map(|(name, situation)| line(name, situation)).collect::<String>());
}

#[test]
fn at_the_end() {
    let of = |status: Value| with(&job(&json!({})), &status);
    let mut deleting = starting(&[ready("h", "headgroup")]);
    deleting.job.as_mut().unwrap().deleting = Some(now() - 20);
    let mut deleted = deleting.clone();
    deleted.pods.clear();
    let mut build = of(json!({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}));
    let asked = |state| {
        let mut situation = of(json!({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}));
        situation.ledger = Some(Ledger { recent: Recent { state, ..at_step() }, checkpoint: Some(1_200) });
        situation
    };
    build.job.as_mut().unwrap().builds = true;
    let mut refused = of(
        json!({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "the name is too long"}),
    );
    let unqueued = refused.clone();
    refused.job.as_mut().unwrap().queue = Some("research".into());
    let table = [
        ("done", of(json!({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}))),
        ("asked through the store, and did", asked(RunState::Stopped)),
        ("asked too late", asked(RunState::Completed)),
        ("built", build),
        ("stopped", of(json!({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}))),
        (
            "failed",
            of(
                json!({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "Job entrypoint command failed with exit code 1"}),
            ),
        ),
        ("refused", unqueued),
        ("refused in a queue", refused),
        ("tried again", of(json!({"jobDeploymentStatus": "Retrying", "failed": 1, "reason": "AppFailed"}))),
        ("goes", deleting),
        ("gone but for itself", deleted),
    ];
    insta::assert_snapshot!(table.iter().map(|(name, situation)| line(name, situation)).collect::<String>());
}

#[test]
fn groups_are_counted_with_the_head_first() {
    let mut leaving = ready("b", "od");
    leaving["metadata"]["deletionTimestamp"] = json!(NOW);
    let situation = starting(&[ready("h", "headgroup"), leaving, unscheduled("c", "spot-a", "")]);
    let counted: Vec<String> = groups(&situation)
        .iter()
        .map(|group| {
            format!(
                "{} {} {} {} {} {}",
                group.name, group.wanted, group.ready, group.starting, group.pending, group.terminating
            )
        })
        .collect();
    assert_eq!(counted, ["headgroup 1 1 0 0 0", "od 2 0 0 0 1", "spot-a 1 0 0 1 0"]);
}

#[test]
fn a_thousand_pods_are_kept_small() {
    let message = "0/1200 nodes are available: ".to_owned() + &"3 Insufficient nvidia.com/gpu, ".repeat(40);
    let mut whole = unscheduled("solar-8b-1-x4k2q-spot-a-worker-9xkzp", "spot-a", &message);
    whole["spec"]["containers"] =
        json!(vec![json!({"env": vec![json!({"name": "A", "value": "b"}); 100]}); 4]);
    let list = json!({"metadata": {}, "items": vec![whole; 1_000]}).to_string();
    let mut pods = Vec::new();
    crate::page::read(&list, &mut |pod| pods.extend(Pod::of(pod))).unwrap();
    let kept: usize = pods
        .iter()
        .map(|pod| {
            let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
            size_of::<Pod>()
                + pod.name.capacity()
                + pod.group.capacity()
                + text(&pod.node)
                + text(&pod.unscheduled)
        })
        .sum();
    assert_eq!(pods.len(), 1_000);
    assert!(kept < 1_000_000, "{kept} bytes of {}", list.len());
}

#[test]
fn long_words_are_cut_and_lines_are_lines() {
    assert_eq!(short("a\n  b\tc"), "a b c");
    assert_eq!(short(&"é".repeat(500)).chars().count(), 241);
}

#[test]
fn events_of_a_kind_are_counted_together_and_bounded() {
    let mut all: Vec<Value> =
        (0..1_000).map(|number| event("Pod", "a", "Odd", &format!("number {number}"), 1)).collect();
    all.extend((0..10).map(|_| event("Pod", "b", "Odd", "number 0", 2)));
    let counted = events(&all);
    assert!(counted.len() <= 256);
    assert_eq!(counted.iter().find(|event| event.message == "number 0").unwrap().count, 21);
}
