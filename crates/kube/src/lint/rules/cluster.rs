//! The Ray cluster: versions, authentication, groups and their numbers, fault tolerance.

use crate::lint::Rule;
use crate::lint::facts;
use crate::lint::report::Say;
use crate::lint::rule::{Check, Mode};
use crate::lint::scene::{ELASTIC_JOB, Group, Ray, Scene};

pub(super) const RULES: &[Rule] = &[
    rule!("ray-version-mismatch" Error "RayJob, RayCluster, RayService": "`rayVersion` is not the image's",
        why "KubeRay chooses probes, authentication and the autoscaler by `rayVersion`: the wrong one asks the wrong health endpoint and kills good pods",
        fix "write the version of Ray in the image"; Check::Group(version_mismatch)),
    rule!("ray-version-missing" Info "RayJob, RayCluster, RayService": "`rayVersion` is not given",
        why "KubeRay then guesses how to probe Ray", fix "write the version of Ray in the image"; Check::Ray(version_missing)),
    rule!("token-auth-off" Warning "RayJob, RayCluster, RayService": "anybody who reaches the head may run code on it",
        why "Ray's API has no other authentication; since Ray 2.52 KubeRay sets up tokens by one line",
        fix "set `authOptions.mode: token` and `rayVersion` 2.52 or newer"; Check::Ray(token_off)),
    rule!("token-auth-version" Error "RayJob, RayCluster, RayService": "tokens need a newer Ray",
        why "KubeRay refuses `authOptions.mode: token` without `rayVersion` 2.52 or newer",
        fix "update Ray, or remove `authOptions`"; Check::Ray(token_version)),
    rule!("k8s-token-auth" Error "RayJob, RayCluster, RayService": "tokens of Kubernetes where they do not work",
        why "KubeRay refuses `enableK8sTokenAuth` for jobs and services, and without mode token",
        fix "remove `enableK8sTokenAuth`; `mode: token` alone works everywhere"; Check::Ray(k8s_token)),
    rule!("min-max-without-autoscaler" Warning in Range "RayJob, RayCluster, RayService": "a range in which nobody moves",
        why "without the autoscaler KubeRay makes `replicas` pods and never more or fewer, whatever bounds are written beside it",
        fix "write `replicas`, `minReplicas` and `maxReplicas` as one number"; Check::Group(range)),
    rule!("replicas-out-of-range" Error "RayJob, RayCluster, RayService": "`replicas` lies outside its range",
        why "KubeRay refuses a minimum above the maximum, and bends `replicas` into the range otherwise",
        fix "make `minReplicas` ≤ `replicas` ≤ `maxReplicas`"; Check::Group(out_of_range)),
    rule!("autoscaler-fixed-gang" Warning in Autoscaled "RayJob": "the autoscaler on a fixed gang",
        why "there is nothing to decide; it costs a container beside the head and forbids that containers restart",
        fix "remove `enableInTreeAutoscaling`"; Check::Ray(autoscaler_gang)),
    rule!("autoscaler-kueue" Error in Autoscaled "RayJob, RayCluster": "the autoscaler under Kueue",
        why "Kueue refuses it but for what is annotated as elastic, under its gate ElasticJobsViaWorkloadSlices, which is on since 0.18 and off before",
        fix "annotate with `kueue.x-k8s.io/elastic-job: \"true\"` (before Kueue 0.18 turn its gate ElasticJobsViaWorkloadSlices on too), or remove `enableInTreeAutoscaling`"; Check::Ray(autoscaler_kueue)),
    rule!("autoscaler-restart-policy" Error in Autoscaled "RayJob, RayCluster, RayService": "containers restart under autoscaler v2",
        why "KubeRay refuses a restart policy other than Never there", fix "remove `restartPolicy`, or set it to Never"; Check::Group(autoscaler_restart)),
    rule!("worker-restart-policy" Warning "RayJob, RayCluster, RayService": "workers do not restart",
        why "a raylet that loses its head exits with code 0, so that only Always brings it back; else each pod, and often its node, is replaced",
        fix "set `restartPolicy: Always`, or leave it out"; Check::Group(worker_restart)),
    rule!("gcs-ft-in-job" Warning "RayJob": "fault tolerance of the head's state, for one job",
        why "a retry deletes the cluster and what Redis kept of it; the driver is lost with the head in any case",
        fix "remove `gcsFaultToleranceOptions`; resume from checkpoints", see "kuberay#4025"; Check::Ray(gcs_job)),
    rule!("gcs-ft-namespace-shared" Error "RayCluster, RayService, RayJob": "two clusters share one state in Redis",
        why "each takes the other's nodes and actors for its own",
        fix "give each its own `externalStorageNamespace`"; Check::Scene(gcs_shared)),
    rule!("redis-address-env" Error "RayJob, RayCluster, RayService": "Redis by a variable",
        why "KubeRay refuses `RAY_REDIS_ADDRESS` on the head: its own options are the only way",
        fix "use `gcsFaultToleranceOptions.redisAddress`"; Check::Group(redis_env)),
    rule!("ray-start-params-labels" Error "RayJob, RayCluster, RayService": "labels within `rayStartParams`",
        why "KubeRay refuses them there", fix "use `labels` of the group"; Check::Group(labels)),
    rule!("resources-twice" Error "RayJob, RayCluster, RayService": "resources in two places",
        why "KubeRay refuses `resources` of a group beside num-cpus, num-gpus, memory or resources in `rayStartParams`",
        fix "keep one of them"; Check::Group(resources_twice)),
    rule!("group-name-duplicate" Error "RayJob, RayCluster, RayService": "two groups have one name",
        why "KubeRay finds pods by their group's name, and counts those of both for each",
        fix "give each group its own name"; Check::Ray(group_names)),
    rule!("group-name-invalid" Error "RayJob, RayCluster, RayService": "a group's name is no DNS label",
        why "it becomes part of pod names", fix "use small letters, digits and `-`"; Check::Group(group_letters)),
    rule!("multi-host-replica" Info "RayJob, RayCluster, RayService": "several hosts make one replica",
        why "the loss of one pod deletes and recreates all pods of its replica: right for a domain of NVLink, a waste for data parallelism",
        fix "set `numOfHosts: 1` unless the hosts are of use only together"; Check::Group(multi_host)),
    rule!("ray-container-not-first" Error "RayJob, RayCluster, RayService": "Ray is not the first container",
        why "KubeRay starts Ray in the first container of a pod, whatever it is called",
        fix "put the Ray container first, and others behind it"; Check::Group(container_order)),
    rule!("limits-missing" Warning "RayJob, RayCluster, RayService": "a pod with accelerators has no limit",
        why "Ray takes the number of CPUs and the memory from the limits; without them it sees the whole node, and the kernel ends what it starts too much of",
        fix "set limits of cpu and memory, equal to the requests"; Check::Group(limits)),
    rule!("requests-differ-from-limits" Warning "RayJob, RayCluster, RayService": "requests below limits",
        why "the pod is the first to be evicted when its node runs short of memory, and Ray plans with what it does not have",
        fix "make requests equal to limits"; Check::Group(requests)),
    rule!("login-shell" Warning "RayJob, RayCluster, RayService": "Ray starts in a login shell",
        why "the profile of the image replaces PATH and may run for seconds on every node; KubeRay stopped using one in 1.4",
        fix "use `bash -c`, and put what the profile does into the image's ENV"; Check::Group(login_shell)),
    rule!("ray-not-last-process" Warning "RayJob, RayCluster, RayService": "Ray is not the process that is told to end",
        why "SIGTERM goes to process 1, which is then the shell: Ray neither drains nor tells its tasks",
        fix "make `exec ray start … --block` the last command", see "kuberay#5004"; Check::Group(not_last)),
];

