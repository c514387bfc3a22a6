//! What an account must be allowed to do, and a Role that allows it.
//!
//! The one list: `doctor` asks for it, its remedy is made of it, and a test holds the Helm chart to it.

use std::collections::BTreeSet;

use eagleray_kube::yaml::Map;

use super::facts::{Facts, Granted};
use super::finding::Say;

/// What a right is for: some launches need no more than the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Launching, watching and stopping.
    Launch,
    /// What the driver says: its output, by way of the API server, with the token of its cluster.
    Logs,
    /// An elastic run's head gets a Role; who gives a right must have it.
    Elastic,
    /// What Kueue says of a launch.
    Queue,
    /// Karpenter's pools, which no namespace holds.
    Nodes,
    /// The class of heads without a queue, which no namespace holds.
    Priority,
    /// What `eagleray runs --leaks --fix` deletes beside launches.
    Leaks,
    /// What `lint live` and `migrate live` read beside launches.
    Read,
    /// Looking at what no namespace holds, for `doctor`, `watch`, `lint live` and `migrate live`.
    Look,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Launch,
        Self::Logs,
        Self::Elastic,
        Self::Queue,
        Self::Nodes,
        Self::Priority,
        Self::Leaks,
        Self::Read,
        Self::Look,
    ];

    /// The name, which is the chart's key too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Logs => "logs",
            Self::Elastic => "elastic",
            Self::Queue => "queue",
            Self::Nodes => "nodes",
            Self::Priority => "priority",
            Self::Leaks => "leaks",
            Self::Read => "read",
            Self::Look => "look",
        }
    }

    /// Whether a Role can give it.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Self::Nodes | Self::Priority | Self::Look)
    }
}

/// What may be done with a kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// What it is for.
    pub part: Part,
    /// The group; empty for the core one.
    pub group: &'static str,
    /// `pods`, or `pods/log`.
    pub resource: &'static str,
    /// What is done.
    pub verbs: &'static [&'static str],
    /// The objects that it ends at, by name; empty for all.
    pub names: &'static [&'static str],
}

const fn right(
    part: Part,
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
) -> Right {
    Right { part, group, resource, verbs, names: &[] }
}

/// Of few objects, by their names.
const fn only(names: &'static [&'static str], right: Right) -> Right {
    Right { names, ..right }
}

/// Where Kueue's manager is told what to do.
pub(super) const KUEUE_CONFIG: &str = "kueue-manager-config";

/// Applying server-side is a patch, and a create where there is none yet.
const APPLY: &[&str] = &["get", "create", "patch"];

