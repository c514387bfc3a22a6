//! Bindings of the `run` floor.

use std::sync::{Mutex, MutexGuard, PoisonError};

use eagleray_base::{Error, Result};
use eagleray_run::claim::{self, End};
use eagleray_run::heartbeat::{self, Heartbeat};
use eagleray_run::huggingface;
use eagleray_run::world;
use eagleray_run::{Claimant, Ledger, World, account, read_before, read_ledger};
use eagleray_store::Store;
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::json::{parse, render};

/// Claims the next attempt of a run. `info` is JSON with `host`, `pid`, perhaps `take_over`, and what else is
/// to be written down. Returns the claim as JSON; it goes on from `resumed_from`.
#[pyfunction]
fn claim_attempt(py: Python<'_>, store_url: &str, info: &str) -> PyResult<String> {
    py.detach(|| {
        let store = Store::open(store_url)?;
        let claimant: Claimant = parse(info, "the claimant")?;
        let resumed_from = || Ok(eagleray_checkpoint::newest(&store)?.map(|commit| commit.dir));
        render(&claim::claim(&store, &claimant, resumed_from)?)
    })
    .map_err(to_py)
}

/// What a Hugging Face folder says of its model, as JSON.
#[pyfunction]
fn read_huggingface(py: Python<'_>, path: &str) -> PyResult<String> {
    py.detach(|| render(&huggingface::read(path)?)).map_err(to_py)
}

/// Whether no newer attempt than this has been claimed.
#[pyfunction]
fn is_current(py: Python<'_>, store_url: &str, attempt: u32) -> PyResult<bool> {
    py.detach(|| claim::is_current(&Store::open(store_url)?, attempt)).map_err(to_py)
}

/// Writes down how an attempt ended: JSON `{outcome, step}`.
#[pyfunction]
fn finish(py: Python<'_>, store_url: &str, attempt: u32, outcome: &str) -> PyResult<()> {
    py.detach(|| claim::finish(&Store::open(store_url)?, attempt, &parse::<End>(outcome, "the outcome")?))
        .map_err(to_py)
}

/// Writes down where the ranks of an attempt are: JSON `{attempt, generation, ray, ranks}`.
#[pyfunction]
fn put_world(py: Python<'_>, store_url: &str, world: &str) -> PyResult<()> {
    py.detach(|| world::put(&Store::open(store_url)?, &parse::<World>(world, "the world")?)).map_err(to_py)
}

/// Takes back what an attempt wrote about its ranks.
#[pyfunction]
fn remove_world(py: Python<'_>, store_url: &str, attempt: u32) -> PyResult<()> {
    py.detach(|| world::remove(&Store::open(store_url)?, attempt)).map_err(to_py)
}

/// What an attempt has written about its ranks, as JSON.
#[pyfunction]
fn world_of_attempt(py: Python<'_>, store_url: &str, attempt: u32) -> PyResult<Option<String>> {
    py.detach(|| {
        world::of_attempt(&Store::open(store_url)?, attempt)?.map(|world| render(&world)).transpose()
    })
    .map_err(to_py)
}

/// Where the ranks of a run are that trains now, as JSON; refused where it does not.
#[pyfunction]
fn running_world(py: Python<'_>, store_url: &str) -> PyResult<String> {
    py.detach(|| render(&world::of_running(&Store::open(store_url)?)?)).map_err(to_py)
}

/// All events that count, as a JSON list.
#[pyfunction(name = "read_ledger")]
fn read_ledger_json(py: Python<'_>, store_url: &str) -> PyResult<String> {
    py.detach(|| render(&read_ledger(&Store::open(store_url)?)?)).map_err(to_py)
}

/// The last step that any attempt took, and all anomalies, as JSON: `reached` and `anomalies`.
#[pyfunction(name = "read_before")]
fn read_before_json(py: Python<'_>, store_url: &str) -> PyResult<String> {
    py.detach(|| render(&read_before(&Store::open(store_url)?)?)).map_err(to_py)
}

/// What the ledger adds up to: the content of `report.json`.
#[pyfunction(name = "account")]
fn account_json(py: Python<'_>, store_url: &str) -> PyResult<String> {
    py.detach(|| render(&account::of_store(&Store::open(store_url)?)?)).map_err(to_py)
}

/// The driver's sign of life for an attempt, given from now on until `stop`.
#[pyclass(name = "Heartbeat", module = "eagleray._core", frozen)]
struct PyHeartbeat {
    heartbeat: Mutex<Option<Heartbeat>>,
}

#[pymethods]
impl PyHeartbeat {
    #[new]
    fn new(py: Python<'_>, store_url: &str, attempt: u32) -> PyResult<Self> {
        let started = py.detach(|| Heartbeat::start(&Store::open(store_url)?, attempt, heartbeat::PERIOD));
        Ok(Self { heartbeat: Mutex::new(Some(started.map_err(to_py)?)) })
    }

    /// Whether a newer attempt has claimed the run.
    fn superseded(&self) -> bool {
        let slot = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().is_some_and(Heartbeat::superseded)
    }

    /// Whether somebody has asked this attempt to save and stop.
    fn stop_asked(&self) -> bool {
        let slot = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().is_some_and(Heartbeat::stop_asked)
    }

    /// Gives no more signs.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| drop(self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

/// The events of one writer of an attempt.
#[pyclass(name = "Ledger", module = "eagleray._core", frozen)]
struct PyLedger {
    ledger: Mutex<Option<Ledger>>,
}

#[pymethods]
impl PyLedger {
    #[new]
    fn new(py: Python<'_>, store_url: &str, attempt: u32, writer: &str) -> PyResult<Self> {
        let ledger = py.detach(|| Ledger::open(&Store::open(store_url)?, attempt, writer)).map_err(to_py)?;
        Ok(Self { ledger: Mutex::new(Some(ledger)) })
    }

    /// Adds an event, or a list of events, given as JSON; nothing is written yet.
    fn append(&self, py: Python<'_>, events: &str) -> PyResult<()> {
        py.detach(|| self.with(|ledger| ledger.append(events))).map_err(to_py)
    }

    /// Writes what was added. Where that fails the events stay for the next flush.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.with(Ledger::flush)).map_err(to_py)
    }

    /// Flushes for the last time.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut slot = self.slot();
            let flushed = slot.as_mut().map_or(Ok(()), Ledger::flush);
            *slot = None;
            flushed
        })
        .map_err(to_py)
    }
}

impl PyLedger {
    fn with<T>(&self, action: impl FnOnce(&mut Ledger) -> Result<T>) -> Result<T> {
        action(self.slot().as_mut().ok_or_else(|| Error::internal("the ledger is closed"))?)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("claim", wrap_pyfunction!(claim_attempt, module)?)?;
    module.add_function(wrap_pyfunction!(is_current, module)?)?;
    module.add_function(wrap_pyfunction!(finish, module)?)?;
    module.add_function(wrap_pyfunction!(put_world, module)?)?;
    module.add_function(wrap_pyfunction!(remove_world, module)?)?;
    module.add_function(wrap_pyfunction!(world_of_attempt, module)?)?;
    module.add_function(wrap_pyfunction!(running_world, module)?)?;
    module.add_function(wrap_pyfunction!(read_before_json, module)?)?;
    module.add_function(wrap_pyfunction!(read_ledger_json, module)?)?;
    module.add_function(wrap_pyfunction!(account_json, module)?)?;
    module.add_function(wrap_pyfunction!(read_huggingface, module)?)?;
    module.add_class::<PyHeartbeat>()?;
    module.add_class::<PyLedger>()
}
