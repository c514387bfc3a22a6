//! One line out of a situation.

use std::collections::BTreeMap;

use eagleray_base::units::format_seconds;
use eagleray_run::RunState;
use serde::Serialize;

use super::groups::groups;
use super::pods::{Pod, PodState, Trouble};
use super::situation::{Event, Job, NodeTrouble, Situation, Stage, Workload, join};
use crate::launches;

/// A run that does no step for so long is told of: saves and validations take minutes, not this.
const STEP_SECONDS_MAX: i64 = 600;

/// A controller that has not looked at a new object after this time is probably not there.
const CONTROLLER_SECONDS_MAX: i64 = 60;

/// A pod may stay so long past its grace before its machine is suspected.
const GONE_SECONDS_MAX: i64 = 30;

/// So many of several reasons are told.
const REASONS_MAX: usize = 3;

/// Warnings older than this explain nothing that is so now.
const EVENT_SECONDS_MAX: i64 = 900;

/// What a launch is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// There is none of that name.
    Gone,
    /// It is being deleted.
    Deleting,
    /// Somebody holds it.
    Suspended,
    /// It waits for Kueue.
    Quota,
    /// `KubeRay` has to make its cluster.
    Cluster,
    /// It waits for machines.
    Nodes,
    /// It waits for images.
    Images,
    /// Its pods come up.
    Pods,
    /// Its pods are ready; the driver has to begin.
    Driver,
    /// Its ranks come together.
    Forming,
    /// It does what it is for.
    Running,
    /// Its driver is silent.
    Silent,
    /// `KubeRay` makes a new cluster after a failure.
    Retrying,
    /// It is done.
    Succeeded,
    /// Somebody stopped it.
    Stopped,
    /// It failed.
    Failed,
}

impl Phase {
    /// Whether nothing will happen any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Gone | Self::Succeeded | Self::Stopped | Self::Failed)
    }
}

/// What a launch is at, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// One word.
    pub phase: Phase,
    /// One line.
    pub line: String,
    /// What else there is to know.
    pub details: Vec<String>,
    /// Since when, seconds since the epoch, where something says so.
    pub since: Option<i64>,
}

/// Why a launch waits, or what it does.
pub fn tell(situation: &Situation) -> Told {
    let Some(job) = &situation.job else {
        return Told {
            phase: Phase::Gone,
            line: "gone: somebody deleted it; what it saved is on its store".to_owned(),
            details: Vec::new(),
            since: None,
        };
    };
    let (phase, line, since) = deleting(situation, job)
        .or_else(|| over(situation, job))
        .or_else(|| held(situation, job))
        .or_else(|| retrying(job))
        .or_else(|| running(situation, job))
        .or_else(|| no_cluster(situation, job))
        .or_else(|| containers(situation))
        .or_else(|| nodes(situation))
        .or_else(|| starting(situation))
        .unwrap_or_else(|| driver(situation, job));
    let mut details = details(situation);
    // What the line says already is not said twice.
    details.retain(|detail| !line.contains(detail.as_str()));
    Told { phase, line, details, since }
}

type Line = (Phase, String, Option<i64>);

/// `3 pods`, `1 pod`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn deleting(situation: &Situation, job: &Job) -> Option<Line> {
    let since = job.deleting?;
    let left = situation.pods.len();
    let line = match (left, stuck(situation)) {
        (0, _) => "being deleted: its pods are gone".to_owned(),
        (_, None) => format!("being deleted: {} left", count(left, "pod")),
        (_, Some(stuck)) => format!("being deleted: {} left; {stuck}", count(left, "pod")),
    };
    Some((Phase::Deleting, line, Some(since)))
}

