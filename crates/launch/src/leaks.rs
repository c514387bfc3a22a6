//! What is held, and paid for, and does nothing.
//!
//! [`holdings`] asks for what there is, and [`leaks`], which is pure, says what of it is held for nothing, since
//! when, and what ends it. Nothing is said of what may still be on its way: each rule has its patience.

use std::collections::BTreeMap;

use eagleray_base::units::format_seconds;
use eagleray_base::{Error, Kind, Result};
use eagleray_kube::render::{BUILD_SUFFIX, RUN_LABEL};
use eagleray_run::RunState;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{Cluster, HINT_RIGHTS};
use crate::doctor::rights::part_of;
use crate::launches::{self, Phase};
use crate::resource::{NODE, POD, RAY_CLUSTER, RAY_JOB, Resource, WORKLOAD};
use crate::watch::situation::{conditions, join, seconds, short};

/// Controllers may take so long for what they will do.
const CONTROLLER_SECONDS_MAX: i64 = 300;

/// A launch may be between quota and pods for so long.
const SUSPENDED_SECONDS_MAX: i64 = 900;

/// A driver may be silent for so long: heads are replaced in minutes.
const SILENT_SECONDS_MAX: i64 = 1_800;

/// Kubernetes forgets pods of lost nodes by itself, sometimes, within minutes.
const TERMINATING_SECONDS_MAX: i64 = 120;

const GPU: &str = "nvidia.com/gpu";

mod idle;

pub use idle::ask_heads;

/// What there is, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Holdings {
    /// Launches.
    pub jobs: Vec<Job>,
    /// Their clusters, and others.
    pub clusters: Vec<Ray>,
    /// Pods of Ray.
    pub pods: Vec<Pod>,
    /// Whether each node is ready; none where they cannot be asked.
    pub nodes: Option<BTreeMap<String, bool>>,
    /// Since when each `RayJob` has quota, by its identity.
    pub quota: BTreeMap<String, i64>,
    /// What could not be asked.
    pub unseen: Vec<String>,
}

/// Who an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Name {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Our run that it belongs to.
    pub run: Option<String>,
    /// When it was made.
    pub created: i64,
    /// When it is to be gone, where it was deleted.
    pub deleting: Option<i64>,
}

/// A `RayJob`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Who.
    pub name: Name,
    /// What has become of it.
    pub phase: Phase,
    /// `status.jobDeploymentStatus`.
    pub deployment: String,
    /// Why.
    pub reason: String,
    /// When it ended.
    pub ended: Option<i64>,
    /// When its driver began.
    pub started: Option<i64>,
    /// How long its cluster may stay after it.
    pub kept_seconds: i64,
    /// GPUs that it asks for.
    pub gpus: u64,
    /// What its store says of its driver, where anybody has asked.
    pub driver: Option<Driver>,
}

/// What a store says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Driver {
    /// What has become of it.
    pub state: RunState,
    /// When it last wrote.
    pub last: i64,
}

/// A `RayCluster`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ray {
    /// Who.
    pub name: Name,
    /// The `RayJob` that it was made for; none for one that stands alone.
    pub job: Option<String>,
    /// Whether people made it, and no controller.
    pub alone: bool,
    /// Since when it has had nothing to do, where its head was asked and that is longer than is waited for.
    pub idle: Option<i64>,
}

/// A pod of Ray.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pod {
    /// Who.
    pub name: Name,
    /// The cluster that it belongs to.
    pub cluster: String,
    /// Its node.
    pub node: Option<String>,
    /// GPUs that it holds.
    pub gpus: u64,
    /// Since when Ray has run in it, where it is a head: no head remembers what was before.
    pub head_since: Option<i64>,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A launch that `KubeRay` refuses.
    Refused,
    /// A launch that has quota and is suspended.
    Suspended,
    /// A launch whose driver gives no sign of life.
    NoDriver,
    /// A cluster whose job is over, or gone.
    PastItsJob,
    /// Pods with GPUs whose cluster or job is over or gone.
    IdleGpus,
    /// A pod that does not go, on a node that is dead.
    Terminating,
    /// A cluster for people on which nothing has run for long.
    IdleCluster,
}

