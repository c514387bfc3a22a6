//! The objects of a cluster that rules and migration look at, as far as an account may read them.
//!
//! What the cluster does not serve, or the account may not read, is named and done without: no rule judges what it
//! does not see. Secrets are not among them, and nothing but names is read of what pods mount.

use std::collections::{BTreeMap, BTreeSet};

use eagleray_base::{Error, Kind, Result};
use eagleray_kube::live::bare;
use serde_json::Value;

use crate::cluster::{Cluster, HINT_RIGHTS};
use crate::doctor::gather::operators;
use crate::doctor::{Answer, operator};
use crate::resource::{
    CLAIM, CLUSTER_QUEUE, CLUSTER_TRAINING_RUNTIME, DAEMON_SET, EC2_NODE_CLASS, JAX_JOB, LOCAL_QUEUE,
    MPI_JOB, NAMESPACE, NODE_POOL, POD_DISRUPTION_BUDGET, PROFILE, PROVISIONER, PYTORCH_JOB, RAY_CLUSTER,
    RAY_JOB, RAY_SERVICE, RESOURCE_FLAVOR, Resource, SECURITY_GROUP, TF_JOB, TRAIN_JOB, TRAINING_RUNTIME,
    VOLUME, WORKLOAD_PRIORITY_CLASS,
};

/// The kinds that rules look at; jobs and services before the clusters that they own.
const LINTED: [Resource; 22] = [
    RAY_JOB,
    RAY_SERVICE,
    RAY_CLUSTER,
    NODE_POOL,
    EC2_NODE_CLASS,
    PROVISIONER,
    LOCAL_QUEUE,
    CLUSTER_QUEUE,
    RESOURCE_FLAVOR,
    WORKLOAD_PRIORITY_CLASS,
    POD_DISRUPTION_BUDGET,
    CLAIM,
    VOLUME,
    DAEMON_SET,
    NAMESPACE,
    SECURITY_GROUP,
    PROFILE,
    PYTORCH_JOB,
    TF_JOB,
    JAX_JOB,
    MPI_JOB,
    TRAIN_JOB,
];

/// What serves the nodes of all namespaces, wherever it lies: of a part of these, rules would say what is not so.
const EVERYWHERE: [Resource; 2] = [DAEMON_SET, SECURITY_GROUP];

/// What an older Kueue or an older operator of Kubeflow serves in the place of the version that is asked for first.
fn older(resource: Resource) -> Option<Resource> {
    let version = match (resource.group, resource.kind) {
        ("kueue.x-k8s.io", _) => "v1beta1",
        (_, "MPIJob") => "v1",
        _ => return None,
    };
    Some(Resource { version, ..resource })
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The objects, without what the cluster wrote into them.
    pub objects: Vec<Value>,
    /// The minor version of the `KubeRay` that runs, `1.6`.
    pub kuberay: Option<String>,
    /// What could not be looked at, and why: a line each.
    pub notes: Vec<String>,
}

/// What the rules of `lint` look at: in a namespace, or in all.
///
/// A `RayCluster` that belongs to a `RayJob` or a `RayService` that was read is left out: it says the same again.
///
/// # Errors
/// Where the API server does not answer, or none of the kinds of Ray could be read.
pub fn linted(cluster: &Cluster, namespace: Option<&str>) -> Result<Seen> {
    let mut reader = Reader::new(cluster, namespace);
    let mut owners = BTreeSet::new();
    for resource in LINTED {
        let before = reader.seen.objects.len();
        reader.kind(resource, &mut |object| {
            let uid = |object: &Value| object["uid"].as_str().map(str::to_owned);
            if matches!(resource.kind, "RayJob" | "RayService") {
                owners.extend(uid(&object["metadata"]));
            }
            let owned = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            resource.kind != "RayCluster" || !owned.filter_map(uid).any(|owner| owners.contains(&owner))
        })?;
        let in_order = &mut reader.seen.objects[before..];
        in_order.sort_by_cached_key(eagleray_kube::live::name);
    }
    reader.any_of(&[RAY_JOB, RAY_CLUSTER])?;
    let mut seen = reader.finish();
    running(cluster, namespace, &mut seen);
    Ok(seen)
}

/// The jobs of Kubeflow that become runs, and the runtimes that they name: in a namespace, or in all.
///
/// # Errors
/// As [`linted`], of the kinds of Kubeflow.
pub fn jobs(cluster: &Cluster, namespace: Option<&str>) -> Result<Seen> {
    let mut reader = Reader::new(cluster, namespace);
    reader.kind(PYTORCH_JOB, &mut |_| true)?;
    reader.kind(TRAIN_JOB, &mut |_| true)?;
    reader.any_of(&[PYTORCH_JOB, TRAIN_JOB])?;
    reader.seen.objects.sort_by_cached_key(eagleray_kube::live::name);
    for (namespace, kind, name) in runtimes(&reader.seen.objects) {
        let resource =
            if kind == TRAINING_RUNTIME.kind { TRAINING_RUNTIME } else { CLUSTER_TRAINING_RUNTIME };
        match cluster.get(
            resource,
            Some(&namespace).filter(|_| resource.namespaced).map(String::as_str),
            &name,
        ) {
            Ok(Some(runtime)) => reader.seen.objects.push(whole(&runtime, resource)),
            // The job that names it is refused, and says so.
            Ok(None) => {}
            Err(error) => reader.miss(resource, error)?,
        }
    }
    Ok(reader.finish())
}