fn version_mismatch(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let image = group.container.key("image");
    let (Some(said), Some(has)) = (ray.ray_version(), facts::image_ray_version(image.str())) else { return };
    if said != has {
        let written = ray.cluster.key("rayVersion").str();
        let (major, minor, patch) = has;
        let message =
            format!("`rayVersion` is {written}, the image of {} has {major}.{minor}.{patch}", group.shown());
        say.at(&image, message);
    }
}

fn version_missing(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.cluster.key("rayVersion");
    if !ray.groups.is_empty() && !at.exists() {
        say.at(&at, "KubeRay does not know which Ray this is");
    }
}

fn token(ray: &Ray<'_>) -> bool {
    ray.cluster.get("authOptions.mode").str() == "token"
}

fn token_off(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    // Ray itself takes the mode from this variable, for those who bring their own Secret.
    let by_hand = ray.head().and_then(|head| head.env("RAY_AUTH_MODE"));
    let by_hand = by_hand.is_some_and(|entry| entry.key("value").str() == "token");
    if !ray.groups.is_empty() && !token(ray) && !by_hand {
        say.at(&ray.cluster.get("authOptions.mode"), "the head takes jobs from anybody who reaches it");
    }
}

fn token_version(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if token(ray) && ray.ray_version().is_none_or(|version| version < (2, 52, 0)) {
        let version = ray.cluster.key("rayVersion");
        let found = version.text().map_or("none".to_owned(), |text| format!("`{text}`"));
        say.at(&version, format!("tokens need `rayVersion` 2.52.0 or newer, found {found}"));
    }
}