/// Pods that do not go, and why.
fn stuck(situation: &Situation) -> Option<String> {
    let late = |pod: &&Pod| pod.gone_by.is_some_and(|by| by.saturating_add(GONE_SECONDS_MAX) < situation.now);
    let late: Vec<&Pod> = situation.pods.iter().filter(late).collect();
    let first = late.first()?;
    let node = first.node.as_deref().unwrap_or("no node");
    let state = situation.nodes.iter().find(|found| Some(found.name.as_str()) == first.node.as_deref());
    let state = match state.map(|node| node.trouble) {
        Some(NodeTrouble::Absent) => ", which is gone",
        Some(NodeTrouble::NotReady) => ", which is not ready",
        _ => "",
    };
    Some(format!(
        "{} past the grace on {node}{state}: `eagleray runs --leaks --fix` removes what does not go",
        count(late.len(), "pod")
    ))
}

fn over(situation: &Situation, job: &Job) -> Option<Line> {
    let why = join(&job.reason, &job.message);
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    let stopped = situation.ledger.as_ref().map(|ledger| &ledger.recent);
    let stopped = stopped.filter(|recent| recent.state == RunState::Stopped && !starts_over(situation, job));
    let (phase, line) = match job.phase {
        launches::Phase::Succeeded if job.builds => (Phase::Succeeded, "the data is built".to_owned()),
        // A driver that did what it was asked has not failed, as far as KubeRay may know.
        launches::Phase::Succeeded if let Some(recent) = stopped => (
            Phase::Stopped,
            format!("was asked to stop, and did after step {}; `eagleray resume` goes on", recent.step),
        ),
        launches::Phase::Succeeded => (Phase::Succeeded, "all steps are done".to_owned()),
        launches::Phase::Stopped => (Phase::Stopped, format!("stopped{because}")),
        launches::Phase::Failed if job.deployment == "ValidationFailed" => {
            let held = if job.queue.is_some() { "; it may hold its quota until it is deleted" } else { "" };
            (Phase::Failed, format!("KubeRay refuses it{because}{held}"))
        }
        launches::Phase::Failed => (Phase::Failed, format!("failed{because}")),
        _ => return None,
    };
    Some((phase, line, job.ended))
}

fn retrying(job: &Job) -> Option<Line> {
    if job.phase != launches::Phase::Retrying {
        return None;
    }
    let (failed, limit) = job.failed;
    let why = join(&job.reason, &job.message);
    let because = if why.is_empty() { String::new() } else { format!(" ({why})") };
    let line =
        format!("cluster {failed} of {} failed{because}; KubeRay makes the next", limit.saturating_add(1));
    Some((Phase::Retrying, line, job.ended))
}

/// What does not run because somebody, or Kueue, holds it.
fn held(situation: &Situation, job: &Job) -> Option<Line> {
    if job.phase != launches::Phase::Suspended && !job.suspend {
        return None;
    }
    let Some(queue) = &job.queue else {
        let pods = situation.pods.len();
        let line = if pods > 0 {
            format!("suspended by hand: {} still to go", count(pods, "pod"))
        } else {
            "suspended by hand: `spec.suspend` is true, and no queue of Kueue would change that".to_owned()
        };
        return Some((Phase::Suspended, line, None));
    };
    let Some(workload) = &situation.workload else {
        let line = if situation.now.saturating_sub(job.created) > CONTROLLER_SECONDS_MAX {
            format!(
                "waits for queue `{queue}`, and Kueue has not seen it: does it run, and may its workloads be read?"
            )
        } else {
            format!("waits for Kueue to see it, in queue `{queue}`")
        };
        return Some((Phase::Quota, line, Some(job.created)));
    };
    Some(queued(workload, queue, job))
}