/// Namespace, kind and name of each runtime that a job names; those of all namespaces once.
fn runtimes(jobs: &[Value]) -> BTreeSet<(String, String, String)> {
    let named = jobs.iter().filter_map(|job| {
        let reference = &job["spec"]["runtimeRef"];
        let kind = reference["kind"].as_str().unwrap_or(CLUSTER_TRAINING_RUNTIME.kind);
        let namespace = job["metadata"]["namespace"].as_str().filter(|_| kind == TRAINING_RUNTIME.kind);
        Some((
            namespace.unwrap_or_default().to_owned(),
            kind.to_owned(),
            reference["name"].as_str()?.to_owned(),
        ))
    });
    named.collect()
}

/// An object as a file would hold it: items of a list need not say what they are.
fn whole(object: &Value, resource: Resource) -> Value {
    let mut object = bare(object.clone());
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.into();
    object
}

/// Reads kind by kind, and remembers what it could not read.
struct Reader<'a> {
    cluster: &'a Cluster,
    namespace: Option<&'a str>,
    seen: Seen,
    /// Those that the cluster does not serve.
    absent: Vec<&'static str>,
    /// Why others could not be read.
    missed: BTreeMap<&'static str, Error>,
}

impl<'a> Reader<'a> {
    fn new(cluster: &'a Cluster, namespace: Option<&'a str>) -> Self {
        Self { cluster, namespace, seen: Seen::default(), absent: Vec::new(), missed: BTreeMap::new() }
    }

    /// Reads the objects of a kind that are wanted.
    fn kind(&mut self, resource: Resource, wanted: &mut dyn FnMut(&Value) -> bool) -> Result<()> {
        if let (NAMESPACE, Some(name)) = (resource, self.namespace) {
            match self.cluster.get(NAMESPACE, None, name) {
                Ok(found) => self.seen.objects.extend(found.map(|found| whole(&found, NAMESPACE))),
                Err(error) => self.miss(NAMESPACE, error)?,
            }
            return Ok(());
        }
        let namespace = self.namespace.filter(|_| !EVERYWHERE.contains(&resource));
        let mut asked = resource;
        loop {
            let mut found = Vec::new();
            let answer = self.cluster.each(asked, namespace, ("", ""), &mut |object| {
                if wanted(object) {
                    found.push(whole(object, asked));
                }
            });
            match answer {
                Ok(()) => {
                    self.seen.objects.extend(found);
                    return Ok(());
                }
                Err(error) => match older(resource).filter(|older| is_absent(&error) && *older != asked) {
                    Some(older) => asked = older,
                    None => return self.miss(resource, error),
                },
            }
        }
    }

    /// What cannot be read is done without; where nobody answers, nothing can be.
    fn miss(&mut self, resource: Resource, error: Error) -> Result<()> {
        if is_absent(&error) {
            self.absent.push(resource.kind);
        } else if error.hint() != Some(HINT_RIGHTS) {
            return Err(error);
        }
        self.missed.entry(resource.kind).or_insert(error);
        Ok(())
    }

    /// Fails where none of these kinds could be read.
    fn any_of(&mut self, kinds: &[Resource]) -> Result<()> {
        if kinds.iter().all(|resource| self.missed.contains_key(resource.kind))
            && let Some(error) = kinds.iter().find_map(|resource| self.missed.remove(resource.kind))
        {
            return Err(error);
        }
        Ok(())
    }

    fn finish(self) -> Seen {
        let Self { mut seen, absent, missed, .. } = self;
        if !absent.is_empty() {
            seen.notes.push(format!("the cluster does not serve {}: not looked at", absent.join(", ")));
        }
        let refused = missed.iter().filter(|(kind, _)| !absent.contains(kind));
        seen.notes.extend(refused.map(|(kind, error)| format!("cannot look at {kind}: {}", error.message())));
        seen
    }
}

fn is_absent(error: &Error) -> bool {
    error.kind() == Kind::NotFound
}

/// Which `KubeRay` looks at these namespaces: its operator knows better than any label.
fn running(cluster: &Cluster, namespace: Option<&str>, seen: &mut Seen) {
    let found = match operators(cluster, namespace.unwrap_or(cluster.namespace())) {
        Answer::Found(found) => found,
        Answer::Refused(why) | Answer::Failed(why) => {
            let told = "versions are those of labels, or of `--kuberay`";
            seen.notes.push(format!("cannot look at KubeRay's operator ({why}): {told}"));
            return;
        }
        Answer::Missing | Answer::NotAsked => return,
    };
    let looks = |found: &&Value| namespace.is_none_or(|namespace| operator::watches(found, namespace));
    let versions: BTreeSet<String> = found.iter().filter(looks).filter_map(operator::version).collect();
    match versions.len() {
        0 => {}
        1 => seen.kuberay = versions.into_iter().next(),
        _ => {
            let versions: Vec<String> = versions.into_iter().collect();
            let told = "each object is judged by its label, or by `--kuberay`";
            seen.notes.push(format!("several versions of KubeRay run, {}: {told}", versions.join(", ")));
        }
    }
}