impl Class {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Suspended => "suspended",
            Self::NoDriver => "no-driver",
            Self::PastItsJob => "past-its-job",
            Self::IdleGpus => "idle-gpus",
            Self::Terminating => "terminating",
            Self::IdleCluster => "idle-cluster",
        }
    }
}

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fix {
    /// The `RayJob` is deleted, and all that it owns.
    DeleteJob,
    /// The `RayCluster` is deleted, and its pods.
    DeleteCluster,
    /// The pod is deleted.
    DeletePod,
    /// The pod is deleted without a word of its node, which has none to say.
    ForceDeletePod,
    /// Somebody may work on the `RayCluster`, and only people know: it is left to them.
    LeaveCluster,
}

impl Fix {
    /// Whether [`Leak::mend`] may do it.
    pub const fn is_safe(self) -> bool {
        !matches!(self, Self::LeaveCluster)
    }

    const fn resource(self) -> Resource {
        match self {
            Self::DeleteJob => RAY_JOB,
            Self::DeleteCluster | Self::LeaveCluster => RAY_CLUSTER,
            Self::DeletePod | Self::ForceDeletePod => POD,
        }
    }
}

/// Something held for nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leak {
    /// What is wrong.
    pub class: Class,
    /// What.
    pub object: Name,
    /// GPUs that it holds, as machines or as quota.
    pub gpus: u64,
    /// Since when, seconds since the epoch.
    pub since: i64,
    /// Why it is one.
    pub why: String,
    /// What ends it.
    pub fix: Fix,
}

impl Leak {
    /// `RayJob training/solar-2`.
    pub fn what(&self) -> String {
        format!("{} {}/{}", self.fix.resource().kind, self.object.namespace, self.object.name)
    }

    /// The command that ends it.
    pub fn remedy(&self) -> String {
        let Name { namespace, name, .. } = &self.object;
        let force = if self.fix == Fix::ForceDeletePod { " --force --grace-period=0" } else { "" };
        format!("kubectl -n {namespace} delete {} {name}{force}", self.fix.resource().kind.to_lowercase())
    }

    /// Ends it; false where it was gone already.
    ///
    /// # Errors
    /// As [`Cluster::delete_exactly`]; where a right is missing, the hint names the chart's key that gives it.
    /// `Invalid` for what is [left to people](Fix::is_safe).
    pub fn mend(&self, cluster: &Cluster) -> Result<bool> {
        if !self.fix.is_safe() {
            return Err(Error::invalid(format!("somebody may work on {}", self.what()))
                .with_hint(format!("by hand: `{}`", self.remedy())));
        }
        let Name { namespace, name, uid, .. } = &self.object;
        let force = self.fix == Fix::ForceDeletePod;
        cluster
            .delete_exactly(self.fix.resource(), Some(namespace), name, uid, force)
            .map_err(|error| self.lacking(error))
    }

    /// What `doctor` asks for is what a launch needs, and less than this may take.
    fn lacking(&self, error: Error) -> Error {
        let Resource { group, plural, .. } = self.fix.resource();
        let given_by = match part_of(group, plural, "delete") {
            Some(part) if error.hint() == Some(HINT_RIGHTS) => part.name(),
            _ => return error,
        };
        let kind = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let namespace = &self.object.namespace;
        error.with_hint(format!(
            "it takes the right to delete {kind} in `{namespace}`; `rights.{given_by}` of the chart gives it"
        ))
    }
}

/// What of all there is is held for nothing; of runs of ours alone, unless `all`. The dearest first.
pub fn leaks(holdings: &Holdings, now: i64, all: bool) -> Vec<Leak> {
    let finder = Finder { holdings, now };
    let mut found: Vec<Leak> = holdings.jobs.iter().filter_map(|job| finder.job(job)).collect();
    found.extend(holdings.clusters.iter().filter_map(|cluster| finder.cluster(cluster)));
    found.extend(holdings.pods.iter().filter_map(|pod| finder.terminating(pod)));
    found.extend(holdings.pods.iter().filter_map(|pod| finder.orphan(pod)));
    found.retain(|leak| all || leak.object.run.is_some());
    found.sort_by(|a, b| {
        b.gpus.cmp(&a.gpus).then(a.since.cmp(&b.since)).then_with(|| a.what().cmp(&b.what()))
    });
    found
}

