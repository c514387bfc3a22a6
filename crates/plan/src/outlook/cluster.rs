//! Nodes, the head, the memory of a device, and what an hour costs.

use eagleray_base::{Error, Result};
use eagleray_spec::types::{Capacity, Eks, Group};
use eagleray_spec::{Resolved, resolved};
use serde::Deserialize as _;

use super::figure::Unit;
use super::{Draft, Question, show, source};
use crate::accelerator::{self, Accelerator};
use crate::band::Band;
use crate::head::Head;
use crate::instance::Instance;
use crate::prices::{OLD_DAYS, Origin, Price};
use crate::setting::Setting;
use crate::situation::Situation;

/// A group of nodes to train on.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    pub(super) group: Group,
    pub(super) instance: Instance,
}

/// The fewest a run goes on with, or the most it takes.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) workers: u32,
    /// The nodes of each group.
    pub(super) nodes: Vec<u32>,
}

/// What a run stands on.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    /// `None` on machines that the spec says nothing of.
    pub(super) eks: Option<Eks>,
    pub(super) groups: Vec<Nodes>,
    /// Both ends; one where nothing moves.
    pub(super) ends: Vec<End>,
    /// The slowest accelerator, which all others wait for.
    pub(super) slowest: Option<Accelerator>,
    pub(super) build_nodes: u32,
}

/// Whether some text of the run is made into tokens first.
pub fn needs_build(resolved: &Resolved) -> bool {
    let Some(data) = &resolved.spec.data else { return false };
    data.sources.values().chain(data.validation.values()).any(|text| text["kind"] != "tokens")
}

impl Fleet {
    pub(super) fn of(question: &Question<'_>) -> Result<Self> {
        let cluster = &question.resolved.spec.cluster;
        let eks = cluster
            .eks
            .as_ref()
            .map(Eks::deserialize)
            .transpose()
            .map_err(|error| Error::internal(format!("`cluster.eks` cannot be read: {error}")))?;
        let mut groups = Vec::new();
        for group in eks.iter().flat_map(|eks| &eks.groups).filter(|group| group.nodes.max > 0) {
            let place = format!("`cluster.eks.groups` `{}`", group.name);
            let instance = Instance::accelerated(&group.instance).map_err(|error| error.at(place))?;
            groups.push(Nodes { group: group.clone(), instance });
        }
        if let (Some(asked), Some(nodes)) = (question.accelerator, groups.first()) {
            let message = format!(
                "{} is asked about, and the run's nodes are `{}`, which its prices are of",
                asked.name, nodes.instance.name
            );
            return Err(Error::invalid(message)
                .with_hint("change `cluster.eks.groups`; an accelerator is asked about where a run names no instances, or with `--memory`"));
        }
        let workers = cluster.workers;
        let nodes = |count: fn(&Nodes) -> u32| groups.iter().map(count).collect();
        let fewest = End { workers: workers.min, nodes: nodes(|nodes| nodes.group.nodes.min) };
        let most = End { workers: workers.max, nodes: nodes(|nodes| nodes.group.nodes.max) };
        let moves = fewest.workers != most.workers || fewest.nodes != most.nodes;
        let kinds = groups.iter().filter_map(|nodes| accelerator::instance(&nodes.group.instance));
        let slowest = kinds
            .map(|node| node.accelerator)
            .min_by(|one, other| one.peak_bf16_flops().total_cmp(&other.peak_bf16_flops()));
        let builds = needs_build(question.resolved);
        let cpu = eks.as_ref().and_then(|eks| eks.cpu.as_ref()).filter(|_| builds);
        Ok(Self {
            ends: if moves { vec![fewest, most] } else { vec![most] },
            slowest: question.accelerator.or(slowest),
            build_nodes: cpu.map_or(0, |cpu| cpu.nodes.max),
            groups,
            eks,
        })
    }

    /// Nodes of all groups at an end; a machine that the spec says nothing of is one.
    pub(super) fn nodes(&self, end: &End) -> u32 {
        if self.groups.is_empty() { 1 } else { end.nodes.iter().sum() }
    }

