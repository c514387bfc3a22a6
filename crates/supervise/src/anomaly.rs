//! Losses that jump, or are no numbers: seen before the update that they would lead to.

use std::collections::VecDeque;

use eagleray_base::{Error, Result};
use eagleray_spec::types::{Anomalies, LossSpike, Then};
use serde::{Deserialize, Serialize};

/// A spread below this share of the median is taken for it: a loss that stands still may still breathe.
const LEAST_SPREAD: f64 = 0.01;
/// The median of absolute differences of a normal distribution, in standard deviations.
const SIGMAS_OF_MEDIAN_DIFFERENCE: f64 = 1.4826;

/// What was seen at a step.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Anomaly {
    /// The step, from 1.
    pub step: u64,
    /// What is wrong with it.
    pub kind: Kind,
    /// What is to be done.
    pub reaction: Then,
    /// What was measured against what.
    pub reason: String,
}

/// What is wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The loss, or the norm of the gradient, is no number.
    NotFinite,
    /// The loss is far above those before it.
    LossSpike,
}

/// Looks at each step in turn.
#[derive(Clone, Debug)]
pub struct Watch {
    policy: Anomalies,
    memory: Memory,
}

/// What a checkpoint keeps of a watch.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// Losses of steps in health, the last `window` of them.
    losses: VecDeque<f64>,
    /// Steps that were anomalies, as far as `limit` looks back.
    anomalies: VecDeque<u64>,
}

impl Watch {
    /// A watch that has seen nothing.
    pub fn new(policy: Anomalies) -> Self {
        Self { policy, memory: Memory::default() }
    }