fn queued(workload: &Workload, queue: &str, job: &Job) -> Line {
    let said = |name: &str| {
        let found = workload.condition(name);
        let why = found.map(|found| if found.message.is_empty() { &found.reason } else { &found.message });
        (why.cloned().unwrap_or_default(), found.and_then(|found| found.since))
    };
    let (why, since) = said("QuotaReserved");
    let since = since.or(Some(job.created));
    if !workload.active {
        let (evicted, since) = said("Evicted");
        let why = if evicted.is_empty() { String::new() } else { format!(": {evicted}") };
        let line = format!(
            "deactivated in queue `{queue}`{why}; `spec.active: true` on its Workload lets it in again"
        );
        return (Phase::Suspended, line, since);
    }
    if workload.holds("Admitted") {
        let line = format!("let in by queue `{queue}`; KubeRay has to begin");
        return (Phase::Cluster, line, said("Admitted").1);
    }
    if workload.holds("QuotaReserved") {
        let checks = if workload.checks.is_empty() {
            "its admission checks".to_owned()
        } else {
            workload.checks.join("; ")
        };
        return (Phase::Quota, format!("has quota in queue `{queue}`, and waits for {checks}"), since);
    }
    if workload.holds("Evicted") {
        let (evicted, since) = said("Evicted");
        let again = if why.is_empty() || why == evicted { String::new() } else { format!("; now {why}") };
        return (Phase::Quota, format!("put out of queue `{queue}`: {evicted}{again}"), since);
    }
    let why = if why.is_empty() { "Kueue has not said why".to_owned() } else { why };
    let uncovered = why.contains("unavailable in ClusterQueue") || why.contains("not covered");
    let hint =
        if uncovered { "; no wait ends this: the ClusterQueue has to cover that resource" } else { "" };
    (Phase::Quota, format!("waits for quota in queue `{queue}`: {why}{hint}"), since)
}

/// What a launch does whose driver is at work.
fn running(situation: &Situation, job: &Job) -> Option<Line> {
    if job.phase != launches::Phase::Running {
        return None;
    }
    if job.builds {
        let line = match job.status.as_str() {
            "RUNNING" => "builds the data".to_owned(),
            _ => "waits for Ray to start the build".to_owned(),
        };
        return Some((Phase::Running, line, job.started));
    }
    // The head is where the driver is: without it there is nobody to tell anything else of.
    let head_lost = !situation.pods.is_empty()
        && !situation.pods.iter().any(|pod| pod.is_head() && pod.state == PodState::Ready);
    if head_lost {
        let why = containers(situation).or_else(|| nodes(situation)).map(|(_, line, _)| format!(": {line}"));
        let line =
            format!("the head is lost, and KubeRay starts the driver on the next{}", why.unwrap_or_default());
        return Some((Phase::Driver, line, None));
    }
    let Some(ledger) = &situation.ledger else {
        let line = match job.status.as_str() {
            "PENDING" | "" => "waits for Ray to start the driver",
            _ => "its driver is at work",
        };
        return Some((Phase::Running, line.to_owned(), job.started));
    };
    let recent = &ledger.recent;
    Some(match recent.state {
        RunState::New => (Phase::Driver, "the driver begins".to_owned(), job.started),
        RunState::Running => training(situation, ledger),
        RunState::Completed => (Phase::Running, "all steps are done; the launch ends".to_owned(), None),
        // An attempt of a launch before this, as far as anyone knows.
        RunState::Stopped | RunState::Failed | RunState::Dead if starts_over(situation, job) => {
            (Phase::Driver, "the driver begins".to_owned(), job.started)
        }
        RunState::Stopped => (Phase::Running, "the driver was stopped; the launch ends".to_owned(), None),
        RunState::Failed => (Phase::Running, "the driver has failed; the launch ends".to_owned(), None),
        RunState::Dead => {
            let line = format!(
                "the driver gives no sign of life since step {}; if none comes, `eagleray logs` and `eagleray resume`",
                recent.step
            );
            (Phase::Silent, line, recent.stepped.map(|at| at as i64))
        }
    })
}

/// Whether the newest attempt ended before this launch's cluster was there.
fn starts_over(situation: &Situation, job: &Job) -> bool {
    let began = situation.cluster.as_ref().map_or(job.created, |cluster| cluster.created);
    let last = situation.ledger.as_ref().and_then(|ledger| ledger.recent.stepped.or(ledger.recent.forming));
    last.is_none_or(|last| (last as i64) < began)
}

