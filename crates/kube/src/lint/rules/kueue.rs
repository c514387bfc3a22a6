//! Kueue: queues, quota, flavours, and what a queued job must not be.

use crate::lint::Rule;
use crate::lint::at::At;
use crate::lint::facts;
use crate::lint::report::Say;
use crate::lint::rule::{Check, Mode};
use crate::lint::scene::{CAPACITY_TYPE, ELASTIC_JOB, Object, QUEUE, Ray, Scene};

/// What Kueue 0.19 takes at most as parts of one workload; before, it was 10.
const POD_SETS_MAX: usize = 18;
const POD_SETS_MAX_BEFORE: usize = 10;
/// A replacement node with accelerators takes this long on a bad day, in seconds.
const REPLACEMENT_S: f64 = 1800.0;

pub(super) const RULES: &[Rule] = &[
    rule!("kueue-pod-sets" Error "RayJob, RayCluster": "too many groups for one workload",
        why "Kueue refuses more than 18 pod sets: the head, each group of workers, and the submitter of K8sJobMode",
        fix "merge groups, or use `submissionMode: HTTPMode`, which has no submitter"; Check::Ray(pod_sets)),
    rule!("kueue-pod-sets-before-0-19" Info "RayJob, RayCluster": "too many groups for Kueue before 0.19",
        why "until 0.18 a workload had at most 10 pod sets", fix "merge groups, or make sure that Kueue is 0.19 or newer"; Check::Ray(pod_sets_before)),
    rule!("kueue-label-on-pods" Error "RayJob, RayCluster, RayService": "pods are queued beside their job",
        why "with Kueue's pod integration each pod becomes a workload of its own and waits for quota that its job already holds",
        fix "put `kueue.x-k8s.io/queue-name` on the RayJob alone"; Check::Group(on_pods)),
    rule!("kueue-group-reserved" Error "RayJob, RayCluster": "a group is called `head`",
        why "Kueue keeps that name for the head and refuses the object", fix "call the group something else"; Check::Ray(reserved)),
    rule!("kueue-range" Error "RayJob, RayCluster": "a range of workers under Kueue",
        why "Kueue admits `replicas` pods; those that come later are outside every quota, unless the job is elastic to Kueue too",
        fix "annotate with `kueue.x-k8s.io/elastic-job: \"true\"` (before Kueue 0.18 turn its gate ElasticJobsViaWorkloadSlices on too), or give each group one number"; Check::Ray(elastic)),
    rule!("queue-missing" Error "RayJob, RayCluster, LocalQueue": "the queue is not among those here",
        why "the job stays suspended for ever, without an event that says so",
        fix "correct `kueue.x-k8s.io/queue-name`, or add the LocalQueue in the job's namespace"; Check::Ray(queue_missing)),
    rule!("cluster-queue-missing" Error "LocalQueue": "a queue leads to none that is here",
        why "nothing in it is ever admitted", fix "correct `spec.clusterQueue`, or add the ClusterQueue"; Check::Scene(cluster_queue_missing)),
    rule!("queue-uncovered-resource" Error "RayJob, RayCluster, ClusterQueue": "a resource has no quota",
        why "a workload that asks for one resource outside `coveredResources` is never admitted",
        fix "add the resource to `coveredResources` of the ClusterQueue, with a quota in every flavour"; Check::Ray(uncovered)),
    rule!("queue-too-small" Error "RayJob, RayCluster, ClusterQueue": "the job is larger than its queue",
        why "it is admitted never, not late", fix "raise `nominalQuota`, or make the job smaller"; Check::Ray(too_small)),
    rule!("flavor-missing" Error "ClusterQueue": "a queue names a flavour that is not here",
        why "the ClusterQueue is inactive, and nothing in it is admitted", fix "correct the name, or add the ResourceFlavor"; Check::Scene(flavor_missing)),
    rule!("tas-scale-from-zero" Warning "ResourceFlavor": "topology for nodes that do not exist yet",
        why "topology-aware scheduling admits onto nodes that are there; Karpenter makes them only for pods that were admitted",
        fix "remove `topologyName`, or use it on static and reserved nodes alone"; Check::Object(&["ResourceFlavor"], tas_karpenter)),
    rule!("tas-on-spot" Warning "ResourceFlavor": "topology on spot nodes",
        why "one lost node without a spare in its domain evicts the whole workload, and KubeRay deletes its cluster",
        fix "remove `topologyName`, keep a spare node a domain, or turn TASFailedNodeReplacementFailFast off"; Check::Object(&["ResourceFlavor"], tas_spot)),
    rule!("pods-ready-timeout-short" Warning "Configuration": "Kueue gives up on a job before its nodes are there",
        why "the job is evicted and queued again while its nodes are still being made, and again after that",
        fix "set `waitForPodsReady.timeout` to what provisioning takes on a bad day, such as 60m"; Check::Object(&["Configuration"], ready_timeout)),
    rule!("recovery-timeout-short" Warning "Configuration": "Kueue evicts a job that only waits for one node",
        why "a replacement with accelerators takes up to half an hour; evicted, the job gives all its nodes back",
        fix "set `waitForPodsReady.recoveryTimeout` to 30m or more, or leave it out"; Check::Object(&["Configuration"], recovery)),
    rule!("priority-class-missing" Error "RayJob, RayCluster": "the priority class is not among those here",
        why "Kueue refuses the object", fix "correct `kueue.x-k8s.io/priority-class`, or add the WorkloadPriorityClass"; Check::Ray(priority)),
];

