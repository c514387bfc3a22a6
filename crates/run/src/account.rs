//! What a run's ledger adds up to: the figures of `report.json`.

use std::collections::BTreeMap;

use eagleray_base::{Digest, Error, Result};
use eagleray_store::Store;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::claim::{self, Claim, End};
use crate::event::Event;
use crate::ledger::read_joined;
use crate::paths;
use crate::runs::{RunState, state_of};
use crate::timeline::{Seconds, Timeline};

/// Values by step, for plotting.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curve {
    /// Steps done.
    pub steps: Vec<u64>,
    /// The loss after them, nats per token.
    pub loss: Vec<f64>,
}

/// Everything that a report shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Account {
    /// The run's name.
    pub name: String,
    /// Where it lies.
    pub store: String,
    /// What has become of it.
    pub state: RunState,
    /// Steps done.
    pub steps: u64,
    /// Steps asked for.
    pub steps_planned: u64,
    /// Tokens of useful steps.
    pub tokens: u64,
    /// Those tokens over the time their steps took.
    pub tokens_per_second: f64,
    /// The first held-out dataset by name.
    pub validation: Curve,
    /// Each held-out dataset.
    pub validation_by_name: BTreeMap<String, Curve>,
    /// The training loss.
    pub train_loss: Curve,
    /// Tokens a second of each step of `train_loss`.
    pub step_tokens_per_second: Vec<f64>,
    /// When each step of `train_loss` ended, seconds since the epoch.
    pub step_ended: Vec<f64>,
    /// Shares of all rank-seconds from the first claim to the last event.
    pub shares: BTreeMap<&'static str, f64>,
    /// Shares of the time that steps took.
    pub step_shares: BTreeMap<&'static str, f64>,
    /// Useful seconds over all seconds.
    pub goodput: f64,
    /// When the run began and when the last event ended, seconds since the epoch.
    pub began: f64,
    /// See `began`.
    pub ended: f64,
    /// Rank-seconds by cause in stretches of equal length.
    pub bands: Vec<Seconds>,
    /// The drivers' lives.
    pub attempts: Vec<Value>,
    /// Worker groups.
    pub generations: Vec<Value>,
    /// Commits.
    pub checkpoints: Vec<Value>,
    /// What went wrong.
    pub failures: Vec<Value>,
    /// Steps whose loss jumped, or was no number, and what was done.
    pub anomalies: Vec<Value>,
    /// What the steps were checked by.
    pub digests: Value,
    /// Versions and hosts of the newest attempt.
    pub environment: Map<String, Value>,
    /// The hash of the resolved spec.
    pub spec_hash: Option<String>,
}

/// The account of a run on its store.
///
/// # Errors
/// As the store; `Corrupt` naming what cannot be read.
pub fn of_store(store: &Store) -> Result<Account> {
    let claims = claim::all(store)?;
    let ends = claims.iter().map(|claim| claim::end_of(store, claim.attempt)).collect::<Result<Vec<_>>>()?;
    let resolved = resolved(store)?;
    let mut account = of_events(&read_joined(store, &claims)?, &claims, &ends, &resolved);
    store.url().clone_into(&mut account.store);
    account.state = state_of(store, claims.last(), ends.last().and_then(Option::as_ref))?;
    if let Some(row) = account.attempts.last_mut().filter(|_| account.state == RunState::Running) {
        row["outcome"] = Value::from(account.state.name());
    }
    account.name = name_of(store, &resolved);
    Ok(account)
}

/// The resolved spec of a run, or null where there is none.
///
/// # Errors
/// As the store; `Corrupt` where it is not JSON.
pub(crate) fn resolved(store: &Store) -> Result<Value> {
    if store.head(paths::RESOLVED)?.is_none() {
        return Ok(Value::Null);
    }
    let damaged = |error| Error::corrupt(format!("`{}` is not JSON: {error}", store.url_of(paths::RESOLVED)));
    serde_json::from_slice(&store.get(paths::RESOLVED)?).map_err(damaged)
}

/// The run's name, else that of its folder.
pub(crate) fn name_of(store: &Store, resolved: &Value) -> String {
    let folder = || store.url().rsplit('/').next().unwrap_or_default();
    resolved["spec"]["name"].as_str().unwrap_or_else(folder).to_owned()
}