struct Finder<'a> {
    holdings: &'a Holdings,
    now: i64,
}

impl Finder<'_> {
    fn is_past(&self, since: i64, patience: i64) -> bool {
        self.now > since.saturating_add(patience)
    }

    fn job(&self, job: &Job) -> Option<Leak> {
        if job.name.deleting.is_some() {
            return None;
        }
        let quota = self.holdings.quota.get(&job.name.uid).copied();
        let leak = |class, gpus, since, why| {
            Some(Leak { class, object: job.name.clone(), gpus, since, why, fix: Fix::DeleteJob })
        };
        if job.deployment == "ValidationFailed" {
            let since = quota.unwrap_or(job.name.created);
            let held = if quota.is_some() { ", and holds its quota" } else { "" };
            let why = format!("KubeRay refuses it{held}: {}", job.reason);
            let gpus = if quota.is_some() { job.gpus } else { 0 };
            return self
                .is_past(job.name.created, CONTROLLER_SECONDS_MAX)
                .then(|| leak(Class::Refused, gpus, since, why))?;
        }
        if job.phase == Phase::Suspended {
            let since = quota.filter(|since| self.is_past(*since, SUSPENDED_SECONDS_MAX))?;
            return leak(Class::Suspended, job.gpus, since, "has quota, and is suspended".to_owned());
        }
        let (Some(driver), Phase::Running) = (job.driver, job.phase) else { return None };
        let started = job.started.unwrap_or(job.name.created);
        // What an earlier launch wrote last is no sign of this one's death.
        let since = driver.last.max(started);
        let silent = matches!(driver.state, RunState::New | RunState::Dead);
        if !silent || !self.is_past(since, SILENT_SECONDS_MAX) {
            return None;
        }
        leak(Class::NoDriver, job.gpus, since, "its driver gives no sign of life".to_owned())
    }

    fn job_of(&self, cluster: &Ray) -> Option<&Job> {
        let wanted = cluster.job.as_deref()?;
        self.holdings
            .jobs
            .iter()
            .find(|job| job.name.name == wanted && job.name.namespace == cluster.name.namespace)
    }

    fn pods_of(&self, cluster: &Ray) -> impl Iterator<Item = &Pod> {
        self.holdings
            .pods
            .iter()
            .filter(|pod| pod.cluster == cluster.name.name && pod.name.namespace == cluster.name.namespace)
    }

    fn cluster(&self, cluster: &Ray) -> Option<Leak> {
        if cluster.name.deleting.is_some() {
            return None;
        }
        let Some(made_for) = &cluster.job else { return self.standing(cluster) };
        let gpus = self.pods_of(cluster).map(|pod| pod.gpus).sum();
        let leak = |class, since, why| {
            Some(Leak { class, object: cluster.name.clone(), gpus, since, why, fix: Fix::DeleteCluster })
        };
        let Some(job) = self.job_of(cluster) else {
            let since = cluster.name.created;
            let past = self.is_past(since, CONTROLLER_SECONDS_MAX);
            return past
                .then(|| leak(Class::PastItsJob, since, format!("its RayJob `{made_for}` is gone")))?;
        };
        // What is being deleted takes its clusters with it.
        if job.name.deleting.is_some() {
            return None;
        }
        if job.phase == Phase::Suspended {
            let since = self.pods_of(cluster).filter(|pod| pod.gpus > 0).map(|pod| pod.name.created).max()?;
            let past = gpus > 0 && self.is_past(since.max(cluster.name.created), SUSPENDED_SECONDS_MAX);
            return past
                .then(|| leak(Class::IdleGpus, since, format!("its RayJob `{made_for}` is suspended")))?;
        }
        if !job.phase.is_over() {
            return None;
        }
        let ended = job.ended.unwrap_or(job.name.created);
        let over = format!("its RayJob `{made_for}` has {}", job.phase.name());
        if self.is_past(ended.saturating_add(job.kept_seconds), CONTROLLER_SECONDS_MAX) {
            return leak(Class::PastItsJob, ended, over);
        }
        let idle = gpus > 0 && self.is_past(ended, CONTROLLER_SECONDS_MAX);
        let kept = format_seconds(job.kept_seconds as f64);
        idle.then(|| leak(Class::IdleGpus, ended, format!("{over}, and keeps its GPUs for {kept}")))?
    }

    /// A cluster for people.
    fn standing(&self, cluster: &Ray) -> Option<Leak> {
        let since = cluster.idle?;
        let idle = format_seconds(self.now.saturating_sub(since).max(0) as f64);
        Some(Leak {
            class: Class::IdleCluster,
            object: cluster.name.clone(),
            gpus: self.pods_of(cluster).map(|pod| pod.gpus).sum(),
            since,
            why: format!("no job has run on it for {idle}"),
            fix: Fix::LeaveCluster,
        })
    }

    fn terminating(&self, pod: &Pod) -> Option<Leak> {
        let gone_by = pod.name.deleting.filter(|by| self.is_past(*by, TERMINATING_SECONDS_MAX))?;
        let nodes = self.holdings.nodes.as_ref()?;
        let node = pod.node.as_deref()?;
        let state = match nodes.get(node) {
            // Its kubelet lives, and has its reasons.
            Some(true) => return None,
            Some(false) => "is not ready",
            None => "is gone",
        };
        Some(Leak {
            class: Class::Terminating,
            object: pod.name.clone(),
            gpus: pod.gpus,
            since: gone_by,
            why: format!("its grace is over, and its node `{node}` {state}"),
            fix: Fix::ForceDeletePod,
        })
    }

    /// A pod with GPUs whose cluster is gone.
    fn orphan(&self, pod: &Pod) -> Option<Leak> {
        let there =
            self.holdings.clusters.iter().any(|cluster| {
                cluster.name.name == pod.cluster && cluster.name.namespace == pod.name.namespace
            });
        if there || pod.gpus == 0 || pod.name.deleting.is_some() {
            return None;
        }
        let past = self.is_past(pod.name.created, CONTROLLER_SECONDS_MAX);
        past.then(|| Leak {
            class: Class::IdleGpus,
            object: pod.name.clone(),
            gpus: pod.gpus,
            since: pod.name.created,
            why: format!("its RayCluster `{}` is gone", pod.cluster),
            fix: Fix::DeletePod,
        })
    }
}