    /// Nodes at an end that were bought as `capacity`.
    pub(super) fn bought(&self, end: &End, capacity: Capacity) -> u32 {
        let pairs = self.groups.iter().zip(&end.nodes);
        pairs.filter(|(nodes, _)| nodes.group.capacity == capacity).map(|(_, count)| count).sum()
    }

    /// Accelerators at an end.
    pub(super) fn accelerators(&self, end: &End) -> u32 {
        self.groups.iter().zip(&end.nodes).map(|(nodes, count)| nodes.instance.gpus * count).sum()
    }

    /// A number at both ends.
    pub(super) fn band(&self, number: impl Fn(&End) -> f64) -> Band {
        let numbers = self.ends.iter().map(|end| Band::exactly(number(end)));
        numbers.reduce(Band::join).unwrap_or(Band::ZERO)
    }

    /// The most nodes that the head holds together.
    pub(super) fn nodes_max(&self) -> u32 {
        self.ends.iter().map(|end| self.nodes(end)).max().unwrap_or(0).max(self.build_nodes)
    }
}

/// Nodes, accelerators, the head.
pub(super) fn nodes(fleet: &Fleet, draft: &mut Draft) {
    draft.section("cluster");
    let spec = || source::SPEC.to_owned();
    let workers = fleet.band(|end| f64::from(end.workers));
    draft.add("workers", "workers", Unit::Count, workers, ["cluster.workers".into(), spec()]);
    if fleet.eks.is_none() {
        return;
    }
    for (index, Nodes { group, instance }) in fleet.groups.iter().enumerate() {
        let count = fleet.band(|end| f64::from(end.nodes[index]));
        let capacity = word(group.capacity);
        let label = format!("nodes of {}: {} {capacity}", group.name, instance.name);
        let formula = format!("cluster.eks.groups, `{}`", group.name);
        draft.add("group_nodes", label, Unit::Count, count, [formula, spec()]);
    }
    let all = fleet.band(|end| f64::from(fleet.nodes(end)));
    draft.add("nodes", "nodes to train on", Unit::Count, all, ["sum of all groups".into(), spec()]);
    let accelerators = fleet.band(|end| f64::from(fleet.accelerators(end)));
    let kind = fleet.slowest.map_or("accelerators", |kind| kind.name);
    let how = ["sum of nodes × accelerators of the instance".into(), "EC2's instance types".into()];
    draft.add("accelerators", format!("accelerators, {kind}"), Unit::Count, accelerators, how);
    let most = fleet.nodes_max();
    let head = Head::of(most);
    let instance = head.instances[0];
    let rule =
        || [head.rule(most), "Ray's floor for heads; from 100 nodes on what others run (docs/eks.md)".into()];
    let cpus = Band::exactly(head.cpus.into());
    draft.add("head_cpus", format!("CPUs of the head, on {instance}"), Unit::Count, cpus, rule());
    let memory = Band::exactly(f64::from(head.memory_gib) * (1_u64 << 30) as f64);
    draft.add("head_memory", "memory of the head", Unit::Memory, memory, rule());
    if fleet.build_nodes > 0 {
        let how = ["cluster.eks.cpu.nodes, for a build launch of its own before".into(), spec()];
        let count = Band::exactly(fleet.build_nodes.into());
        draft.add("build_nodes", "nodes of the build", Unit::Count, count, how);
    }
}

fn word(capacity: Capacity) -> &'static str {
    match capacity {
        Capacity::OnDemand => "on demand",
        Capacity::Spot => "spot",
        Capacity::Reserved => "reserved",
    }
}

