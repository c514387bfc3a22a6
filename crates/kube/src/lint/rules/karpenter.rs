//! Karpenter: pools and classes of nodes.

use crate::lint::Rule;
use crate::lint::at::At;
use crate::lint::facts;
use crate::lint::report::Say;
use crate::lint::rule::Check;
use crate::lint::scene::{CAPACITY_TYPE, DO_NOT_DISRUPT, Group, INSTANCE_TYPE, Object, Ray, Scene, ZONE};

use super::job::active_deadline_s;

/// The longest that EKS Auto Mode lets a node live: 21 days, in seconds.
const AUTO_MODE_S: f64 = 21.0 * 86_400.0;
const ROOT_GIB_MIN: f64 = 200.0;
const GIB: f64 = 1_073_741_824.0;

pub(super) const RULES: &[Rule] = &[
    rule!("karpenter-api-old" Error "NodePool, EC2NodeClass, Provisioner": "an API of Karpenter that is gone",
        why "Karpenter 1.x serves `v1` alone", fix "write `karpenter.sh/v1` and `karpenter.k8s.aws/v1`, after Karpenter's guide to v1"; Check::Object(&["NodePool", "EC2NodeClass", "Provisioner"], old)),
    rule!("expire-after" Warning "NodePool": "nodes with accelerators expire",
        why "expiry ignores budgets and `do-not-disrupt`; left out, it is 720h, and a longer run loses its nodes one after the other",
        fix "set `expireAfter: Never` on pools of long runs"; Check::Object(&["NodePool"], expire)),
    rule!("auto-mode-expiry" Warning "NodePool": "EKS Auto Mode ends nodes after 21 days",
        why "no setting makes it longer: a longer run loses its nodes, whatever budgets say",
        fix "run longer trainings on pools of a Karpenter of your own, or give the job an `activeDeadlineSeconds` below 21 days"; Check::Object(&["NodePool"], auto_mode)),
    rule!("consolidation-underutilized" Warning "NodePool": "Karpenter repacks pods of a running job",
        why "WhenEmptyOrUnderutilized, which is what a missing policy means, evicts workers to save a node",
        fix "set `disruption: {consolidationPolicy: WhenEmpty, consolidateAfter: 10m}`"; Check::Object(&["NodePool"], consolidation)),
    rule!("drift-budget-missing" Warning "NodePool": "a new image or a changed pool replaces nodes of a running job",
        why "the budget is 10% of the nodes where none is given; drift then takes them one after the other",
        fix "add `budgets: [{nodes: \"0\", reasons: [Drifted, Underutilized]}]`"; Check::Object(&["NodePool"], budget)),
    rule!("pool-limits-missing" Warning "NodePool": "nothing caps what a pool may cost",
        why "a mistyped number of replicas buys that many nodes",
        fix "set `limits: {nvidia.com/gpu: N}`"; Check::Object(&["NodePool"], limits)),
    rule!("pool-mixes-capacity" Warning "NodePool": "one pool makes spot and other nodes",
        why "grace, taints and expiry that suit one do not suit the other, and heads cannot be kept off spot by its taint",
        fix "make one pool for spot, one for on-demand and reserved capacity"; Check::Object(&["NodePool"], mixes)),
    rule!("spot-pool-zones" Warning "NodePool": "a spot pool over several zones",
        why "a gang that is filled from two zones has no EFA between them",
        fix "require one `topology.kubernetes.io/zone`, and make one pool a zone"; Check::Object(&["NodePool"], zones)),
    rule!("pool-instances-open" Warning "NodePool": "a pool with accelerators leaves the instance type open",
        why "Karpenter takes the cheapest that fits: other counts of GPUs and of EFA devices from node to node",
        fix "require `node.kubernetes.io/instance-type` by name"; Check::Object(&["NodePool"], open)),
    rule!("pool-instances-differ" Warning "NodePool": "instance types that do not replace each other",
        why "pods are sized for one number of GPUs and EFA devices",
        fix "name only instance types with the same number of both"; Check::Object(&["NodePool"], differ)),
    rule!("pool-untainted" Warning "NodePool": "any pod may land on nodes with accelerators",
        why "one small pod keeps the node from being removed, or takes the memory that a worker needs",
        fix "taint the pool, such as with `nvidia.com/gpu: NoSchedule`, and tolerate that in the groups"; Check::Object(&["NodePool"], untainted)),
    rule!("termination-grace-below-drain" Error "NodePool, RayJob, RayCluster, RayService": "nodes end before Ray has drained",
        why "Karpenter deletes pods so that they end with the pool's `terminationGracePeriod`, whatever grace they ask for",
        fix "leave `terminationGracePeriod` out, or make it longer than RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, which is 30 where it is not set"; Check::Group(node_grace)),
    rule!("termination-grace-defeats-do-not-disrupt" Warning "NodePool, RayJob": "a pool that overrides `do-not-disrupt`",
        why "a `terminationGracePeriod` makes nodes with protected pods eligible for drift",
        fix "leave `terminationGracePeriod` out on pools of heads and on-demand workers"; Check::Group(defeats)),
    rule!("ami-floating" Warning "EC2NodeClass": "the image of nodes is not pinned",
        why "a new image drifts every node of the pool, and two nodes of a gang may run different drivers",
        fix "pin `amiSelectorTerms` by `id`, or by `alias` with a version"; Check::Object(&["EC2NodeClass"], ami)),
    rule!("role-and-profile" Error "EC2NodeClass": "not exactly one of role and instance profile",
        why "the API server refuses the class", fix "set one of `role` and `instanceProfile`"; Check::Object(&["EC2NodeClass"], role)),
    rule!("root-volume-small" Warning "EC2NodeClass": "the root disk is small for images with CUDA",
        why "images of 10 to 30 GiB, unpacked, fill the default of 20 GiB: pods are evicted for lack of disk",
        fix "set `blockDeviceMappings` with `ebs: {volumeType: gp3, volumeSize: 200Gi}` or more"; Check::Scene(root_volume)),
    rule!("instance-store-unused" Info "EC2NodeClass": "local disks of the instance are not used",
        why "instances with accelerators carry terabytes of NVMe, which Ray's spilling and local checkpoints could use",
        fix "set `instanceStorePolicy: RAID0`"; Check::Scene(instance_store)),
    rule!("imds-v1" Warning "EC2NodeClass": "instance metadata without a token",
        why "any request that a pod can be made to send reads the node's credentials",
        fix "set `metadataOptions.httpTokens: required`"; Check::Object(&["EC2NodeClass"], imds)),
    rule!("hop-limit" Error "EC2NodeClass, DaemonSet": "a reader of notices cannot reach them",
        why "with a hop limit of 1, which is the default, instance metadata answers no pod but those with `hostNetwork`",
        fix "run the reader with `hostNetwork: true`, or set `metadataOptions.httpPutResponseHopLimit: 2`"; Check::Scene(hops)),
    rule!("node-class-missing" Error "NodePool": "a pool names a class that is not here",
        why "the pool makes no nodes", fix "correct `nodeClassRef.name`, or add the class to these files"; Check::Scene(class_missing)),
];

