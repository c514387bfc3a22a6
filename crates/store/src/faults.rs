//! Faults that tests inject into every process of a run, by the environment.
//!
//! `EAGLERAY_STORE_FAULTS='{"get_latency_ms":50,"match":".bin"}'` slows or fails the operations on
//! objects whose path contains `match`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eagleray_base::{Error, Result};
use serde::Deserialize;

const VARIABLE: &str = "EAGLERAY_STORE_FAULTS";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Put,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plan {
    get_latency_ms: u64,
    put_latency_ms: u64,
    get_error_every: u64,
    put_error_every: u64,
    r#match: String,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    plan: Option<Plan>,
    operations: AtomicU64,
}

impl Faults {
    pub(crate) fn from_environment() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => Self::parse(&text),
            _ => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let plan = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("`{VARIABLE}` is not a fault plan: {error}")))?;
        Ok(Self { plan: Some(plan), operations: AtomicU64::new(0) })
    }

    pub(crate) fn before(&self, operation: Operation, path: &str) -> Result<()> {
        let (delay, failure) = self.decide(operation, path);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        failure
    }

    pub(crate) async fn before_async(&self, operation: Operation, path: &str) -> Result<()> {
        let (delay, failure) = self.decide(operation, path);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        failure
    }

    fn decide(&self, operation: Operation, path: &str) -> (Duration, Result<()>) {
        let Some(plan) = self.plan.as_ref().filter(|plan| path.contains(&plan.r#match)) else {
            return (Duration::ZERO, Ok(()));
        };
        let (latency_ms, error_every) = match operation {
            Operation::Get => (plan.get_latency_ms, plan.get_error_every),
            Operation::Put => (plan.put_latency_ms, plan.put_error_every),
        };
        let count = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
        let fails = error_every > 0 && count.is_multiple_of(error_every);
        let failure =
            if fails { Err(Error::unavailable(format!("`{path}`: injected fault"))) } else { Ok(()) };
        (Duration::from_millis(latency_ms), failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_plan_touches_only_what_matches() {
        let faults = Faults::parse(r#"{"get_error_every":2,"match":".bin"}"#).unwrap();
        let fails = |path| faults.before(Operation::Get, path).is_err();
        assert_eq!(
            [fails("a.bin"), fails("a.idx"), fails("a.bin"), fails("a.bin")],
            [false, false, true, false]
        );
        assert!(Faults::parse(r#"{"latency":1}"#).is_err());
    }
}
