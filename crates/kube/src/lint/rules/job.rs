//! `RayJob`: how a job is submitted, retried, guarded and ended.

use crate::lint::Rule;
use crate::lint::at::At;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{Capacity, Group, Object, Ray, capacity};
use crate::manifest;

/// The nodes above which installing packages at start-up becomes a storm on the package index.
const PIP_NODES_MAX: i64 = 16;
/// A time to live that still counts as none, in seconds.
const TTL_MAX_S: i64 = 300;
/// Below this, provisioning of GPU nodes on an ordinary day runs into the deadline, in seconds.
const PRE_RUNNING_MIN_S: i64 = 900;

pub(super) const RULES: &[Rule] = &[
    rule!("name-too-long" Error "RayJob, RayService, RayCluster": "the name is too long",
        why "KubeRay appends to it and refuses more than 47 characters for jobs and services, 53 for clusters; under Kueue the refused job holds its quota for ever",
        fix "shorten the name: 47 characters for a RayJob or RayService, 53 for a RayCluster", see "kueue#13413"; Check::Ray(name_length)),
    rule!("name-not-dns" Error "RayJob, RayService, RayCluster": "the name is no DNS label",
        why "KubeRay makes a Service of it and ends in ValidationFailed",
        fix "use small letters, digits and `-`; begin with a letter, end with a letter or a digit"; Check::Ray(name_letters)),
    rule!("api-v1alpha1" Warning "RayJob, RayService, RayCluster": "the API version is v1alpha1",
        why "it is served but no longer developed: newer fields are dropped without a word",
        fix "write `apiVersion: ray.io/v1`"; Check::Ray(alpha)),
    rule!("submission-mode-unknown" Error "RayJob": "the submission mode does not exist",
        why "the API server stores any text here, and the job never starts",
        fix "use `HTTPMode`, `K8sJobMode`, `SidecarMode` or `InteractiveMode`"; Check::Ray(mode_unknown)),
    rule!("sidecar-mode" Warning "RayJob": "the submitter is a sidecar of the head",
        why "a head that is missing once fails the job at once, without a retry",
        fix "use `submissionMode: HTTPMode`", see "kuberay#4285", "kuberay#4945"; Check::Ray(sidecar)),
    rule!("sidecar-mode-conflict" Error "RayJob": "SidecarMode with what it cannot have",
        why "KubeRay refuses a submitter template or configuration and a head that restarts under SidecarMode",
        fix "remove the field, or use `submissionMode: HTTPMode`"; Check::Ray(sidecar_conflict)),
    rule!("submitter-on-spot" Error "RayJob": "the submitter may be reclaimed",
        why "the submitter pod's end is the job's end, whatever the cluster does",
        fix "place `submitterPodTemplate` on on-demand nodes, or use `submissionMode: HTTPMode`, which has no submitter"; Check::Ray(submitter_spot)),
    rule!("submitter-backoff-low" Info "RayJob": "the submitter gives up early",
        why "its default is 2 retries: three short absences of the head are SubmissionFailed",
        fix "set `submitterConfig.backoffLimit: 10`, or use `submissionMode: HTTPMode`"; Check::Ray(submitter_backoff)),
    rule!("entrypoint-resources" Warning "RayJob": "the entrypoint asks for resources",
        why "without a request Ray keeps it on the head; with one, and a head that offers no CPU, it lands on a worker that may go away",
        fix "remove `entrypointNumCpus`, `entrypointNumGpus` and `entrypointResources`, or ask for a resource that only the head declares"; Check::Ray(entrypoint)),
    rule!("pre-running-deadline-missing" Warning in Fixed "RayJob": "nothing ends a half-provisioned cluster",
        why "nodes that came are billed while the gang waits for the last one, for as long as it takes",
        fix "set `preRunningDeadlineSeconds` to what provisioning takes on a bad day, such as 3600"; Check::Ray(pre_running_missing)),
    rule!("pre-running-deadline-short" Warning "RayJob": "the deadline before running is short for GPU nodes",
        why "each time it passes, the whole cluster is thrown away and a retry of `backoffLimit` is burnt",
        fix "set it to what provisioning takes on a bad day: 1800 to 3600"; Check::Ray(pre_running_short)),
    rule!("active-deadline-order" Error "RayJob": "the whole job has less time than its provisioning",
        why "`activeDeadlineSeconds` counts from the creation of the cluster, so it always passes first, and it is never retried",
        fix "make `activeDeadlineSeconds` longer than `preRunningDeadlineSeconds` by the run's own time"; Check::Ray(active_order)),
    rule!("active-deadline-final" Info "RayJob": "a deadline that no retry follows",
        why "DeadlineExceeded is not retried, whatever `backoffLimit` says",
        fix "leave `activeDeadlineSeconds` out, or plan to resume by hand"; Check::Ray(active_final)),
    rule!("backoff-high" Info "RayJob": "many retries, each a whole new cluster",
        why "a retry deletes every node and waits for them again, minutes to hours; a fault in the script repeats at that price",
        fix "retry within the cluster and set `backoffLimit` to 1 or 2"; Check::Ray(backoff)),
    rule!("interactive-backoff" Error "RayJob": "retries in InteractiveMode",
        why "KubeRay refuses `backoffLimit` above 0 there", fix "remove `backoffLimit`", see "kuberay#3525"; Check::Ray(interactive)),
    rule!("shutdown-missing" Warning "RayJob": "the cluster stays when the job ends",
        why "its accelerators are billed until somebody deletes it",
        fix "set `shutdownAfterJobFinishes: true`, or `deletionStrategy.deletionRules`"; Check::Ray(shutdown_missing)),
    rule!("shutdown-missing-kueue" Error "RayJob": "a queued job that keeps its cluster",
        why "Kueue refuses it: the cluster would hold quota after the job",
        fix "set `shutdownAfterJobFinishes: true`"; Check::Ray(shutdown_kueue)),
    rule!("deletion-rules-kueue" Error "RayJob": "deletion rules on a queued job",
        why "they exclude `shutdownAfterJobFinishes`, which Kueue demands",
        fix "remove `deletionStrategy` and set `shutdownAfterJobFinishes: true`"; Check::Ray(rules_kueue)),
    rule!("deletion-rules-with-shutdown" Error "RayJob": "deletion rules and shutdown together",
        why "KubeRay ends in ValidationFailed", fix "keep one of `deletionStrategy.deletionRules` and `shutdownAfterJobFinishes`"; Check::Ray(rules_shutdown)),
    rule!("ttl-without-shutdown" Error "RayJob": "a time to live without shutdown",
        why "KubeRay ends in ValidationFailed", fix "set `shutdownAfterJobFinishes: true`, or remove `ttlSecondsAfterFinished`"; Check::Ray(ttl_shutdown)),
    rule!("ttl-keeps-gpus" Warning "RayJob": "accelerators are kept after the job",
        why "the whole cluster is billed for the time to live",
        fix "set `ttlSecondsAfterFinished` to at most 300; to keep a head for questions, use `deletionRules` with DeleteWorkers at 0"; Check::Ray(ttl_gpus)),
    rule!("suspend-without-shutdown" Error "RayJob": "suspended, but keeps its cluster",
        why "KubeRay ends in ValidationFailed", fix "set `shutdownAfterJobFinishes: true`"; Check::Ray(suspend)),
    rule!("cluster-selector-conflict" Error "RayJob": "an existing cluster with what needs an own one",
        why "KubeRay or Kueue refuses `clusterSelector` beside it",
        fix "remove it, or give the job a cluster of its own by `rayClusterSpec`"; Check::Ray(selector)),
    rule!("managed-by-unknown" Error "RayJob, RayCluster, RayService": "an unknown manager",
        why "the API server refuses it", fix "leave `managedBy` out, or write `ray.io/kuberay-operator` or `kueue.x-k8s.io/multikueue`"; Check::Ray(managed)),
    rule!("runtime-env-invalid" Error "RayJob": "the runtime environment is no YAML mapping",
        why "KubeRay ends in ValidationFailed", fix "mend `runtimeEnvYAML`: a mapping such as `env_vars: {NAME: \"value\"}`"; Check::Ray(runtime_env)),
    rule!("runtime-env-installs" Warning "RayJob": "every node installs packages at start-up",
        why "above 16 nodes that is a storm on the package index: slow at best, a failed start at worst",
        fix "build the packages into the image, and keep `env_vars` and `working_dir` in `runtimeEnvYAML`"; Check::Ray(installs)),
];

