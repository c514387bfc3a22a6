//! `KubeRay`: its definitions, its operator, and the settings that no `RayJob` can carry.

use serde_json::Value;

use super::facts::{Answer, Facts, amount, list, name, text};
use super::finding::Say;
use super::need;

const AREA: &str = "kuberay";

/// A head that is replaced is away for longer than the operator's default of 300 s.
const STATUS_CHECK_SECONDS_MIN: f64 = 1_200.0;
const STATUS_CHECK: &str = "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS";

/// How long a job's end and the launch's may differ; the operator's default.
const TRANSITION_SECONDS_MIN: f64 = 300.0;
const TRANSITION: &str = "RAYJOB_DEPLOYMENT_STATUS_TRANSITION_GRACE_PERIOD_SECONDS";

const GIB: f64 = 1_073_741_824.0;

/// From so many pods on, one `RayCluster` at a time is too slow.
const PODS_MANY: f64 = 500.0;
const CONCURRENCY_MIN: u64 = 4;

pub(super) fn judge(facts: &Facts, say: &mut Say) {
    let wanted = facts.kuberay.as_deref().unwrap_or("1.6");
    let install = install(wanted);
    match facts.serves("ray.io") {
        Some(true) => {}
        Some(false) => {
            say.error(
                "kuberay-missing",
                AREA,
                "the cluster knows no RayJob",
                "launches are RayJobs, which KubeRay brings",
                install,
            );
            return;
        }
        None => {
            say.objects("kuberay-missing", AREA, "the groups of the API server", &facts.groups);
        }
    }
    if facts.serves_version("ray.io", "v1") == Some(false) {
        say.error(
            "kuberay-api",
            AREA,
            "ray.io/v1 is not served",
            "launches are of ray.io/v1; this KubeRay is older than 1.0",
            install.clone(),
        );
    }
    let defined = definitions(facts, say);
    let Some(operators) = say.objects("kuberay-operator", AREA, "Deployments", &facts.operators) else {
        return;
    };
    if operators.is_empty() {
        say.error(
            "kuberay-operator",
            AREA,
            "no Deployment has the label app.kubernetes.io/name=kuberay-operator",
            "RayJobs would lie there and nobody make clusters of them",
            install,
        );
        return;
    }
    let watching: Vec<&Value> =
        operators.iter().filter(|operator| watches(operator, &facts.namespace)).collect();
    match watching.as_slice() {
        [] => say.error(
            "kuberay-namespace",
            AREA,
            format!("{} looks at other namespaces than `{}`", need::names(operators), facts.namespace),
            "a RayJob there is never read",
            watching_too(&operators[0], &facts.namespace),
        ),
        [operator] => one(facts, operator, defined, say),
        several => {
            say.error("kuberay-twice", AREA, format!("{} operators look at `{}`: {}", several.len(), facts.namespace, need::names(several.iter().copied())), "two operators undo each other's work", format!("helm list --all-namespaces --filter kuberay\n# keep one of them, or give each its own namespaces:\n{}", rendered(&format!("--watch {}", facts.namespace))));
            for operator in several {
                one(facts, operator, defined, say);
            }
        }
    }
}

/// How an operator of a version is made, and an installed one given its settings for good.
fn install(version: &str) -> String {
    let version = if version == "1.7" { "1.7" } else { "1.6" };
    rendered(&format!("--kuberay {version}"))
}

fn rendered(flags: &str) -> String {
    format!("eagleray render --operator {flags} -o manifests\nbash manifests/operator/install.sh")
}

/// What helps at once, and what is left of it when somebody runs Helm again.
fn now_and_for_good(now: &str, minor: Option<&str>) -> String {
    format!("{now}\n# for good, where Helm installed it:\n{}", install(minor.unwrap_or("1.7")))
}