/// Whether a device holds the model.
pub(super) fn memory(question: &Question<'_>, draft: &mut Draft) {
    draft.section("memory of a device");
    let situation = match Situation::of(question.resolved) {
        Ok(situation) => situation,
        Err(error) => return draft.unknown("memory of a device", error.message()),
    };
    let Situation { shape, setting, workers, node } = situation;
    let mut needed: Option<Band> = None;
    for world in [workers.min, workers.max] {
        match crate::memory::memory(&shape, &Setting { world, ..setting }) {
            Ok(memory) => {
                let bytes = Band::exactly(memory.peak.bytes as f64);
                needed = Some(needed.map_or(bytes, |band| band.join(bytes)));
            }
            Err(error) => return draft.unknown("memory of a device", error.message()),
        }
    }
    let needed = needed.unwrap_or(Band::ZERO);
    let strategy = setting.layout.show();
    let formula = "parameters + gradients + optimizer + gathered + reduced + activations + logits + working, at the fullest moment (`--memory` has each)";
    let how = [formula.to_owned(), "docs/memory.md".to_owned()];
    let label = format!("needed under {strategy}, recompute {}", setting.recompute.name());
    draft.add("memory_needed", label, Unit::Memory, needed, how);
    let Some(kind) = question.accelerator.or(node.map(|node| node.accelerator)) else {
        return draft
            .unknown("whether the model fits", "the spec names no accelerator: say `--accelerator H100`");
    };
    let usable = kind.usable_bytes() as f64;
    let all = show(Band::exactly(kind.memory_bytes as f64), Unit::Memory);
    let how = [format!("{all} × {}", accelerator::USABLE_SHARE), "docs/memory.md".into()];
    draft.add("memory_usable", format!("usable on {}", kind.name), Unit::Memory, Band::exactly(usable), how);
    let (need, usable_shown) =
        (show(Band::exactly(needed.high), Unit::Memory), show(Band::exactly(usable), Unit::Memory));
    let remedy =
        "more workers, `train.recompute`, a smaller `micro_batch`, or `strategy: auto` (docs/memory.md)";
    if needed.high > usable {
        let message = format!(
            "the model does not fit: a device needs {need}, usable on {} are {usable_shown}",
            kind.name
        );
        draft.risk("memory-too-small", message, remedy);
    } else if needed.high > kind.budget_bytes() as f64 {
        let message = format!(
            "memory is tight: a device needs {need} of {usable_shown} on {}, less than the model's own error apart",
            kind.name
        );
        draft.risk("memory-tight", message, remedy);
    }
}

/// What an hour costs at each end; `None` where a price is not known.
pub(super) fn prices(question: &Question<'_>, fleet: &Fleet, draft: &mut Draft) -> Option<Vec<Band>> {
    fleet.eks.as_ref()?;
    draft.section("price per hour");
    let mut origins: Vec<Origin> = Vec::new();
    let mut lacks: Vec<String> = Vec::new();
    let mut sums = vec![[Band::ZERO; 3]; fleet.ends.len()];
    for (index, Nodes { group, instance }) in fleet.groups.iter().enumerate() {
        let name = &instance.name;
        let on_demand = question.prices.on_demand(name).cloned();
        let spot = question.prices.spot(name);
        let paid = if group.capacity == Capacity::Spot { &spot } else { &on_demand };
        if paid.is_none() {
            lacks.push(format!("`{name}` {}", word(group.capacity)));
        }
        for (kind, price) in [("on demand", &on_demand), ("spot", &spot)] {
            let Some(price) = price else { continue };
            let key = if kind == "spot" { "node_spot" } else { "node_on_demand" };
            draft.add(key, format!("{name} {kind}"), Unit::DollarsPerHour, price.dollars, told(price));
            if !origins.contains(&price.origin) {
                origins.push(price.origin.clone());
            }
        }
        for (end, sum) in fleet.ends.iter().zip(&mut sums) {
            let count = f64::from(end.nodes[index]);
            for (total, price) in sum.iter_mut().zip([paid, &on_demand, &spot]) {
                *total =
                    price.as_ref().map_or(Band::exactly(f64::NAN), |price| *total + price.dollars * count);
            }
        }
    }
    dedup(draft);
    let head = Head::of(fleet.nodes_max()).instances[0];
    if let Some(price) = question.prices.on_demand(head) {
        draft.add(
            "head_price",
            format!("head, {head} on demand"),
            Unit::DollarsPerHour,
            price.dollars,
            told(price),
        );
        for total in sums.iter_mut().flatten() {
            *total = *total + price.dollars;
        }
    } else {
        lacks.push(format!("`{head}` on demand"));
    }
    old(question, &origins, draft);
    regions(fleet, &origins, draft);
    let totals = [
        ("hour", "the cluster as it is bought"),
        ("hour_on_demand", "the same all on demand"),
        ("hour_spot", "the same all spot, head on demand"),
    ];
    for (index, (key, label)) in totals.into_iter().enumerate() {
        let value = sums.iter().map(|sum| sum[index]).reduce(Band::join).unwrap_or(Band::ZERO);
        if !value.high.is_nan() && lacks.is_empty() {
            let how = ["sum of nodes × price + head".to_owned(), "the rows above".to_owned()];
            draft.add(key, label, Unit::DollarsPerHour, value, how);
        }
    }
    build_price(question, fleet, draft);
    if lacks.is_empty() {
        return Some(sums.into_iter().map(|sum| sum[0]).collect());
    }
    let why = format!("no table has a price of {}: give one with `--prices FILE`", lacks.join(", "));
    draft.unknown("price", why);
    None
}

