//! Volumes and budgets: what several pods cannot share, what a script cannot write, what blocks eviction.

use crate::lint::Rule;
use crate::lint::at::At;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{Group, Object, Ray, Scene};

const MOUNTPOINT: &str = "s3.csi.aws.com";
/// Options and variables that name a folder for what a script writes.
const OUTPUTS: [&str; 12] = [
    "checkpoint",
    "checkpoint-dir",
    "checkpoint-path",
    "ckpt-dir",
    "ckpt",
    "output-dir",
    "output",
    "save-dir",
    "save",
    "storage-path",
    "default-root-dir",
    "save-path",
];

pub(super) const RULES: &[Rule] = &[
    rule!("rwo-volume" Error "RayJob, RayCluster, RayService, PersistentVolumeClaim": "one pod's volume for several pods",
        why "a ReadWriteOnce volume attaches to one node: the second pod waits for ever",
        fix "use ReadWriteMany (FSx for Lustre, EFS), a volume for each pod (`ephemeral`), or S3"; Check::Ray(rwo)),
    rule!("checkpoint-on-mountpoint" Error "RayJob, PersistentVolume": "checkpoints on Mountpoint for S3",
        why "it can neither rename nor change a file: writers of checkpoints do both, and fail at the first save",
        fix "write checkpoints to `s3://` directly, or to FSx for Lustre or EFS"; Check::Ray(mountpoint)),
    rule!("output-on-pod-disk" Warning "RayJob": "what the script writes goes with its pod",
        why "a folder within the container is another one on each node, and gone when the pod is",
        fix "write to `s3://`, or mount a volume that all pods share (FSx for Lustre, EFS)"; Check::Ray(pod_disk)),
    rule!("pdb-blocks-eviction" Error "PodDisruptionBudget": "a budget that lets no Ray pod go",
        why "Karpenter's drain on a reclaim notice asks the budget: refused, the pod gets no SIGTERM and dies with the instance",
        fix "leave Ray's workers out of the budget, or allow `maxUnavailable: 100%`; protect the head by `karpenter.sh/do-not-disrupt`"; Check::Scene(budgets)),
];

fn claims<'a>(group: &Group<'a>) -> Vec<(At<'a>, &'a str)> {
    let volumes = group.pod.key("volumes").items().into_iter();
    volumes
        .filter_map(|volume| {
            let claim = volume.get("persistentVolumeClaim.claimName");
            claim.text().map(|name| (claim.clone(), name))
        })
        .collect()
}

fn claim<'s, 'a>(scene: &'s Scene<'a>, namespace: &str, name: &str) -> Option<&'s Object<'a>> {
    scene.of_kind("PersistentVolumeClaim").find(|object| object.name == name && object.namespace == namespace)
}

fn rwo(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    let mut used: Vec<(&str, i64, At<'_>)> = Vec::new();
    for group in &ray.groups {
        for (at, name) in claims(group) {
            match used.iter_mut().find(|(own, ..)| *own == name) {
                Some((_, pods, _)) => *pods += group.pods(),
                None => used.push((name, group.pods(), at)),
            }
        }
    }
    for (name, pods, at) in used {
        let Some(claim) = claim(scene, ray.object.namespace, name) else { continue };
        let modes = claim.at.get("spec.accessModes").items();
        let single = !modes.is_empty() && modes.iter().all(|mode| mode.str().starts_with("ReadWriteOnce"));
        if single && pods > 1 {
            say.at(&at, format!("`{name}` is {}, and {pods} pods mount it", modes[0].str()));
        }
    }
}

/// The local folders that a job says it writes to, by its entrypoint and its variables.
fn outputs<'a>(ray: &Ray<'a>) -> Vec<(At<'a>, &'a str)> {
    let entrypoint = ray.spec.key("entrypoint");
    let mut found = Vec::new();
    let words: Vec<&str> = entrypoint.str().split_whitespace().collect();
    for (index, word) in words.iter().enumerate() {
        let Some(option) = word.strip_prefix("--") else { continue };
        let (name, value) =
            option.split_once('=').unwrap_or((option, words.get(index + 1).copied().unwrap_or_default()));
        if is_output(name) && value.starts_with('/') {
            found.push((entrypoint.clone(), value.trim_matches(['"', '\''])));
        }
    }
    for group in ray.workers() {
        for entry in group.container.key("env").items() {
            let value = entry.key("value");
            if is_output(entry.key("name").str()) && value.str().starts_with('/') {
                found.push((value.clone(), value.str()));
            }
        }
    }
    found
}

