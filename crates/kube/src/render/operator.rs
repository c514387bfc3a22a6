//! `KubeRay`'s operator: values of its Helm chart, and a script that installs it beside what is there already.
//!
//! Its settings are no part of any object of a run, and some runs do not outlive its defaults: a head that is replaced
//! takes longer than the operator waits, and 512 MiB end at some hundred pods.

use eagleray_base::{Error, Result};
use eagleray_spec::types::KubeRay;
use eagleray_spec::{Resolved, is_dns_label};

use super::context;
use crate::yaml::Map;

/// The folder of what is written.
pub const FOLDER: &str = "operator";

/// Pods of Ray that an operator is sized for at least: what the chart's own remark speaks of.
pub const PODS_DEFAULT: u32 = 500;

/// The chart's remark is "500 pods, roughly 500 MB"; twice that, for lists that are read anew while the old ones are
/// still held, on top of what an idle operator takes with room to spare.
const MEMORY_BASE_MIB: u32 = 512;
const MEMORY_POD_MIB: u32 = 2;
const MEMORY_MIN_MIB: u32 = 1_024;
const MEMORY_STEP_MIB: u32 = 256;

/// Pods for each object that is worked on at the same time, and the bounds of that.
const PODS_A_WORKER: u32 = 250;
const WORKERS_MIN: u32 = 4;
const WORKERS_MAX: u32 = 16;

/// A machine is replaced in 5 to 20 minutes, and an image with CUDA is pulled.
const STATUS_CHECK_SECONDS: u32 = 1_800;
const TRANSITION_SECONDS: u32 = 300;

const INSTALL: &str = include_str!("operator/install.sh");

/// What an operator depends on beside a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The version, where no spec says it.
    pub kuberay: Option<KubeRay>,
    /// The most pods of Ray that it has to watch, those of all runs together.
    pub pods: Option<u32>,
    /// The namespaces that it looks at; all of them where there is none.
    pub watch: Vec<String>,
}

/// A file of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// `operator/values.yaml`.
    pub path: String,
    /// What is written.
    pub text: String,
}

/// The values and the script of an operator.
///
/// # Errors
/// `Invalid` where the spec has no cluster on EKS, where its namespace is not among those that are looked at, or where
/// one of those is no name of a namespace.
pub fn render(resolved: Option<&Resolved>, options: &Options) -> Result<Vec<Text>> {
    let eks = resolved.map(context::eks).transpose()?;
    for namespace in &options.watch {
        check_namespace(namespace)?;
    }
    if let Some(eks) = &eks
        && !options.watch.is_empty()
        && !options.watch.contains(&eks.namespace)
    {
        return Err(Error::invalid(format!(
            "`cluster.eks.namespace` is `{}`, the operator would look at {} alone",
            eks.namespace,
            options.watch.join(", ")
        ))
        .with_hint(format!("add `--watch {}`", eks.namespace)));
    }
    let version = eks.as_ref().map(|eks| eks.kuberay).or(options.kuberay).unwrap_or_default();
    // The launch that trains and the one that builds, each with its head, and as much for others.
    let run = eks.as_ref().map_or(0, |eks| {
        let nodes = eks.groups.iter().fold(0_u32, |sum, group| sum.saturating_add(group.nodes.max));
        let build = eks.cpu.as_ref().map_or(0, |cpu| cpu.nodes.max);
        nodes.saturating_add(build).saturating_add(2)
    });
    let pods = options.pods.unwrap_or_else(|| run.saturating_mul(2).max(PODS_DEFAULT));
    let values = values(version, pods, &options.watch);
    let memory = format!("{}Mi", memory_mib(pods));
    let settings: Vec<String> =
        variables(version).iter().map(|(name, seconds, _)| format!("{name}={seconds}")).collect();
    let script = INSTALL
        .replace("@VERSION@", chart(version))
        .replace("@WATCH@", &options.watch.join(","))
        .replace("@SETTINGS@", &settings.join(" "))
        .replace("@MEMORY@", &memory);
    let file = |name: &str, text: String| Text { path: format!("{FOLDER}/{name}"), text };
    Ok(vec![file("values.yaml", values.document()), file("install.sh", script)])
}

/// The newest chart of a minor version that this program was read against.
pub fn chart(version: KubeRay) -> &'static str {
    match version {
        KubeRay::V1_6 => "1.6.2",
        KubeRay::V1_7 => "1.7.0",
    }
}

/// The gates of a version, and whether each is on; one that the version does not know would keep it from starting.
fn gates(version: KubeRay) -> Vec<(&'static str, bool)> {
    let mut gates = vec![
        ("RayClusterStatusConditions", true),
        ("RayJobDeletionPolicy", true),
        ("RayMultiHostIndexing", true),
        ("RayServiceIncrementalUpgrade", version == KubeRay::V1_7),
        ("RayCronJob", false),
    ];
    let more: &[&str] = match version {
        KubeRay::V1_6 => &["AsyncJobInfoQuery"],
        KubeRay::V1_7 => &[
            "SidecarSubmitterRestart",
            "RayClusterNetworkPolicy",
            "GCSFaultToleranceEmbeddedStorage",
            "RayClusterMTLS",
            "RayClusterHistoryServer",
            "KubernetesWAS",
        ],
    };
    gates.extend(more.iter().map(|gate| (*gate, false)));
    gates
}

