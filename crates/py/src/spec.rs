//! The run spec, resolved, as JSON text.

use std::path::Path;

use eagleray_base::{Error, Result};
use eagleray_run::huggingface;
use eagleray_spec::{Problems, Purpose, Resolved, Source};
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::json::{parse, render};

/// The resolved run of the spec at `path`, as the JSON of `resolved.json`.
#[pyfunction]
#[pyo3(signature = (path, overrides = Vec::new()))]
fn resolve_spec(py: Python<'_>, path: &str, overrides: Vec<String>) -> PyResult<String> {
    py.detach(|| resolve(path, &overrides)).map_err(to_py)
}

/// The fields that a resume may not change and that differ, as a JSON list of field, old and new.
#[pyfunction]
fn spec_differences(py: Python<'_>, old_json: &str, new_json: &str) -> PyResult<String> {
    py.detach(|| {
        let (old, new) = (Resolved::from_json(old_json)?, Resolved::from_json(new_json)?);
        serde_json::to_string(&new.differences(&old)).map_err(|error| Error::internal(error.to_string()))
    })
    .map_err(to_py)
}

/// The resolved run with the `config.json` of its Hugging Face folder in it.
#[pyfunction]
fn with_model_config(py: Python<'_>, resolved_json: &str, config_json: &str) -> PyResult<String> {
    py.detach(|| {
        let config = parse(config_json, "the config of the model")?;
        Ok(Resolved::from_json(resolved_json)?.with_model_config(config).to_json())
    })
    .map_err(to_py)
}

/// Refuses what this build cannot do when asked to `train` or to `build`.
#[pyfunction]
fn refuse_unavailable(py: Python<'_>, resolved_json: &str, purpose: &str) -> PyResult<()> {
    py.detach(|| Resolved::from_json(resolved_json)?.refuse_unavailable(purpose.parse::<Purpose>()?))
        .map_err(to_py)
}

/// The values of a YAML text, as JSON; `name` is what errors call it.
#[pyfunction]
fn yaml_values(py: Python<'_>, name: &str, text: &str) -> PyResult<String> {
    py.detach(|| eagleray_spec::yaml_values(name, text).and_then(|values| render(&values))).map_err(to_py)
}

fn resolve(path: &str, overrides: &[String]) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::from(error).at(format!("`{path}`")))?;
    let absolute = std::path::absolute(path)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let environment = |name: &str| std::env::var(name).ok();
    let source = Source { name: path, text: &text, base, overrides, environment: &environment };
    let folder = |path: &str| huggingface::read(path).ok().map(|model| model.config);
    let planned = eagleray_plan::resolve_reading(&source, &folder).map_err(Problems::into_error)?;
    Ok(planned.resolved.to_json())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(resolve_spec, module)?)?;
    module.add_function(wrap_pyfunction!(spec_differences, module)?)?;
    module.add_function(wrap_pyfunction!(with_model_config, module)?)?;
    module.add_function(wrap_pyfunction!(yaml_values, module)?)?;
    module.add_function(wrap_pyfunction!(refuse_unavailable, module)?)
}