/// The launch that builds the data, which is over before training starts.
fn build_price(question: &Question<'_>, fleet: &Fleet, draft: &mut Draft) {
    let cpu = fleet.eks.as_ref().and_then(|eks| eks.cpu.as_ref()).filter(|_| fleet.build_nodes > 0);
    let Some(price) = cpu.and_then(|cpu| question.prices.on_demand(&cpu.instance)) else { return };
    let value = price.dollars * f64::from(fleet.build_nodes);
    let [_, source] = told(price);
    let formula = format!("{} × {}", fleet.build_nodes, show(price.dollars, Unit::DollarsPerHour));
    draft.add(
        "hour_build",
        "the build launch, before training",
        Unit::DollarsPerHour,
        value,
        [formula, source],
    );
}

fn told(price: &Price) -> [String; 2] {
    let formula =
        if price.derived { "price on demand × spot_share of the table" } else { "row of the table" };
    [formula.to_owned(), price.origin.to_string()]
}

/// Two groups of one instance share a row.
fn dedup(draft: &mut Draft) {
    let Some(section) = draft.sections.last_mut() else { return };
    let mut seen: Vec<String> = Vec::new();
    section.figures.retain(|figure| {
        let new = !seen.contains(&figure.label);
        seen.push(figure.label.clone());
        new
    });
}

fn old(question: &Question<'_>, origins: &[Origin], draft: &mut Draft) {
    for origin in origins {
        let days = question.as_of.days_since(origin.date);
        if days > OLD_DAYS {
            let message = format!("prices of {} ({}) are {days} days old", origin.date, origin.source);
            draft.risk(
                "prices-old",
                message,
                "lay newer ones over them: `--show-prices` prints the form, `--prices FILE` reads it",
            );
        }
    }
}

/// `us-east-2a` lies in `us-east-2`.
fn regions(fleet: &Fleet, origins: &[Origin], draft: &mut Draft) {
    let mut wanted: Vec<&str> = Vec::new();
    for zone in fleet.groups.iter().filter_map(|nodes| nodes.group.zone.as_deref()) {
        let region = zone.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
        if !wanted.contains(&region) {
            wanted.push(region);
        }
    }
    for region in wanted {
        let strange: Vec<&str> = origins
            .iter()
            .map(|origin| origin.region.as_str())
            .filter(|known| !known.split(", ").any(|one| one == region))
            .collect();
        if !strange.is_empty() {
            let message = format!("the run stands in {region}; prices are those of {}", strange.join("; "));
            draft.risk("prices-elsewhere", message, "give the region's own prices with `--prices FILE`");
        }
    }
}

/// The samples of a step times their tokens, where the spec says both.
pub(super) fn tokens_of_step(spec: &resolved::Spec) -> Option<f64> {
    let data = spec.data.as_ref()?;
    Some(f64::from(spec.train.global_batch?) * f64::from(data.sequence_length))
}
