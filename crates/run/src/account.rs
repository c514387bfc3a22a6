//! What a run's ledger adds up to: the figures of `report.json`.

use std::collections::BTreeMap;

use eagleray_base::{Digest, Result};
use eagleray_store::Store;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::claim::{self, Claim, End};
use crate::event::Event;
use crate::ledger::read_ledger;
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
    let resolved = match store.head(paths::RESOLVED)? {
        Some(_) => serde_json::from_slice(&store.get(paths::RESOLVED)?).unwrap_or(Value::Null),
        None => Value::Null,
    };
    let mut account = of_events(&read_ledger(store)?, &claims, &ends, &resolved);
    store.url().clone_into(&mut account.store);
    account.state = state_of(store, claims.last(), ends.last().and_then(Option::as_ref))?;
    if account.name.is_empty() {
        store.url().rsplit('/').next().unwrap_or_default().clone_into(&mut account.name);
    }
    Ok(account)
}

/// The account of events, claims and ends. Pure; `state` and `store` are the caller's to fill in.
pub fn of_events(events: &[Event], claims: &[Claim], ends: &[Option<End>], resolved: &Value) -> Account {
    let timeline = Timeline::of(events);
    let steps = effective_steps(events);
    let mut account = Account {
        name: resolved["spec"]["name"].as_str().unwrap_or_default().to_owned(),
        steps_planned: resolved["spec"]["train"]["steps"].as_u64().unwrap_or(0),
        spec_hash: resolved["spec_hash"].as_str().map(str::to_owned),
        shares: timeline.shares(),
        step_shares: step_shares(events),
        began: timeline.start,
        ended: timeline.end,
        digests: digests(&steps),
        checkpoints: events_of(events, "checkpoint"),
        failures: events_of(events, "failure"),
        generations: events_of(events, "generation"),
        environment: environment(events, claims),
        ..Account::default()
    };
    account.goodput = account.shares.get("compute").copied().unwrap_or(0.0);
    account.bands = timeline.bands;
    add_steps(&mut account, &steps);
    add_validation(&mut account, events);
    account.attempts =
        claims.iter().zip(ends).map(|(claim, end)| attempt_row(claim, end.as_ref(), events)).collect();
    account
}

/// Of each step, what rank 0 last said of it: work that was lost and done again counts once.
fn effective_steps(events: &[Event]) -> BTreeMap<u64, &Event> {
    let said = events.iter().filter(|event| event.kind == "step" && event.rank.unwrap_or(0) == 0);
    said.filter_map(|event| Some((event.step?, event))).collect()
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

fn add_validation(account: &mut Account, events: &[Event]) {
    let mut by_name: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == "validation") {
        let (Some(step), Some(loss)) = (event.step, event.number("loss")) else { continue };
        by_name.entry(event.text("name").unwrap_or("validation").to_owned()).or_default().insert(step, loss);
    }
    for (name, losses) in by_name {
        let curve =
            Curve { steps: losses.keys().copied().collect(), loss: losses.values().copied().collect() };
        account.validation_by_name.insert(name, curve);
    }
    account.validation = account.validation_by_name.values().next().cloned().unwrap_or_default();
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
        let text = lines.join(
            "
",
        );
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
        "outcome": end.map_or("unfinished", |end| &end.outcome),
        "host": claim.claimant.host,
        "resumed_from": claim.resumed_from,
        "first_step": steps().filter_map(|event| event.step).min(),
        "last_step": steps().filter_map(|event| event.step).max(),
        "steps_recomputed": steps().filter(|event| event.is_recompute()).count(),
    })
}
