//! What all objects of a run are made from, checked once.

use std::path::Path;

use eagleray_base::{Error, Result};
use eagleray_plan::{Head, Instance, needs_build};
use eagleray_spec::types::{Capacity, Eks, Group, KubeRay};
use eagleray_spec::{Resolved, Source};
use serde::Deserialize as _;
use serde_json::Value;

use super::{CLUSTER_SUFFIX, Kind, Options};
use crate::yaml::Map;

/// The longest name of a `RayJob`; a longer one ends in `ValidationFailed`, and under Kueue holds its quota.
const RAY_JOB_NAME_CHARS_MAX: usize = 47;

/// The longest name of a `RayCluster`, for the same reason.
const RAY_CLUSTER_NAME_CHARS_MAX: usize = 53;

/// The most pod sets of a workload in Kueue 0.18, whose definition says so; 0.19 takes 18. The head is one.
const POD_SETS_MAX: usize = 10;

/// Variables that `KubeRay` refuses on a head, or sets there itself.
const REDIS_VARIABLES: [&str; 3] = ["RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"];

/// The largest object that an API server keeps, less what is around the spec.
const CONFIG_BYTES_MAX: usize = 1_000_000;

/// Where the spec lies in the pods.
pub(super) const SPEC_FOLDER: &str = "/etc/eagleray";

/// Labels and annotations of ours.
pub(super) use super::{LAUNCH_LABEL, RUN_LABEL, SPEC_FILE};
pub(super) const ROLE_LABEL: &str = "eagleray/role";
pub(super) const SPEC_HASH: &str = "eagleray/spec-hash";

/// A group of training nodes with its instance.
pub(super) struct Nodes {
    pub(super) group: Group,
    pub(super) instance: Instance,
}

/// The nodes of the build.
pub(super) struct Build {
    pub(super) instance: Instance,
    pub(super) nodes: u32,
}

/// A run on EKS.
pub(super) struct Context<'a> {
    pub(super) resolved: &'a Resolved,
    pub(super) options: Options,
    pub(super) eks: Eks,
    pub(super) groups: Vec<Nodes>,
    pub(super) build: Option<Build>,
    /// Whether some group has a range: the run starts on its floor and grows.
    pub(super) elastic: bool,
    /// `<name>-<launch>`, or `<name>-<launch>-cluster`.
    pub(super) launch: String,
}

impl<'a> Context<'a> {
    pub(super) fn new(resolved: &'a Resolved, options: Options) -> Result<Self> {
        let eks = eks(resolved)?;
        let groups = groups(&eks)?;
        let build = build(resolved, &eks, options)?;
        let elastic = eks.groups.iter().any(|group| group.nodes.min != group.nodes.max);
        let suffix = if options.kind == Kind::Cluster { CLUSTER_SUFFIX } else { "" };
        let launch = format!("{}-{}{suffix}", resolved.spec.name, options.launch);
        let context = Self { resolved, options, eks, groups, build, elastic, launch };
        context.check_names()?;
        context.check_workers()?;
        context.check_queue()?;
        context.check_redis()?;
        context.check_places()?;
        context.check_spec_in_pods()?;
        Ok(context)
    }

    /// The name of the run.
    pub(super) fn name(&self) -> &str {
        &self.resolved.spec.name
    }

    /// The nodes that the head has to hold together, those of the build beside, and its size.
    pub(super) fn head(&self) -> (u32, Head) {
        let nodes = self.nodes_max().max(self.build.as_ref().map_or(0, |build| build.nodes));
        (nodes, Head::of(nodes))
    }

    /// The value of a variable that the spec sets.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.eks.env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The most nodes of all groups.
    pub(super) fn nodes_max(&self) -> u32 {
        self.eks.groups.iter().fold(0, |sum, group| sum.saturating_add(group.nodes.max))
    }

    /// The accelerators that the groups start with, and the most that they hold.
    fn accelerators(&self) -> (u32, u32) {
        let sum = |count: fn(&Nodes) -> u32| {
            self.groups.iter().fold(0_u32, |sum, nodes| {
                sum.saturating_add(count(nodes).saturating_mul(nodes.instance.gpus))
            })
        };
        (sum(|nodes| nodes.group.nodes.min), sum(|nodes| nodes.group.nodes.max))
    }

