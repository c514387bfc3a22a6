//! Machines: the plugins that show their devices, and Karpenter, which makes them.

use serde_json::Value;

use super::facts::{Facts, amount, condition, condition_message, list, name, text};
use super::finding::Say;
use super::need::{self, shown};

const AREA: &str = "nodes";
const GPU: &str = "nvidia.com/gpu";
const EFA: &str = "vpc.amazonaws.com/efa";
const TYPE: &str = "node.kubernetes.io/instance-type";

pub(super) fn judge(facts: &Facts, say: &mut Say) {
    plugin(
        facts,
        say,
        "nvidia-plugin",
        GPU,
        &["nvidia-device-plugin", "gpu-operator"],
        "helm upgrade --install nvdp nvidia-device-plugin --repo https://nvidia.github.io/k8s-device-plugin --namespace kube-system",
    );
    if wants(facts, EFA) {
        plugin(
            facts,
            say,
            "efa-plugin",
            EFA,
            &["efa-k8s-device-plugin"],
            "helm upgrade --install aws-efa-k8s-device-plugin aws-efa-k8s-device-plugin --repo https://aws.github.io/eks-charts --namespace kube-system",
        );
    }
    karpenter(facts, say);
}

fn wants(facts: &Facts, resource: &str) -> bool {
    facts.rendered("RayJob").any(|job| {
        need::pods(job)
            .iter()
            .any(|pods| pods.amounts("limits").get(resource).is_some_and(|value| *value > 0.0))
    })
}

/// Whether some node shows a device, or something would make new ones show it.
fn plugin(facts: &Facts, say: &mut Say, id: &'static str, resource: &str, daemons: &[&str], install: &str) {
    let nodes = say.objects(id, AREA, "nodes", &facts.nodes);
    let sets = say.objects(id, AREA, "DaemonSets", &facts.daemon_sets);
    let showing = nodes
        .unwrap_or_default()
        .iter()
        .filter(|node| amount(&node["status"]["allocatable"][resource]).is_some_and(|value| value > 0.0))
        .count();
    let daemon = sets.unwrap_or_default().iter().find(|set| {
        let own = [name(set), text(&set["metadata"]["labels"]["app.kubernetes.io/name"])];
        daemons.iter().any(|wanted| own.iter().any(|own| own.contains(wanted)))
    });
    match (showing, daemon) {
        (0, None) if nodes.is_none() || sets.is_none() => {}
        (0, None) => {
            let (seen, why) = (
                format!("no node shows {resource}, and no DaemonSet is known to"),
                "pods that ask for it stay pending, on nodes that are paid for",
            );
            if wants(facts, resource) {
                // EKS Auto Mode has its own plugin in the image of its nodes, where no DaemonSet shows.
                let auto = nodes
                    .unwrap_or_default()
                    .iter()
                    .any(|node| node["metadata"]["labels"]["eks.amazonaws.com/compute-type"] == "auto");
                if auto {
                    say.info(id, AREA, format!("{seen}; nodes of EKS Auto Mode bring their own"), why);
                } else {
                    say.error(id, AREA, seen, why, install);
                }
            } else if facts.rendered.is_empty() {
                say.info(id, AREA, seen, why);
            }
        }
        (0, Some(set)) => {
            say.ok(id, AREA, format!("`{}` will show {resource} on nodes that have it", name(set)));
        }
        (some, _) => say.ok(id, AREA, format!("nodes that show {resource}: {some}")),
    }
}

fn karpenter(facts: &Facts, say: &mut Say) {
    let renders = facts.rendered("NodePool").next().is_some();
    match facts.serves("karpenter.sh") {
        Some(false) if renders => return say.error("karpenter-missing", AREA, "`cluster.eks.karpenter` is given, and the cluster has no Karpenter", "pools could not be applied", "https://karpenter.sh/docs/getting-started, or leave `cluster.eks.karpenter` out and bring nodes yourself"),
        Some(false) => return say.info("karpenter-missing", AREA, "the cluster has no Karpenter", "nodes with the labels that pods select must be there, or come by other means"),
        None => return,
        Some(true) => {}
    }
    if renders && facts.serves("karpenter.k8s.aws") == Some(false) {
        say.error(
            "karpenter-aws",
            AREA,
            "the cluster has no EC2NodeClass: this Karpenter is EKS Auto Mode's, or another cloud's",
            "the classes of `cluster.eks.karpenter` could not be applied",
            "leave `cluster.eks.karpenter` out, and make NodePools of `eks.amazonaws.com` NodeClasses",
        );
    }
    if let Some(pools) = say.objects("karpenter-pools", AREA, "NodePools", &facts.node_pools) {
        for pool in pools {
            if condition(pool, "Ready") == Some(false) {
                say.warning(
                    "karpenter-pool",
                    AREA,
                    format!("NodePool `{}` is not ready: {}", name(pool), condition_message(pool, "Ready")),
                    "it makes no nodes",
                    format!("kubectl describe nodepool {}", name(pool)),
                );
            }
        }
        for job in facts.rendered("RayJob") {
            for pods in need::pods(job) {
                group(facts, pools, &pods, say);
            }
        }
    }
    if let Some(classes) = say.objects("karpenter-classes", AREA, "EC2NodeClasses", &facts.node_classes) {
        for class in classes {
            node_class(facts, class, say);
        }
    }
}

