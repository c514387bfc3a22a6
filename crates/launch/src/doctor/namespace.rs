//! The namespace: what it may take, what it lets in, and what stands beside.

use serde_json::Value;

use super::facts::{Answer, Facts, amount, list, name, text};
use super::finding::Say;
use super::need::{self, Pods, shown};

const AREA: &str = "namespace";

/// Reasons for which a container waits that no waiting mends.
const IMAGE_REASONS: [&str; 5] =
    ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"];

/// What a container may add under the level `baseline` of pod security.
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn judge(facts: &Facts, say: &mut Say) {
    if let Some(found) = say.objects("namespace", AREA, "the namespace", &facts.namespaces) {
        match found.first() {
            None => say.error(
                "namespace",
                AREA,
                format!("there is no namespace `{}`", facts.namespace),
                "launches are made in it, and it is not made by them",
                format!("kubectl create namespace {}", facts.namespace),
            ),
            Some(namespace) => {
                say.ok("namespace", AREA, format!("`{}` is there", facts.namespace));
                pod_security(facts, namespace, say);
                istio(facts, namespace, say);
            }
        }
    }
    for job in facts.rendered("RayJob") {
        quotas(facts, job, say);
        limit_ranges(facts, job, say);
    }
    secrets(facts, say);
    images(facts, say);
}

fn quotas(facts: &Facts, job: &Value, say: &mut Say) {
    let Some(quotas) = say.objects("resource-quota", AREA, "ResourceQuotas", &facts.quotas) else { return };
    let pods = need::pods(job);
    let mut fine = true;
    for quota in quotas {
        if !quota["spec"]["scopes"].is_null() || !quota["spec"]["scopeSelector"].is_null() {
            say.info(
                "resource-quota",
                AREA,
                format!("ResourceQuota `{}` holds for some pods alone and is not counted here", name(quota)),
                "its scopes may be those of the launch",
            );
            continue;
        }
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for (key, hard) in quota["spec"]["hard"].as_object().into_iter().flatten() {
            let Some(hard) = amount(hard) else { continue };
            let left = hard - amount(&quota["status"]["used"][key]).unwrap_or(0.0);
            let (resource, which) = match key.split_once('.') {
                Some(("requests", resource)) => (resource, "requests"),
                Some(("limits", resource)) => (resource, "limits"),
                _ => (key.as_str(), "requests"),
            };
            for (most, short) in [(false, &mut now), (true, &mut later)] {
                let needed = match key.as_str() {
                    "pods" | "count/pods" => {
                        pods.iter().map(|pods| if most { pods.count.1 } else { pods.count.0 }).sum()
                    }
                    "count/rayjobs.ray.io" | "count/rayclusters.ray.io" => 1.0,
                    _ => need::total(&pods, which, most).get(resource).copied().unwrap_or(0.0),
                };
                if needed > left {
                    short.push(format!("{} {key} of {} left", shown(key, needed), shown(key, left.max(0.0))));
                }
            }
        }
        let own = name(quota);
        let remedy = format!("kubectl -n {} edit resourcequota {own}", facts.namespace);
        if !now.is_empty() {
            fine = false;
            say.error(
                "resource-quota",
                AREA,
                format!("`{}` needs {}, by ResourceQuota `{own}`", name(job), now.join(", ")),
                "pods beyond a quota are refused, and the launch never has all of its own",
                remedy,
            );
        } else if !later.is_empty() {
            fine = false;
            say.warning(
                "resource-quota",
                AREA,
                format!("`{}` may grow to {}, by ResourceQuota `{own}`", name(job), later.join(", ")),
                "it starts, and does not reach its most nodes",
                remedy,
            );
        }
    }
    if fine && !quotas.is_empty() {
        say.ok("resource-quota", AREA, format!("`{}` fits into {}", name(job), need::names(quotas)));
    }
}

