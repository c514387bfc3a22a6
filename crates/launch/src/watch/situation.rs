//! Everything that has a say in what a launch does, small.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::pods::Pod;
use crate::launches;

/// Longer words of controllers are cut.
const MESSAGE_CHARS_MAX: usize = 240;

/// So many different events are kept at most.
const EVENTS_MAX: usize = 256;

/// A launch with all around it, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Situation {
    /// When, seconds since the epoch.
    pub now: i64,
    /// The name of the launch.
    pub launch: String,
    /// Its `RayJob`; none where it is gone.
    pub job: Option<Job>,
    /// What Kueue knows of it.
    pub workload: Option<Workload>,
    /// Its cluster.
    pub cluster: Option<Ray>,
    /// The pods of all its clusters.
    pub pods: Vec<Pod>,
    /// The machines of the run that are not up yet.
    pub claims: Vec<Claim>,
    /// The machines of its pods that something is wrong with.
    pub nodes: Vec<Node>,
    /// What controllers warned of, the newest first.
    pub events: Vec<Event>,
    /// What the run is at by its ledger.
    pub ledger: Option<Ledger>,
}

/// A `RayJob`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Its identity.
    pub uid: String,
    /// What has become of it.
    pub phase: launches::Phase,
    /// `status.jobDeploymentStatus`.
    pub deployment: String,
    /// `status.jobStatus`, that of Ray.
    pub status: String,
    /// Why, where somebody says so.
    pub reason: String,
    /// The same in more words.
    pub message: String,
    /// `spec.suspend`.
    pub suspend: bool,
    /// The queue of Kueue that it is in.
    pub queue: Option<String>,
    /// Whether it makes text into tokens.
    pub builds: bool,
    /// When it was made.
    pub created: i64,
    /// When `KubeRay` began with it.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// When somebody deleted it.
    pub deleting: Option<i64>,
    /// Clusters that failed, and how many may.
    pub failed: (u64, u64),
    /// The name of its cluster.
    pub cluster: String,
    /// The pods that it wants, by group.
    pub wanted: BTreeMap<String, u32>,
}

/// A `RayCluster`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ray {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: i64,
    /// When somebody deleted it.
    pub deleting: Option<i64>,
    /// Why it cannot make its pods.
    pub failure: Option<String>,
    /// The pods that it wants, by group.
    pub wanted: BTreeMap<String, u32>,
}

/// What Kueue knows of a launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// `spec.active`: whether it may be let in at all.
    pub active: bool,
    /// What is so, what is not, and why.
    pub conditions: Vec<Condition>,
    /// Checks of its admission that do not stand at `Ready`, with what they say.
    pub checks: Vec<String>,
}

/// A condition of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// `QuotaReserved`.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: String,
    /// More.
    pub message: String,
    /// Since when.
    pub since: Option<i64>,
}

/// A machine that Karpenter makes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub stage: Stage,
    /// What holds it up, where Karpenter says so.
    pub message: String,
    /// When it was asked for.
    pub created: i64,
}

/// How far a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// EC2 has given none yet.
    Asked,
    /// It boots.
    Launched,
    /// It is a node, and its devices are not there yet.
    Registered,
}

/// A machine that something is wrong with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What.
    pub trouble: NodeTrouble,
}

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeTrouble {
    /// It is no longer there.
    Absent,
    /// Its kubelet is silent or ill.
    NotReady,
    /// It is being emptied: a reclaim, a repair, or somebody.
    Draining,
    /// It takes no new pods.
    Cordoned,
}

/// Something that a controller warned of, however often.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// `Pod`.
    pub kind: String,
    /// One of the objects.
    pub object: String,
    /// `FailedMount`.
    pub reason: String,
    /// More.
    pub message: String,
    /// How often.
    pub count: u64,
    /// When last.
    pub last: i64,
}

/// What a run is at, by its store.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ledger {
    /// The end of its ledger.
    pub recent: eagleray_run::Recent,
    /// The newest commit's step.
    pub checkpoint: Option<u64>,
}

