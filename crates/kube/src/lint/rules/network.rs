//! The fabric adapter: devices, huge pages, shared memory, interfaces and security groups.

use crate::lint::Rule;
use crate::lint::at::At;
use crate::lint::facts;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{EFA, Group, Object, Ray, Scene};

/// Below this, NCCL and the loaders' workers run out of shared memory.
const SHM_MIN_BYTES: f64 = 1_073_741_824.0;

pub(super) const RULES: &[Rule] = &[
    rule!("efa-more-than-instance" Error "RayJob, RayCluster, RayService": "more EFA devices than the instance has",
        why "no node can ever hold the pod", fix "ask for `vpc.amazonaws.com/efa` as many times as the instance has devices"; Check::Group(efa_more)),
    rule!("efa-fewer-than-instance" Warning "RayJob, RayCluster, RayService": "fewer EFA devices than the instance has",
        why "bandwidth between nodes falls in proportion, and it is paid for",
        fix "ask for all `vpc.amazonaws.com/efa` of the instance"; Check::Group(efa_fewer)),
    rule!("efa-missing" Warning "RayJob": "several nodes without EFA on instances that have it",
        why "NCCL falls back to TCP, several times slower",
        fix "ask for all `vpc.amazonaws.com/efa` of the instance, and install its device plugin"; Check::Group(efa_missing)),
    rule!("gpu-more-than-instance" Error "RayJob, RayCluster, RayService": "more GPUs than the instance has",
        why "no node can ever hold the pod", fix "ask for as many GPUs as the instance has"; Check::Group(gpu_more)),
    rule!("gpu-fewer-than-instance" Warning "RayJob": "fewer GPUs than the instance has",
        why "the rest of the node is billed and idle, unless other pods fit beside it",
        fix "ask for all GPUs of the instance, or choose a smaller one"; Check::Group(gpu_fewer)),
    rule!("efa-hugepages" Warning "RayJob, RayCluster, RayService": "EFA without huge pages",
        why "libfabric takes huge pages by default, and fails or slows down where the pod has none",
        fix "ask for `hugepages-2Mi: 5120Mi`, or set FI_EFA_USE_HUGE_PAGE to \"0\""; Check::Group(hugepages)),
    rule!("shm-small" Warning "RayJob, RayCluster, RayService": "shared memory is on disk, or small",
        why "Ray's object store, NCCL and data loaders live in /dev/shm; KubeRay makes it a memory volume unless the pod mounts its own",
        fix "remove the volume on /dev/shm, or make it `emptyDir: {medium: Memory}` with a limit above 1Gi"; Check::Group(shm)),
    rule!("efa-stale-env" Info "RayJob, RayCluster, RayService": "a variable that newer stacks do not want",
        why "NCCL_PROTO, RDMAV_FORK_SAFE and FI_PROVIDER were advice for older drivers; today they switch off faster paths",
        fix "remove it"; Check::Group(stale)),
    rule!("efa-public-ip" Error "EC2NodeClass": "several interfaces and a public address",
        why "EC2 refuses a public address for an instance with more than one interface: no node is ever launched",
        fix "set `associatePublicIPAddress: false`, and use private subnets"; Check::Object(&["EC2NodeClass"], public_ip)),
    rule!("efa-interfaces" Error "EC2NodeClass": "the interfaces do not make a node",
        why "card 0, device 0 must be an `interface`, and no pair of card and device may appear twice: the API server refuses the class",
        fix "begin with `{networkCardIndex: 0, deviceIndex: 0, interfaceType: interface}` and number the rest"; Check::Object(&["EC2NodeClass"], interfaces)),
    rule!("efa-security-group" Warning "EC2NodeClass, SecurityGroup": "no group lets EFA reach itself",
        why "EFA's traffic passes only by rules that name the group itself, in and out; without them NCCL hangs at its first collective",
        fix "allow all traffic from and to the security group itself, and select that group in `securityGroupSelectorTerms`"; Check::Scene(security_groups)),
];

/// The instance type of a group, where there is exactly one.
fn instance<'a>(group: &Group<'a>) -> Option<&'a str> {
    let first = *group.instances.first()?;
    group.instances.iter().all(|name| *name == first).then_some(first)
}

fn efa<'a>(group: &Group<'a>) -> (f64, At<'a>) {
    group.resource(EFA).unwrap_or_else(|| (0.0, group.container.get("resources.limits").key(EFA)))
}

fn efa_more(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let Some((name, has)) = instance(group).and_then(|name| Some((name, facts::efa_devices(name)?))) else {
        return;
    };
    let (asked, at) = efa(group);
    if asked > has as f64 {
        say.at(&at, format!("{} asks for {asked} EFA devices: `{name}` has {has}", group.shown()));
    }
}

fn efa_fewer(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let Some((name, has)) = instance(group).and_then(|name| Some((name, facts::efa_devices(name)?))) else {
        return;
    };
    let (asked, at) = efa(group);
    if asked > 0.0 && asked < has as f64 {
        say.at(&at, format!("{} asks for {asked} EFA devices: `{name}` has {has}", group.shown()));
    }
}

fn efa_missing(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let Some((name, has)) = instance(group).and_then(|name| Some((name, facts::efa_devices(name)?))) else {
        return;
    };
    let (asked, at) = efa(group);
    let several = ray.workers().filter(|group| group.gpus > 0.0).map(Group::pods).sum::<i64>() > 1;
    if ray.trains() && several && group.gpus > 0.0 && has > 0 && asked <= 0.0 {
        say.at(&at, format!("{} asks for no EFA devices: `{name}` has {has}", group.shown()));
    }
}