/// What there is in a namespace, or in all. Pods are reduced as they are read.
///
/// # Errors
/// As [`Cluster::list`], for all but nodes and workloads.
pub fn holdings(cluster: &Cluster, namespace: Option<&str>) -> Result<Holdings> {
    let mut held = Holdings::default();
    let any = ("", "");
    cluster.each(RAY_JOB, namespace, any, &mut |job| held.jobs.push(Job::of(job)))?;
    cluster.each(RAY_CLUSTER, namespace, any, &mut |ray| held.clusters.push(Ray::of(ray)))?;
    cluster.each(POD, namespace, ("ray.io/cluster", ""), &mut |pod| held.pods.push(Pod::of(pod)))?;
    let mut nodes = BTreeMap::new();
    let asked = cluster.each(NODE, None, any, &mut |node| {
        let ready = conditions(node).iter().any(|found| found.name == "Ready" && found.holds);
        nodes.insert(node["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ready);
    });
    match asked {
        Ok(()) => held.nodes = Some(nodes),
        Err(error) if is_optional(error.kind()) => {
            held.unseen
                .push(format!("cannot look at nodes, so not at pods on dead ones: {}", error.message()));
        }
        Err(error) => return Err(error),
    }
    let asked = cluster.each(WORKLOAD, namespace, any, &mut |workload| held.quota.extend(quota(workload)));
    match asked {
        // A cluster without Kueue has no quota to hold.
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) if is_optional(error.kind()) => {
            held.unseen.push(format!("cannot look at Kueue's workloads: {}", error.message()));
        }
        other => other?,
    }
    Ok(held)
}

const fn is_optional(kind: Kind) -> bool {
    matches!(kind, Kind::NotFound | Kind::Invalid)
}

/// Whose quota a `Workload` holds, and since when.
fn quota(workload: &Value) -> Option<(String, i64)> {
    let reserved =
        conditions(workload).into_iter().find(|found| found.name == "QuotaReserved" && found.holds)?;
    let owners = workload["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["kind"] == "RayJob")?;
    Some((owner["uid"].as_str()?.to_owned(), reserved.since.unwrap_or(0)))
}

impl Name {
    fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            run: metadata["labels"][RUN_LABEL].as_str().map(str::to_owned),
            created: seconds(&metadata["creationTimestamp"]).unwrap_or(0),
            deleting: seconds(&metadata["deletionTimestamp"]),
        }
    }
}

