//! Structured values cross as JSON text.

use eagleray_base::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a value that Python gave; `what` names it in the error.
pub(crate) fn parse<T: DeserializeOwned>(json: &str, what: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::invalid(format!("{what} cannot be read: {error}")))
}

/// Writes a value for Python.
pub(crate) fn render<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("cannot write JSON").with_source(error))
}
