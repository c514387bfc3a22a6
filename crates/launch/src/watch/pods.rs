//! Pods, of each what a line is made of.

use serde::Serialize;
use serde_json::Value;

use super::situation::{HEAD, seconds, short};

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// No machine has been found for it.
    Unscheduled,
    /// Its machine pulls images and mounts volumes.
    Creating,
    /// Its init containers are at work.
    Init,
    /// Its containers run, and do not say that they are ready.
    Started,
    /// Its containers run and are ready.
    Ready,
    /// It has ended, and is not started again.
    Ended,
}

/// What is wrong with a container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// `ImagePullBackOff`, `CrashLoopBackOff`, `OOMKilled`.
    pub reason: String,
    /// What whoever said it added.
    pub message: String,
    /// The container.
    pub container: String,
    /// Its image.
    pub image: String,
    /// With what it ended last.
    pub exit_code: Option<i64>,
}

/// A pod, small: a launch has 1,000.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its group of workers, or `headgroup`.
    pub group: String,
    /// How far it is.
    pub state: PodState,
    /// Its machine.
    pub node: Option<String>,
    /// When it was made.
    pub created: i64,
    /// When it is to be gone, where it was deleted: its grace is part of that.
    pub gone_by: Option<i64>,
    /// Restarts of all containers.
    pub restarts: u64,
    /// Why no machine was found.
    pub unscheduled: Option<String>,
    /// What is wrong with it.
    pub trouble: Option<Trouble>,
}

impl Pod {
    /// Out of a `Pod`.
    pub fn of(pod: &Value) -> Option<Self> {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        let labels = &metadata["labels"];
        let group = if labels["ray.io/node-type"] == "head" {
            HEAD
        } else {
            labels["ray.io/group"].as_str().unwrap_or_default()
        };
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
        let state = state(status, node.is_some());
        let restarts = containers(status)
            .filter_map(|container| container["restartCount"].as_u64())
            .fold(0, u64::saturating_add);
        let unscheduled = (state == PodState::Unscheduled).then(|| {
            let scheduled = condition(status, "PodScheduled");
            scheduled.map_or_else(String::new, unscheduled)
        });
        Some(Self {
            name: metadata["name"].as_str()?.to_owned(),
            group: group.to_owned(),
            state,
            node: node.map(str::to_owned),
            created: seconds(&metadata["creationTimestamp"]).unwrap_or(0),
            gone_by: seconds(&metadata["deletionTimestamp"]),
            restarts,
            unscheduled: unscheduled.filter(|reason| !reason.is_empty()),
            trouble: trouble(status),
        })
    }

    /// Whether it is that of the head.
    pub fn is_head(&self) -> bool {
        self.group == HEAD
    }
}

fn state(status: &Value, scheduled: bool) -> PodState {
    let phase = status["phase"].as_str().unwrap_or_default();
    let is = |name: &str| condition(status, name).is_some_and(|found| found["status"] == "True");
    match phase {
        "Succeeded" | "Failed" => PodState::Ended,
        "Running" if is("Ready") => PodState::Ready,
        "Running" => PodState::Started,
        _ if !scheduled => PodState::Unscheduled,
        _ if status["initContainerStatuses"]
            .as_array()
            .is_some_and(|all| all.iter().any(|found| found["state"]["running"].is_object())) =>
        {
            PodState::Init
        }
        _ => PodState::Creating,
    }
}

fn condition<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|found| found["type"] == name)
}

fn containers(status: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|key| status[key].as_array().into_iter().flatten())
}

/// The scheduler's words without what preemption would bring, which repeats every node.
fn unscheduled(condition: &Value) -> String {
    let message = condition["message"].as_str().unwrap_or_default();
    let message = message.split(" preemption:").next().unwrap_or_default().trim_end_matches(['.', ' ']);
    let said = if message.is_empty() { condition["reason"].as_str().unwrap_or_default() } else { message };
    short(said)
}

/// What containers say on their way up: no trouble.
const ON_THE_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The worst that is wrong with the containers of a pod.
fn trouble(status: &Value) -> Option<Trouble> {
    let evicted = status["reason"].as_str().filter(|_| status["phase"] == "Failed");
    let of_pod = evicted.map(|reason| Trouble {
        reason: reason.to_owned(),
        message: short(status["message"].as_str().unwrap_or_default()),
        container: String::new(),
        image: String::new(),
        exit_code: None,
    });
    let of_containers = containers(status).filter_map(|container| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (waiting, ended) = (&container["state"]["waiting"], &container["state"]["terminated"]);
        let last = &container["lastState"]["terminated"];
        let code = |ended: &Value| ended["exitCode"].as_i64();
        let (reason, message, exit_code) = if let Some(reason) = waiting["reason"].as_str() {
            if ON_THE_WAY.contains(&reason) {
                return None;
            }
            // `CrashLoopBackOff` says that it ended, and its last state how.
            let killed = last["reason"] == "OOMKilled" && reason == "CrashLoopBackOff";
            let reason = if killed { "OOMKilled" } else { reason };
            (reason.to_owned(), &waiting["message"], code(last))
        } else if code(ended).is_some_and(|code| code != 0) {
            let reason = ended["reason"].as_str().unwrap_or("Error");
            (reason.to_owned(), &ended["message"], code(ended))
        } else {
            return None;
        };
        Some(Trouble {
            reason,
            message: short(message.as_str().unwrap_or_default()),
            container: text(&container["name"]),
            image: text(&container["image"]),
            exit_code,
        })
    });
    of_containers.chain(of_pod).next()
}
