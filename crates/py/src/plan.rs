//! The memory model.

use pyo3::prelude::*;

use crate::errors::to_py;

/// The memory of the fullest device, in bytes, as JSON.
///
/// The request is JSON: `model`, a shape with nothing left out, and `setting`, with `layout`, `world`,
/// `sequence_length`, `micro_batch` and `precision`, and optionally `global_batch`, `recompute`,
/// `pipeline`, `offload` and `device`.
#[pyfunction]
fn plan_memory(py: Python<'_>, request: &str) -> PyResult<String> {
    py.detach(|| eagleray_plan::memory_json(request)).map_err(to_py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(plan_memory, module)?)
}
