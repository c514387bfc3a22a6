//! Pod templates: what trains, what stands beside it, and where it may stand.

use eagleray_spec::is_secret_name;
use serde_json::{Map, Value, json};

use super::Problem;
use super::account::{Account, Spot, Verdict};
use super::draft::{CONTAINER, Draft};
use super::launcher::Word;
use crate::RANK_VARIABLES;

/// Names by which Kubeflow knows the container that trains.
const TRAINING: [&str; 3] = ["pytorch", "node", "trainer"];

/// The port by which a `PyTorchJob`'s workers find their master.
const MASTER_PORT: &str = "23456";

/// Reads pod templates into a draft.
pub(super) struct Pods<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) account: &'a mut Account,
    pub(super) problems: &'a mut Vec<Problem>,
    /// Whether the instance type was given by the user, who then decides.
    pub(super) instance_given: bool,
}

impl Pods<'_> {
    fn carry(&mut self, spot: &Spot<'_>, to: &str) {
        self.account.mark(&spot.path, &Verdict::carried(to));
    }

    fn replace(&mut self, spot: &Spot<'_>, why: &str) {
        self.account.mark(&spot.path, &Verdict::replaced(why));
    }

    fn refuse(&mut self, spot: &Spot<'_>, message: String, hint: &str) {
        self.problems.push(Problem { line: spot.node.line, message, hint: hint.to_owned() });
    }

    /// `metadata` of a template: labels for everything, annotations for the pods.
    pub(super) fn metadata(&mut self, spot: &Spot<'_>) {
        if let Some(labels) = spot.get("labels") {
            self.labels(&labels);
        }
        if let Some(annotations) = spot.get("annotations") {
            for (key, value) in annotations.entries() {
                let json = self.copy(&value);
                self.draft.pod_map(&["metadata", "annotations"]).insert(key.to_owned(), json);
            }
            self.carry(&annotations, "cluster.eks.pod.metadata.annotations");
        }
        self.replace(spot, "Ray names its pods itself");
    }

    /// Labels become those of everything that is made.
    pub(super) fn labels(&mut self, spot: &Spot<'_>) {
        for (key, value) in spot.entries() {
            let Some(text) = value.node.text() else { continue };
            let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if key == "kueue.x-k8s.io/queue-name" {
                self.draft.queue = Some(text.to_owned());
                self.carry(&value, "cluster.eks.queue");
            } else if key.starts_with("training.kubeflow.org/") || key.starts_with("trainer.kubeflow.org/") {
                self.replace(&value, "Kubeflow's own; Ray labels its pods itself");
            } else if text.len() > 63 || !text.chars().all(legal) {
                self.account.mark(
                    &value.path,
                    &Verdict::lost("no legal label: shorten it, then add it to `cluster.eks.labels`"),
                );
            } else if self.draft.labels.iter().any(|(known, other)| known == key && other != text) {
                self.draft.pod_map(&["metadata", "labels"]).insert(key.to_owned(), text.into());
                self.carry(&value, "cluster.eks.pod.metadata.labels");
            } else {
                self.draft.labels.retain(|(known, _)| known != key);
                self.draft.labels.push((key.to_owned(), text.to_owned()));
                self.carry(&value, "cluster.eks.labels");
            }
        }
    }

    /// The `spec` of a pod. What has a key in the run spec goes there, all else into its `pod`.
    pub(super) fn spec(&mut self, spot: &Spot<'_>) {
        let volumes = spot.get("volumes").map(|volumes| volumes.items()).unwrap_or_default();
        if let Some(containers) = spot.get("containers") {
            let items = containers.items();
            let named = |item: &Spot<'_>| item.text("name").is_some_and(|name| TRAINING.contains(&name));
            let main = items.iter().position(named).unwrap_or(0);
            for (index, item) in items.iter().enumerate() {
                if index == main { self.container(item, &volumes) } else { self.beside(item, "containers") }
            }
        }
        for init in spot.get("initContainers").map(|list| list.items()).unwrap_or_default() {
            if waits_for_master(&init) {
                self.replace(
                    &init,
                    "it waits for the master: Ray Train starts the script when all workers are there",
                );
            } else {
                self.beside(&init, "initContainers");
            }
        }
        self.volumes(spot, &volumes);
        for (key, value) in spot.entries() {
            if !value.node.is_null() {
                self.placement(key, &value);
            }
        }
    }

    fn placement(&mut self, key: &str, value: &Spot<'_>) {
        match key {
            "containers" | "initContainers" | "volumes" => return,
            "nodeSelector" => return self.node_selector(value),
            "affinity" => return self.affinity(value),
            "restartPolicy" => {
                return self.replace(value, "KubeRay restarts pods, the driver decides about the run");
            }
            "serviceAccountName" | "serviceAccount" | "imagePullSecrets" => {
                let next = format!("the Ray head needs `{key}` too: see to it that `eagleray render` gives it to the head, or attach it to the namespace's default service account");
                self.draft.next.push(next);
            }
            "hostNetwork" if value.node.text() == Some("true") => self.draft.next.push(
                "`hostNetwork` is carried: two Ray pods on one node would then fight for ports, so keep one pod a node".into(),
            ),
            _ => {}
        }
        let json = self.copy(value);
        self.draft.pod_map(&["spec"]).insert(key.to_owned(), json);
        self.carry(value, &format!("cluster.eks.pod.spec.{key}"));
    }

    /// A container that does not train, with its mounts' volumes.
    fn beside(&mut self, spot: &Spot<'_>, list: &str) {
        let json = self.copy(spot);
        if list == "containers" {
            // The first container is Ray's.
            self.draft.container();
        }
        self.draft.pod_push(list, json);
        self.carry(spot, &format!("cluster.eks.pod.spec.{list}"));
    }

    fn container(&mut self, spot: &Spot<'_>, volumes: &[Spot<'_>]) {
        for (key, value) in spot.entries() {
            if value.node.is_null() {
                continue;
            }
            match key {
                "name" => self.replace(&value, "the container that trains is `ray-worker`"),
                "image" => self.image(&value),
                "command" => self.draft.command = words(&value),
                "args" => self.draft.args = words(&value),
                "env" => self.env(&value),
                "envFrom" => self.env_from(&value),
                "resources" => self.resources(&value),
                "volumeMounts" => self.mounts(&value, volumes),
                "ports" => self.ports(&value),
                "livenessProbe" | "readinessProbe" | "startupProbe" => {
                    let why = "KubeRay probes Ray instead; `eagleray report` tells whether training gets on";
                    self.account.mark(&value.path, &Verdict::lost(why));
                }
                _ => {
                    if key == "workingDir" {
                        self.draft.working_directory = value.node.text().map(str::to_owned);
                    }
                    let json = self.copy(&value);
                    self.draft.container().insert(key.to_owned(), json);
                    self.carry(&value, &format!("cluster.eks.pod.spec.containers[{CONTAINER}].{key}"));
                }
            }
        }
    }

    pub(super) fn image(&mut self, spot: &Spot<'_>) {
        spot.node.text().unwrap_or_default().clone_into(&mut self.draft.image);
        let why = "the Dockerfile begins with it; `cluster.eks.image` is what comes of that";
        self.account.mark(&spot.path, &Verdict::carried("Dockerfile").because(why));
    }

    pub(super) fn env(&mut self, spot: &Spot<'_>) {
        for item in spot.items() {
            let Some(name) = item.text("name") else { continue };
            if RANK_VARIABLES.contains(&name) || name.starts_with("PET_") {
                self.replace(
                    &item,
                    "Ray Train sets `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and the like for every worker",
                );
            } else if item.get("valueFrom").is_some() {
                let json = self.copy(&item);
                self.draft.container_push("env", json);
                self.carry(&item, &format!("cluster.eks.pod.spec.containers[{CONTAINER}].env"));
            } else if is_secret_name(name) {
                self.drop_secret(&item, name);
            } else if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let value = item.text("value").unwrap_or_default();
                self.draft.set_env(name, value);
                self.carry(&item, &format!("cluster.eks.env.{name}"));
            } else {
                let json = self.copy(&item);
                self.draft.container_push("env", json);
                self.carry(&item, &format!("cluster.eks.pod.spec.containers[{CONTAINER}].env"));
            }
        }
    }

    /// A value in plain sight becomes a reference to a secret that people make.
    pub(super) fn drop_secret(&mut self, spot: &Spot<'_>, name: &str) {
        let secret = self.need_secret(name);
        let why = format!(
            "a secret in plain sight, whose value goes nowhere: make the secret `{secret}` with the key `{name}`"
        );
        self.account.mark(&format!("{}.name", spot.path), &Verdict::carried("cluster.eks.env_from"));
        self.account.mark(&spot.path, &Verdict::lost(why));
    }

    /// The secret that is to hold a variable; the run spec names it.
    pub(super) fn need_secret(&mut self, name: &str) -> String {
        let secret = format!("{}-secrets", self.draft.name);
        let reference = json!({"secret": secret});
        if !self.draft.env_from.contains(&reference) {
            self.draft.env_from.push(reference);
        }
        if !self.draft.secrets.iter().any(|known| known == name) {
            self.draft.secrets.push(name.to_owned());
        }
        secret
    }

    fn env_from(&mut self, spot: &Spot<'_>) {
        for item in spot.items() {
            let keys: Vec<&str> = item.entries().iter().map(|(key, _)| *key).collect();
            let plain = |key: &str| {
                item.get(key).filter(|inner| keys.len() == 1 && inner.entries().len() == 1)?.text("name")
            };
            let reference = plain("secretRef")
                .map(|name| json!({"secret": name}))
                .or_else(|| plain("configMapRef").map(|name| json!({"config_map": name})));
            if let Some(reference) = reference {
                self.draft.env_from.push(reference);
                self.carry(&item, "cluster.eks.env_from");
            } else {
                let json = self.copy(&item);
                self.draft.container_push("envFrom", json);
                self.carry(&item, &format!("cluster.eks.pod.spec.containers[{CONTAINER}].envFrom"));
            }
        }
    }

    /// Requests and limits; every device but NVIDIA's GPUs and EFA is refused by name.
    pub(super) fn resources(&mut self, spot: &Spot<'_>) {
        let grouped = spot.entries().iter().any(|(key, _)| matches!(*key, "limits" | "requests" | "claims"));
        if !grouped {
            return self.amounts(spot, "limits");
        }
        for (key, value) in spot.entries() {
            if key == "claims" {
                self.refuse(
                    &value,
                    "device claims (`resources.claims`) are not available in this build".into(),
                    "ask for `nvidia.com/gpu`",
                );
            } else {
                self.amounts(&value, key);
            }
        }
    }

    fn amounts(&mut self, spot: &Spot<'_>, kind: &str) {
        for (resource, amount) in spot.entries() {
            let Some(text) = amount.node.text() else {
                let place = match amount.node.line {
                    0 => spot.path.clone(),
                    line => format!("line {line}"),
                };
                let next = format!("{place}: `{resource}` has no amount in the job: nothing is asked for");
                if !self.draft.next.contains(&next) {
                    self.draft.next.push(next);
                }
                continue;
            };
            let device = resource.contains('/');
            let count = text.parse::<u32>().ok();
            match resource {
                "nvidia.com/gpu" => self.draft.gpus = count.filter(|count| *count > 0),
                "vpc.amazonaws.com/efa" => self.draft.efa = count,
                _ if device => {
                    let message = format!("the device `{resource}` is not available in this build");
                    self.refuse(
                        &amount,
                        message,
                        "a run has NVIDIA GPUs or CPUs: such a job stays where it is",
                    );
                }
                _ => {}
            }
            if device && count.is_none() {
                self.refuse(
                    &amount,
                    format!("`{resource}` is no whole number: `{text}`"),
                    "write how many a pod has",
                );
            }
            let resources = self.draft.container().entry("resources").or_insert_with(|| json!({}));
            resources[kind][resource] = amount.node.to_json();
            let to = format!("cluster.eks.pod.spec.containers[{CONTAINER}].resources");
            let verdict = match resource {
                "nvidia.com/gpu" => {
                    Verdict::carried(format!("cluster.workers, {to}")).because("one worker for each GPU")
                }
                _ => Verdict::carried(to),
            };
            self.account.mark(&amount.path, &verdict);
        }
    }

    fn ports(&mut self, spot: &Spot<'_>) {
        for item in spot.items() {
            if item.text("containerPort") == Some(MASTER_PORT) || item.text("name") == Some("pytorchjob-port")
            {
                self.replace(&item, "the master's port: Ray Train chooses one for each worker group");
            } else {
                let json = self.copy(&item);
                self.draft.container_push("ports", json);
                self.carry(&item, &format!("cluster.eks.pod.spec.containers[{CONTAINER}].ports"));
            }
        }
    }

    /// Where volumes are mounted in the container that trains.
    pub(super) fn mounts(&mut self, spot: &Spot<'_>, volumes: &[Spot<'_>]) {
        for item in spot.items() {
            let (name, path) =
                (item.text("name").unwrap_or_default(), item.text("mountPath").unwrap_or_default());
            let volume = volumes.iter().find(|volume| volume.text("name") == Some(name));
            let claim = volume.and_then(|volume| volume.get("persistentVolumeClaim"));
            let bare_claim = claim.filter(|claim| claim.entries().len() == 1 && item.entries().len() == 2);
            if let (Some(volume), "/dev/shm") = (volume, path)
                && volume.at(&["emptyDir", "sizeLimit"]).is_none()
            {
                let why = "KubeRay mounts memory at `/dev/shm`, as much as the pod asks for";
                self.replace(&item, why);
                self.replace(volume, why);
                continue;
            }
            if let (Some(volume), Some(name)) =
                (volume, bare_claim.as_ref().and_then(|claim| claim.text("claimName")))
            {
                self.draft.volumes.push((path.to_owned(), name.to_owned()));
                self.carry(&item, "cluster.eks.volumes");
                self.carry(volume, "cluster.eks.volumes");
                continue;
            }
            let json = self.copy(&item);
            self.draft.container_push("volumeMounts", json);
            self.carry(&item, &format!("cluster.eks.pod.spec.containers[{CONTAINER}].volumeMounts"));
        }
    }

    /// Volumes that are mounted in ways which the run spec has no key for.
    fn volumes(&mut self, spec: &Spot<'_>, volumes: &[Spot<'_>]) {
        let pod = Value::Object(self.draft.pod.clone());
        let lists = ["containers", "initContainers"]
            .map(|list| pod["spec"][list].as_array().cloned().unwrap_or_default());
        let mounts: Vec<Value> = lists
            .concat()
            .iter()
            .flat_map(|container| container["volumeMounts"].as_array().cloned().unwrap_or_default())
            .collect();
        let mounted = |name: &str| mounts.iter().any(|mount| mount["name"] == name);
        for volume in volumes.iter().filter(|volume| volume.text("name").is_some_and(mounted)) {
            let json = self.copy(volume);
            self.draft.pod_push("volumes", json);
            self.carry(volume, "cluster.eks.pod.spec.volumes");
        }
        for mount in &mounts {
            let name = mount["name"].as_str().unwrap_or_default();
            if !volumes.iter().any(|volume| volume.text("name") == Some(name)) {
                let message = format!("a container mounts `{name}`, which is no volume of its pod");
                self.refuse(spec, message, "add the volume, or remove the mount");
            }
        }
        for volume in volumes {
            self.account.mark(&volume.path, &Verdict::lost("no container mounts it: nothing to do"));
        }
    }

    fn node_selector(&mut self, spot: &Spot<'_>) {
        for (key, value) in spot.entries() {
            let text = value.node.text().unwrap_or_default();
            if let Some(verdict) = self.node_label(key, text) {
                self.account.mark(&value.path, &verdict);
            } else {
                self.draft.pod_map(&["spec", "nodeSelector"]).insert(key.to_owned(), text.into());
                self.carry(&value, "cluster.eks.pod.spec.nodeSelector");
            }
        }
    }

    /// What a label of nodes says of a group; `None` where it says nothing that a group has.
    fn node_label(&mut self, key: &str, text: &str) -> Option<Verdict> {
        match (key, text) {
            ("node.kubernetes.io/instance-type" | "beta.kubernetes.io/instance-type", _) => {
                if self.instance_given {
                    return Some(Verdict::replaced("`--instance` was given instead"));
                }
                self.draft.instance = Some(text.to_owned());
                Some(Verdict::carried("cluster.eks.groups[0].instance"))
            }
            ("karpenter.sh/capacity-type" | "eks.amazonaws.com/capacityType", _) => {
                self.draft.capacity = Some(match text {
                    "spot" | "SPOT" => "spot",
                    "on-demand" | "ON_DEMAND" => "on_demand",
                    "reserved" | "CAPACITY_BLOCK" => "reserved",
                    _ => return None,
                });
                Some(Verdict::carried("cluster.eks.groups[0].capacity"))
            }
            ("topology.kubernetes.io/zone" | "failure-domain.beta.kubernetes.io/zone", _) => {
                self.draft.zone = Some(text.to_owned());
                Some(Verdict::carried("cluster.eks.groups[0].zone"))
            }
            _ => None,
        }
    }

    fn affinity(&mut self, spot: &Spot<'_>) {
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        let mut json = self.copy(spot);
        let terms = spot.at(&["nodeAffinity", REQUIRED, "nodeSelectorTerms"]).map(|terms| terms.items());
        if let Some([term]) = terms.as_deref() {
            let expressions = term.get("matchExpressions").map(|list| list.items()).unwrap_or_default();
            let mut kept = Vec::new();
            for expression in &expressions {
                let values = expression.get("values").map(|values| values.items()).unwrap_or_default();
                let single = match (expression.text("operator"), values.as_slice()) {
                    (Some("In"), [value]) => value.node.text(),
                    _ => None,
                };
                let key = expression.text("key").unwrap_or_default();
                match single.and_then(|text| self.node_label(key, text)) {
                    Some(verdict) => self.account.mark(&expression.path, &verdict),
                    None => kept.push(expression.node.to_json()),
                }
            }
            if kept.len() < expressions.len() {
                let required = &mut json["nodeAffinity"];
                if kept.is_empty() && term.entries().len() == 1 {
                    required.as_object_mut().map(|map| map.remove(REQUIRED));
                } else {
                    required[REQUIRED]["nodeSelectorTerms"][0]["matchExpressions"] = kept.into();
                }
            }
        }
        if let Some(map) = json.as_object_mut() {
            map.retain(|_, value| value.as_object().is_none_or(|inner| !inner.is_empty()));
            if !map.is_empty() {
                self.draft.pod_map(&["spec"]).insert("affinity".into(), json);
            }
        }
        self.carry(spot, "cluster.eks.pod.spec.affinity");
    }

    /// The JSON of what is carried as it is, without the values of secrets.
    pub(super) fn copy(&mut self, spot: &Spot<'_>) -> Value {
        if spot.node.is_null() {
            return Value::Null;
        }
        if !spot.node.items().is_empty() {
            let items = spot.items();
            return items.iter().filter_map(|item| self.copy_item(item)).collect();
        }
        if !spot.node.entries().is_empty() {
            let entries = spot.entries();
            let map: Map<String, Value> =
                entries.iter().map(|(key, value)| ((*key).to_owned(), self.copy(value))).collect();
            return map.into();
        }
        spot.node.to_json()
    }

    fn copy_item(&mut self, item: &Spot<'_>) -> Option<Value> {
        let secret = item.text("name").filter(|name| is_secret_name(name) && item.get("value").is_some());
        if secret.is_some() {
            let why = "a secret in plain sight, whose value goes nowhere: give it by `valueFrom: {secretKeyRef: …}`";
            self.account.mark(&item.path, &Verdict::lost(why));
            return None;
        }
        Some(self.copy(item))
    }
}

/// The items of a command.
pub(super) fn words(spot: &Spot<'_>) -> Vec<Word> {
    let items = spot.items().into_iter();
    items
        .map(|item| Word { text: item.node.text().unwrap_or_default().to_owned(), path: item.path })
        .collect()
}

/// The operator's own init container, or one that does what it does.
fn waits_for_master(spot: &Spot<'_>) -> bool {
    let mut said = String::new();
    spot.node.leaves("", &mut |_, leaf| said.push_str(leaf.text().unwrap_or_default()));
    let wait = said.contains("nslookup") || said.contains("nc -z") || said.contains("MASTER_ADDR");
    spot.text("name") == Some("init-pytorch") || wait
}