fn name_length(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let limit = if ray.object.kind == "RayCluster" { 53 } else { 47 };
    let length = ray.object.name.len();
    if length > limit {
        say.at(
            &ray.object.at.get("metadata.name"),
            format!("the name has {length} characters: expected at most {limit}"),
        );
    }
}

fn name_letters(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let name = ray.object.name;
    let legal = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !legal && !name.is_empty() && !name.starts_with('$') {
        say.at(&ray.object.at.get("metadata.name"), format!("`{name}` is no DNS label"));
    }
}

fn alpha(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if ray.object.api_version == "ray.io/v1alpha1" {
        say.at(&ray.object.at.key("apiVersion"), "`ray.io/v1alpha1` is no longer developed");
    }
}

fn submission_mode<'a>(ray: &Ray<'a>) -> &'a str {
    ray.spec.key("submissionMode").text().unwrap_or("K8sJobMode")
}

fn mode_unknown(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let mode = submission_mode(ray);
    if ray.is_job() && !["HTTPMode", "K8sJobMode", "SidecarMode", "InteractiveMode"].contains(&mode) {
        say.at(&ray.spec.key("submissionMode"), format!("`{mode}` is no submission mode"));
    }
}

fn sidecar(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if ray.is_job() && submission_mode(ray) == "SidecarMode" {
        say.at(&ray.spec.key("submissionMode"), "the submitter shares the head's pod and its fate");
    }
}