    /// The name of an object that all launches share.
    pub(super) fn shared(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name())
    }

    /// The name of the account of the head, and whether it is one of ours.
    pub(super) fn head_account(&self) -> Option<String> {
        match (&self.eks.service_account, self.elastic) {
            (Some(account), true) => Some(format!("{}-head", account.name)),
            (Some(account), false) => Some(account.name.clone()),
            (None, true) => Some(self.shared("head")),
            (None, false) => None,
        }
    }

    /// The labels that costs are told by.
    pub(super) fn cost_labels(&self) -> Map {
        let mut labels = Map::new();
        for (key, value) in self.eks.labels.iter() {
            labels.set(key, value.as_str().into(), None);
        }
        if labels.get("run").is_none() {
            labels.set("run", self.name().into(), None);
        }
        labels
    }

    /// What every object of a run is found by.
    pub(super) fn run_labels(&self) -> Map {
        self.cost_labels().with(RUN_LABEL, self.name())
    }

    /// What every object of a launch is found by.
    pub(super) fn launch_labels(&self) -> Map {
        self.run_labels().with(LAUNCH_LABEL, self.launch.as_str())
    }

    /// `metadata` of a namespaced object.
    pub(super) fn metadata(&self, name: &str, labels: Map) -> Map {
        Map::new().with("name", name).with("namespace", self.eks.namespace.as_str()).with("labels", labels)
    }

    /// Whether the lifetime of a cluster is Kueue's business.
    pub(super) fn queued(&self) -> bool {
        self.eks.queue.is_some()
    }

    /// Whether this is a cluster to work in, which nobody ends but people.
    pub(super) fn is_long_lived(&self) -> bool {
        self.options.kind == Kind::Cluster
    }

    /// Whether Ray itself decides how many workers there are: within the ranges of a long-lived cluster.
    pub(super) fn autoscaled(&self) -> bool {
        self.is_long_lived() && self.elastic
    }

    /// What is right, and still worth knowing before it is paid for.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (_, accelerators) = self.accelerators();
        let workers = self.resolved.spec.cluster.workers;
        if workers.max < accelerators {
            let idle = accelerators - workers.max;
            notes.push(format!(
                "`cluster.workers` is {} at most, the groups hold {accelerators} accelerators: {idle} would be paid for and idle",
                workers.max
            ));
        }
        let zones: Vec<Option<&str>> = self.groups.iter().map(|nodes| nodes.group.zone.as_deref()).collect();
        let apart = zones.iter().any(|zone| zone.is_none() || *zone != zones[0]);
        if self.groups.iter().any(|nodes| nodes.instance.efa > 0) && self.nodes_max() > 1 && apart {
            notes.push(
                "the groups may lie in several zones, between which there is no EFA: give all the same `zone`".into(),
            );
        }
        if self.is_long_lived() {
            self.note_long_lived(&mut notes);
            return notes;
        }
        if self.queued() && self.elastic {
            notes.push(format!(
                "Kueue counts the floor of {} nodes; what the run grows beyond it is outside its quota",
                self.eks.groups.iter().map(|group| group.nodes.min).sum::<u32>()
            ));
        }
        if self.eks.kuberay == KubeRay::V1_6 {
            notes.push(
                "KubeRay 1.6 has no limit on how long a job's status may be out of reach: a lost head is waited for without end"
                    .into(),
            );
        }
        notes
    }

    fn note_long_lived(&self, notes: &mut Vec<String>) {
        if self.eks.redis.is_none() {
            notes.push(
                "without `cluster.eks.redis` a lost head takes every job, actor and object of the cluster with it"
                    .into(),
            );
        }
        let (floor, _) = self.accelerators();
        if floor > 0 {
            notes.push(format!(
                "{floor} accelerators are held, used or not, until somebody deletes the cluster; a group of `nodes: {{min: 0, max: …}}` lets idle ones go"
            ));
        }
        if self.queued() && self.autoscaled() {
            notes.push(
                "Kueue lets a cluster scale by its feature gate ElasticJobsViaWorkloadSlices, which is on since 0.18; before, or where it is off, the cluster is refused".into(),
            );
        }
    }

    fn check_names(&self) -> Result<()> {
        let longest =
            if self.build.is_some() { format!("{}-build", self.launch) } else { self.launch.clone() };
        let (kind, most) = match self.options.kind {
            Kind::Run => ("RayJob", RAY_JOB_NAME_CHARS_MAX),
            Kind::Cluster => ("RayCluster", RAY_CLUSTER_NAME_CHARS_MAX),
        };
        if longest.len() <= most {
            return Ok(());
        }
        let over = longest.len() - most;
        Err(Error::invalid(format!(
            "`{longest}` has {} characters; the name of a {kind} has at most {most}",
            longest.len()
        ))
        .with_hint(format!("shorten `name` by {over}")))
    }

    fn check_workers(&self) -> Result<()> {
        let (floor, most) = self.accelerators();
        let workers = self.resolved.spec.cluster.workers;
        if workers.max > most {
            return Err(Error::invalid(format!(
                "`cluster.workers` wants {} accelerators, `cluster.eks.groups` hold {most} at most",
                workers.max
            ))
            .with_hint("add nodes to a group, or ask for fewer workers"));
        }
        if workers.min > floor {
            return Err(Error::invalid(format!(
                "`cluster.workers` wants {} accelerators at least, `cluster.eks.groups` start with {floor}",
                workers.min
            ))
            .with_hint("raise the `min` of a group: the run would hold them and wait for more"));
        }
        Ok(())
    }

    fn check_queue(&self) -> Result<()> {
        if self.options.kueue && !self.queued() {
            return Err(Error::invalid(
                "the objects of Kueue are asked for, but `cluster.eks.queue` is not given",
            )
            .with_hint("name the LocalQueue in `cluster.eks.queue`"));
        }
        let most = POD_SETS_MAX - 1;
        if self.queued() && self.groups.len() > most {
            return Err(Error::invalid(format!(
                "`cluster.eks.groups`: {} groups and a head are {} pod sets; Kueue 0.18 takes {POD_SETS_MAX} at most",
                self.groups.len(),
                self.groups.len() + 1
            ))
            .with_hint(format!("join groups until there are {most}, or leave `cluster.eks.queue` out")));
        }
        Ok(())
    }

    fn check_redis(&self) -> Result<()> {
        let given = REDIS_VARIABLES.iter().find(|name| self.variable(name).is_some());
        match given.filter(|_| self.is_long_lived()) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "`cluster.eks.env.{name}`: KubeRay refuses it on a cluster's head"
            ))
            .with_hint("remove it; `cluster.eks.redis` has the address, and the secret of the password")),
        }
    }

    /// What pods write must outlive them.
    fn check_places(&self) -> Result<()> {
        let spec = &self.resolved.spec;
        let built =
            spec.data.as_ref().filter(|_| self.needs_build()).map(|data| ("data.built", data.built.as_str()));
        for (key, place) in [Some(("store", spec.store.as_str())), built].into_iter().flatten() {
            let local = place.strip_prefix("file://").unwrap_or(place);
            let kept = place.starts_with("s3://")
                || self.eks.volumes.iter().any(|volume| Path::new(local).starts_with(&volume.mount));
            if !kept {
                return Err(Error::invalid(format!(
                    "`{key}: {place}` lies in a pod and is gone with it: no volume of `cluster.eks.volumes` is mounted there"
                ))
                .with_hint("write a path below the `mount` of a volume, or, but with `train.script`, `s3://…`"));
            }
        }
        Ok(())
    }

    pub(super) fn needs_build(&self) -> bool {
        needs_build(self.resolved)
    }

    /// The pods read the spec themselves: what they find must be the run that was rendered. A path relative
    /// to the folder of the spec, or a variable that only this machine has, would be another one there.
    fn check_spec_in_pods(&self) -> Result<()> {
        let document = &self.resolved.document;
        if document.len() > CONFIG_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the spec has {} bytes; a ConfigMap holds about {CONFIG_BYTES_MAX}",
                document.len()
            )));
        }
        let environment = |name: &str| self.variable(name).map(str::to_owned);
        let source = Source {
            name: SPEC_FILE,
            text: document,
            base: Path::new(SPEC_FOLDER),
            overrides: &[],
            environment: &environment,
        };
        let there = eagleray_plan::resolve(&source).map_err(|problems| {
            problems.into_error().at("in the pods").with_hint(
                "the pods have the variables of `cluster.eks.env` alone: add it there, or write the value",
            )
        })?;
        let here = serde_json::to_value(&self.resolved.spec).unwrap_or_default();
        let there = serde_json::to_value(&there.resolved.spec).unwrap_or_default();
        match difference(&here, &there, String::new()) {
            None => Ok(()),
            Some((key, here, there)) => Err(Error::invalid(format!(
                "`{key}` is {here} on this machine and would be {there} in the pods"
            ))
            .with_hint("write `s3://…`, an absolute path, or put the variable into `cluster.eks.env`")),
        }
    }
}