impl Job {
    /// Out of a `RayJob`.
    pub fn of(job: &Value) -> Self {
        let (metadata, spec, status) = (&job["metadata"], &job["spec"], &job["status"]);
        let text = |value: &Value| short(value.as_str().unwrap_or_default());
        Self {
            uid: text(&metadata["uid"]),
            phase: launches::phase(job),
            deployment: text(&status["jobDeploymentStatus"]),
            status: text(&status["jobStatus"]),
            reason: text(&status["reason"]),
            message: text(&status["message"]),
            suspend: spec["suspend"] == true,
            queue: metadata["labels"]["kueue.x-k8s.io/queue-name"].as_str().map(str::to_owned),
            builds: metadata["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(eagleray_kube::render::BUILD_SUFFIX)),
            created: seconds(&metadata["creationTimestamp"]).unwrap_or(0),
            started: seconds(&status["startTime"]),
            ended: seconds(&status["endTime"]),
            deleting: seconds(&metadata["deletionTimestamp"]),
            failed: (status["failed"].as_u64().unwrap_or(0), spec["backoffLimit"].as_u64().unwrap_or(0)),
            cluster: text(&status["rayClusterName"]),
            wanted: wanted(&spec["rayClusterSpec"]),
        }
    }
}

impl Ray {
    /// Out of a `RayCluster`.
    pub fn of(cluster: &Value) -> Self {
        let metadata = &cluster["metadata"];
        let failure = conditions(cluster)
            .into_iter()
            .find(|condition| condition.name == "ReplicaFailure" && condition.holds)
            .map(|condition| join(&condition.reason, &condition.message));
        Self {
            name: metadata["name"].as_str().unwrap_or_default().to_owned(),
            created: seconds(&metadata["creationTimestamp"]).unwrap_or(0),
            deleting: seconds(&metadata["deletionTimestamp"]),
            failure,
            wanted: wanted(&cluster["spec"]),
        }
    }
}

/// The pods that the spec of a cluster wants, by group.
fn wanted(spec: &Value) -> BTreeMap<String, u32> {
    let mut wanted = BTreeMap::new();
    if spec.is_object() {
        wanted.insert(HEAD.to_owned(), 1);
    }
    for group in spec["workerGroupSpecs"].as_array().into_iter().flatten() {
        let count = |key: &str| group[key].as_u64().unwrap_or(1);
        let pods = count("replicas").saturating_mul(count("numOfHosts"));
        let name = group["groupName"].as_str().unwrap_or_default().to_owned();
        wanted.insert(name, u32::try_from(pods).unwrap_or(u32::MAX));
    }
    wanted
}

/// What the group of the head is called, by `KubeRay` and here.
pub const HEAD: &str = "headgroup";

impl Workload {
    /// Out of a `Workload`.
    pub fn of(workload: &Value) -> Self {
        let checks = workload["status"]["admissionChecks"].as_array().into_iter().flatten();
        let waiting = checks.filter(|check| check["state"] != "Ready").map(|check| {
            let text = |key: &str| check[key].as_str().unwrap_or_default();
            let state = format!("{} is {}", text("name"), text("state"));
            short(&join(&state, text("message")))
        });
        Self {
            active: workload["spec"]["active"] != false,
            conditions: conditions(workload),
            checks: waiting.collect(),
        }
    }

    /// A condition, where it is told of.
    pub fn condition(&self, name: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.name == name)
    }

    /// Whether a condition holds.
    pub fn holds(&self, name: &str) -> bool {
        self.condition(name).is_some_and(|condition| condition.holds)
    }
}

impl Claim {
    /// Out of a `NodeClaim`; none where its machine is up, or on its way out.
    pub fn of(claim: &Value) -> Option<Self> {
        let metadata = &claim["metadata"];
        let conditions = conditions(claim);
        let holds = |name: &str| conditions.iter().any(|found| found.name == name && found.holds);
        if holds("Initialized") || !metadata["deletionTimestamp"].is_null() {
            return None;
        }
        let (stage, next) = match (holds("Launched"), holds("Registered")) {
            (_, true) => (Stage::Registered, "Initialized"),
            (true, false) => (Stage::Launched, "Registered"),
            (false, false) => (Stage::Asked, "Launched"),
        };
        let holding = conditions.iter().find(|found| found.name == next);
        // Until somebody knows better, Karpenter says that it is awaiting the outcome.
        let said = holding.filter(|found| found.reason != "AwaitingReconciliation");
        Some(Self {
            name: metadata["name"].as_str()?.to_owned(),
            stage,
            message: said.map(|found| join(&found.reason, &found.message)).unwrap_or_default(),
            created: seconds(&metadata["creationTimestamp"]).unwrap_or(0),
        })
    }
}