/// The account of events, claims and ends. Pure; `name`, `state` and `store` are the caller's to fill in.
pub fn of_events(events: &[Event], claims: &[Claim], ends: &[Option<End>], resolved: &Value) -> Account {
    let claimed: Vec<(u32, f64)> =
        claims.iter().map(|claim| (claim.attempt, claim.claimed_us as f64 / 1e6)).collect();
    let timeline = Timeline::of(events, &claimed);
    let History { steps, validations } = History::of(events, claims);
    let mut account = Account {
        steps_planned: resolved["spec"]["train"]["steps"].as_u64().unwrap_or(0),
        spec_hash: resolved["spec_hash"].as_str().map(str::to_owned),
        shares: timeline.shares(),
        step_shares: step_shares(events),
        began: timeline.start,
        ended: timeline.end,
        digests: digests(&steps),
        checkpoints: events_of(events, "checkpoint"),
        failures: events_of(events, "failure"),
        anomalies: anomalies(events),
        generations: events_of(events, "generation"),
        environment: environment(events, claims),
        ..Account::default()
    };
    account.goodput = account.shares.get("compute").copied().unwrap_or(0.0);
    account.bands = timeline.bands;
    add_steps(&mut account, &steps);
    account.steps = account.steps.max(claims.last().map_or(0, resumed_step));
    add_validation(&mut account, &validations, resolved);
    account.attempts =
        claims.iter().zip(ends).map(|(claim, end)| attempt_row(claim, end.as_ref(), events)).collect();
    account
}

/// What counts of a run: work that was lost and done again counts once, and work that was lost and has not
/// been done again yet does not count.
#[derive(Default)]
struct History<'a> {
    /// What rank 0 said of each step.
    steps: BTreeMap<u64, &'a Event>,
    /// The last measurement of each held-out dataset at each step.
    validations: BTreeMap<u64, BTreeMap<&'a str, f64>>,
}

impl<'a> History<'a> {
    fn of(events: &'a [Event], claims: &[Claim]) -> Self {
        let mut history = Self::default();
        let mut claims = claims.iter().peekable();
        let mut generation = None;
        for event in events {
            while let Some(claim) = claims.next_if(|claim| claim.attempt <= event.attempt) {
                history.forget_after(resumed_step(claim));
            }
            let Some(step) = event.step else { continue };
            if event.kind == "step" && event.rank.unwrap_or(0) == 0 {
                let own = Some((event.attempt, event.generation));
                if generation != own {
                    generation = own;
                    history.forget_after(step.saturating_sub(1));
                }
                history.steps.insert(step, event);
            } else if let ("validation", Some(loss)) = (event.kind.as_str(), event.number("loss")) {
                let name = event.text("name").unwrap_or("validation");
                history.validations.entry(step).or_default().insert(name, loss);
            }
        }
        for claim in claims {
            history.forget_after(resumed_step(claim));
        }
        history
    }

    fn forget_after(&mut self, step: u64) {
        self.steps.split_off(&(step + 1));
        self.validations.split_off(&(step + 1));
    }
}

/// The steps done when an attempt began, out of the name of the folder that it resumed from.
pub(crate) fn resumed_step(claim: &Claim) -> u64 {
    let folder = claim.resumed_from.as_deref().unwrap_or_default();
    let step = folder.split('/').find_map(|part| part.strip_prefix("step-"));
    step.and_then(|step| step.parse().ok()).unwrap_or(0)
}

fn add_steps(account: &mut Account, steps: &BTreeMap<u64, &Event>) {
    let mut seconds = 0.0;
    for (&step, event) in steps {
        account.steps = account.steps.max(step);
        let (Some(loss), Some(start), Some(end)) = (event.number("loss"), event.start, event.end) else {
            continue;
        };
        let tokens = event.number("tokens").unwrap_or(0.0);
        account.train_loss.steps.push(step);
        account.train_loss.loss.push(loss);
        account.step_tokens_per_second.push(if end > start { tokens / (end - start) } else { 0.0 });
        account.step_ended.push(end);
        account.tokens += tokens as u64;
        seconds += end - start;
        let planned = event.number("total_steps").unwrap_or(0.0) as u64;
        account.steps_planned = account.steps_planned.max(planned);
    }
    if seconds > 0.0 {
        account.tokens_per_second = account.tokens as f64 / seconds;
    }
}

