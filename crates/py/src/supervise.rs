//! Bindings of what a run decides while it trains.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use eagleray_base::{Error, Result};
use eagleray_run::{claim, paths};
use eagleray_spec::types::Anomalies;
use eagleray_store::Store;
use eagleray_supervise::{Anomaly, Course, Watch};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::errors::to_py;
use crate::json::{parse, render};

/// Looks at each step's loss in turn. `policy` is the JSON of `train.anomalies`, `state` what a checkpoint kept.
#[pyclass(name = "AnomalyWatch", module = "eagleray._core", frozen)]
struct PyWatch {
    watch: Mutex<Watch>,
}

#[pymethods]
impl PyWatch {
    #[new]
    #[pyo3(signature = (policy, state = None))]
    fn new(policy: &str, state: Option<&str>) -> PyResult<Self> {
        let watch = parse(policy, "the policy for anomalies").and_then(|policy| match state {
            None => Ok(Watch::new(policy)),
            Some(state) => Watch::restored(policy, state),
        });
        Ok(Self { watch: Mutex::new(watch.map_err(to_py)?) })
    }

    /// What is wrong with a step, as JSON `{step, kind, reaction, reason}`, or None. A `loss` of None is no number.
    fn look(&self, step: u64, loss: Option<f64>, finite_gradient: bool) -> PyResult<Option<String>> {
        let seen = self.slot().look(step, loss, finite_gradient);
        seen.map(|anomaly| render(&anomaly)).transpose().map_err(to_py)
    }

    /// Takes in that a step was decided to be an anomaly before.
    fn recall(&self, step: u64) {
        self.slot().recall(step);
    }

    /// Takes over the anomalies that another watch has seen.
    fn remember(&self, other: &Self) {
        let other = other.slot().clone();
        self.slot().remember(&other);
    }

    /// What a checkpoint keeps.
    fn state(&self) -> String {
        self.slot().state()
    }
}

impl PyWatch {
    fn slot(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which global batch of the order each step trains on; `ranges` is JSON: `[[from, until], …]` are left out.
#[pyclass(name = "Course", module = "eagleray._core", frozen)]
struct PyCourse {
    course: Course,
}

#[pymethods]
impl PyCourse {
    #[new]
    fn new(ranges: &str) -> PyResult<Self> {
        Ok(Self { course: Course::from_json(ranges).map_err(to_py)? })
    }

    /// How many batches are left out.
    fn __len__(&self) -> usize {
        usize::try_from(self.course.len()).unwrap_or(usize::MAX)
    }

    /// The batch that comes after `steps` steps.
    fn batch_after(&self, steps: u64) -> u64 {
        self.course.batch_after(steps)
    }

    /// The batch that the data of `steps` steps ends before.
    fn end_of(&self, steps: u64) -> u64 {
        self.course.end_of(steps)
    }

    /// The course that also leaves out `start` up to, not with, `until`.
    fn without(&self, start: u64, until: u64) -> Self {
        Self { course: self.course.without(start, until) }
    }

    /// The ranges.
    fn to_json(&self) -> String {
        self.course.to_json()
    }
}

/// What whoever goes on from a checkpoint takes over: the form of `LEFT_OUT`, and of a commit's `anomalies`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    left_out: Course,
    watch: String,
}

impl Kept {
    fn read(text: &str) -> Result<Self> {
        let kept: Self = parse(text, "what is left out")?;
        Watch::restored(Anomalies::default(), &kept.watch)?;
        Ok(kept)
    }
}

/// Writes down what whoever goes on from the save in `dir` takes over, JSON `{left_out, watch}`; for the current
/// attempt alone.
#[pyfunction]
fn leave_out(py: Python<'_>, store_url: &str, attempt: u32, dir: &str, kept: &str) -> PyResult<()> {
    py.detach(|| {
        let store = Store::open(store_url)?;
        if !claim::is_current(&store, attempt)? {
            return Err(Error::conflict(format!("attempt {attempt} was superseded")));
        }
        store.put(&paths::left_out(dir), render(&Kept::read(kept)?)?)
    })
    .map_err(to_py)
}

/// What was written down beside the save in `dir`, as JSON `{left_out, watch}`, or None.
#[pyfunction]
fn left_out(py: Python<'_>, store_url: &str, dir: &str) -> PyResult<Option<String>> {
    py.detach(|| read(&Store::open(store_url)?, &paths::left_out(dir))).map_err(to_py)
}

/// Writes down that the update of a global batch is left out, for the current attempt alone; `anomaly` is what
/// `AnomalyWatch.look` gave.
#[pyfunction]
fn note_skip(py: Python<'_>, store_url: &str, attempt: u32, batch: u64, anomaly: &str) -> PyResult<()> {
    py.detach(|| {
        let store = Store::open(store_url)?;
        if !claim::is_current(&store, attempt)? {
            return Err(Error::conflict(format!("attempt {attempt} was superseded")));
        }
        let anomaly: Anomaly = parse(anomaly, "an anomaly")?;
        store.put(&paths::skipped(batch), render(&anomaly)?)
    })
    .map_err(to_py)
}

/// The global batches from `first` on whose updates were left out, as JSON `{batch: {step, kind, reaction, reason}}`.
#[pyfunction]
fn noted_skips(py: Python<'_>, store_url: &str, first: u64) -> PyResult<String> {
    py.detach(|| {
        let store = Store::open(store_url)?;
        let mut skips = BTreeMap::new();
        for object in store.list(paths::SKIPPED)? {
            let Some(batch) = paths::batch_of_skipped(&object.path).filter(|&batch| batch >= first) else {
                continue;
            };
            let anomaly: Anomaly = serde_json::from_slice(&store.get(&object.path)?).map_err(|error| {
                Error::corrupt(format!("`{}` is not an anomaly: {error}", store.url_of(&object.path)))
            })?;
            skips.insert(batch, anomaly);
        }
        render(&skips)
    })
    .map_err(to_py)
}

fn read(store: &Store, path: &str) -> Result<Option<String>> {
    if store.head(path)?.is_none() {
        return Ok(None);
    }
    let bytes = store.get(path)?;
    let damaged = || Error::corrupt(format!("`{}` is not a list of batches left out", store.url_of(path)));
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    render(&Kept::read(text).map_err(|_| damaged())?).map(Some)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyWatch>()?;
    module.add_class::<PyCourse>()?;
    module.add_function(wrap_pyfunction!(leave_out, module)?)?;
    module.add_function(wrap_pyfunction!(note_skip, module)?)?;
    module.add_function(wrap_pyfunction!(noted_skips, module)?)?;
    module.add_function(wrap_pyfunction!(left_out, module)?)
}