impl Node {
    /// Out of a `Node`; none where it is well.
    pub fn of(node: &Value) -> Option<Self> {
        let taints = || node["spec"]["taints"].as_array().into_iter().flatten();
        let tainted = |key: &str| taints().any(|taint| taint["key"] == key);
        let ready = conditions(node).iter().any(|found| found.name == "Ready" && found.holds);
        let trouble = if !ready {
            NodeTrouble::NotReady
        } else if tainted("karpenter.sh/disrupted") || !node["metadata"]["deletionTimestamp"].is_null() {
            NodeTrouble::Draining
        } else if node["spec"]["unschedulable"] == true {
            NodeTrouble::Cordoned
        } else {
            return None;
        };
        Some(Self { name: node["metadata"]["name"].as_str()?.to_owned(), trouble })
    }
}

/// Events, those of a kind counted together.
#[derive(Clone, Debug, Default)]
pub struct Events(BTreeMap<(String, String, String), Event>);

impl Events {
    /// Takes one in.
    pub fn add(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &event["involvedObject"];
        let (kind, reason) = (text(&about["kind"]), text(&event["reason"]));
        let message = short(event["message"].as_str().unwrap_or_default());
        let series = &event["series"];
        let times = [&series["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"]];
        let last =
            times.into_iter().chain([&event["metadata"]["creationTimestamp"]]).find_map(seconds).unwrap_or(0);
        let count = series["count"].as_u64().or_else(|| event["count"].as_u64()).unwrap_or(1).max(1);
        let key = (kind.clone(), reason.clone(), message.clone());
        if self.0.len() >= EVENTS_MAX && !self.0.contains_key(&key) {
            return;
        }
        let new = Event { kind, object: String::new(), reason, message, count: 0, last: i64::MIN };
        let kept = self.0.entry(key).or_insert(new);
        kept.count = kept.count.saturating_add(count);
        if last > kept.last {
            kept.last = last;
            kept.object = text(&about["name"]);
        }
    }

    /// All of them, the newest first.
    pub fn list(self) -> Vec<Event> {
        let mut events: Vec<Event> = self.0.into_values().collect();
        events.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.message.cmp(&b.message)));
        events
    }
}

/// The conditions of an object.
pub fn conditions(object: &Value) -> Vec<Condition> {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.map(|condition| {
        let text = |key: &str| condition[key].as_str().unwrap_or_default();
        Condition {
            name: text("type").to_owned(),
            holds: text("status") == "True",
            reason: text("reason").to_owned(),
            message: short(text("message")),
            since: seconds(&condition["lastTransitionTime"]),
        }
    })
    .collect()
}

/// A point in time as the API server writes it, in seconds since the epoch.
pub fn seconds(value: &Value) -> Option<i64> {
    let time: jiff::Timestamp = value.as_str()?.parse().ok()?;
    Some(time.as_second())
}

/// One line of at most so many characters.
pub fn short(text: &str) -> String {
    cut(text.split_whitespace().collect::<Vec<_>>().join(" "), MESSAGE_CHARS_MAX)
}

/// The text, or its first characters and a sign that there were more.
pub(crate) fn cut(text: String, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text;
    }
    text.chars().take(chars_max).chain("…".chars()).collect()
}

/// `reason: message`, or whichever there is.
pub fn join(reason: &str, message: &str) -> String {
    match (reason.is_empty(), message.is_empty()) {
        (false, false) if !message.starts_with(reason) => format!("{reason}: {message}"),
        (_, false) => message.to_owned(),
        _ => reason.to_owned(),
    }
}