/// Time-outs: name, seconds, why. 1.6 has no limit on how long a job's status may be out of reach.
fn variables(version: KubeRay) -> Vec<(&'static str, u32, &'static str)> {
    let mut variables = vec![(
        "RAYJOB_DEPLOYMENT_STATUS_TRANSITION_GRACE_PERIOD_SECONDS",
        TRANSITION_SECONDS,
        "the default, by name: a job that ended has so long until its launch must have, too; with less a slow end counts as a failure",
    )];
    if version == KubeRay::V1_7 {
        variables.push((
            "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS",
            STATUS_CHECK_SECONDS,
            "a head whose machine is replaced is away for 5 to 20 minutes; after the default of 300 s the launch fails, and is not tried again",
        ));
    }
    variables
}

/// Memory by pods, in steps.
fn memory_mib(pods: u32) -> u32 {
    let needed = pods.saturating_mul(MEMORY_POD_MIB).saturating_add(MEMORY_BASE_MIB);
    needed.max(MEMORY_MIN_MIB).div_ceil(MEMORY_STEP_MIB).saturating_mul(MEMORY_STEP_MIB)
}

fn values(version: KubeRay, pods: u32, watch: &[String]) -> Map {
    let workers = (pods / PODS_A_WORKER).clamp(WORKERS_MIN, WORKERS_MAX);
    let values = Map::new()
        .why("replicas", 2, "one works, one stands by: a lost node would stop all healing for the minutes until its pod is made anew")
        .why("leaderElectionEnabled", true, "the default, by name: without it both would work, and undo each other's work")
        .why(
            "reconcileConcurrency",
            workers,
            format!("objects that are worked on at the same time: one for each {PODS_A_WORKER} of {pods} pods, {WORKERS_MIN} to {WORKERS_MAX}; by default a large launch keeps all others waiting"),
        )
        .why("priorityClassName", "system-cluster-critical", "while it is gone no lost pod of any run is replaced")
        .with("resources", resources(pods))
        .why("affinity", affinity(), "apart from each other, and on no node that is reclaimed; nodes without Karpenter's label are fine")
        .why("featureGates", gate_list(version), format!("all that {} knows, since a list replaces the chart's whole; beta ones on, alpha ones off", chart(version)))
        .with("env", variable_list(version));
    if watch.is_empty() {
        return values;
    }
    values.why("watchNamespace", watch.to_vec(), "these alone: others belong to another operator").why(
        "singleNamespaceInstall",
        true,
        "rights in these namespaces alone; a ClusterRole of the same name belongs to the other operator",
    )
}

fn resources(pods: u32) -> Map {
    let memory = || format!("{}Mi", memory_mib(pods));
    let limits = Map::new()
        .why("cpu", "1", "the default of 100m is used up by some hundred pods, and every answer then comes late")
        .why(
            "memory",
            memory(),
            format!("{MEMORY_BASE_MIB} MiB and {MEMORY_POD_MIB} MiB for each of {pods} pods, at least {MEMORY_MIN_MIB}, in steps of {MEMORY_STEP_MIB}; the default of 512Mi ends at some hundred"),
        );
    let requests = Map::new().with("cpu", "250m").why(
        "memory",
        memory(),
        "equal to the limit: it is not evicted where a node runs short",
    );
    Map::new().with("limits", limits).with("requests", requests)
}

fn affinity() -> Map {
    let spot = Map::new()
        .with("key", "karpenter.sh/capacity-type")
        .with("operator", "NotIn")
        .with("values", vec!["spot"]);
    let terms = Map::new().with("nodeSelectorTerms", vec![Map::new().with("matchExpressions", vec![spot])]);
    let node = Map::new().with("requiredDuringSchedulingIgnoredDuringExecution", terms);
    let own = Map::new().with("matchLabels", Map::new().with("app.kubernetes.io/name", "kuberay-operator"));
    let term = Map::new().with("labelSelector", own).with("topologyKey", "kubernetes.io/hostname");
    let weighted = Map::new().with("weight", 100).with("podAffinityTerm", term);
    let pod = Map::new().with("preferredDuringSchedulingIgnoredDuringExecution", vec![weighted]);
    Map::new().with("nodeAffinity", node).with("podAntiAffinity", pod)
}

fn gate_list(version: KubeRay) -> Vec<Map> {
    let gate = |(name, on): (&str, bool)| {
        let why = match name {
            "RayClusterStatusConditions" => Some("`eagleray watch` reads them"),
            "RayJobDeletionPolicy" => {
                Some("the head of a failed launch stays for an hour, its workers go at once")
            }
            "GCSFaultToleranceEmbeddedStorage" => {
                Some("RocksDB on a volume is alpha: long-lived clusters take Redis")
            }
            "RayClusterNetworkPolicy" => Some("runs bring their own"),
            _ => None,
        };
        let map = match why {
            Some(why) => Map::new().why("name", name, why),
            None => Map::new().with("name", name),
        };
        map.with("enabled", on)
    };
    gates(version).into_iter().map(gate).collect()
}

fn variable_list(version: KubeRay) -> Vec<Map> {
    let variable = |(name, seconds, why): (&str, u32, &str)| {
        Map::new().why("name", name, why).with("value", seconds.to_string())
    };
    variables(version).into_iter().map(variable).collect()
}

/// It becomes part of a script.
fn check_namespace(name: &str) -> Result<()> {
    if is_dns_label(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("`--watch {name}`: not the name of a namespace"))
        .with_hint("use small letters, digits and `-`, at most 63 characters; say `--watch` once for each"))
}