impl Job {
    /// Out of a `RayJob`.
    pub fn of(job: &Value) -> Self {
        let (spec, status) = (&job["spec"], &job["status"]);
        let text = |key: &str| status[key].as_str().unwrap_or_default();
        Self {
            name: Name::of(job),
            phase: launches::phase(job),
            deployment: text("jobDeploymentStatus").to_owned(),
            reason: short(&join(text("reason"), text("message"))),
            ended: seconds(&status["endTime"]),
            started: seconds(&status["startTime"]),
            kept_seconds: kept_seconds(spec),
            gpus: gpus_of_spec(&spec["rayClusterSpec"]),
            driver: None,
        }
    }

    /// Whether only the store of its run can say whether it is alive.
    pub fn has_driver(&self) -> bool {
        self.name.run.is_some() && self.phase == Phase::Running && !self.name.name.ends_with(BUILD_SUFFIX)
    }
}

/// How long a `RayJob` lets its cluster stay; none of its own, and it stays for ever.
fn kept_seconds(spec: &Value) -> i64 {
    let rules = spec["deletionStrategy"]["deletionRules"].as_array().into_iter().flatten();
    let ttl = rules.filter_map(|rule| rule["condition"]["ttlSeconds"].as_i64());
    ttl.chain(spec["ttlSecondsAfterFinished"].as_i64()).max().unwrap_or(0).max(0)
}

fn gpus_of_spec(cluster: &Value) -> u64 {
    let groups = cluster["workerGroupSpecs"].as_array().into_iter().flatten();
    let of_group = |group: &Value| {
        let count = |key: &str| group[key].as_u64().unwrap_or(1);
        count("replicas").saturating_mul(count("numOfHosts")).saturating_mul(gpus(&group["template"]["spec"]))
    };
    groups.map(of_group).fold(gpus(&cluster["headGroupSpec"]["template"]["spec"]), u64::saturating_add)
}

/// The GPUs of a pod's spec.
fn gpus(spec: &Value) -> u64 {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let of_container = |container: &Value| {
        let limit = &container["resources"]["limits"][GPU];
        limit.as_u64().or_else(|| limit.as_str()?.parse().ok()).unwrap_or(0)
    };
    containers.map(of_container).fold(0, u64::saturating_add)
}

impl Ray {
    /// Out of a `RayCluster`.
    pub fn of(cluster: &Value) -> Self {
        let labels = &cluster["metadata"]["labels"];
        let job = (labels["ray.io/originated-from-crd"] == "RayJob")
            .then(|| labels["ray.io/originated-from-cr-name"].as_str().map(str::to_owned))
            .flatten();
        let alone = matches!(labels["ray.io/originated-from-crd"].as_str(), None | Some("RayCluster"));
        Self { name: Name::of(cluster), job, alone, idle: None }
    }
}

impl Pod {
    /// Out of a `Pod`.
    pub fn of(pod: &Value) -> Self {
        // One that has ended holds nothing.
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
        Self {
            name: Name::of(pod),
            cluster: pod["metadata"]["labels"]["ray.io/cluster"].as_str().unwrap_or_default().to_owned(),
            node: node.map(str::to_owned),
            // Without a machine it asks, and holds none.
            gpus: if ended || node.is_none() { 0 } else { gpus(&pod["spec"]) },
            head_since: (pod["metadata"]["labels"]["ray.io/node-type"] == "head")
                .then(|| ray_since(pod))
                .flatten(),
        }
    }
}

/// When the container of Ray, which is a pod's first, last started.
fn ray_since(pod: &Value) -> Option<i64> {
    let name = pod["spec"]["containers"][0]["name"].as_str()?;
    let mut all = pod["status"]["containerStatuses"].as_array()?.iter();
    let ray = all.find(|status| status["name"] == name)?;
    seconds(&ray["state"]["running"]["startedAt"])
}

#[cfg(test)]
mod tests;
