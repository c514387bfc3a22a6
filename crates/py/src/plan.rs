//! The memory model.

use pyo3::prelude::*;

use crate::errors::to_py;
use crate::json::{parse, render};

/// The memory of the fullest device, in bytes, as JSON.
///
/// The request is JSON: `model`, a shape with nothing left out, and `setting`, with `layout`, `world`,
/// `sequence_length`, `micro_batch` and `precision`, and optionally `global_batch`, `recompute`,
/// `pipeline`, `offload` and `device`.
#[pyfunction]
fn plan_memory(py: Python<'_>, request: &str) -> PyResult<String> {
    py.detach(|| eagleray_plan::memory_json(request)).map_err(to_py)
}

/// The shape that a `config.json` of a Hugging Face folder describes, as JSON: a `model` for `plan_memory`.
#[pyfunction]
fn huggingface_shape(py: Python<'_>, config_json: &str) -> PyResult<String> {
    py.detach(|| render(&eagleray_plan::huggingface::shape(&parse(config_json, "the config of the model")?)?))
        .map_err(to_py)
}

/// Refuses a mesh, as a resolved strategy has it, that a model of a Hugging Face folder does not allow.
#[pyfunction]
fn require_huggingface_split(py: Python<'_>, config_json: &str, mesh_json: &str) -> PyResult<()> {
    py.detach(|| {
        let config = parse(config_json, "the config of the model")?;
        eagleray_plan::huggingface::require_split(&config, &parse(mesh_json, "the mesh")?)
    })
    .map_err(to_py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(plan_memory, module)?)?;
    module.add_function(wrap_pyfunction!(huggingface_shape, module)?)?;
    module.add_function(wrap_pyfunction!(require_huggingface_split, module)?)
}
