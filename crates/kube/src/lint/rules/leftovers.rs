//! What stays behind when a job moves from a training operator to Ray.

use crate::RANK_VARIABLES;
use crate::lint::Rule;
use crate::lint::at::At;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{Group, Ray, Scene};

pub(super) const RULES: &[Rule] = &[
    rule!("leftover-rank-env" Error "RayJob, RayCluster": "ranks and addresses by variables",
        why "one value for all pods: processes wait for a master that is not there, or all believe they are rank 0",
        fix "remove the variable: Ray Train sets it for each worker"; Check::Group(rank_env)),
    rule!("leftover-launcher" Error "RayJob": "the entrypoint starts its own processes",
        why "an entrypoint runs once, on the head: `torchrun`, `mpirun` and their like start ranks there, and the workers stay idle",
        fix "start the script by Ray Train: `eagleray train run.yaml` with `train.script`"; Check::Ray(launcher)),
    rule!("leftover-labels" Info "RayJob, RayCluster": "labels of a training operator",
        why "selectors and dashboards of the old operator count these pods as its own",
        fix "remove `training.kubeflow.org/…`"; Check::Ray(labels)),
    rule!("leftover-port" Info "RayJob, RayCluster": "the port of a PyTorchJob's master",
        why "nothing listens on 23456: Ray Train chooses a free port for each world", fix "remove the port"; Check::Group(port)),
    rule!("leftover-master-wait" Warning "RayJob, RayCluster": "a pod waits for a master that never comes",
        why "an init container that resolves the master's name never ends", fix "remove it: KubeRay waits for the head itself"; Check::Group(master_wait)),
    rule!("leftover-same-job" Warning "RayJob, PyTorchJob, TrainJob": "the old and the new job have one name",
        why "applied together, both run, both are billed, and both write to the same place",
        fix "remove the old object from these files"; Check::Scene(same_job)),
];

fn rank_env(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    for entry in group.container.key("env").items() {
        let name = entry.key("name").str();
        if RANK_VARIABLES.contains(&name) || name.starts_with("PET_") {
            say.at(&entry, format!("{} sets `{name}` for all its pods", group.shown()));
        }
    }
}

fn launcher(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let at = ray.spec.key("entrypoint");
    if let Some(name) = launched(at.str()).filter(|_| ray.trains()) {
        say.at(&at, format!("`{name}` starts processes on the head alone"));
    }
}

/// The launcher that a script runs, where a command begins with one; an option that has its name is none.
fn launched(script: &str) -> Option<&'static str> {
    let mut begins = true;
    let words: Vec<&str> = script.split_whitespace().collect();
    for (index, word) in words.iter().enumerate() {
        let name = word.rsplit('/').next().unwrap_or(word);
        let next = |offset: usize| words.get(index + offset).copied().unwrap_or_default();
        if begins {
            if let Some(found) =
                ["torchrun", "mpirun", "horovodrun", "deepspeed"].into_iter().find(|known| *known == name)
            {
                return Some(found);
            }
            if name == "accelerate" && next(1) == "launch" {
                return Some("accelerate launch");
            }
            let modules = ["torch.distributed.run", "torch.distributed.launch"];
            if let Some(found) = modules
                .into_iter()
                .find(|known| name.starts_with("python") && next(1) == "-m" && *known == next(2))
            {
                return Some(found);
            }
        }
        let ends = word.ends_with([';', '&', '|', '(', '\'', '"']);
        let leads = matches!(*word, "exec" | "env" | "time" | "then" | "do" | "nohup" | "-c" | "-lc");
        begins = ends || leads || (begins && word.contains('='));
    }
    None
}

fn labels(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let metadata = ray.object.at.key("metadata");
    let mut maps = vec![metadata.key("labels"), metadata.key("annotations")];
    for group in &ray.groups {
        maps.extend([group.template.get("metadata.labels"), group.template.get("metadata.annotations")]);
    }
    for (key, at) in maps.iter().flat_map(At::entries) {
        if key.starts_with("training.kubeflow.org/") {
            say.at(&at, format!("`{key}` belongs to the training operator"));
        }
    }
}

fn port(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    for port in group.container.key("ports").items() {
        let at = port.key("containerPort");
        if at.int() == Some(23_456) {
            say.at(&at, format!("{} opens a port that nothing uses", group.shown()));
        }
    }
}

fn master_wait(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    for container in group.pod.key("initContainers").items() {
        let mut script = String::new();
        for key in ["command", "args"] {
            container.key(key).each_scalar(&mut |_, text| {
                script.push_str(text);
                script.push(' ');
            });
        }
        let waits = ["nslookup", "getent hosts", "nc -z", "dig "].iter().any(|word| script.contains(word));
        if waits && (script.contains("master") || script.contains("MASTER_ADDR")) {
            say.at(&container, format!("{} waits for a master before it starts", group.shown()));
        }
    }
}

fn same_job(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    for old in scene.of_kind("TrainingJob") {
        let same = |ray: &&Ray<'_>| ray.object.name == old.name && ray.object.namespace == old.namespace;
        if let Some(ray) = scene.rays.iter().find(same) {
            let kind = old.at.key("kind").str();
            say.in_file(
                old.file,
                &old.at.get("metadata.name"),
                format!("`{}` is a {kind} and a {}", old.name, ray.object.kind),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::launched;

    #[test]
    fn a_launcher_is_one_where_a_command_begins() {
        assert_eq!(
            launched("cd /app && NCCL_DEBUG=INFO /usr/bin/torchrun --nnodes 2 a.py"),
            Some("torchrun")
        );
        assert_eq!(launched("python3 -m torch.distributed.run a.py"), Some("torch.distributed.run"));
        assert_eq!(launched("exec accelerate launch a.py"), Some("accelerate launch"));
        assert_eq!(launched("python a.py --strategy deepspeed --deepspeed ds.json"), None);
        assert_eq!(launched("python accelerate.py launch"), None);
    }
}