/// The minor version of which the definitions are, by fields that came with it.
fn definitions(facts: &Facts, say: &mut Say) -> Option<&'static str> {
    let schema = |name: &str| -> Option<&Value> {
        let Answer::Found(found) = facts.definitions.get(name)? else { return None };
        let version =
            list(&found.first()?["spec"]["versions"]).iter().find(|version| version["name"] == "v1")?;
        Some(&version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])
    };
    if let Some(answer) = facts.definitions.get("rayjobs.ray.io") {
        say.objects("kuberay-definition", AREA, "the definition of RayJobs", answer);
    }
    let jobs = schema("rayjobs.ray.io")?;
    let missing: Vec<&str> =
        ["jobId", "backoffLimit", "submissionMode", "preRunningDeadlineSeconds", "deletionStrategy"]
            .into_iter()
            .filter(|field| jobs[*field].is_null())
            .collect();
    if !missing.is_empty() {
        say.error(
            "kuberay-definition",
            AREA,
            format!("the definition of RayJobs has no {}", missing.join(", ")),
            "fields that a definition does not know are dropped or refused; Helm installs definitions once and never upgrades them",
            "kubectl apply --server-side -k 'github.com/ray-project/kuberay/ray-operator/config/crd?ref=v1.6.2'",
        );
        return None;
    }
    let newer = !jobs["rayClusterSpec"]["properties"]["networkPolicy"].is_null();
    Some(if newer { "1.7" } else { "1.6" })
}

fn one(facts: &Facts, operator: &Value, defined: Option<&'static str>, say: &mut Say) {
    let place = format!("{}/{}", text(&operator["metadata"]["namespace"]), name(operator));
    let ready = operator["status"]["readyReplicas"].as_u64().unwrap_or(0);
    if ready == 0 {
        say.error(
            "kuberay-ready",
            AREA,
            format!("`{place}` has no pod that is ready"),
            "RayJobs wait until it is",
            format!(
                "kubectl -n {} describe deployment {}",
                text(&operator["metadata"]["namespace"]),
                name(operator)
            ),
        );
    }
    let minor = version(operator);
    match minor.as_deref() {
        Some(minor) => versions(facts, minor, defined, &place, say),
        None => say.unknown(
            "kuberay-version",
            AREA,
            format!("the image of `{place}` has no version as its tag"),
            "what it can do goes by its version",
            None,
        ),
    }
    settings(facts, operator, minor.as_deref(), &place, say);
}

fn versions(facts: &Facts, minor: &str, defined: Option<&'static str>, place: &str, say: &mut Say) {
    let mut fine = true;
    if let Some(defined) = defined.filter(|defined| *defined != minor) {
        fine = false;
        say.warning(
            "kuberay-definition-version",
            AREA,
            format!("`{place}` is of {minor}, the definitions are of {defined}"),
            "Helm does not upgrade definitions: fields of the operator's version are dropped before it sees them",
            format!("kubectl apply --server-side -k 'github.com/ray-project/kuberay/ray-operator/config/crd?ref=v{minor}.{}'", if minor == "1.6" { 2 } else { 0 }),
        );
    }
    match facts.kuberay.as_deref() {
        Some(wanted) if wanted != minor => say.error(
            "kuberay-version",
            AREA,
            format!("`{place}` is of {minor}, `cluster.eks.kuberay` says {wanted}"),
            "manifests are rendered and linted for the version that the spec names",
            if ["1.6", "1.7"].contains(&minor) {
                format!("cluster:\n  eks:\n    kuberay: \"{minor}\"")
            } else {
                install(wanted)
            },
        ),
        _ if fine => say.ok("kuberay-version", AREA, format!("`{place}` is of {minor}")),
        _ => {}
    }
}

/// Container 0 is the operator in its chart and in Kubeflow's manifests.
fn container(operator: &Value) -> &Value {
    &operator["spec"]["template"]["spec"]["containers"][0]
}

/// `1.6` of `quay.io/kuberay/operator:v1.6.2`.
pub(crate) fn version(operator: &Value) -> Option<String> {
    let image = text(&container(operator)["image"]);
    let image = image.split('@').next()?;
    let (_, tag) = image.rsplit_once(':')?;
    let mut parts = tag.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    Some(format!("{major}.{minor}"))
}

/// Whether an operator looks at a namespace.
pub(crate) fn watches(operator: &Value, namespace: &str) -> bool {
    argument(operator, "watch-namespace")
        .is_none_or(|watched| watched.is_empty() || watched.split(',').any(|one| one.trim() == namespace))
}

/// How an operator comes to look at one namespace more.
fn watching_too(operator: &Value, namespace: &str) -> String {
    let watched = argument(operator, "watch-namespace").unwrap_or_default();
    let all = watched.split(',').map(str::trim).filter(|one| !one.is_empty()).chain([namespace]);
    let flags: Vec<String> = all.map(|one| format!("--watch {one}")).collect();
    let minor = version(operator).filter(|minor| minor == "1.6").unwrap_or_else(|| "1.7".to_owned());
    rendered(&format!("--kuberay {minor} {}", flags.join(" ")))
}