fn limit_ranges(facts: &Facts, job: &Value, say: &mut Say) {
    let Some(ranges) = say.objects("limit-range", AREA, "LimitRanges", &facts.limit_ranges) else { return };
    for range in ranges {
        for limit in list(&range["spec"]["limits"]) {
            let kind = text(&limit["type"]);
            if kind != "Container" && kind != "Pod" {
                continue;
            }
            for pods in need::pods(job) {
                let over = |(resource, value): (&String, &f64)| {
                    let (max, min) = (amount(&limit["max"][resource]), amount(&limit["min"][resource]));
                    let wrong = max.is_some_and(|max| *value > max) || min.is_some_and(|min| *value < min);
                    wrong.then(|| format!("{} {resource}", shown(resource, *value)))
                };
                let wrong: Vec<String> = pods.amounts("limits").iter().filter_map(over).collect();
                if !wrong.is_empty() {
                    say.error(
                        "limit-range",
                        AREA,
                        format!(
                            "pods of group `{}` have {}, LimitRange `{}` does not let them",
                            pods.group,
                            wrong.join(", "),
                            name(range)
                        ),
                        "such pods are refused",
                        format!("kubectl -n {} edit limitrange {}", facts.namespace, name(range)),
                    );
                }
            }
        }
    }
}

fn pod_security(facts: &Facts, namespace: &Value, say: &mut Say) {
    let key = "pod-security.kubernetes.io/enforce";
    let level = text(&namespace["metadata"]["labels"][key]);
    if level.is_empty() || level == "privileged" {
        return;
    }
    let mut wrong: Vec<String> = Vec::new();
    for job in facts.rendered("RayJob") {
        for pods in need::pods(job) {
            let mut found = baseline(&pods);
            if level == "restricted" {
                found.extend(restricted(&pods));
            }
            wrong.extend(found.into_iter().map(|what| format!("group `{}`: {what}", pods.group)));
        }
    }
    wrong.sort();
    wrong.dedup();
    if wrong.is_empty() {
        if facts.rendered.is_empty() {
            say.info(
                "pod-security",
                AREA,
                format!("the namespace enforces `{level}`"),
                "with a run spec, `doctor` says whether its pods are let in",
            );
        } else {
            say.ok("pod-security", AREA, format!("the pods are let in under `{level}`"));
        }
        return;
    }
    let remedy = if level == "restricted" {
        format!("kubectl label namespace {} --overwrite {key}=baseline", facts.namespace)
    } else {
        format!(
            "kubectl label namespace {} --overwrite {key}=privileged    # or leave it out of `cluster.eks.pod`",
            facts.namespace
        )
    };
    say.error(
        "pod-security",
        AREA,
        format!("the namespace enforces `{level}`: {}", wrong.join("; ")),
        "such pods are refused, which KubeRay tries again for ever",
        remedy,
    );
}

fn baseline(pods: &Pods<'_>) -> Vec<String> {
    let spec = &pods.template["spec"];
    let mut found: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| spec[*key] == true)
        .map(str::to_owned)
        .collect();
    found.extend(
        list(&spec["volumes"])
            .iter()
            .filter(|volume| !volume["hostPath"].is_null())
            .map(|volume| format!("hostPath `{}`", text(&volume["name"]))),
    );
    for container in pods.containers() {
        let security = &container["securityContext"];
        if security["privileged"] == true {
            found.push("privileged".into());
        }
        let added = list(&security["capabilities"]["add"])
            .iter()
            .map(text)
            .filter(|one| !BASELINE_CAPABILITIES.contains(one));
        found.extend(added.map(|one| format!("capability {one}")));
        if list(&container["ports"]).iter().any(|port| port["hostPort"].as_u64().is_some_and(|port| port > 0))
        {
            found.push("hostPort".into());
        }
    }
    found
}

fn restricted(pods: &Pods<'_>) -> Vec<String> {
    let of_pod = &pods.template["spec"]["securityContext"];
    let mut found = Vec::new();
    for container in pods.containers() {
        let own = &container["securityContext"];
        let either = |key: &str| if own[key].is_null() { &of_pod[key] } else { &own[key] };
        let drops = list(&own["capabilities"]["drop"]).iter().any(|one| one == "ALL");
        for (what, fine) in [
            ("runAsNonRoot is not true", *either("runAsNonRoot") == true),
            ("allowPrivilegeEscalation is not false", own["allowPrivilegeEscalation"] == false),
            ("capabilities are not dropped", drops),
            (
                "no seccompProfile",
                ["RuntimeDefault", "Localhost"].contains(&text(&either("seccompProfile")["type"])),
            ),
        ] {
            if !fine {
                found.push(what.to_owned());
            }
        }
    }
    found
}

