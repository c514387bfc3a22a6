//! Checks of `cluster`.

use super::Checks;
use crate::names::{is_dns_label, is_dns_subdomain};
use crate::secret::is_secret_name;
use crate::types::cluster::{Cluster, Eks, Karpenter};
use crate::types::values::Count;

/// The most workers of a run.
const WORKERS_MAX: u32 = 1 << 16;

pub(super) fn check(checks: &mut Checks<'_>, cluster: &Cluster) {
    check_count(checks, &["cluster", "workers"], cluster.workers, 1, WORKERS_MAX);
    if let Some(eks) = &cluster.eks {
        check_eks(checks, eks);
    }
}

fn check_count(checks: &mut Checks<'_>, path: &[&str], count: Count, least: u32, most: u32) {
    let Count { min, max } = count;
    if min > max {
        checks.report(path, format!("`min` {min} is above `max` {max}"), "");
        return;
    }
    let wanted = if most == u32::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
    let outside = [min, max].into_iter().find(|number| !(least..=most).contains(number));
    checks.range(outside.is_none(), path, outside.unwrap_or(min), &wanted);
}

fn check_eks(checks: &mut Checks<'_>, eks: &Eks) {
    let at = |key| ["cluster", "eks", key];
    let namespace = &eks.namespace;
    checks.require(
        is_dns_label(namespace),
        &at("namespace"),
        format!("`{namespace}` is not a namespace"),
        "use small letters, digits and `-`, at most 63 characters",
    );
    let image = !eks.image.trim().is_empty() && !eks.image.contains(char::is_whitespace);
    checks.require(image, &at("image"), format!("`{}` is not an image", eks.image), "");
    check_groups(checks, eks);
    check_names(checks, eks);
    if let Some(cpu) = &eks.cpu {
        check_count(checks, &["cluster", "eks", "cpu", "nodes"], cpu.nodes, 0, u32::MAX);
    }
    if let Some(redis) = &eks.redis {
        let host = ["redis://", "rediss://"].iter().find_map(|scheme| redis.address.strip_prefix(scheme));
        checks.require(
            host.is_some_and(|host| !host.is_empty() && !host.contains(['@', ' '])),
            &["cluster", "eks", "redis", "address"],
            // Not shown: it may hold a password.
            "not an address of Redis without a password",
            "write `rediss://HOST:6379`, and name the password's `secret`",
        );
    }
    for (name, _) in eks.env.iter() {
        check_variable(checks, name);
    }
    for (index, from) in eks.env_from.iter().enumerate() {
        let index = format!("[{index}]");
        let given = [("secret", from.secret.is_some()), ("config_map", from.config_map.is_some())];
        checks.exactly_one(&["cluster", "eks", "env_from", &index], &given);
    }
    for (index, volume) in eks.volumes.iter().enumerate() {
        let path = ["cluster", "eks", "volumes", &format!("[{index}]"), "mount"];
        checks.require(
            volume.mount.starts_with('/'),
            &path,
            format!("`{}` is not absolute", volume.mount),
            "",
        );
    }
    for (key, value) in eks.labels.iter() {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let holds = !key.is_empty()
            && key.chars().all(legal)
            && value.len() <= 63
            && value.chars().all(legal)
            && !value.contains('/');
        let hint = "Kubernetes takes letters, digits, `-`, `_` and `.`, at most 63 characters";
        checks.require(
            holds,
            &["cluster", "eks", "labels", key],
            format!("`{key}: {value}` is not a label"),
            hint,
        );
    }
}

fn check_groups(checks: &mut Checks<'_>, eks: &Eks) {
    let owner = ["cluster", "eks", "groups"];
    checks.require(
        !eks.groups.is_empty(),
        &owner,
        "`cluster.eks.groups` is empty",
        "training needs nodes: give one group",
    );
    for (index, group) in eks.groups.iter().enumerate() {
        let position = format!("[{index}]");
        let at = |key| ["cluster", "eks", "groups", &position, key];
        let name = &group.name;
        let hint = "use small letters, digits and `-`, at most 63 characters";
        checks.require(is_dns_label(name), &at("name"), format!("`{name}` is not a name for a group"), hint);
        let twice = eks.groups[..index].iter().any(|other| other.name == *name);
        checks.require(!twice, &at("name"), format!("two groups are named `{name}`"), "");
        check_count(checks, &at("nodes"), group.nodes, 0, u32::MAX);
    }
    let nodes = eks.groups.iter().any(|group| group.nodes.max > 0);
    checks.require(nodes || eks.groups.is_empty(), &owner, "the groups have no node at all", "");
}

/// Names of objects of a cluster and of AWS, as far as their form goes.
fn check_names(checks: &mut Checks<'_>, eks: &Eks) {
    let account = eks.service_account.as_ref();
    let named = [
        (vec!["queue"], eks.queue.as_ref()),
        (vec!["priority"], eks.priority.as_ref()),
        (vec!["service_account", "name"], account.map(|account| &account.name)),
    ];
    for (key, name) in named {
        let Some(name) = name else { continue };
        let path = [vec!["cluster", "eks"], key].concat();
        let hint = "use small letters, digits, `-` and `.`, at most 63 characters";
        checks.require(is_dns_subdomain(name), &path, format!("`{name}` is not a name"), hint);
    }
    if let Some(role) = account.and_then(|account| account.role.as_ref()) {
        checks.require(
            role.starts_with("arn:") && role.contains(":role/"),
            &["cluster", "eks", "service_account", "role"],
            format!("`{role}` is not the ARN of a role"),
            "write `arn:aws:iam::ACCOUNT:role/NAME`",
        );
    }
    if let Some(karpenter) = &eks.karpenter {
        check_karpenter(checks, karpenter);
    }
}

fn check_karpenter(checks: &mut Checks<'_>, karpenter: &Karpenter) {
    let at = |key| ["cluster", "eks", "karpenter", key];
    let Karpenter { role, discovery, ami, reservations } = karpenter;
    let hint = "write its name alone: Karpenter makes the instance profile";
    let role_holds = !role.is_empty() && !role.starts_with("arn:");
    checks.require(role_holds, &at("role"), format!("`{role}` is not the name of a role"), hint);
    checks.require(!discovery.is_empty(), &at("discovery"), "`discovery` is empty", "");
    let version = ami.strip_prefix("al2023@");
    let pinned = version.is_some_and(|version| version.starts_with('v')) || ami.starts_with("ami-");
    checks.require(
        pinned,
        &at("ami"),
        format!("`{ami}` is no pinned image"),
        "write `al2023@v…` or `ami-…`: an image that moves makes Karpenter replace nodes of a run",
    );
    for (index, id) in reservations.iter().enumerate() {
        let path = ["cluster", "eks", "karpenter", "reservations", &format!("[{index}]")];
        let hint = "write its id: `cr-…`";
        checks.require(id.starts_with("cr-"), &path, format!("`{id}` is not a capacity reservation"), hint);
    }
}

fn check_variable(checks: &mut Checks<'_>, name: &str) {
    let path = ["cluster", "eks", "env", name];
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let holds =
        name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty();
    checks.require(holds, &path, format!("`{name}` is not a name for a variable"), "");
    let secret = is_secret_name(name);
    let hint = "put it into a Kubernetes secret and name that in `env_from`";
    if secret {
        checks.report_secret(
            &path,
            format!("`{name}` looks like a secret, which a spec does not hold"),
            hint,
        );
    }
}