    /// A watch as a checkpoint left it.
    ///
    /// # Errors
    /// `Invalid` where `state` is not one.
    pub fn restored(policy: Anomalies, state: &str) -> Result<Self> {
        let memory = serde_json::from_str(state)
            .map_err(|error| Error::invalid(format!("not the state of a watch for anomalies: {error}")))?;
        Ok(Self { policy, memory })
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> String {
        serde_json::to_string(&self.memory).unwrap_or_default()
    }

    /// Remembers the anomalies of another watch: going back must not forget how often it was done.
    pub fn remember(&mut self, other: &Self) {
        self.memory.anomalies.clone_from(&other.memory.anomalies);
    }

    /// Looks at the step `step`: its loss (`None` where it is no number) and whether the gradient's norm is one.
    pub fn look(&mut self, step: u64, loss: Option<f64>, finite_gradient: bool) -> Option<Anomaly> {
        let seen = self.judge(loss, finite_gradient);
        let Some((kind, then, reason)) = seen else {
            if let Some(spike) = &self.policy.loss_spike {
                self.memory.losses.extend(loss);
                let surplus = self.memory.losses.len().saturating_sub(spike.window as usize);
                self.memory.losses.drain(..surplus);
            }
            return None;
        };
        self.recall(step);
        let limit = self.policy.limit;
        let many = self.memory.anomalies.len();
        if then != Then::Stop && many > limit.count as usize {
            let reason = format!("{reason}; {many} anomalies within {} steps", limit.steps);
            return Some(Anomaly { step, kind, reaction: Then::Stop, reason });
        }
        Some(Anomaly { step, kind, reaction: then, reason })
    }

    /// Takes in that `step` was decided to be an anomaly, by this watch or by one before it whose word stands.
    pub fn recall(&mut self, step: u64) {
        self.memory.anomalies.push_back(step);
        let steps = self.policy.limit.steps;
        while self.memory.anomalies.front().is_some_and(|first| first.saturating_add(steps) <= step) {
            self.memory.anomalies.pop_front();
        }
    }

    fn judge(&self, loss: Option<f64>, finite_gradient: bool) -> Option<(Kind, Then, String)> {
        let Some(loss) = loss.filter(|loss| loss.is_finite()) else {
            return Some((Kind::NotFinite, self.policy.not_finite, "the loss is not finite".into()));
        };
        if !finite_gradient {
            let reason = format!("the norm of the gradient is not finite, with a loss of {loss:.4}");
            return Some((Kind::NotFinite, self.policy.not_finite, reason));
        }
        let spike = self.policy.loss_spike.as_ref()?;
        let bound = self.bound(spike)?;
        (loss > bound).then(|| {
            let reason =
                format!("the loss is {loss:.4}, above {bound:.4}, by the {} steps before", spike.window);
            (Kind::LossSpike, spike.then, reason)
        })
    }

    /// The median of the window, and above it the spread that `sigmas` allow; `None` until the window is full.
    fn bound(&self, spike: &LossSpike) -> Option<f64> {
        if self.memory.losses.len() < spike.window as usize {
            return None;
        }
        let middle = median(self.memory.losses.iter().copied())?;
        let spread = median(self.memory.losses.iter().map(|loss| (loss - middle).abs()))?;
        let spread = (SIGMAS_OF_MEDIAN_DIFFERENCE * spread).max(LEAST_SPREAD * middle.abs());
        Some(middle + spike.sigmas * spread)
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use eagleray_spec::types::Limit;
    use proptest::prelude::*;

    use super::*;

    fn policy(then: Then) -> Anomalies {
        Anomalies {
            not_finite: then,
            loss_spike: Some(LossSpike { sigmas: 6.0, window: 8, then }),
            limit: Limit { count: 2, steps: 10 },
            ..Anomalies::default()
        }
    }

    fn calm(then: Then, steps: u64) -> Watch {
        let mut watch = Watch::new(policy(then));
        for step in 1..=steps {
            assert_eq!(watch.look(step, Some(3.0 + 0.05 * (step % 3) as f64), true), None);
        }
        watch
    }

    #[test]
    fn a_jump_is_seen_once_the_window_is_full_and_does_not_enter_it() {
        let mut watch = calm(Then::Skip, 7);
        assert_eq!(watch.look(8, Some(9.0), true), None, "the window has seven losses");
        let mut watch = calm(Then::Skip, 20);
        let before = watch.state();
        let seen = watch.look(21, Some(3.9), true).unwrap();
        assert_eq!((seen.kind, seen.reaction), (Kind::LossSpike, Then::Skip));
        assert_eq!(seen.reason, "the loss is 3.9000, above 3.4948, by the 8 steps before");
        assert_eq!(Watch::restored(policy(Then::Skip), &before).unwrap().memory.losses, watch.memory.losses);
        assert_eq!(watch.look(22, Some(3.1), true), None);
        assert_eq!(watch.look(23, Some(0.5), true), None, "down is no spike");
    }

    #[test]
    fn more_than_the_limit_stops_and_the_past_is_forgiven() {
        let mut watch = calm(Then::Rollback, 8);
        let reactions: Vec<Then> = [9, 12, 15]
            .into_iter()
            .filter_map(|step| watch.look(step, None, true))
            .map(|seen| seen.reaction)
            .collect();
        assert_eq!(reactions, [Then::Rollback, Then::Rollback, Then::Stop]);
        assert_eq!(watch.look(40, Some(3.0), false).unwrap().reaction, Then::Rollback);
    }

    #[test]
    fn what_was_decided_before_counts_for_the_limit_and_not_for_the_window() {
        let (mut judged, mut told) = (calm(Then::Skip, 20), calm(Then::Skip, 20));
        let seen = judged.look(21, Some(9.0), true).unwrap();
        told.recall(seen.step);
        assert_eq!(judged.state(), told.state());
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Anomaly>(&text).unwrap(), seen);
    }

    #[test]
    fn without_a_policy_only_what_is_no_number_stops() {
        let mut watch = Watch::new(Anomalies::default());
        for step in 1..300 {
            assert_eq!(watch.look(step, Some(if step % 50 == 0 { 900.0 } else { 3.0 }), true), None);
        }
        let seen = watch.look(300, Some(f64::NAN), true).unwrap();
        assert_eq!((seen.kind, seen.reaction), (Kind::NotFinite, Then::Stop));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        assert!(Watch::restored(Anomalies::default(), "{\"losses\": 3}").is_err());
    }

    proptest! {
        #[test]
        fn a_watch_that_was_saved_and_read_again_decides_the_same(
            losses in prop::collection::vec(prop::option::weighted(0.95, 0.1f64..20.0), 1..60), cut in 0usize..60,
        ) {
            let mut whole = Watch::new(policy(Then::Skip));
            let mut parts = whole.clone();
            for (index, loss) in losses.iter().enumerate() {
                if index == cut {
                    parts = Watch::restored(policy(Then::Skip), &parts.state()).unwrap();
                }
                let step = index as u64 + 1;
                prop_assert_eq!(whole.look(step, *loss, true), parts.look(step, *loss, true));
            }
        }
    }
}