/// A sidecar takes Ray's ports, and mutual TLS breaks the talk of its processes.
fn istio(facts: &Facts, namespace: &Value, say: &mut Say) {
    let labels = &namespace["metadata"]["labels"];
    let injects = labels["istio-injection"] == "enabled" || !text(&labels["istio.io/rev"]).is_empty();
    let ambient = labels["istio.io/dataplane-mode"] == "ambient";
    let strict = |peer: &&Value| peer["spec"]["mtls"]["mode"] == "STRICT";
    let strict = match &facts.peers {
        Answer::Found(peers) => peers.iter().find(strict),
        _ => None,
    };
    if injects {
        let refuses = |pods: &Pods<'_>| {
            let metadata = &pods.template["metadata"];
            ["labels", "annotations"]
                .iter()
                .any(|place| metadata[*place]["sidecar.istio.io/inject"] == "false")
        };
        let taken: Vec<String> = facts
            .rendered("RayJob")
            .flat_map(need::pods)
            .filter(|pods| !refuses(pods))
            .map(|pods| format!("`{}`", pods.group))
            .collect();
        if taken.is_empty() {
            say.info(
                "istio",
                AREA,
                "Istio injects sidecars here; pods of Eagle Ray say that they want none",
                "other RayJobs need the label sidecar.istio.io/inject: \"false\"",
            );
        } else {
            say.error(
                "istio",
                AREA,
                format!("Istio injects sidecars here, into pods of group {}", taken.join(", ")),
                "a sidecar takes Ray's ports and holds a job that is over",
                "metadata:\n  labels: {sidecar.istio.io/inject: \"false\"}",
            );
        }
    }
    if ambient {
        let exempt =
            format!("kubectl label namespace {} istio.io/dataplane-mode=none --overwrite", facts.namespace);
        say.warning(
            "istio",
            AREA,
            "Istio's ambient mesh takes in every pod here",
            "its proxy stands between Ray's and NCCL's processes",
            exempt,
        );
    }
    if let Some(peer) = strict {
        let why = "plain connections are refused where a proxy of Istio stands: KubeRay's to the head, Ray's among its pods";
        if ambient || injects {
            say.warning("istio-strict", AREA, format!("PeerAuthentication `{}` demands mutual TLS", name(peer)), why, format!("kubectl -n {} patch peerauthentication {} --type merge -p '{{\"spec\":{{\"mtls\":{{\"mode\":\"PERMISSIVE\"}}}}}}'", facts.namespace, name(peer)));
        } else {
            say.info(
                "istio-strict",
                AREA,
                format!("PeerAuthentication `{}` demands mutual TLS", name(peer)),
                why,
            );
        }
    }
}

/// A pod with a secret that is not there does not start, and says so nowhere but in its events.
fn secrets(facts: &Facts, say: &mut Say) {
    for (secret, answer) in &facts.secrets {
        match say.objects("secrets", AREA, &format!("secret `{secret}`"), answer) {
            Some([]) => say.error("secrets", AREA, format!("the pods name secret `{secret}`, and `{}` has none", facts.namespace), "they would wait with CreateContainerConfigError or ImagePullBackOff, on nodes that are paid for", format!("kubectl -n {} create secret generic {secret} --from-env-file=FILE", facts.namespace)),
            Some(_) => say.ok("secrets", AREA, format!("secret `{secret}` is there")),
            None => {}
        }
    }
}

fn images(facts: &Facts, say: &mut Say) {
    let Some(pods) = say.objects("image-pull", AREA, "pods", &facts.pods) else { return };
    let mut seen: Vec<String> = Vec::new();
    for pod in pods {
        let statuses =
            ["initContainerStatuses", "containerStatuses"].iter().flat_map(|key| list(&pod["status"][*key]));
        for status in statuses {
            let reason = text(&status["state"]["waiting"]["reason"]);
            if IMAGE_REASONS.contains(&reason) {
                seen.push(format!("`{}` for `{}` ({reason})", text(&status["image"]), name(pod)));
            }
        }
    }
    if seen.is_empty() {
        return say.ok("image-pull", AREA, format!("none of {} pods waits for its image", pods.len()));
    }
    let more = seen.len().saturating_sub(3);
    seen.truncate(3);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    say.warning("image-pull", AREA, format!("images that do not come: {}{more}", seen.join(", ")), "a launch with the same image or registry would wait as these do", format!("kubectl -n {} get events --field-selector reason=Failed\naws ecr describe-images --repository-name NAME    # and the node role needs AmazonEC2ContainerRegistryPullOnly", facts.namespace));
}