fn queued(ray: &Ray<'_>) -> bool {
    ray.queue.is_some() && !ray.groups.is_empty() && ray.object.kind != "RayService"
}

fn count(ray: &Ray<'_>) -> usize {
    let mode = ray.spec.key("submissionMode").text().unwrap_or("K8sJobMode");
    ray.groups.len() + usize::from(ray.is_job() && mode == "K8sJobMode")
}

fn pod_sets(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let sets = count(ray);
    if queued(ray) && sets > POD_SETS_MAX {
        say.at(
            &ray.cluster.key("workerGroupSpecs"),
            format!("{sets} pod sets: expected at most {POD_SETS_MAX}"),
        );
    }
}

fn pod_sets_before(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let sets = count(ray);
    if queued(ray) && sets > POD_SETS_MAX_BEFORE && sets <= POD_SETS_MAX {
        say.at(
            &ray.cluster.key("workerGroupSpecs"),
            format!("{sets} pod sets: Kueue before 0.19 takes {POD_SETS_MAX_BEFORE}"),
        );
    }
}

fn on_pods(_: &Ray<'_>, group: &crate::lint::scene::Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.label(QUEUE);
    if at.exists() {
        say.at(&at, format!("the pods of {} are queued one by one", group.shown()));
    }
}

fn reserved(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    for group in ray.workers().filter(|group| queued(ray) && group.name == "head") {
        say.at(&group.at.key("groupName"), "`head` is the head's own name");
    }
}

fn elastic(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let annotated = ray.object.annotation(ELASTIC_JOB).is_true();
    if !queued(ray) || annotated || !matches!(ray.mode, Mode::Elastic | Mode::Range) {
        return;
    }
    if let Some(group) = ray.workers().find(|group| group.min != group.max) {
        say.at(
            &group.at.key("maxReplicas"),
            format!("{} has a range: Kueue counts its `replicas` alone", group.shown()),
        );
    }
}

fn local_queue<'s, 'a>(scene: &'s Scene<'a>, ray: &Ray<'_>) -> Option<&'s Object<'a>> {
    let name = ray.queue?;
    scene.of_kind("LocalQueue").find(|queue| queue.name == name && queue.namespace == ray.object.namespace)
}

fn queue_missing(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    let any = scene.of_kind("LocalQueue").next().is_some();
    if let Some(name) = ray.queue.filter(|_| any && local_queue(scene, ray).is_none()) {
        let elsewhere = scene.of_kind("LocalQueue").find(|queue| queue.name == name);
        let namespace = ray.object.namespace;
        let message = match elsewhere {
            Some(queue) => {
                format!("`{name}` is a queue of namespace `{}`, not of `{namespace}`", queue.namespace)
            }
            None => format!("no LocalQueue here is called `{name}`"),
        };
        say.at(&ray.object.label(QUEUE), message);
    }
}

fn cluster_queue_missing(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    let known: Vec<&str> = scene.of_kind("ClusterQueue").map(|queue| queue.name).collect();
    for queue in scene.of_kind("LocalQueue").filter(|_| !known.is_empty()) {
        let at = queue.at.get("spec.clusterQueue");
        if !known.contains(&at.str()) {
            say.in_file(queue.file, &at, format!("no ClusterQueue here is called `{}`", at.str()));
        }
    }
}

fn cluster_queue<'s, 'a>(scene: &'s Scene<'a>, ray: &Ray<'_>) -> Option<&'s Object<'a>> {
    let name = local_queue(scene, ray)?.at.get("spec.clusterQueue").str();
    scene.of_kind("ClusterQueue").find(|queue| queue.name == name)
}

/// What a job asks for in all, by resource, with the place of its first mention.
fn asked<'a>(ray: &Ray<'a>) -> Vec<(&'a str, f64, At<'a>)> {
    let mut total: Vec<(&str, f64, At<'_>)> = Vec::new();
    for group in &ray.groups {
        let pods = group.pods_at_first();
        for container in group.pod.key("containers").items() {
            let [requests, limits] = ["requests", "limits"].map(|side| container.key("resources").key(side));
            let mut own = requests.entries();
            own.extend(limits.entries().into_iter().filter(|(key, _)| !requests.key(key).exists()));
            for (key, at) in own {
                let Some(amount) = facts::quantity(at.str()) else { continue };
                let amount = amount * pods as f64;
                match total.iter_mut().find(|(name, ..)| *name == key) {
                    Some((_, sum, _)) => *sum += amount,
                    None => total.push((key, amount, at)),
                }
            }
        }
    }
    total
}

fn covered<'a>(queue: &Object<'a>) -> Vec<&'a str> {
    let groups = queue.at.get("spec.resourceGroups").items();
    groups.iter().flat_map(|group| group.key("coveredResources").items()).map(|at| at.str()).collect()
}