fn gpu_more(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let Some((name, has)) = instance(group).and_then(|name| Some((name, facts::gpus(name)?))) else { return };
    if group.gpus > has as f64 {
        let at = group.container.get("resources.limits");
        say.at(&at, format!("{} asks for {} GPUs: `{name}` has {has}", group.shown(), group.gpus));
    }
}

fn gpu_fewer(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let Some((name, has)) = instance(group).and_then(|name| Some((name, facts::gpus(name)?))) else { return };
    if ray.trains() && group.gpus > 0.0 && group.gpus < has as f64 {
        let at = group.container.get("resources.limits");
        say.at(&at, format!("{} asks for {} of the {has} GPUs of `{name}`", group.shown(), group.gpus));
    }
}

fn hugepages(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let (asked, at) = efa(group);
    let pages = group.resource("hugepages-2Mi").is_some() || group.resource("hugepages-1Gi").is_some();
    let off = group.env("FI_EFA_USE_HUGE_PAGE").is_some_and(|entry| entry.key("value").str() == "0");
    if asked > 0.0 && !pages && !off {
        say.at(&at, format!("{} has EFA devices and no huge pages", group.shown()));
    }
}

fn shm(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let mounts = group.container.key("volumeMounts").items();
    let Some(mount) =
        mounts.into_iter().find(|mount| mount.key("mountPath").str().trim_end_matches('/') == "/dev/shm")
    else {
        return;
    };
    let name = mount.key("name").str();
    let volumes = group.pod.key("volumes").items();
    let Some(volume) = volumes.into_iter().find(|volume| volume.key("name").str() == name) else { return };
    let (empty, host) = (volume.key("emptyDir"), volume.key("hostPath"));
    let limit = facts::quantity(empty.key("sizeLimit").str());
    if host.exists() {
        say.at(&host, format!("{} shares /dev/shm with all pods of its node", group.shown()));
    } else if empty.key("medium").str() != "Memory" {
        say.at(&volume, format!("{} has /dev/shm on disk", group.shown()));
    } else if let Some(limit) = limit.filter(|limit| *limit < SHM_MIN_BYTES) {
        let mib = limit / 1_048_576.0;
        say.at(&empty.key("sizeLimit"), format!("{} has {mib} MiB of shared memory", group.shown()));
    }
}

fn stale(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    for name in ["NCCL_PROTO", "RDMAV_FORK_SAFE", "FI_PROVIDER"] {
        if let Some(entry) = group.env(name) {
            say.at(&entry, format!("{} sets `{name}`", group.shown()));
        }
    }
}

fn public_ip(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let (at, interfaces) =
        (object.at.get("spec.associatePublicIPAddress"), object.at.get("spec.networkInterfaces"));
    if at.is_true() && interfaces.items().len() > 1 {
        say.at(&at, format!("{} interfaces cannot have a public address", interfaces.items().len()));
    }
}

fn interfaces(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = object.at.get("spec.networkInterfaces");
    let items = at.items();
    let slot = |item: &At<'_>| (item.key("networkCardIndex").int(), item.key("deviceIndex").int());
    let primary =
        |item: &At<'_>| slot(item) == (Some(0), Some(0)) && item.key("interfaceType").str() == "interface";
    if !items.is_empty() && !items.iter().any(primary) {
        say.at(&at, "card 0, device 0 is no `interface`");
    }
    for (index, item) in items.iter().enumerate() {
        if items[..index].iter().any(|before| slot(before) == slot(item)) {
            say.at(item, "this card and device are taken already");
        }
    }
}

/// Whether an interface of a class carries EFA.
fn has_efa(class: &Object<'_>) -> bool {
    let interfaces = class.at.get("spec.networkInterfaces").items();
    interfaces.iter().any(|item| item.key("interfaceType").str() == "efa-only")
}

fn security_groups(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    for class in scene.of_kind("EC2NodeClass").filter(|class| has_efa(class)) {
        let terms = class.at.get("spec.securityGroupSelectorTerms");
        if terms.items().is_empty() {
            say.in_file(
                class.file,
                &terms,
                format!("`{}` has EFA interfaces and selects no security group", class.name),
            );
        }
    }
    // Rules stand in manifests only where a controller makes the groups; elsewhere a cluster must be asked.
    let groups: Vec<&Object<'_>> = scene.of_kind("SecurityGroup").collect();
    if groups.is_empty()
        || !scene.of_kind("EC2NodeClass").any(has_efa)
        || groups.iter().any(|group| reaches_itself(group))
    {
        return;
    }
    say.in_file(
        groups[0].file,
        &groups[0].at.key("spec"),
        format!("`{}` does not let all traffic reach itself", groups[0].name),
    );
}

fn reaches_itself(group: &Object<'_>) -> bool {
    ["ingressRules", "egressRules"].iter().all(|side| {
        group.at.key("spec").key(side).items().iter().any(|rule| {
            let pairs = rule.key("userIDGroupPairs").items();
            let itself = |pair: &At<'_>| {
                let reference = pair.get("groupRef.from.name").text();
                reference.is_none_or(|name| name == group.name)
            };
            rule.key("ipProtocol").str() == "-1" && pairs.iter().any(itself)
        })
    })
}