/// The rights, by part.
pub const RIGHTS: &[Right] = &[
    right(Part::Launch, "ray.io", "rayjobs", &["get", "list", "create", "patch", "delete"]),
    right(Part::Launch, "ray.io", "rayclusters", &["get", "list"]),
    right(Part::Launch, "", "pods", &["list"]),
    right(Part::Launch, "", "events", &["list"]),
    right(Part::Launch, "", "configmaps", &["get", "list", "create", "patch"]),
    right(Part::Launch, "", "serviceaccounts", APPLY),
    right(Part::Launch, "networking.k8s.io", "networkpolicies", APPLY),
    right(Part::Launch, "policy", "poddisruptionbudgets", APPLY),
    right(Part::Logs, "", "pods/log", &["get"]),
    right(Part::Logs, "", "services/proxy", &["get"]),
    right(Part::Logs, "", "secrets", &["get"]),
    right(Part::Elastic, "rbac.authorization.k8s.io", "roles", APPLY),
    right(Part::Elastic, "rbac.authorization.k8s.io", "rolebindings", APPLY),
    right(Part::Elastic, "ray.io", "rayclusters", &["patch"]),
    right(Part::Queue, "kueue.x-k8s.io", "workloads", &["get", "list"]),
    right(Part::Queue, "kueue.x-k8s.io", "localqueues", &["get", "list"]),
    right(Part::Nodes, "karpenter.sh", "nodepools", APPLY),
    right(Part::Nodes, "karpenter.k8s.aws", "ec2nodeclasses", APPLY),
    right(Part::Priority, "scheduling.k8s.io", "priorityclasses", APPLY),
    right(Part::Leaks, "ray.io", "rayclusters", &["delete"]),
    right(Part::Leaks, "", "pods", &["delete"]),
    right(Part::Read, "ray.io", "rayservices", &["list"]),
    right(Part::Read, "kueue.x-k8s.io", "localqueues", &["list"]),
    right(Part::Read, "policy", "poddisruptionbudgets", &["list"]),
    right(Part::Read, "", "persistentvolumeclaims", &["list"]),
    right(Part::Read, "kubeflow.org", "pytorchjobs", &["list"]),
    right(Part::Read, "kubeflow.org", "tfjobs", &["list"]),
    right(Part::Read, "kubeflow.org", "jaxjobs", &["list"]),
    right(Part::Read, "kubeflow.org", "mpijobs", &["list"]),
    right(Part::Read, "trainer.kubeflow.org", "trainjobs", &["list"]),
    right(Part::Read, "trainer.kubeflow.org", "trainingruntimes", &["get"]),
    right(Part::Look, "", "nodes", &["list"]),
    right(Part::Look, "", "namespaces", &["get", "list"]),
    right(Part::Look, "", "persistentvolumes", &["list"]),
    only(&[KUEUE_CONFIG], right(Part::Look, "", "configmaps", &["get"])),
    right(Part::Look, "", "resourcequotas", &["list"]),
    right(Part::Look, "", "limitranges", &["list"]),
    right(Part::Look, "security.istio.io", "peerauthentications", &["list"]),
    right(Part::Look, "apps", "deployments", &["list"]),
    right(Part::Look, "apps", "daemonsets", &["list"]),
    right(Part::Look, "apiextensions.k8s.io", "customresourcedefinitions", &["get"]),
    right(Part::Look, "karpenter.sh", "nodepools", &["list"]),
    right(Part::Look, "karpenter.sh", "nodeclaims", &["list"]),
    right(Part::Look, "karpenter.k8s.aws", "ec2nodeclasses", &["list"]),
    right(Part::Look, "karpenter.sh", "provisioners", &["list"]),
    right(Part::Look, "kueue.x-k8s.io", "clusterqueues", &["get", "list"]),
    right(Part::Look, "kueue.x-k8s.io", "resourceflavors", &["list"]),
    right(Part::Look, "kueue.x-k8s.io", "workloadpriorityclasses", &["list"]),
    right(Part::Look, "ec2.services.k8s.aws", "securitygroups", &["list"]),
    right(Part::Look, "kubeflow.org", "profiles", &["list"]),
    right(Part::Look, "trainer.kubeflow.org", "clustertrainingruntimes", &["get"]),
];

/// What a launch of these objects needs; without a spec, what every launch does.
pub fn needed(facts: &Facts) -> BTreeSet<Part> {
    let mut parts = BTreeSet::from([Part::Launch, Part::Logs]);
    let has = |kind| facts.rendered(kind).next().is_some();
    for (part, wanted) in [
        (Part::Elastic, has("Role")),
        (Part::Queue, facts.queue().is_some()),
        (Part::Nodes, has("NodePool")),
        (Part::Priority, has("PriorityClass")),
    ] {
        if wanted {
            parts.insert(part);
        }
    }
    parts
}

/// The part that gives a verb on a kind, where one does.
pub fn part_of(group: &str, resource: &str, verb: &str) -> Option<Part> {
    let of =
        |right: &&Right| right.group == group && right.resource == resource && right.verbs.contains(&verb);
    RIGHTS.iter().find(of).map(|right| right.part)
}

/// The rules of a part, as YAML: the text of the chart and of the remedy.
pub fn rules_text(part: Part) -> String {
    let rule = |right: &Right| {
        let map = Map::new().with("apiGroups", vec![right.group]).with("resources", vec![right.resource]);
        let names = (!right.names.is_empty()).then(|| right.names.to_vec());
        map.maybe("resourceNames", names).with("verbs", right.verbs.to_vec())
    };
    let rules: Vec<Map> = RIGHTS.iter().filter(|right| right.part == part).map(rule).collect();
    let text = Map::new().with("rules", rules).document();
    text.strip_prefix("rules:\n").unwrap_or_default().to_owned()
}