fn k8s_token(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.cluster.get("authOptions.enableK8sTokenAuth");
    if !at.is_true() {
        return;
    }
    if ray.object.kind != "RayCluster" {
        say.at(&at, format!("a {} cannot use tokens of Kubernetes", ray.object.kind));
    } else if !token(ray) {
        say.at(&at, "tokens of Kubernetes need `mode: token`");
    }
}

fn range(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    // A bound that nobody wrote promises nothing; an API server writes defaults where nobody did.
    let made = group.at.key("replicas").int().unwrap_or(0).max(group.min);
    let written = [("minReplicas", 0), ("maxReplicas", i64::from(i32::MAX))].iter().any(|(key, default)| {
        group.at.key(key).int().is_some_and(|bound| bound != made && bound != *default)
    });
    if !group.is_head && written {
        let (min, max) = (group.min, group.max);
        say.at(
            &group.at.key("maxReplicas"),
            format!("{} has a range, {min} to {max}, and no autoscaler", group.shown()),
        );
    }
}

fn out_of_range(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    if group.is_head {
        return;
    }
    let (replicas, min, max) =
        (group.at.key("replicas"), group.at.key("minReplicas"), group.at.key("maxReplicas"));
    for (low, high, what) in
        [(&min, &max, "`maxReplicas`"), (&min, &replicas, "`replicas`"), (&replicas, &max, "`maxReplicas`")]
    {
        if let (Some(least), Some(most)) = (low.int(), high.int())
            && least > most
        {
            say.at(high, format!("{what} is {most}: expected at least {least}"));
            return;
        }
    }
}

fn autoscaler_gang(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let fixed = ray.workers().all(|group| group.min == group.max) && ray.workers().count() > 0;
    if ray.trains() && fixed {
        say.at(
            &ray.cluster.key("enableInTreeAutoscaling"),
            "every group has one number, so there is nothing to scale",
        );
    }
}

fn autoscaler_kueue(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    if ray.queue.is_some() && !ray.object.annotation(ELASTIC_JOB).is_true() {
        say.at(
            &ray.cluster.key("enableInTreeAutoscaling"),
            "Kueue refuses a queued cluster with an autoscaler and without `kueue.x-k8s.io/elastic-job`",
        );
    }
}

fn autoscaler_restart(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.pod.key("restartPolicy");
    let second = ray.cluster.get("autoscalerOptions.version").str() == "v2";
    if second && at.text().is_some_and(|policy| policy != "Never") {
        say.at(&at, format!("{} restarts, which autoscaler v2 refuses", group.shown()));
    }
}

fn worker_restart(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.pod.key("restartPolicy");
    if !group.is_head && ray.mode != Mode::Autoscaled && at.text().is_some_and(|policy| policy != "Always") {
        say.at(&at, format!("{} has `restartPolicy: {}`", group.shown(), at.str()));
    }
}

fn gcs_job(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.cluster.key("gcsFaultToleranceOptions");
    if ray.is_job() && at.exists() {
        say.at(&at, "what it keeps dies with the job's cluster");
    }
}

fn gcs_shared(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for ray in &scene.rays {
        let options = ray.cluster.key("gcsFaultToleranceOptions");
        let (name, redis) = (options.key("externalStorageNamespace"), options.key("redisAddress").str());
        if !name.exists() {
            continue;
        }
        match seen.iter().find(|(own, address, _)| *own == name.str() && *address == redis) {
            Some((_, _, other)) => {
                say.in_file(ray.object.file, &name, format!("`{}` is `{other}`'s already", name.str()));
            }
            None => seen.push((name.str(), redis, ray.object.name)),
        }
    }
}

fn redis_env(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let annotated = ray.object.annotation("ray.io/ft-enabled").is_true();
    if let Some(entry) = group.env("RAY_REDIS_ADDRESS").filter(|_| group.is_head && !annotated) {
        say.at(&entry, "`RAY_REDIS_ADDRESS` is refused on the head");
    }
}