fn old(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    if object.kind == "Provisioner" || !object.api_version.ends_with("/v1") {
        let kind = object.at.key("kind").str();
        say.at(
            &object.at.key("apiVersion"),
            format!("{kind} of `{}` is no longer served", object.api_version),
        );
    }
}

fn node_spec<'a>(object: &Object<'a>) -> At<'a> {
    object.at.get("spec.template.spec")
}

fn serves_ray(object: &Object<'_>, scene: &Scene<'_>) -> bool {
    let index =
        scene.pools.iter().position(|pool| pool.file == object.file && pool.at.place == object.at.place);
    let lands = |group: &Group<'_>| index.is_some_and(|index| group.pools.contains(&index));
    object.is_gpu_pool() || scene.rays.iter().any(|ray| ray.trains() && ray.groups.iter().any(lands))
}

fn is_auto_mode(object: &Object<'_>) -> bool {
    node_spec(object).get("nodeClassRef.group").str() == "eks.amazonaws.com"
}

fn expire(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = node_spec(object).key("expireAfter");
    if !is_auto_mode(object) && serves_ray(object, say.scene()) && at.str() != "Never" {
        let shown = at.text().unwrap_or("720h, the default");
        say.at(&at, format!("nodes of `{}` end after {shown}", object.name));
    }
}