fn training(situation: &Situation, ledger: &super::situation::Ledger) -> Line {
    let recent = &ledger.recent;
    let planned = if recent.steps_planned > 0 { format!("/{}", recent.steps_planned) } else { String::new() };
    let saved = ledger
        .checkpoint
        .map_or_else(|| "nothing saved yet".to_owned(), |step| format!("newest checkpoint at step {step}"));
    let ranks = count(recent.ranks as usize, "rank");
    if let Some(forming) = recent.forming {
        let missing = nodes(situation).map(|(_, line, _)| format!("; {line}")).unwrap_or_default();
        let line = match &recent.failure {
            Some(why) => format!(
                "forms again with {ranks} after step {}{planned} ({why}), {saved}{missing}",
                recent.step
            ),
            None => format!("{ranks} come together at step {}{planned}, {saved}{missing}", recent.step),
        };
        return (Phase::Forming, line, Some(forming as i64));
    }
    let Some(stepped) = recent.stepped else {
        return (Phase::Forming, "the driver is at work; no rank has come yet".to_owned(), None);
    };
    let speed = if recent.tokens_per_second > 0.0 {
        format!(", {} tokens/s", rounded(recent.tokens_per_second))
    } else {
        String::new()
    };
    let loss = recent.loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
    let late = situation.now.saturating_sub(stepped as i64);
    let stalled =
        if late > STEP_SECONDS_MAX { format!("; no step for {} minutes", late / 60) } else { String::new() };
    let line = format!("step {}{planned}{speed}{loss}, {ranks}, {saved}{stalled}", recent.step);
    let troubled = trouble_of_nodes(situation).map(|trouble| format!("; {trouble}")).unwrap_or_default();
    (Phase::Running, line + &troubled, None)
}

/// `1.2M`, `84k`.
fn rounded(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

fn no_cluster(situation: &Situation, job: &Job) -> Option<Line> {
    let Some(cluster) = &situation.cluster else {
        let warned = newest(situation, &["RayJob"], |_| true);
        let line = if let Some(event) = warned {
            format!("KubeRay cannot make its cluster: {}", event.message)
        } else if situation.now.saturating_sub(job.created) > CONTROLLER_SECONDS_MAX {
            "KubeRay has made no cluster yet: does its operator run, and look at this namespace?".to_owned()
        } else {
            "KubeRay has to make its cluster".to_owned()
        };
        return Some((Phase::Cluster, line, Some(job.created)));
    };
    let failure = cluster.failure.as_ref()?;
    Some((Phase::Cluster, format!("KubeRay cannot make its pods: {failure}"), Some(cluster.created)))
}

/// What is wrong with containers, the worst first: images, what is missing, what crashes.
fn containers(situation: &Situation) -> Option<Line> {
    let troubled: Vec<(&Pod, &Trouble)> = situation
        .pods
        .iter()
        .filter(|pod| pod.gone_by.is_none())
        .filter_map(|pod| Some((pod, pod.trouble.as_ref()?)))
        .collect();
    let rank = |trouble: &Trouble| match trouble.reason.as_str() {
        reason if is_pull(reason) => 0,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => 1,
        "OOMKilled" => 2,
        _ => 3,
    };
    // Of equals, the head: no worker can be ready before it.
    let (pod, worst) = troubled.iter().min_by_key(|(pod, trouble)| (rank(trouble), !pod.is_head()))?;
    let alike = troubled.iter().filter(|(_, trouble)| rank(trouble) == rank(worst)).count();
    let who = if pod.is_head() && alike == 1 { "the head".to_owned() } else { count(alike, "pod") };
    let said = if worst.message.is_empty() { String::new() } else { format!(": {}", worst.message) };
    let code = worst.exit_code.map(|code| format!(" with exit code {code}")).unwrap_or_default();
    let (phase, line) = match rank(worst) {
        0 => (Phase::Images, format!("{who} cannot pull `{}` ({}){said}", worst.image, worst.reason)),
        1 => (
            Phase::Pods,
            format!("{who} cannot start container `{}` ({}){said}", worst.container, worst.reason),
        ),
        2 => (
            Phase::Pods,
            format!("{who} ran out of memory in container `{}`{code}; its limit is too low", worst.container),
        ),
        _ if worst.container.is_empty() => (Phase::Pods, format!("{who} ended: {}{said}", worst.reason)),
        _ => (
            Phase::Pods,
            format!(
                "container `{}` of {who} ends{code} ({}); `eagleray logs --pod {}` shows why",
                worst.container, worst.reason, pod.name
            ),
        ),
    };
    Some((phase, line, Some(pod.created)))
}

fn is_pull(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError"
    )
}

