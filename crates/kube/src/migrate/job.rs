//! Jobs of Kubeflow: how many nodes, how many processes, which template.

mod finish;

use super::account::{Account, Field, Spot, Verdict};
use super::document::{Document, Node};
use super::draft::{self, Draft};
use super::launcher::{self, Processes};
use super::pod::{self, Pods};
use super::{Options, Problem};

const RENDEZVOUS: &str = "Ray Train forms the process group: no rendezvous is needed";

/// Reads one job; `runtime` is what a `TrainJob` names, its paths under a prefix of their own.
pub(super) fn read(
    document: &Document,
    runtime: Option<&Document>,
    options: &Options,
) -> Result<(Draft, Vec<Field>), Vec<Problem>> {
    let draft = Draft {
        name: draft::run_name(document.name()),
        instance: options.instance.clone(),
        store: options.store.clone(),
        ..Draft::default()
    };
    let mut job = Job {
        root: Spot::root(document),
        account: Account::new([document].into_iter().chain(runtime)),
        problems: Vec::new(),
        draft,
        instance_given: options.instance.is_some(),
        processes: None,
        gpu_default: false,
    };
    job.metadata();
    match document.kind().0 {
        "TrainJob" => job.train_job(runtime.map(Spot::root).as_ref()),
        _ => job.pytorch_job(),
    }
    job.finish()
}

struct Job<'a> {
    root: Spot<'a>,
    account: Account,
    problems: Vec<Problem>,
    draft: Draft,
    instance_given: bool,
    /// What the job says, for launchers that do not.
    processes: Option<Processes>,
    /// Whether a launcher that says nothing gets one process a GPU; else it gets one.
    gpu_default: bool,
}