fn sidecar_conflict(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if !ray.is_job() || submission_mode(ray) != "SidecarMode" {
        return;
    }
    for key in ["submitterPodTemplate", "submitterConfig", "clusterSelector"] {
        let at = ray.spec.key(key);
        if at.exists() {
            say.at(&at, format!("`{key}` is refused under SidecarMode"));
        }
    }
    let restart = ray.cluster.get("headGroupSpec.template.spec.restartPolicy");
    if restart.text().is_some_and(|policy| policy != "Never") {
        say.at(&restart, "the head restarts, which SidecarMode refuses");
    }
}

fn submitter_spot(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if !ray.is_job() || submission_mode(ray) != "K8sJobMode" {
        return;
    }
    let pod = ray.spec.get("submitterPodTemplate.spec");
    if capacity(&pod, &[]) == Capacity::Spot {
        say.at(&pod, "the submitter's pod may land on spot nodes");
    }
}

fn submitter_backoff(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let limit = ray.spec.get("submitterConfig.backoffLimit");
    if ray.trains() && submission_mode(ray) == "K8sJobMode" && limit.int().unwrap_or(2) < 3 {
        let set = limit.int().unwrap_or(2);
        say.at(&limit, format!("the submitter is tried {} times", set.saturating_add(1)));
    }
}

fn entrypoint(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if !ray.is_job() {
        return;
    }
    let declares = |group: &Group<'_>, name: &str| {
        group.at.get("rayStartParams.resources").str().contains(name)
            || group.at.key("resources").key(name).exists()
    };
    let on_head = |name: &str| ray.head().is_some_and(|head| declares(head, name));
    let resources = ray.spec.key("entrypointResources");
    let asked = serde_json::from_str::<serde_json::Map<_, _>>(resources.str()).unwrap_or_default();
    if let Some(name) = asked.keys().find(|name| !on_head(name)) {
        say.at(&resources, format!("the head declares no `{name}`: the entrypoint runs elsewhere"));
    }
    // What only the head has holds the entrypoint there, whatever else it asks for.
    if asked.keys().any(|name| on_head(name) && !ray.workers().any(|group| declares(group, name))) {
        return;
    }
    for key in ["entrypointNumCpus", "entrypointNumGpus"] {
        let at = ray.spec.key(key);
        if at.exists() && at.str() != "0" {
            say.at(&at, format!("`{key}` moves the entrypoint off the head"));
        }
    }
}

fn pre_running_missing(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("preRunningDeadlineSeconds");
    if ray.trains() && !at.exists() {
        let nodes = ray.nodes();
        say.at(&at, format!("a gang of {nodes} nodes may wait half-built without an end"));
    }
}

fn pre_running_short(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("preRunningDeadlineSeconds");
    if let Some(seconds) = at.int().filter(|seconds| ray.trains() && *seconds < PRE_RUNNING_MIN_S) {
        say.at(&at, format!("{seconds} s are short for nodes with accelerators"));
    }
}

fn active_order(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let (active, before) = (ray.spec.key("activeDeadlineSeconds"), ray.spec.key("preRunningDeadlineSeconds"));
    if let (Some(whole), Some(part)) = (active.int(), before.int())
        && ray.is_job()
        && whole <= part
    {
        say.at(
            &active,
            format!("{whole} s for the whole job, of which provisioning alone may take {part} s"),
        );
    }
}

fn active_final(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("activeDeadlineSeconds");
    if ray.is_job() && at.exists() && ray.spec.key("backoffLimit").int().unwrap_or(0) > 0 {
        say.at(&at, "when it passes, the job has failed for good");
    }
}

fn backoff(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("backoffLimit");
    if let Some(limit) = at.int().filter(|limit| ray.trains() && *limit > 3) {
        say.at(&at, format!("{limit} retries build the cluster anew each time"));
    }
}