/// Pods that wait for machines, and what those wait for.
fn nodes(situation: &Situation) -> Option<Line> {
    let waiting: Vec<&Pod> = situation
        .pods
        .iter()
        .filter(|pod| pod.state == PodState::Unscheduled && pod.gone_by.is_none())
        .collect();
    let since = waiting.iter().map(|pod| pod.created).min()?;
    let line = format!("waits for nodes for {}", count(waiting.len(), "pod"));
    let stages = machines(situation);
    let no_capacity = newest(situation, &["NodeClaim", "NodePool"], |event| {
        event.reason.contains("InsufficientCapacity")
            || event.message.to_lowercase().contains("insufficient capacity")
    });
    let why = if let Some(event) = no_capacity {
        let times = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
        format!("EC2 has no capacity{times}: {}", event.message)
    } else if let Some(stages) = stages {
        stages
    } else if let Some(event) = newest(situation, &["Pod"], is_of_karpenter) {
        format!("Karpenter finds no machine that fits: {}", event.message)
    } else {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in &waiting {
            *reasons
                .entry(pod.unscheduled.as_deref().unwrap_or("the scheduler has not said why"))
                .or_default() += 1;
        }
        let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, pods)| std::cmp::Reverse(*pods));
        let several = reasons.len() > 1;
        let told = reasons
            .iter()
            .take(REASONS_MAX)
            .map(|(reason, pods)| if several { format!("{pods} × {reason}") } else { (*reason).to_owned() });
        told.collect::<Vec<_>>().join("; ")
    };
    Some((Phase::Nodes, format!("{line}: {why}"), Some(since)))
}

fn is_of_karpenter(event: &Event) -> bool {
    event.reason == "FailedScheduling"
        && ["nodepool", "instance type", "NodePool"].iter().any(|word| event.message.contains(word))
}

/// How far the machines are that Karpenter makes.
fn machines(situation: &Situation) -> Option<String> {
    let of = |stage: Stage| situation.claims.iter().filter(move |claim| claim.stage == stage);
    let mut parts = Vec::new();
    for (stage, word) in [
        (Stage::Asked, "asked for"),
        (Stage::Launched, "booting"),
        (Stage::Registered, "up, their devices not yet"),
    ] {
        let number = of(stage).count();
        if number == 0 {
            continue;
        }
        let said = of(stage).find(|claim| !claim.message.is_empty() && stage == Stage::Asked);
        let said = said.map(|claim| format!(" ({})", claim.message)).unwrap_or_default();
        parts.push(format!("{number} {word}{said}"));
    }
    (!parts.is_empty()).then(|| format!("of its machines {}", parts.join(", ")))
}

