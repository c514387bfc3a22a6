//! The end of a job: its command, its workers, where it runs, and what is missing.

use super::super::account::{Field, Verdict};
use super::super::draft::Draft;
use super::super::launcher::{self, Launch, Launcher, Processes, Word};
use super::super::{Problem, variables};
use super::Job;

/// GPUs and EFA devices of the instances that train with both: allocatable, after Karpenter's table.
const INSTANCES: [(&str, u32, u32); 5] = [
    ("p5.48xlarge", 8, 32),
    ("p5en.48xlarge", 8, 16),
    ("p6-b200.48xlarge", 8, 8),
    ("p4d.24xlarge", 8, 4),
    ("g6e.48xlarge", 8, 4),
];

/// What is said of a field that nothing read.
const REST: &str =
    "no key of a run spec stands for it: drop it, or write it into the manifests of `eagleray render`";

impl Job<'_> {
    pub(super) fn finish(mut self) -> Result<(Draft, Vec<Field>), Vec<Problem>> {
        if self.draft.image.is_empty() && self.problems.is_empty() {
            let node = self.root.node;
            self.refuse(node, "no container with an image trains here", "give a whole job");
        }
        if self.problems.is_empty() {
            self.launch();
        }
        if self.draft.instance.is_none() {
            self.refuse_without_instance();
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        if self.draft.store.is_none() {
            self.choose_store();
        }
        if self.draft.namespace.is_none() {
            self.draft.next.push("the job names no namespace: `cluster.eks.namespace` is `default`, change it where yours is another".into());
        }
        Ok((self.draft, self.account.close(&Verdict::lost(REST))))
    }

    fn refuse_without_instance(&mut self) {
        let (gpus, efa) = (self.draft.gpus, self.draft.efa);
        let fit: Vec<String> = INSTANCES
            .iter()
            .filter(|(_, its_gpus, its_efa)| gpus == Some(*its_gpus) && efa == Some(*its_efa))
            .map(|(name, ..)| format!("`{name}`"))
            .collect();
        let hint = match fit.as_slice() {
            [] => "give it by `--instance TYPE`".to_owned(),
            fit => format!(
                "give it by `--instance TYPE`: its GPUs and EFA devices are those of {}",
                fit.join(", ")
            ),
        };
        let message = "neither `nodeSelector` nor `affinity` says on which instance type the job runs";
        self.problems.push(Problem { line: self.root.node.line, message: message.into(), hint });
    }

    /// A script's store is a folder that all nodes see.
    fn choose_store(&mut self) {
        let name = &self.draft.name;
        let store = self.draft.volumes.iter().find(|(mount, _)| mount != "/dev/shm");
        self.draft.store = Some(if let Some((mount, _)) = store {
            format!("{}/eagleray/{name}", mount.trim_end_matches('/'))
        } else {
            let next = "the job mounts no claim that all nodes see: add one to `cluster.eks.volumes`, and put `store` into it";
            self.draft.next.push(next.into());
            format!("runs/{name}")
        });
    }

    /// The command: script, processes, and what of it stands where.
    fn launch(&mut self) {
        let mut words: Vec<Word> = [self.draft.command.clone(), self.draft.args.clone()].concat();
        let plain: Vec<(String, String)> = self.draft.env.clone();
        for word in &mut words {
            for (name, value) in &plain {
                word.text = word.text.replace(&format!("$({name})"), value);
            }
        }
        let line_of = |path: Option<&String>| {
            path.and_then(|path| self.account.line(path)).unwrap_or(self.root.node.line)
        };
        let line = line_of(words.first().map(|word| &word.path));
        let launch = match launcher::read(&words) {
            Ok(launch) => launch,
            Err((message, hint)) => return self.problems.push(Problem { line, message, hint }),
        };
        self.check_launch(&launch, line);
        if !self.problems.is_empty() {
            return;
        }
        self.count_workers(&launch, line);
        let whole =
            |word: &Word| words.iter().any(|other| other.path == word.path && other.text == word.text);
        let shell = launch.parts.iter().find(|(word, _)| !whole(word)).map(|(word, _)| word.path.clone());
        for (word, verdict) in &launch.parts {
            if whole(word) {
                self.account.mark(&word.path, verdict);
            } else {
                self.account.part(&word.path, &word.text, verdict);
            }
        }
        for (name, value) in &launch.env {
            self.variable(name, value, shell.as_deref().unwrap_or_default());
        }
        if let Some(restarts) = launch.max_restarts {
            self.draft.max_failures = Some(self.draft.max_failures.unwrap_or(0).max(restarts));
        }
        self.draft.set_script(&launch);
        self.draft.before = launch.before;
    }

    fn check_launch(&mut self, launch: &Launch, line: usize) {
        let mut problem = |message: String, hint: &str| {
            self.problems.push(Problem { line, message, hint: hint.to_owned() });
        };
        if let Some(flag) = launcher::secret_argument(&launch.args) {
            problem(
                format!("`{flag}` gives a secret to the script in plain sight"),
                "let the script read it from its environment, and put it into a Kubernetes secret",
            );
        }
        let told = [Some(&launch.script), launch.directory.as_ref(), launch.accelerate_config.as_ref()];
        let told = told.into_iter().flatten().chain(&launch.args);
        for left in told.filter_map(|text| variables::left_in(text)) {
            problem(
                format!("the script is given `{left}`, which only a running pod knows"),
                "let the script read it from its environment (docs/scripts.md has the names), or give it by `--var`",
            );
        }
    }

    /// A variable that a shell sets before the script, or that a launcher's flag stands for.
    fn variable(&mut self, name: &str, value: &str, shell: &str) {
        let part = format!("{name}=…");
        if eagleray_spec::is_secret_name(name) {
            let secret = self.pods().need_secret(name);
            let why = format!(
                "a secret in plain sight, whose value goes nowhere: make the secret `{secret}` with the key `{name}`"
            );
            self.account.part(shell, &part, &Verdict::lost(why));
        } else if variables::left_in(value).is_some() {
            let why = "its value is put together in the pod: set it in the image by `ENV`, or in the script";
            self.account.part(shell, &part, &Verdict::lost(why));
        } else {
            self.draft.set_env(name, value);
            self.account.part(shell, &part, &Verdict::carried(format!("cluster.eks.env.{name}")));
        }
    }

    /// Workers = nodes × processes of a node, one GPU each.
    fn count_workers(&mut self, launch: &Launch, line: usize) {
        let nodes = self.draft.nodes;
        let mut problem = |message: String, hint: &str| {
            self.problems.push(Problem { line, message, hint: hint.to_owned() });
        };
        if let Some((least, most)) = launch.nodes.filter(|(least, most)| !(least..=most).contains(&&nodes)) {
            let told = if least == most { least.to_string() } else { format!("{least} to {most}") };
            problem(
                format!("the launcher is told of {told} nodes, the job has {nodes}"),
                "make them equal: which one is meant cannot be known",
            );
        }
        let said = launch.processes.or(self.processes);
        let per_node = match (launch.processes_total, launch.launcher) {
            (Some(total), _) if nodes > 0 && total.is_multiple_of(nodes) => Processes::Number(total / nodes),
            (Some(total), _) => {
                return problem(
                    format!("`--num_processes` {total} is no multiple of the {nodes} nodes"),
                    "give the processes of all nodes together",
                );
            }
            (None, Launcher::Python) => Processes::Number(1),
            (None, Launcher::Accelerate) if self.draft.gpus.is_some() => said.unwrap_or(Processes::Gpus),
            (None, Launcher::Torchrun) if self.gpu_default && self.draft.gpus.is_some() => {
                said.unwrap_or(Processes::Gpus)
            }
            (None, _) => said.unwrap_or(Processes::Number(1)),
        };
        let per_node = match (per_node, self.draft.gpus) {
            (Processes::Number(number), _) => number,
            (Processes::Gpus, Some(gpus)) => gpus,
            (Processes::Gpus, None) => {
                return problem(
                    "one process for each GPU is wanted, but the job asks for no GPU".into(),
                    "write `nvidia.com/gpu` into its limits, or a number of processes",
                );
            }
        };
        if let Some(gpus) = self.draft.gpus.filter(|gpus| *gpus != per_node) {
            return problem(
                format!("{per_node} processes share the {gpus} GPUs of a node: a worker has one GPU"),
                "give the launcher `--nproc_per_node` as many as GPUs, or ask for fewer GPUs",
            );
        }
        let instance = self.draft.instance.clone().unwrap_or_default();
        let has = eagleray_plan::accelerator::instance(&instance).map(|node| node.num_accelerators);
        if let Some(has) = has.filter(|has| *has < per_node) {
            return problem(
                format!(
                    "{per_node} processes start on a node, and `{instance}` has {has} for them: a worker has one accelerator"
                ),
                "give an instance with as many by `--instance TYPE`, or fewer processes",
            );
        }
        self.draft.workers = nodes.saturating_mul(per_node);
    }
}