fn uncovered(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    let Some(queue) = cluster_queue(scene, ray).filter(|_| queued(ray)) else { return };
    let covered = covered(queue);
    for (name, amount, at) in asked(ray) {
        if amount > 0.0 && !covered.contains(&name) {
            say.at(&at, format!("ClusterQueue `{}` has no quota of `{name}`", queue.name));
        }
    }
}

/// What a queue may give of a resource: over all flavours, with what it may borrow; `None` without a limit.
fn quota(queue: &Object<'_>, name: &str) -> Option<f64> {
    let cohort = queue.at.get("spec.cohort").exists() || queue.at.get("spec.cohortName").exists();
    let mut total = 0.0;
    for group in queue.at.get("spec.resourceGroups").items() {
        for flavor in group.key("flavors").items() {
            for resource in
                flavor.key("resources").items().iter().filter(|resource| resource.key("name").str() == name)
            {
                let borrowing = resource.key("borrowingLimit");
                if cohort && !borrowing.exists() {
                    return None;
                }
                total += facts::quantity(resource.key("nominalQuota").str())?;
                total += if cohort { facts::quantity(borrowing.str())? } else { 0.0 };
            }
        }
    }
    Some(total)
}

fn too_small(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    let Some(queue) = cluster_queue(scene, ray).filter(|_| queued(ray)) else { return };
    let covered = covered(queue);
    for (name, amount, at) in asked(ray).into_iter().filter(|(name, ..)| covered.contains(name)) {
        if let Some(quota) = quota(queue, name).filter(|quota| *quota < amount) {
            say.at(
                &at,
                format!("the job asks for {amount} of `{name}`, ClusterQueue `{}` has {quota}", queue.name),
            );
        }
    }
}

fn flavor_missing(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    let known: Vec<&str> = scene.of_kind("ResourceFlavor").map(|flavor| flavor.name).collect();
    for queue in scene.of_kind("ClusterQueue").filter(|_| !known.is_empty()) {
        for group in queue.at.get("spec.resourceGroups").items() {
            for name in group.key("flavors").items().iter().map(|flavor| flavor.key("name")) {
                if !known.contains(&name.str()) {
                    say.in_file(
                        queue.file,
                        &name,
                        format!("no ResourceFlavor here is called `{}`", name.str()),
                    );
                }
            }
        }
    }
}

fn tas_karpenter(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let (topology, labels) = (object.at.get("spec.topologyName"), object.at.get("spec.nodeLabels"));
    let static_pool = |name: &str| {
        say.scene().pools.iter().any(|pool| pool.name == name && pool.at.get("spec.replicas").exists())
    };
    let pool = labels.key("karpenter.sh/nodepool").str();
    let dynamic = labels.entries().iter().any(|(key, _)| key.starts_with("karpenter.")) && !static_pool(pool);
    if topology.exists() && dynamic && labels.key(CAPACITY_TYPE).str() != "reserved" {
        say.at(&topology, format!("nodes of `{}` are made by Karpenter when pods ask for them", object.name));
    }
}

fn tas_spot(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let (topology, labels) = (object.at.get("spec.topologyName"), object.at.get("spec.nodeLabels"));
    if topology.exists() && labels.key(CAPACITY_TYPE).str() == "spot" {
        say.at(&topology, format!("nodes of `{}` are reclaimed", object.name));
    }
}

fn ready_timeout(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let wait = object.at.key("waitForPodsReady");
    let at = wait.key("timeout");
    let on = wait.exists() && wait.key("enable").text() != Some("false");
    // Kueue's own default is five minutes.
    let timeout = if at.exists() { facts::seconds(at.str()) } else { Some(300.0) };
    if let Some(seconds) = timeout.filter(|seconds| on && *seconds < REPLACEMENT_S) {
        say.at(&at, format!("Kueue waits {seconds} s for pods to be ready"));
    }
}

fn recovery(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = object.at.get("waitForPodsReady.recoveryTimeout");
    if let Some(seconds) = facts::seconds(at.str()).filter(|seconds| *seconds < REPLACEMENT_S) {
        say.at(&at, format!("Kueue waits {seconds} s for a lost pod to come back"));
    }
}

fn priority(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.object.label("kueue.x-k8s.io/priority-class");
    let mut known = say.scene().of_kind("WorkloadPriorityClass").map(|class| class.name).peekable();
    if at.exists() && known.peek().is_some() && !known.any(|name| name == at.str()) {
        say.at(&at, format!("no WorkloadPriorityClass here is called `{}`", at.str()));
    }
}