/// Pods that have a machine and are not ready, or that are not there.
fn starting(situation: &Situation) -> Option<Line> {
    let alive = || situation.pods.iter().filter(|pod| pod.gone_by.is_none());
    let of = |state: PodState| alive().filter(|pod| pod.state == state).count();
    let since = alive().filter(|pod| pod.state != PodState::Ready).map(|pod| pod.created).min();
    let (creating, init, started) = (of(PodState::Creating), of(PodState::Init), of(PodState::Started));
    if creating > 0 {
        let mount = newest(situation, &["Pod"], |event| {
            ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"].contains(&event.reason.as_str())
        });
        let line = match mount {
            Some(event) => {
                format!("{} cannot start: {}: {}", count(creating, "pod"), event.reason, event.message)
            }
            None => format!("images and volumes of {} are fetched", count(creating, "pod")),
        };
        return Some((Phase::Images, line, since));
    }
    let head = alive().find(|pod| pod.is_head());
    let head_ready = head.is_some_and(|head| head.state == PodState::Ready);
    if head.is_some() && !head_ready {
        let restarts = head.map_or(0, |head| head.restarts);
        let again = if restarts > 0 { format!(", restarted {restarts} times") } else { String::new() };
        let waiting =
            if init > 0 { format!("; {} wait for it", count(init, "worker")) } else { String::new() };
        return Some((Phase::Pods, format!("the head starts Ray and is not ready{again}{waiting}"), since));
    }
    if init > 0 {
        return Some((Phase::Pods, format!("init containers of {} are at work", count(init, "pod")), since));
    }
    if started > 0 {
        return Some((Phase::Pods, format!("Ray starts in {}, not ready yet", count(started, "pod")), since));
    }
    let going = situation.pods.iter().filter(|pod| pod.gone_by.is_some()).count();
    let missing: u64 = groups(situation)
        .iter()
        .map(|group| u64::from(group.wanted).saturating_sub(u64::from(group.ready)))
        .sum();
    let missing = usize::try_from(missing).unwrap_or(usize::MAX);
    match (missing, going, stuck(situation)) {
        (0, ..) => None,
        (_, _, Some(stuck)) => {
            Some((Phase::Pods, format!("{} missing: {stuck}", count(missing, "pod")), None))
        }
        (_, 0, None) => {
            Some((Phase::Cluster, format!("KubeRay has to make {}", count(missing, "pod")), None))
        }
        (_, going, None) => {
            let line = format!("{} missing; still Terminating: {going}", count(missing, "pod"));
            Some((Phase::Pods, line, None))
        }
    }
}

fn driver(situation: &Situation, job: &Job) -> Line {
    let pods = situation.pods.iter().filter(|pod| pod.gone_by.is_none()).count();
    let line = format!("all {} are ready; KubeRay has to submit the driver", count(pods, "pod"));
    (Phase::Driver, line, job.started)
}

fn trouble_of_nodes(situation: &Situation) -> Option<String> {
    let of = |trouble: NodeTrouble| situation.nodes.iter().filter(|node| node.trouble == trouble).count();
    let words = [
        (NodeTrouble::Absent, "gone"),
        (NodeTrouble::NotReady, "not ready"),
        (NodeTrouble::Draining, "draining"),
        (NodeTrouble::Cordoned, "cordoned"),
    ];
    let parts: Vec<String> = words
        .iter()
        .filter(|(trouble, _)| of(*trouble) > 0)
        .map(|(trouble, word)| format!("{} {word}", count(of(*trouble), "node")))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The newest warning of some kinds of objects, where it is recent.
fn newest<'a>(
    situation: &'a Situation,
    kinds: &[&str],
    wanted: impl Fn(&Event) -> bool,
) -> Option<&'a Event> {
    situation.events.iter().find(|event| {
        kinds.contains(&event.kind.as_str())
            && situation.now.saturating_sub(event.last) <= EVENT_SECONDS_MAX
            && wanted(event)
    })
}

/// So many warnings are shown beside the line.
const EVENTS_SHOWN: usize = 5;

fn details(situation: &Situation) -> Vec<String> {
    let mut details = Vec::new();
    details.extend(machines(situation));
    details.extend(trouble_of_nodes(situation));
    let going = situation.pods.iter().filter(|pod| pod.gone_by.is_some()).count();
    if going > 0 {
        details.push(format!("{} Terminating", count(going, "pod")));
    }
    details.extend(stuck(situation));
    let recent =
        situation.events.iter().filter(|event| situation.now.saturating_sub(event.last) <= EVENT_SECONDS_MAX);
    for event in recent.take(EVENTS_SHOWN) {
        let Event { kind, object, reason, message, count, last } = event;
        let times = if *count > 1 { format!(" ×{count}") } else { String::new() };
        let ago = format_seconds((situation.now.saturating_sub(*last)).max(0) as f64);
        details.push(format!("{ago} ago{times} {kind} {object} {reason}: {message}"));
    }
    details
}