pub(super) fn eks(resolved: &Resolved) -> Result<Eks> {
    let Some(value) = &resolved.spec.cluster.eks else {
        return Err(Error::invalid("the run has no `cluster.eks`: there is nothing to render")
            .with_hint("docs/eks.md has a spec to start from"));
    };
    Eks::deserialize(value).map_err(|error| Error::internal(format!("`cluster.eks` cannot be read: {error}")))
}

fn groups(eks: &Eks) -> Result<Vec<Nodes>> {
    let mut groups = Vec::new();
    for group in &eks.groups {
        if group.nodes.max == 0 {
            continue;
        }
        let place = format!("`cluster.eks.groups` `{}`", group.name);
        let instance = Instance::accelerated(&group.instance).map_err(|error| error.at(&place))?;
        // Names of pools and of pods hold the group's name and more: 63 characters in all.
        if group.name.len() > 20 || ["head", "cpu"].contains(&group.name.as_str()) {
            return Err(Error::invalid(format!("{place}: not a name for a group of pods")).with_hint(
                "take at most 20 characters, and neither `head` nor `cpu`, which are names of pools of ours",
            ));
        }
        let reserved = group.capacity == Capacity::Reserved;
        if reserved && eks.karpenter.as_ref().is_some_and(|karpenter| karpenter.reservations.is_empty()) {
            return Err(Error::invalid(format!("{place}: `capacity: reserved` without a reservation"))
                .with_hint("name it in `cluster.eks.karpenter.reservations`"));
        }
        groups.push(Nodes { group: group.clone(), instance });
    }
    Ok(groups)
}