/// Whether the account may do what the launch does.
pub(super) fn judge(facts: &Facts, say: &mut Say) {
    let asked = |right: &Right, verb: &str| {
        let of = |granted: &&Granted| {
            granted.group == right.group && granted.resource == right.resource && granted.verb == verb
        };
        facts.rights.iter().find(of).and_then(|granted| granted.allowed)
    };
    for part in needed(facts) {
        let rights: Vec<&Right> = RIGHTS.iter().filter(|right| right.part == part).collect();
        let verbs_where = |wanted: Option<bool>| -> Vec<(&str, &str, Vec<&str>)> {
            let some = rights.iter().map(|right| {
                let verbs = right.verbs.iter().copied().filter(|verb| asked(right, verb) == wanted).collect();
                (right.group, right.resource, verbs)
            });
            some.filter(|(_, _, verbs): &(_, _, Vec<&str>)| !verbs.is_empty()).collect()
        };
        let (missing, unknown) = (verbs_where(Some(false)), verbs_where(None));
        if !missing.is_empty() {
            let why = format!(
                "`{}` is not allowed what {} does",
                facts.user.as_deref().unwrap_or("this account"),
                purpose(part)
            );
            say.error(
                "rights",
                "rights",
                format!("missing for {}: {}", part.name(), listed(&missing)),
                why,
                role(facts, part),
            );
        }
        if !unknown.is_empty() {
            let seen = format!(
                "whether it may, for {}: {}, the API server did not say",
                part.name(),
                listed(&unknown)
            );
            say.unknown(
                "rights",
                "rights",
                seen,
                "a launch may be refused half-way",
                Some("kubectl auth can-i --list".into()),
            );
        }
        if verbs_where(Some(false)).is_empty() && verbs_where(None).is_empty() {
            say.ok("rights", "rights", format!("all that {} needs, in `{}`", part.name(), facts.namespace));
        }
    }
}

fn purpose(part: Part) -> &'static str {
    match part {
        Part::Launch => "a launch, or its stop,",
        Part::Logs => "`eagleray logs`",
        Part::Elastic => "the launch of an elastic run, whose head may patch its cluster,",
        Part::Queue => "the launch of a run in a queue",
        Part::Nodes => "a launch with `cluster.eks.karpenter`",
        Part::Priority => "a launch without a queue, whose head has a class of its own,",
        Part::Leaks => "`eagleray runs --leaks --fix`",
        Part::Read => "`eagleray lint live`, or `eagleray migrate live`,",
        Part::Look => "`eagleray doctor`",
    }
}

fn listed(rights: &[(&str, &str, Vec<&str>)]) -> String {
    let one = |(group, resource, verbs): &(&str, &str, Vec<&str>)| {
        let kind = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
        format!("{} {kind}", verbs.join("/"))
    };
    rights.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A Role with the rights of a part, and who gets it. All of them and a binding of the account's own: what was pasted
/// before, for other rights or others, stays as it is.
fn role(facts: &Facts, part: Part) -> String {
    let group = "rbac.authorization.k8s.io";
    let (role, binding) =
        if part.namespaced() { ("Role", "RoleBinding") } else { ("ClusterRole", "ClusterRoleBinding") };
    let name = format!("eagleray-{}", part.name());
    let object = |kind: &str, name: &str| {
        let metadata = Map::new().with("name", name);
        let metadata = metadata.maybe("namespace", part.namespaced().then_some(facts.namespace.as_str()));
        Map::new().with("apiVersion", format!("{group}/v1")).with("kind", kind).with("metadata", metadata)
    };
    let user = facts.user.as_deref().unwrap_or("USER");
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let subject = match account {
        Some((namespace, name)) => {
            Map::new().with("kind", "ServiceAccount").with("name", name).with("namespace", namespace)
        }
        None => Map::new().with("kind", "User").with("apiGroup", group).with("name", user),
    };
    let reference = Map::new().with("apiGroup", group).with("kind", role).with("name", name.as_str());
    // A name of these kinds may hold anything but what a path is cut at.
    let own = format!("{name}:{}", user.replace(['/', '%'], "-"));
    let binding = object(binding, &own).with("roleRef", reference).with("subjects", vec![subject]);
    let role = object(role, &name).document();
    format!("kubectl apply -f - <<'EOF'\n{role}rules:\n{}---\n{}EOF", rules_text(part), binding.document())
}