impl Job<'_> {
    fn refuse(&mut self, node: &Node, message: impl Into<String>, hint: &str) {
        self.problems.push(Problem { line: node.line, message: message.into(), hint: hint.to_owned() });
    }

    fn pods(&mut self) -> Pods<'_> {
        Pods {
            draft: &mut self.draft,
            account: &mut self.account,
            problems: &mut self.problems,
            instance_given: self.instance_given,
        }
    }

    fn number(&mut self, spot: &Spot<'_>) -> Option<u32> {
        let number = spot.node.text().and_then(|text| text.parse().ok());
        if number.is_none() {
            let shown = spot.node.text().unwrap_or("a mapping or list");
            let message = format!("expected a whole number at `{}`, found `{shown}`", spot.path);
            self.refuse(spot.node, message, "write the number");
        }
        number
    }

    fn metadata(&mut self) {
        let root = self.root.clone();
        for key in ["apiVersion", "kind"] {
            root.get(key).inspect(|spot| {
                self.account.mark(&spot.path, &Verdict::replaced("a run spec stands for the job"));
            });
        }
        root.get("status")
            .inspect(|spot| self.account.mark(&spot.path, &Verdict::replaced("the cluster wrote it")));
        let Some(metadata) = root.get("metadata") else { return };
        for (key, value) in metadata.entries() {
            let verdict = match key {
                "name" if self.draft.name == value.node.text().unwrap_or_default() => {
                    Verdict::carried("name")
                }
                "name" => Verdict::carried("name").because("made a DNS label of at most 40 characters"),
                "namespace" => {
                    self.draft.namespace = value.node.text().map(str::to_owned);
                    Verdict::carried("cluster.eks.namespace")
                }
                "labels" => {
                    self.pods().labels(&value);
                    continue;
                }
                "annotations" => {
                    self.annotations(&value);
                    continue;
                }
                _ => Verdict::replaced("the cluster wrote it"),
            };
            self.account.mark(&value.path, &verdict);
        }
    }

    fn annotations(&mut self, spot: &Spot<'_>) {
        for (key, value) in spot.entries() {
            let verdict = match key.split('/').next().unwrap_or_default() {
                "sagemaker.amazonaws.com" => Verdict::replaced(
                    "the driver goes on from the newest commit, `train.max_failures` says how often",
                ),
                "kubectl.kubernetes.io" => Verdict::replaced("the cluster wrote it"),
                _ => Verdict::lost(
                    "a run spec has no annotations of the job: add it to the manifests of `eagleray render`",
                ),
            };
            self.account.mark(&value.path, &verdict);
        }
    }

    fn pytorch_job(&mut self) {
        let Some(spec) = self.root.get("spec") else {
            let node = self.root.node;
            return self.refuse(node, "the job has no `spec`", "give a whole PyTorchJob");
        };
        self.run_policy(&spec);
        self.elastic_policy(&spec);
        if let Some(spot) = spec.get("nprocPerNode") {
            self.processes_of(&spot);
        }
        let Some(replicas) = spec.get("pytorchReplicaSpecs") else {
            return self.refuse(spec.node, "the job has no `pytorchReplicaSpecs`", "give a whole PyTorchJob");
        };
        for (role, spot) in replicas.entries() {
            if !matches!(role, "Master" | "Worker") {
                let message = format!("replicas of type `{role}` are not known");
                self.refuse(spot.node, message, "a PyTorchJob has `Master` and `Worker`");
            }
            spot.get("restartPolicy").inspect(|spot| {
                let verdict = match spot.node.text() {
                    Some("ExitCode") => Verdict::lost("every failure is tried again up to `train.max_failures`: make the script end the run by an exception that says why"),
                    _ => Verdict::replaced("KubeRay restarts pods, the driver decides about the run"),
                };
                self.account.mark(&spot.path, &verdict);
            });
        }
        let (master, worker) = (replicas.get("Master"), replicas.get("Worker"));
        let count = |job: &mut Self, spot: &Spot<'_>| {
            let Some(replicas) = spot.get("replicas") else { return 1 };
            job.account.mark(&replicas.path, &Verdict::carried("cluster.eks.groups[0].nodes"));
            job.number(&replicas).unwrap_or(0)
        };
        let masters = master.as_ref().map_or(0, |spot| count(self, spot));
        let workers = worker.as_ref().map_or(0, |spot| count(self, spot));
        let (base, other) =
            if workers > 0 { (worker, master.filter(|_| masters > 0)) } else { (master, None) };
        let Some(template) = base.as_ref().and_then(|spot| spot.get("template")) else {
            return self.refuse(
                replicas.node,
                "the job has no replicas with a template",
                "give a whole PyTorchJob",
            );
        };
        self.draft.nodes = workers + masters;
        self.template(&template);
        if let Some(other) = other.and_then(|spot| spot.get("template")) {
            self.master(&template, &other, masters);
        }
    }

    fn template(&mut self, template: &Spot<'_>) {
        if let Some(metadata) = template.get("metadata") {
            self.pods().metadata(&metadata);
        }
        if let Some(spec) = template.get("spec") {
            self.pods().spec(&spec);
        }
    }

    /// A master's template beside the workers': the same, a coordinator's, or another program's.
    fn master(&mut self, worker: &Spot<'_>, master: &Spot<'_>, masters: u32) {
        let mut own = Vec::new();
        worker.node.leaves("", &mut |path, node| own.push((path, node.text().map(str::to_owned))));
        let asks_gpu = |spot: &Spot<'_>| {
            let mut asks = false;
            spot.node.leaves("", &mut |path, _| asks |= path.contains("nvidia.com/gpu"));
            asks
        };
        let coordinator = asks_gpu(worker) && !asks_gpu(master);
        if coordinator {
            self.draft.nodes -= masters;
        }
        let mut leaves = Vec::new();
        master.node.leaves("", &mut |path, node| leaves.push((path, node.clone())));
        for (path, node) in leaves {
            let same = own.iter().any(|(other, text)| *other == path && text.as_deref() == node.text());
            let verdict = if same {
                Verdict::carried("as the worker's").because("all workers of a run are equal")
            } else if coordinator {
                Verdict::replaced("a master without GPU only coordinates, which the Ray head does")
            } else if path.contains(".command[")
                || path.contains(".args[")
                || path.rsplit('.').next() == Some("image")
            {
                let message = format!("the master's `{}` is not the workers'", path.trim_start_matches('.'));
                self.refuse(
                    &node,
                    message,
                    "all workers of a run start one script in one image: make them equal",
                );
                continue;
            } else {
                Verdict::lost(
                    "the master's alone: all workers of a run are equal, and have the workers' template",
                )
            };
            let full = if path.starts_with('[') {
                format!("{}{path}", master.path)
            } else {
                format!("{}.{path}", master.path)
            };
            self.account.mark(&full, &verdict);
        }
    }

    fn processes_of(&mut self, spot: &Spot<'_>) {
        self.account
            .mark(&spot.path, &Verdict::carried("cluster.workers").because("nodes × processes per node"));
        let text = spot.node.text().unwrap_or_default();
        match launcher::processes(text) {
            Some(processes) => self.processes = self.processes.or(Some(processes)),
            None => {
                self.refuse(spot.node, format!("`{text}` processes a node is no number"), "write the number");
            }
        }
    }

    fn run_policy(&mut self, spec: &Spot<'_>) {
        let Some(policy) = spec.get("runPolicy") else { return };
        for (key, value) in policy.entries() {
            let verdict = match key {
                "backoffLimit" => {
                    self.draft.max_failures = self.number(&value);
                    Verdict::carried("train.max_failures")
                        .because("failures in a row; progress resets the count")
                }
                "cleanPodPolicy" => Verdict::replaced("the cluster of a run is deleted when the run ends"),
                "ttlSecondsAfterFinished" => {
                    Verdict::replaced("`eagleray render` sets when the cluster goes")
                }
                "suspend" => {
                    Verdict::replaced("Kueue suspends by itself; without it, render when you want to start")
                }
                "activeDeadlineSeconds" => Verdict::lost(
                    "a run spec has no deadline: add `activeDeadlineSeconds` to the RayJob of `eagleray render`",
                ),
                "managedBy" => {
                    Verdict::lost("a run is managed by its driver: with MultiKueue, add it to the RayJob")
                }
                "schedulingPolicy" => {
                    self.scheduling_policy(&value);
                    continue;
                }
                _ => continue,
            };
            self.account.mark(&value.path, &verdict);
        }
    }

    fn scheduling_policy(&mut self, policy: &Spot<'_>) {
        for (key, value) in policy.entries() {
            let verdict = match key {
                "minAvailable" => Verdict::replaced("a fixed number of nodes is a gang"),
                "priorityClass" => {
                    let class = value.node.text().unwrap_or_default();
                    self.draft.pod_map(&["spec"]).insert("priorityClassName".into(), class.into());
                    Verdict::carried("cluster.eks.pod.spec.priorityClassName")
                }
                "queue" => {
                    Verdict::lost("a queue of Volcano: name a LocalQueue of Kueue in `cluster.eks.queue`")
                }
                _ => Verdict::lost("Kueue decides what starts: name a LocalQueue in `cluster.eks.queue`"),
            };
            self.account.mark(&value.path, &verdict);
        }
    }

    fn elastic_policy(&mut self, spec: &Spot<'_>) {
        let Some(policy) = spec.get("elasticPolicy") else { return };
        for (key, value) in policy.entries() {
            let verdict = match key {
                "maxRestarts" => {
                    self.draft.max_failures = self.number(&value);
                    Verdict::carried("train.max_failures")
                        .because("failures in a row; progress resets the count")
                }
                "minReplicas" | "maxReplicas" => Verdict::lost(
                    "a script runs on a fixed number of workers: change `nodes` and `cluster.workers` together, and start the run again",
                ),
                "nProcPerNode" => {
                    self.processes_of(&value);
                    continue;
                }
                "metrics" => Verdict::lost("nothing scales by load: training wants all nodes all the time"),
                _ => Verdict::replaced(RENDEZVOUS),
            };
            self.account.mark(&value.path, &verdict);
        }
    }

    fn train_job(&mut self, runtime: Option<&Spot<'_>>) {
        let Some(spec) = self.root.get("spec") else {
            let node = self.root.node;
            return self.refuse(node, "the job has no `spec`", "give a whole TrainJob");
        };
        self.draft.nodes = 1;
        self.gpu_default = true;
        if let Some(reference) = spec.get("runtimeRef") {
            let verdict = match runtime {
                Some(_) => Verdict::replaced("its template is read with the job"),
                None => Verdict::lost(
                    "what the runtime sets is not in the run: give its YAML too, in the same folder",
                ),
            };
            self.account.mark(&reference.path, &verdict);
        }
        if let Some(runtime) = runtime {
            self.runtime(runtime);
        } else if spec.at(&["trainer", "image"]).is_none() {
            let name = spec.at(&["runtimeRef"]).and_then(|spot| spot.text("name")).unwrap_or("…").to_owned();
            let hint = "put both files into one folder: `kubectl get clustertrainingruntime NAME -o yaml`";
            let message = format!("the image is that of the runtime `{name}`, which is not among the files");
            self.refuse(spec.node, message, hint);
        }
        if let Some(trainer) = spec.get("trainer") {
            self.trainer(&trainer);
        }
        for key in ["podTemplateOverrides", "podSpecOverrides"] {
            for patch in spec.get(key).map(|list| list.items()).unwrap_or_default() {
                self.override_of(&patch);
            }
        }
        for (key, value) in spec.entries() {
            let verdict = match key {
                "labels" => {
                    self.pods().labels(&value);
                    continue;
                }
                "annotations" => {
                    self.annotations(&value);
                    continue;
                }
                "suspend" => {
                    Verdict::replaced("Kueue suspends by itself; without it, render when you want to start")
                }
                "managedBy" => {
                    Verdict::lost("a run is managed by its driver: with MultiKueue, add it to the RayJob")
                }
                "initializer" => Verdict::lost(
                    "nothing downloads data or models beforehand: let the script do it, or put them on a volume of `cluster.eks.volumes`",
                ),
                "runtimePatches" if !value.node.items().is_empty() => {
                    let message = "`spec.runtimePatches` is not available in this build";
                    self.refuse(
                        value.node,
                        message,
                        "write what it patches into `podTemplateOverrides` or the runtime",
                    );
                    continue;
                }
                _ => continue,
            };
            self.account.mark(&value.path, &verdict);
        }
    }

    fn trainer(&mut self, trainer: &Spot<'_>) {
        for (key, value) in trainer.entries() {
            if value.node.is_null() {
                continue;
            }
            match key {
                "image" => self.pods().image(&value),
                "command" => self.draft.command = pod::words(&value),
                "args" => self.draft.args = pod::words(&value),
                "env" => self.pods().env(&value),
                "resourcesPerNode" => self.pods().resources(&value),
                "numNodes" => {
                    self.draft.nodes = self.number(&value).unwrap_or(1);
                    self.account.mark(&value.path, &Verdict::carried("cluster.eks.groups[0].nodes"));
                }
                "numProcPerNode" => {
                    self.processes = None;
                    self.processes_of(&value);
                }
                _ => {}
            }
        }
    }

    /// What a `TrainJob` lays over the pods of its runtime.
    fn override_of(&mut self, patch: &Spot<'_>) {
        let targets = patch.get("targetJobs").map(|list| list.items()).unwrap_or_default();
        let of_nodes = targets.is_empty() || targets.iter().any(|target| target.text("name") == Some("node"));
        if !of_nodes {
            return self.account.mark(&patch.path, &Verdict::lost("only the nodes that train become a run"));
        }
        for target in targets {
            self.account.mark(&target.path, &Verdict::replaced("a run has one kind of worker"));
        }
        // Earlier forms of the API write the pod's spec without a level of its own.
        match patch.get("spec") {
            Some(_) => self.template(patch),
            None => self.pods().spec(patch),
        }
    }

    fn runtime(&mut self, runtime: &Spot<'_>) {
        for key in ["apiVersion", "kind", "metadata", "status"] {
            runtime.get(key).inspect(|spot| {
                self.account.mark(&spot.path, &Verdict::replaced("a run spec stands for job and runtime"));
            });
        }
        let policy = runtime.at(&["spec", "mlPolicy"]);
        for (key, value) in policy.iter().flat_map(Spot::entries) {
            match key {
                "numNodes" => {
                    self.draft.nodes = self.number(&value).unwrap_or(1);
                    self.account.mark(&value.path, &Verdict::carried("cluster.eks.groups[0].nodes"));
                }
                "torch" => {
                    if let Some(processes) = value.get("numProcPerNode") {
                        self.processes_of(&processes);
                    }
                    self.account.mark(&value.path, &Verdict::replaced(RENDEZVOUS));
                }
                _ => {
                    let message = format!("a runtime of `{key}` is not available in this build");
                    self.refuse(value.node, message, "only runtimes of `torch` become a run");
                }
            }
        }
        let jobs = runtime.at(&["spec", "template", "spec", "replicatedJobs"]).map(|list| list.items());
        for job in jobs.unwrap_or_default() {
            let template = job.at(&["template", "spec", "template"]);
            match template.filter(|_| job.text("name") == Some("node")) {
                Some(template) => {
                    self.template(&template);
                    self.account.mark(&job.path, &Verdict::replaced("Ray makes the pods"));
                }
                None => {
                    self.account.mark(&job.path, &Verdict::lost("only the nodes that train become a run"));
                }
            }
        }
        runtime.at(&["spec", "podGroupPolicy"]).inspect(|spot| {
            self.account.mark(
                &spot.path,
                &Verdict::replaced("a fixed number of nodes is a gang; Kueue admits it whole"),
            );
        });
    }
}
