//! Files and objects as such: what cannot be read, what says nothing, what is dropped without a word.

use eagleray_spec::is_secret_name;

use crate::lint::at::At;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{Object, Ray, Scene};
use crate::lint::{KubeRay, Rule};

pub(in crate::lint) const UNREADABLE: &str = "unreadable";

pub(super) const RULES: &[Rule] = &[
    rule!("unreadable" Error "every file": "a document is not YAML",
        why "nothing in it can be checked, and kubectl will not take it",
        fix "mend the line; the other documents of the file were read"; Check::Text),
    rule!("duplicate-object" Warning "every kind": "an object is written twice",
        why "whichever is applied last wins, and nothing says which",
        fix "give one of them another name, remove it, or lint variants of one object one by one"; Check::Scene(duplicates)),
    rule!("placeholder" Warning "RayJob, RayCluster, RayService, NodePool, EC2NodeClass": "a variable was not filled in",
        why "the API server takes `$NAME` for a value: a selector then matches no node, and a pod waits for ever",
        fix "fill the file in first, such as by `envsubst`";
        Check::Object(&["RayJob", "RayCluster", "RayService", "NodePool", "EC2NodeClass"], placeholders)),
    rule!("not-a-string" Error "RayJob, RayCluster, RayService": "a number or a boolean stands where text is wanted",
        why "the API server refuses the whole object: labels, annotations, selectors, variables and `rayStartParams` hold text",
        fix "put it in quotes"; Check::Ray(not_a_string)),
    rule!("unknown-field" Error "RayJob, RayCluster, RayService": "a field does not exist in this version of KubeRay",
        why "the API server drops it without a word, so that what it asks for never happens",
        fix "correct the name, or look at the fields of this version of KubeRay"; Check::Ray(unknown_fields)),
    rule!("secret-in-manifest" Warning "RayJob, RayCluster, RayService": "a secret is written into the manifest",
        why "everybody who may read the object or the repository has it, and it lies in etcd and in every backup",
        fix "put it into a Secret and name that: `valueFrom.secretKeyRef`, or `envFrom`"; Check::Ray(secrets)),
];

fn duplicates(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    let mut seen: Vec<&Object<'_>> = scene.objects.iter().filter(|object| !object.name.is_empty()).collect();
    let key = |object: &Object<'_>| {
        (
            object.at.key("kind").str().to_owned(),
            group_of(object).to_owned(),
            object.namespace.to_owned(),
            object.name.to_owned(),
        )
    };
    // A stable sort: the first of two stays the first.
    seen.sort_by_cached_key(|object| key(object));
    for pair in seen.windows(2) {
        if key(pair[0]) == key(pair[1]) {
            let (kind, name, line) = (pair[1].at.key("kind").str(), pair[1].name, pair[0].at.place.line);
            let first = format!("first in {}, line {line}", scene.names[pair[0].file]);
            let at = pair[1].at.get("metadata.name");
            say.in_file(pair[1].file, &at, format!("{kind} `{name}` is written twice, {first}"));
        }
    }
}

fn group_of<'a>(object: &Object<'a>) -> &'a str {
    object.api_version.split('/').next().unwrap_or_default()
}

fn placeholders(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    object.at.each_scalar(&mut |at, text| {
        // Commands, scripts and variables are filled in by a shell or by Kubernetes, within the pod. KubeRay makes
        // a shell's command of `rayStartParams`.
        let within = [
            "entrypoint",
            "command",
            "args",
            "env",
            "userData",
            "runtimeEnvYAML",
            "serveConfigV2",
            "rayStartParams",
        ];
        let name = text.strip_prefix('$').map(|name| name.trim_matches(['{', '}']));
        let named = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        };
        let filled = || at.path().split(['.', '[']).any(|step| within.contains(&step));
        if name.is_some_and(named) && !filled() {
            say.at(at, format!("`{text}` was not filled in"));
        }
    });
}