fn labels(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let at = group.at.get("rayStartParams.labels");
    if at.exists() {
        say.at(&at, format!("{} has labels in `rayStartParams`", group.shown()));
    }
}

fn resources_twice(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let resources = group.at.key("resources");
    let params = group.at.key("rayStartParams");
    let twice =
        ["num-cpus", "num-gpus", "memory", "resources"].into_iter().find(|key| params.key(key).exists());
    if let Some(key) = twice.filter(|_| !resources.entries().is_empty()) {
        say.at(&resources, format!("{} has `resources` and `rayStartParams.{key}`", group.shown()));
    }
}

fn group_names(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let mut seen: Vec<&str> = Vec::new();
    for group in ray.workers() {
        if !group.name.is_empty() && seen.contains(&group.name) {
            say.at(&group.at.key("groupName"), format!("`{}` is another group's name", group.name));
        }
        seen.push(group.name);
    }
}

fn group_letters(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let name = group.name;
    let legal = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.len() <= 63;
    if !legal && !name.starts_with('$') {
        say.at(&group.at.key("groupName"), format!("`{name}` is no DNS label"));
    }
}

fn multi_host(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let tpu = group.resource("google.com/tpu").is_some();
    if !group.is_head && group.hosts > 1 && !tpu {
        say.at(
            &group.at.key("numOfHosts"),
            format!("one lost pod of {} takes {} along", group.shown(), group.hosts - 1),
        );
    }
}

fn container_order(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let containers = group.pod.key("containers").items();
    let is_ray = |name: &str| matches!(name, "ray-head" | "ray-worker" | "ray");
    let at = containers.iter().position(|container| is_ray(container.key("name").str()));
    if let Some(index) = at.filter(|index| *index > 0) {
        let first = containers[0].key("name");
        say.at(
            &containers[index].key("name"),
            format!("`{}` stands before it, and is taken for Ray", first.str()),
        );
    }
}

fn limits(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    if group.gpus <= 0.0 {
        return;
    }
    let limits = group.container.get("resources.limits");
    let missing: Vec<&str> = ["cpu", "memory"].into_iter().filter(|key| !limits.key(key).exists()).collect();
    if !missing.is_empty() {
        say.at(&limits, format!("{} has no limit of {}", group.shown(), missing.join(" and ")));
    }
}

fn requests(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    if !ray.trains() {
        return;
    }
    for key in ["cpu", "memory"] {
        let [request, limit] =
            ["requests", "limits"].map(|side| group.container.key("resources").key(side).key(key));
        let differ =
            facts::quantity(request.str()).zip(facts::quantity(limit.str())).is_some_and(|(a, b)| a < b);
        if differ {
            say.at(
                &request,
                format!("{} asks for {} of {key}, up to {}", group.shown(), request.str(), limit.str()),
            );
        }
    }
}

/// The words that a container runs, command and arguments.
fn words<'a>(group: &Group<'a>) -> Vec<&'a str> {
    ["command", "args"].iter().flat_map(|key| group.container.key(key).items()).map(|at| at.str()).collect()
}

fn login_shell(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let words = words(group);
    let shell =
        words.first().is_some_and(|first| first.rsplit('/').next().is_some_and(|name| name.ends_with("sh")));
    let flag = words.iter().skip(1).take_while(|word| word.starts_with('-'));
    let is_login = |word: &str| word == "--login" || (!word.starts_with("--") && word.contains('l'));
    if shell && flag.into_iter().any(|word| is_login(word)) {
        say.at(&group.container.key("command"), format!("{} starts in a login shell", group.shown()));
    }
}

fn not_last(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    if !ray.object.annotation("ray.io/overwrite-container-cmd").is_true() {
        return;
    }
    let script = words(group).join("\n");
    let starts = script.rfind("ray start").or_else(|| script.rfind("KUBERAY_GEN_RAY_START_CMD"));
    let Some(at) = starts else { return };
    let behind =
        script[at..].split_once([';', '\n']).or_else(|| script[at..].split_once("&&")).map(|(_, rest)| rest);
    if let Some(rest) = behind.map(str::trim).filter(|rest| !rest.is_empty()) {
        let next = rest.lines().next().unwrap_or_default();
        let next: String = next.chars().take(40).collect();
        say.at(
            &group.container.key("args"),
            format!("`{next}` stands behind `ray start` in {}", group.shown()),
        );
    }
}