fn build(resolved: &Resolved, eks: &Eks, options: Options) -> Result<Option<Build>> {
    if options.built || options.kind == Kind::Cluster || !needs_build(resolved) {
        return Ok(None);
    }
    let Some(cpu) = eks.cpu.as_ref().filter(|cpu| cpu.nodes.max > 0) else {
        return Err(Error::invalid(
            "the run's text is to be built, and `cluster.eks.cpu` names no nodes for it: accelerators would wait",
        )
        .with_hint("add `cpu: {instance: m7i.8xlarge, nodes: 4}`; where it is built, say `--built`"));
    };
    let instance = Instance::cpu(&cpu.instance).map_err(|error| error.at("`cluster.eks.cpu`"))?;
    Ok(Some(Build { instance, nodes: cpu.nodes.max }))
}

/// The first place where two trees differ.
fn difference(here: &Value, there: &Value, path: String) -> Option<(String, Value, Value)> {
    if here == there {
        return None;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (here, there) {
        (Value::Object(one), Value::Object(other)) => one
            .iter()
            .find_map(|(key, value)| difference(value, other.get(key).unwrap_or(&Value::Null), below(key)))
            .or(Some((path, here.clone(), there.clone()))),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs
                .map(|(index, (value, there))| difference(value, there, below(&index.to_string())))
                .find_map(|found| found)
        }
        _ => Some((path, here.clone(), there.clone())),
    }
}