fn is_output(name: &str) -> bool {
    OUTPUTS.contains(&name.to_lowercase().replace('_', "-").as_str())
}

/// The volume of a group under which a path lies.
fn volume_of<'a>(group: &Group<'a>, path: &str) -> Option<At<'a>> {
    let mounts = group.container.key("volumeMounts").items();
    let covers = |mount: &At<'a>| {
        let root = mount.key("mountPath").str().trim_end_matches('/');
        path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(|_| root.len())
    };
    let mount =
        mounts.iter().filter_map(|mount| Some((covers(mount)?, mount))).max_by_key(|(length, _)| *length)?.1;
    let name = mount.key("name").str();
    group.pod.key("volumes").items().into_iter().find(|volume| volume.key("name").str() == name)
}

fn is_mountpoint(scene: &Scene<'_>, ray: &Ray<'_>, volume: &At<'_>) -> bool {
    if volume.get("csi.driver").str() == MOUNTPOINT {
        return true;
    }
    let Some(claim) = volume
        .get("persistentVolumeClaim.claimName")
        .text()
        .and_then(|name| claim(scene, ray.object.namespace, name))
    else {
        return false;
    };
    let bound = claim.at.get("spec.volumeName").str();
    let of_claim = |object: &Object<'_>| {
        object.name == bound || object.at.get("spec.claimRef.name").text() == Some(claim.name)
    };
    scene
        .of_kind("PersistentVolume")
        .any(|object| of_claim(object) && object.at.get("spec.csi.driver").str() == MOUNTPOINT)
}

fn mountpoint(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    for (at, path) in outputs(ray) {
        let volume = ray.workers().find_map(|group| volume_of(group, path));
        if ray.is_job() && volume.is_some_and(|volume| is_mountpoint(scene, ray, &volume)) {
            say.at(&at, format!("`{path}` lies on Mountpoint for S3"));
        }
    }
}

fn pod_disk(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    for (at, path) in outputs(ray) {
        for group in ray.workers().filter(|_| ray.trains()) {
            let volume = volume_of(group, path);
            let shared = volume.as_ref().is_some_and(|volume| {
                !["emptyDir", "hostPath", "ephemeral"].iter().any(|key| volume.key(key).exists())
            });
            if !shared {
                let shown = if volume.is_some() { "a volume of its own pod" } else { "no volume" };
                say.at(&at, format!("`{path}` lies on {shown} in {}", group.shown()));
                break;
            }
        }
    }
}

fn budgets(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    for budget in scene.of_kind("PodDisruptionBudget") {
        let (max, min) = (budget.at.get("spec.maxUnavailable"), budget.at.get("spec.minAvailable"));
        let matching: Vec<i64> = scene
            .rays
            .iter()
            .filter(|ray| ray.object.namespace == budget.namespace)
            .flat_map(|ray| {
                ray.workers().filter(|group| selects(budget, ray, group)).map(Group::pods).collect::<Vec<_>>()
            })
            .collect();
        let by_ray = budget
            .at
            .get("spec.selector.matchLabels")
            .entries()
            .iter()
            .any(|(key, _)| key.starts_with("ray.io/"));
        if matching.is_empty() && !(by_ray && scene.rays.is_empty()) {
            continue;
        }
        let pods: i64 = matching.iter().sum();
        let none_may_go = matches!(max.str(), "0" | "0%")
            || min.str() == "100%"
            || min.int().is_some_and(|least| !matching.is_empty() && least >= pods);
        if none_may_go {
            let at = if max.exists() { max } else { min };
            say.in_file(budget.file, &at, format!("`{}` lets none of {pods} Ray workers go", budget.name));
        }
    }
}

/// Whether a budget's selector takes a group's pods, with the labels that `KubeRay` gives them.
fn selects(budget: &Object<'_>, ray: &Ray<'_>, group: &Group<'_>) -> bool {
    let selector = budget.at.get("spec.selector");
    if selector.key("matchExpressions").exists() {
        return false;
    }
    selector.key("matchLabels").entries().iter().all(|(key, value)| match *key {
        "ray.io/node-type" => value.str() == "worker",
        "ray.io/group" => value.str() == group.name,
        "ray.io/is-ray-node" => value.str() == "yes",
        "ray.io/cluster" => value.str().starts_with(ray.object.name),
        "ray.io/originated-from-cr-name" => value.str() == ray.object.name,
        _ => group.template.get("metadata.labels").text_of(key) == value.text(),
    })
}