fn auto_mode(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    if !is_auto_mode(object) || !serves_ray(object, scene) {
        return;
    }
    let deadlines: Vec<Option<i64>> =
        scene.rays.iter().filter(|ray| ray.trains()).map(|ray| active_deadline_s(&ray.object)).collect();
    let bounded = |deadline: &Option<i64>| deadline.is_some_and(|seconds| (seconds as f64) < AUTO_MODE_S);
    if deadlines.is_empty() || !deadlines.iter().all(bounded) {
        say.at(
            &node_spec(object).key("nodeClassRef"),
            format!("nodes of `{}` live at most 21 days", object.name),
        );
    }
}

fn consolidation(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = object.at.get("spec.disruption.consolidationPolicy");
    if serves_ray(object, say.scene()) && at.str() != "WhenEmpty" {
        say.at(&at, format!("nodes of `{}` are emptied when others have room", object.name));
    }
}

fn budget(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = object.at.get("spec.disruption.budgets");
    let closed = |reason: &str| {
        at.items().iter().any(|budget| {
            let reasons = budget.key("reasons").items();
            let covers = reasons.is_empty() || reasons.iter().any(|own| own.str() == reason);
            covers && matches!(budget.key("nodes").str(), "0" | "0%") && !budget.key("schedule").exists()
        })
    };
    let open: Vec<&str> = ["Drifted", "Underutilized"].into_iter().filter(|reason| !closed(reason)).collect();
    if serves_ray(object, say.scene()) && !open.is_empty() {
        say.at(&at, format!("`{}` replaces nodes that are {}", object.name, open.join(" or ")));
    }
}

fn limits(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = object.at.get("spec.limits");
    if object.is_gpu_pool() && at.entries().is_empty() && !object.at.get("spec.replicas").exists() {
        say.at(&at, format!("`{}` may grow without a limit", object.name));
    }
}

fn mixes(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let values = object.pool_values(CAPACITY_TYPE);
    if object.is_gpu_pool() && values.contains(&"spot") && values.len() > 1 {
        let at = object.requirement(CAPACITY_TYPE, "In").unwrap_or_else(|| node_spec(object));
        say.at(&at, format!("`{}` makes nodes of {}", object.name, values.join(", ")));
    }
}

fn zones(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let zones = object.pool_values(ZONE);
    if object.is_gpu_pool() && object.is_spot_pool() && zones.len() != 1 {
        let at = object.requirement(ZONE, "In").unwrap_or_else(|| node_spec(object).key("requirements"));
        let shown = if zones.is_empty() { "any zone".to_owned() } else { zones.join(", ") };
        say.at(&at, format!("`{}` makes nodes in {shown}", object.name));
    }
}

fn open(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    if object.is_gpu_pool() && object.pool_values(INSTANCE_TYPE).is_empty() {
        say.at(&node_spec(object).key("requirements"), format!("`{}` takes what is cheapest", object.name));
    }
}

fn differ(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let size = |name: &&str| Some((facts::gpus(name)?, facts::efa_devices(name)));
    let sizes: Vec<_> = object.pool_values(INSTANCE_TYPE).iter().filter_map(size).collect();
    if let Some(at) =
        object.requirement(INSTANCE_TYPE, "In").filter(|_| sizes.windows(2).any(|pair| pair[0] != pair[1]))
    {
        say.at(&at, format!("the instance types of `{}` differ in GPUs or EFA devices", object.name));
    }
}

fn untainted(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let taints = node_spec(object).key("taints");
    if object.is_gpu_pool() && taints.items().is_empty() {
        say.at(&taints, format!("`{}` takes every pod", object.name));
    }
}

fn node_grace(_: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    for pool in group.pools.iter().map(|index| &scene.pools[*index]) {
        let at = node_spec(pool).key("terminationGracePeriod");
        let drain = group.drain_s();
        if facts::seconds(at.str()).is_some_and(|seconds| seconds <= drain) {
            let message = format!(
                "`{}` ends nodes after {}, {} drains for {drain} s",
                pool.name,
                at.str(),
                group.shown()
            );
            say.in_file(pool.file, &at, message);
        }
    }
}