/// The curves by name; the first of the spec comes first.
fn add_validation(account: &mut Account, validations: &BTreeMap<u64, BTreeMap<&str, f64>>, resolved: &Value) {
    for (&step, losses) in validations {
        for (&name, &loss) in losses {
            let curve = account.validation_by_name.entry(name.to_owned()).or_default();
            curve.steps.push(step);
            curve.loss.push(loss);
        }
    }
    let named = resolved["spec"]["data"]["validation"].as_object();
    let first = named.and_then(|named| named.keys().find_map(|name| account.validation_by_name.get(name)));
    let first = first.or_else(|| account.validation_by_name.values().next());
    account.validation = first.cloned().unwrap_or_default();
}

/// Shares of the time that steps took, over all ranks and all attempts.
fn step_shares(events: &[Event]) -> BTreeMap<&'static str, f64> {
    let mut seconds = Seconds::new();
    let mut total = 0.0;
    for event in events.iter().filter(|event| event.kind == "step") {
        let Some((start, end, parts)) = event.seconds() else { continue };
        total += end - start;
        for (cause, value) in parts {
            *seconds.entry(cause).or_insert(0.0) += value;
        }
    }
    let named: f64 = seconds.values().sum();
    seconds.insert(crate::event::UNATTRIBUTED, (total - named).max(0.0));
    for value in seconds.values_mut() {
        *value = if total > 0.0 { *value / total } else { 0.0 };
    }
    seconds
}

fn digests(steps: &BTreeMap<u64, &Event>) -> Value {
    let digest = |event: &Event, name: &str| event.text(name).unwrap_or_default().to_owned();
    let sequence = |name: &str| {
        let lines: Vec<String> =
            steps.iter().map(|(step, event)| format!("{step} {}", digest(event, name))).collect();
        let text = lines.join("\n");
        Digest::of(text.as_bytes()).to_string()
    };
    let at = |entry: Option<(&u64, &&Event)>| {
        entry.map(|(step, event)| json!({"step": step, "order": digest(event, "order_digest"), "token": digest(event, "token_digest")}))
    };
    json!({
        "steps": steps.len(),
        "order_sequence": sequence("order_digest"),
        "token_sequence": sequence("token_digest"),
        "first": at(steps.iter().next()),
        "last": at(steps.iter().next_back()),
    })
}

fn events_of(events: &[Event], kind: &str) -> Vec<Value> {
    let chosen = events.iter().filter(|event| event.kind == kind);
    chosen.filter_map(|event| serde_json::to_value(event).ok()).collect()
}

/// Each anomaly once: who goes on from a checkpoint before a skip tells of it again.
fn anomalies(events: &[Event]) -> Vec<Value> {
    let mut seen: Vec<Value> = Vec::new();
    for event in events_of(events, "anomaly") {
        let same =
            |other: &Value| ["step", "positions", "action"].iter().all(|name| other[name] == event[name]);
        if !seen.iter().any(same) {
            seen.push(event);
        }
    }
    seen
}

fn environment(events: &[Event], claims: &[Claim]) -> Map<String, Value> {
    let mut environment = Map::new();
    if let Some(claim) = claims.last() {
        environment.insert("host".to_owned(), Value::from(claim.claimant.host.clone()));
        environment.extend(claim.claimant.other.clone());
    }
    if let Some(start) = events.iter().rev().find(|event| event.kind == "attempt_start") {
        environment.extend(start.other.clone().into_iter().filter(|(name, _)| name != "writer"));
    }
    environment
}

fn attempt_row(claim: &Claim, end: Option<&End>, events: &[Event]) -> Value {
    let own = || events.iter().filter(|event| event.attempt == claim.attempt);
    let steps = || own().filter(|event| event.kind == "step" && event.rank.unwrap_or(0) == 0);
    let last = own().map(|event| event.end.unwrap_or(event.t)).fold(f64::NAN, f64::max);
    json!({
        "attempt": claim.attempt,
        "claimed": claim.claimed_us as f64 / 1e6,
        "ended": if last.is_finite() { Some(last) } else { None },
        "outcome": end.map_or("died", |end| &end.outcome),
        "host": claim.claimant.host,
        "resumed_from": claim.resumed_from,
        "first_step": steps().filter_map(|event| event.step).min(),
        "last_step": steps().filter_map(|event| event.step).max(),
        "steps_recomputed": steps().filter(|event| event.is_recompute()).count(),
    })
}
