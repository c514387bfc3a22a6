//! The private native module `eagleray._core`: it maps types and errors, and nothing else.
//!
//! Structured values cross as JSON text, bytes as buffers, batches as numpy arrays that own their
//! memory. Every call into the engine releases the GIL.

#![allow(clippy::needless_pass_by_value, reason = "pyo3 extracts arguments by value")]

mod checkpoint;
mod errors;
mod json;
mod plan;
mod run;
mod spec;
mod store;
mod stream;
mod supervise;
mod tokens;
mod trial;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    errors::register(module)?;
    spec::register(module)?;
    plan::register(module)?;
    store::register(module)?;
    tokens::register(module)?;
    trial::register(module)?;
    stream::register(module)?;
    checkpoint::register(module)?;
    supervise::register(module)?;
    run::register(module)
}