fn defeats(ray: &Ray<'_>, group: &Group<'_>, say: &mut Say<'_, '_, '_>) {
    let scene = say.scene();
    if !group.annotation(DO_NOT_DISRUPT).exists() || group.capacity == crate::lint::scene::Capacity::Spot {
        return;
    }
    for pool in group.pools.iter().map(|index| &scene.pools[*index]) {
        let at = node_spec(pool).key("terminationGracePeriod");
        if at.exists() {
            let message =
                format!("`{}` may drift under {} of `{}`", pool.name, group.shown(), ray.object.name);
            say.in_file(pool.file, &at, message);
        }
    }
}

fn ami(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let terms = object.at.get("spec.amiSelectorTerms");
    for term in terms.items() {
        let alias = term.key("alias");
        if alias.str().ends_with("@latest") {
            say.at(&alias, format!("`{}` changes when a new image comes out", alias.str()));
        } else if !alias.exists() && !term.key("id").exists() {
            say.at(&term, "every image that matches is taken, the newest first");
        }
    }
}

fn role(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let (role, profile) = (object.at.get("spec.role"), object.at.get("spec.instanceProfile"));
    match (role.exists(), profile.exists()) {
        (true, true) => say.at(&profile, "`role` is given as well"),
        (false, false) => say.at(&role, "neither `role` nor `instanceProfile` is given"),
        _ => {}
    }
}

/// The classes that pools with accelerators use.
fn gpu_classes<'s, 'a>(scene: &'s Scene<'a>) -> Vec<&'s Object<'a>> {
    let used: Vec<&str> = scene
        .pools
        .iter()
        .filter(|pool| pool.is_gpu_pool())
        .map(|pool| node_spec(pool).get("nodeClassRef.name").str())
        .collect();
    scene.of_kind("EC2NodeClass").filter(|class| used.contains(&class.name)).collect()
}

fn root_volume(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    for class in gpu_classes(scene) {
        let at = class.at.get("spec.blockDeviceMappings");
        let sizes =
            at.items().into_iter().filter_map(|item| facts::quantity(item.get("ebs.volumeSize").str()));
        let largest = sizes.fold(0.0, f64::max) / GIB;
        if largest < ROOT_GIB_MIN {
            let shown =
                if largest > 0.0 { format!("{largest} GiB") } else { "the default of 20 GiB".to_owned() };
            say.in_file(class.file, &at, format!("nodes of `{}` have {shown} of disk", class.name));
        }
    }
}

fn instance_store(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    for class in gpu_classes(scene) {
        let at = class.at.get("spec.instanceStorePolicy");
        if at.str() != "RAID0" {
            say.in_file(class.file, &at, format!("nodes of `{}` leave their local disks unused", class.name));
        }
    }
}

fn imds(object: &Object<'_>, say: &mut Say<'_, '_, '_>) {
    let at = object.at.get("spec.metadataOptions.httpTokens");
    if at.str() == "optional" {
        say.at(&at, "anybody who can send a request from a pod has the node's credentials");
    }
}

fn hops(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    let short = |class: &&Object<'_>| {
        class.at.get("spec.metadataOptions.httpPutResponseHopLimit").int().unwrap_or(1) < 2
    };
    let Some(class) = scene.of_kind("EC2NodeClass").find(short) else { return };
    for daemon in scene.of_kind("DaemonSet") {
        let pod = daemon.at.get("spec.template.spec");
        if pod.key("hostNetwork").is_true() {
            continue;
        }
        let mut reader: Option<At<'_>> = None;
        pod.key("containers").each_scalar(&mut |at, text| {
            let reads = ["169.254.169.254", "node-termination-handler", "eagleray node"];
            if reader.is_none() && reads.iter().any(|word| text.contains(word)) {
                reader = Some(at.clone());
            }
        });
        if let Some(at) = reader {
            let message =
                format!("`{}` cannot read instance metadata on nodes of `{}`", daemon.name, class.name);
            say.in_file(daemon.file, &at, message);
        }
    }
}

fn class_missing(scene: &Scene<'_>, say: &mut Say<'_, '_, '_>) {
    let classes: Vec<&str> = scene.of_kind("EC2NodeClass").map(|class| class.name).collect();
    for pool in scene.pools.iter().filter(|_| !classes.is_empty()) {
        let reference = node_spec(pool).key("nodeClassRef");
        let name = reference.key("name");
        let ours = reference.key("kind").str() == "EC2NodeClass";
        if ours && !classes.contains(&name.str()) {
            say.in_file(pool.file, &name, format!("no EC2NodeClass here is called `{}`", name.str()));
        }
    }
}