fn interactive(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("backoffLimit");
    if ray.is_job() && submission_mode(ray) == "InteractiveMode" && at.int().unwrap_or(0) > 0 {
        say.at(&at, "InteractiveMode cannot retry");
    }
}

fn has_rules(ray: &Ray<'_>) -> bool {
    !ray.spec.get("deletionStrategy.deletionRules").items().is_empty()
}

fn keeps(ray: &Ray<'_>) -> bool {
    ray.is_job() && !ray.spec.key("shutdownAfterJobFinishes").is_true()
}

fn selects(ray: &Ray<'_>) -> bool {
    !ray.spec.key("clusterSelector").entries().is_empty()
}

fn shutdown_missing(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if keeps(ray)
        && ray.queue.is_none()
        && ray.has_gpus()
        && !selects(ray)
        && !ray.spec.key("deletionStrategy").exists()
    {
        say.at(&ray.spec.key("shutdownAfterJobFinishes"), "nothing deletes the cluster when the job ends");
    }
}

fn shutdown_kueue(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if keeps(ray) && ray.queue.is_some() && !selects(ray) {
        say.at(&ray.spec.key("shutdownAfterJobFinishes"), "Kueue refuses a job that keeps its cluster");
    }
}

fn rules_kueue(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if ray.is_job() && ray.queue.is_some() && has_rules(ray) {
        say.at(&ray.spec.get("deletionStrategy.deletionRules"), "a queued job cannot have deletion rules");
    }
}

fn rules_shutdown(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if ray.is_job() && !keeps(ray) && has_rules(ray) {
        say.at(&ray.spec.get("deletionStrategy.deletionRules"), "`shutdownAfterJobFinishes` is true as well");
    }
}

fn ttl(ray: &Ray<'_>) -> i64 {
    ray.spec.key("ttlSecondsAfterFinished").int().unwrap_or(0)
}

fn ttl_shutdown(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if keeps(ray) && ttl(ray) > 0 {
        say.at(
            &ray.spec.key("ttlSecondsAfterFinished"),
            "nothing is deleted for which there could be a time",
        );
    }
}

fn ttl_gpus(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let seconds = ttl(ray);
    if ray.is_job() && !keeps(ray) && ray.has_gpus() && seconds > TTL_MAX_S {
        say.at(
            &ray.spec.key("ttlSecondsAfterFinished"),
            format!("accelerators are billed for {seconds} s after the job"),
        );
    }
}

fn suspend(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("suspend");
    if keeps(ray) && at.is_true() {
        say.at(&at, "a suspended job must not keep its cluster");
    }
}

fn selector(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if !ray.is_job() || !selects(ray) {
        return;
    }
    for (key, conflicts) in [
        ("suspend", ray.spec.key("suspend").is_true()),
        ("backoffLimit", ray.spec.key("backoffLimit").int().unwrap_or(0) > 0),
        ("rayClusterSpec", ray.queue.is_some() && ray.cluster.exists()),
    ] {
        if conflicts {
            say.at(&ray.spec.key(key), format!("`{key}` is refused beside `clusterSelector`"));
        }
    }
}

fn managed(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("managedBy");
    if at.text().is_some_and(|name| !["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"].contains(&name))
    {
        say.at(&at, format!("`{}` manages no Ray objects", at.str()));
    }
}

fn runtime_env(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("runtimeEnvYAML");
    if !ray.is_job() || at.str().trim().is_empty() {
        return;
    }
    match manifest::read(at.str()).first() {
        Some(Ok(node)) if !At::root(node).is_mapping() => {
            say.at(&at, "the runtime environment is no mapping");
        }
        Some(Err(broken)) => {
            say.at(&at, format!("line {} of the runtime environment: {}", broken.place.line, broken.message));
        }
        _ => {}
    }
}

fn installs(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let (at, nodes) = (ray.spec.key("runtimeEnvYAML"), ray.nodes());
    if !ray.is_job() || nodes <= PIP_NODES_MAX {
        return;
    }
    let read = manifest::read(at.str());
    let Some(Ok(node)) = read.first() else { return };
    if let Some(manager) = ["pip", "uv", "conda"].into_iter().find(|key| node.entry(key).is_some()) {
        say.at(&at, format!("{nodes} nodes install by `{manager}` when they start"));
    }
}

/// What a job may take at most, in seconds.
pub(super) fn active_deadline_s(object: &Object<'_>) -> Option<i64> {
    object.at.get("spec.activeDeadlineSeconds").int()
}