/// Whether some pool makes nodes for a group, and may make so many.
fn group(facts: &Facts, pools: &[Value], pods: &need::Pods<'_>, say: &mut Say) {
    let selector = &pods.template["spec"]["nodeSelector"];
    let Some(wanted) = selector[TYPE].as_str() else { return };
    let rendered: Vec<&Value> = facts.rendered("NodePool").collect();
    let makes = |pool: &&Value| {
        allows(pool, TYPE, wanted)
            && selector["karpenter.sh/capacity-type"]
                .as_str()
                .is_none_or(|word| allows(pool, "karpenter.sh/capacity-type", word))
    };
    if rendered.iter().any(makes) {
        // The limit of a pool that is there already is what counts until the launch applies the new one.
        return;
    }
    let mut fitting = pools.iter().filter(makes).peekable();
    if fitting.peek().is_none() {
        let there = facts
            .nodes
            .found()
            .is_some_and(|nodes| nodes.iter().any(|node| node["metadata"]["labels"][TYPE] == wanted));
        if !there {
            say.error(
                "karpenter-pools",
                AREA,
                format!("no NodePool makes {wanted}, and no node is one, for group `{}`", pods.group),
                "its pods stay pending",
                "cluster:\n  eks:\n    karpenter: {role: NODE_ROLE, discovery: CLUSTER, ami: al2023@VERSION}",
            );
        }
        return;
    }
    let each = pods.amounts("limits");
    let left = |pool: &Value, resource: &str| {
        amount(&pool["spec"]["limits"][resource])
            .map(|limit| limit - amount(&pool["status"]["resources"][resource]).unwrap_or(0.0))
    };
    let short = |pool: &Value| {
        ["cpu", "memory", GPU].into_iter().find_map(|resource| {
            let needed = each.get(resource).copied().unwrap_or(0.0) * pods.count.0;
            let left = left(pool, resource)?;
            (needed > left).then(|| {
                format!(
                    "NodePool `{}` may add {} {resource}, group `{}` asks for {}",
                    name(pool),
                    shown(resource, left.max(0.0)),
                    pods.group,
                    shown(resource, needed)
                )
            })
        })
    };
    let all: Option<Vec<String>> = fitting.map(short).collect();
    match all {
        Some(seen) => say.warning("karpenter-limits", AREA, seen.join("; "), "beyond its limits a pool makes no nodes, and pods stay pending", "kubectl get nodepools -o custom-columns=NAME:.metadata.name,LIMITS:.spec.limits,USED:.status.resources"),
        None => say.ok("karpenter-pools", AREA, format!("a NodePool makes {wanted} for group `{}`", pods.group)),
    }
}

/// Whether the requirements of a pool let a label have a value; one that does not name the label does.
fn allows(pool: &Value, key: &str, value: &str) -> bool {
    list(&pool["spec"]["template"]["spec"]["requirements"]).iter().filter(|one| one["key"] == key).all(
        |one| {
            let within = list(&one["values"]).iter().any(|known| known == value);
            match text(&one["operator"]) {
                "In" => within,
                "NotIn" => !within,
                "DoesNotExist" => false,
                _ => true,
            }
        },
    )
}

fn node_class(facts: &Facts, class: &Value, say: &mut Say) {
    let own = name(class);
    if condition(class, "Ready") == Some(false) {
        say.warning(
            "karpenter-class",
            AREA,
            format!("EC2NodeClass `{own}` is not ready: {}", condition_message(class, "Ready")),
            "no node is made of it: its role, image, subnets or security groups are not found",
            format!("kubectl describe ec2nodeclass {own}"),
        );
    }
    let hops = class["spec"]["metadataOptions"]["httpPutResponseHopLimit"].as_u64().unwrap_or(1);
    let account = facts.rendered("ServiceAccount").next().is_some();
    if hops > 1 {
        say.info(
            "imds-hops",
            AREA,
            format!("EC2NodeClass `{own}` lets metadata answers go {hops} hops"),
            "pods can take the role of their node; with 1 they cannot",
        );
    } else if !facts.rendered.is_empty()
        && !account
        && facts.store.iter().any(|tried| tried.url.starts_with("s3://"))
    {
        say.warning("imds-hops", AREA, format!("EC2NodeClass `{own}` keeps metadata from pods (`httpPutResponseHopLimit: 1`), and the spec names no `service_account`"), "pods reach S3 neither by the node's role nor, without an association for the account `default`, by one of their own", "cluster:\n  eks:\n    service_account: {name: NAME, role: \"arn:aws:iam::ACCOUNT:role/ROLE\"}");
    }
}
