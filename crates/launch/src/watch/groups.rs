//! The pods of a launch, counted by group.

use std::collections::BTreeMap;

use serde::Serialize;

use super::pods::PodState;
use super::situation::{HEAD, Situation};

/// A group of pods, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Pods that it wants.
    pub wanted: u32,
    /// Those that are ready.
    pub ready: u32,
    /// Those with a machine that are not.
    pub starting: u32,
    /// Those without a machine.
    pub pending: u32,
    /// Those on their way out.
    pub terminating: u32,
}

/// The groups of a launch: the head, then its workers by name.
pub fn groups(situation: &Situation) -> Vec<Group> {
    let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
    for (name, wanted) in wanted(situation) {
        groups.entry(name).or_default().wanted = *wanted;
    }
    for pod in &situation.pods {
        let group = groups.entry(&pod.group).or_default();
        match pod.state {
            _ if pod.gone_by.is_some() => group.terminating += 1,
            PodState::Ready => group.ready += 1,
            PodState::Unscheduled => group.pending += 1,
            PodState::Creating | PodState::Init | PodState::Started => group.starting += 1,
            PodState::Ended => {}
        }
    }
    let mut all: Vec<Group> =
        groups.into_iter().map(|(name, group)| Group { name: name.to_owned(), ..group }).collect();
    all.sort_by_key(|group| group.name != HEAD);
    all
}

fn wanted(situation: &Situation) -> impl Iterator<Item = (&str, &u32)> {
    let of_job = situation.job.as_ref().map(|job| &job.wanted);
    let wanted = situation.cluster.as_ref().map(|cluster| &cluster.wanted).or(of_job);
    wanted.into_iter().flatten().map(|(name, count)| (name.as_str(), count))
}