fn not_a_string(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    let mut maps = vec![ray.object.at.get("metadata.labels"), ray.object.at.get("metadata.annotations")];
    maps.push(ray.spec.key("clusterSelector"));
    for group in &ray.groups {
        maps.extend([
            group.at.key("rayStartParams"),
            group.at.key("labels"),
            group.template.get("metadata.labels"),
            group.template.get("metadata.annotations"),
            group.pod.key("nodeSelector"),
        ]);
        for container in group.pod.key("containers").items() {
            for entry in container.key("env").items() {
                check_text(&entry.key("value"), say);
            }
        }
    }
    for map in maps {
        for (_, value) in map.entries() {
            check_text(&value, say);
        }
    }
}

fn check_text(at: &At<'_>, say: &mut Say<'_, '_, '_>) {
    if let Some(text) = at.untyped() {
        say.with(at, format!("`{text}` is no text"), format!("put it in quotes: `\"{text}\"`"));
    }
}

/// The fields of `KubeRay` 1.6's and 1.7's definitions; those behind `|` came with 1.7.
const RAYJOB: &str = "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus \
    entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec \
    runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend \
    ttlSecondsAfterFinished |";
const RAYSERVICE: &str = "deploymentUnhealthySecondThreshold excludeHeadPodFromServeSvc managedBy rayClusterConfig \
    rayClusterDeletionDelaySeconds serveConfigV2 serveService serviceUnhealthySecondThreshold upgradeStrategy |";
const CLUSTER: &str = "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec \
    headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs | historyServerOptions \
    networkPolicy tlsOptions";
const HEAD: &str =
    "enableIngress headService labels rayStartParams resources serviceType template | ingressOptions";
const WORKER: &str = "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas \
    resources scaleStrategy suspend template | priority";
const AUTOSCALER: &str = "env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode \
    version volumeMounts | args command";
const GCS: &str = "externalStorageNamespace redisAddress redisPassword redisUsername | backend storage";
const AUTH: &str = "enableK8sTokenAuth mode secretName |";

fn unknown_fields(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    match ray.object.kind {
        "RayJob" => fields(ray, &ray.spec, RAYJOB, say),
        // Fields of older services, which the definitions still take, are not told from mistakes.
        "RayService" => fields(ray, &ray.spec, RAYSERVICE, say),
        _ => {}
    }
    fields(ray, &ray.cluster, CLUSTER, say);
    fields(ray, &ray.cluster.key("autoscalerOptions"), AUTOSCALER, say);
    fields(ray, &ray.cluster.key("gcsFaultToleranceOptions"), GCS, say);
    fields(ray, &ray.cluster.key("authOptions"), AUTH, say);
    for group in &ray.groups {
        fields(ray, &group.at, if group.is_head { HEAD } else { WORKER }, say);
    }
}

fn fields(ray: &Ray<'_>, at: &At<'_>, known: &str, say: &mut Say<'_, '_, '_>) {
    let (always, newer) = known.split_once('|').unwrap_or((known, ""));
    for (key, entry) in at.entries() {
        let in_list = |list: &str| list.split_whitespace().any(|field| field == key);
        if in_list(always) || (in_list(newer) && ray.kuberay == KubeRay::V1_7) {
            continue;
        }
        let version = ray.kuberay.name();
        let message = format!("`{key}` is no field of KubeRay {version}: it is dropped without a word");
        let near = known
            .split_whitespace()
            .map(|field| (strsim::jaro_winkler(&key.to_lowercase(), &field.to_lowercase()), field))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if in_list(newer) {
            say.with(&entry, message, "it came with KubeRay 1.7: update the operator, or remove the field");
        } else if let Some((_, field)) = near.filter(|(likeness, _)| *likeness > 0.85) {
            say.with(&entry, message, format!("did you mean `{field}`?"));
        } else {
            say.at(&entry, message);
        }
    }
}

fn secrets(ray: &Ray<'_>, say: &mut Say<'_, '_, '_>) {
    for group in &ray.groups {
        for container in group.pod.key("containers").items() {
            for entry in container.key("env").items() {
                let (name, value) = (entry.key("name").str(), entry.key("value"));
                if is_secret_name(name) && !value.str().is_empty() && !value.str().contains("$(") {
                    say.at(&value, format!("the value of `{name}` is a secret, by its name"));
                }
            }
        }
    }
    let password = ray.cluster.get("gcsFaultToleranceOptions.redisPassword.value");
    if !password.str().is_empty() {
        say.at(&password, "the password of Redis stands in the manifest");
    }
}