fn argument<'a>(operator: &'a Value, name: &str) -> Option<&'a str> {
    let arguments = list(&container(operator)["args"]);
    arguments.iter().enumerate().find_map(|(index, argument)| {
        let argument = text(argument).trim_start_matches('-').strip_prefix(name)?;
        match argument.strip_prefix('=') {
            Some(value) => Some(value),
            None if argument.is_empty() => Some(arguments.get(index + 1).map_or("", text)),
            None => None,
        }
    })
}

fn settings(facts: &Facts, operator: &Value, minor: Option<&str>, place: &str, say: &mut Say) {
    let (namespace, deployment) = (text(&operator["metadata"]["namespace"]), name(operator));
    let variable = |name: &str| -> Option<&Value> {
        list(&container(operator)["env"])
            .iter()
            .find(|variable| variable["name"] == name)
            .map(|variable| &variable["value"])
    };
    let seconds = |name: &str| variable(name).and_then(amount);
    let set = |name: &str, value: u32| {
        now_and_for_good(
            &format!("kubectl -n {namespace} set env deployment/{deployment} {name}={value}"),
            minor,
        )
    };
    let mut fine = true;
    // 1.6 has no such limit: a head that is lost is waited for without end.
    if minor != Some("1.6") && seconds(STATUS_CHECK).is_none_or(|seconds| seconds < STATUS_CHECK_SECONDS_MIN)
    {
        fine = false;
        let now = seconds(STATUS_CHECK)
            .map_or_else(|| "its default of 300".to_owned(), |seconds| format!("{seconds:.0}"));
        say.warning(
            "kuberay-status-check",
            AREA,
            format!("{STATUS_CHECK} of `{place}` is {now}"),
            "a head whose node is replaced is away for longer, and the launch fails without a retry",
            set(STATUS_CHECK, 1_800),
        );
    }
    if let Some(seconds) = seconds(TRANSITION).filter(|seconds| *seconds < TRANSITION_SECONDS_MIN) {
        fine = false;
        say.warning(
            "kuberay-transition",
            AREA,
            format!("{TRANSITION} of `{place}` is {seconds:.0}, below the default of 300"),
            "a job whose end is saved slowly is called failed",
            set(TRANSITION, 300),
        );
    }
    let memory = amount(&container(operator)["resources"]["limits"]["memory"]);
    if let Some(memory) = memory.filter(|memory| *memory < GIB) {
        fine = false;
        say.warning(
            "kuberay-memory",
            AREA,
            format!("`{place}` is limited to {:.0} MiB of memory", memory / 1_048_576.0),
            "with some hundred pods the operator is killed for memory, and nothing heals meanwhile",
            now_and_for_good(
                &format!("kubectl -n {namespace} set resources deployment/{deployment} --limits=memory=2Gi"),
                minor,
            ),
        );
    }
    let fine = concurrent(facts, operator, minor, place, say) && fine;
    if fine {
        say.ok("kuberay-settings", AREA, format!("`{place}` has time-outs and memory for long runs"));
    }
}

/// Whether an operator works on enough objects at a time for the launch.
fn concurrent(facts: &Facts, operator: &Value, minor: Option<&str>, place: &str, say: &mut Say) -> bool {
    let concurrency =
        argument(operator, "reconcile-concurrency").and_then(|value| value.parse::<u64>().ok()).unwrap_or(1);
    let pods = facts
        .rendered("RayJob")
        .map(|job| need::pods(job).iter().map(|pods| pods.count.1).sum::<f64>())
        .fold(0.0, f64::max);
    if pods >= PODS_MANY && concurrency < CONCURRENCY_MIN {
        say.warning(
            "kuberay-concurrency",
            AREA,
            format!("`{place}` works on {concurrency} object at a time, the launch has {pods:.0} pods"),
            "other launches wait while it goes through the pods of one",
            rendered(&format!(
                "--kuberay {} --pods {pods:.0}",
                if minor == Some("1.6") { "1.6" } else { "1.7" }
            )),
        );
        return false;
    }
    true
}
