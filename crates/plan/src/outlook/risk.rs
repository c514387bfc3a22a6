//! What may go wrong with the shape of a run, in plain words.

use eagleray_spec::types::Capacity;
use serde::Serialize;

use super::cluster::Fleet;
use super::{Draft, Question};

/// Above so many nodes nobody has measured a head.
const NODES_MEASURED: u32 = 2_000;

/// What may go wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Risk {
    /// Its name, which does not change.
    pub id: &'static str,
    /// What.
    pub message: String,
    /// What helps.
    pub remedy: String,
}

/// Risks of the groups; those of a number stand where the number is computed.
pub(super) fn tell(question: &Question<'_>, fleet: &Fleet, draft: &mut Draft) {
    if fleet.groups.is_empty() {
        return;
    }
    spot(question, fleet, draft);
    idle(question, fleet, draft);
    let zones: Vec<Option<&str>> = fleet.groups.iter().map(|nodes| nodes.group.zone.as_deref()).collect();
    let apart = zones.iter().any(|zone| zone.is_none() || *zone != zones[0]);
    if apart && fleet.nodes_max() > 1 && fleet.groups.iter().any(|nodes| nodes.instance.efa > 0) {
        let message =
            "the groups may lie in several zones, between which there is no EFA and traffic is billed";
        draft.risk("several-zones", message.into(), "give all groups the same `zone`");
    }
    if fleet.nodes_max() > NODES_MEASURED {
        let message = format!(
            "{} nodes: no head of that size has been measured, nor is there a larger one here",
            fleet.nodes_max()
        );
        draft.risk(
            "head-too-small",
            message,
            "try it with half the nodes first, and watch the head's CPUs and memory",
        );
    }
    if fleet.build_nodes == 0 && super::needs_build(question.resolved) {
        let message = "the data is not built, and `cluster.eks.cpu` names no nodes for it: accelerators would wait while text is tokenised";
        draft.risk(
            "unbuilt-data",
            message.into(),
            "add `cpu: {instance: m7i.8xlarge, nodes: 4}`, or build it before",
        );
    }
}

fn spot(question: &Question<'_>, fleet: &Fleet, draft: &mut Draft) {
    let most = &fleet.ends[fleet.ends.len() - 1];
    let spot = fleet.bought(most, Capacity::Spot);
    if spot == 0 {
        return;
    }
    let fixed = fleet.groups.iter().all(|nodes| nodes.group.nodes.min == nodes.group.nodes.max);
    let steady: u32 = fleet
        .groups
        .iter()
        .filter(|nodes| nodes.group.capacity != Capacity::Spot)
        .map(|nodes| nodes.group.nodes.min * nodes.instance.gpus)
        .sum();
    let wanted = question.resolved.spec.cluster.workers.min;
    if fixed {
        let message = format!(
            "a gang with {spot} spot nodes: each that is taken stops all of them until another comes"
        );
        draft.risk(
            "spot-in-a-gang",
            message,
            "give the spot groups a range, `nodes: {min: 0, max: …}`, and `cluster.workers` one too",
        );
    }
    if steady == 0 {
        let message = "all nodes are spot capacity: a burst of notices can leave none, and nothing says when the next come";
        draft.risk("spot-without-floor", message.into(), "add a group on demand that the run can go on with, and set `cluster.workers.min` to its accelerators");
    } else if wanted > steady {
        let message = format!(
            "the run goes on with {wanted} workers at least, {steady} of its accelerators cannot be taken away: it stops below"
        );
        draft.risk("spot-below-the-floor", message, "lower `cluster.workers.min` to what is not spot");
    }
}

fn idle(question: &Question<'_>, fleet: &Fleet, draft: &mut Draft) {
    let most = &fleet.ends[fleet.ends.len() - 1];
    let (held, workers) = (fleet.accelerators(most), question.resolved.spec.cluster.workers);
    if workers.max < held {
        let message =
            format!("{} of {held} accelerators are paid for and no worker uses them", held - workers.max);
        draft.risk("idle-accelerators", message, "raise `cluster.workers`, or take fewer nodes");
    }
    if workers.max > held {
        let message =
            format!("`cluster.workers` wants {} accelerators, the groups hold {held} at most", workers.max);
        draft.risk(
            "too-few-accelerators",
            message,
            "add nodes to a group: `render` refuses the spec like this",
        );
    }
}
