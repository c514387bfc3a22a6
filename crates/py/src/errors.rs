//! One Python exception class per error kind, with `kind`, `message` and `hint` kept as attributes.

use eagleray_base::{Error, Kind};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(eagleray._core, EagleRayError, PyException, "Base of all errors of the native module.");
create_exception!(eagleray._core, InvalidError, EagleRayError, "The input is wrong.");
create_exception!(eagleray._core, NotFoundError, EagleRayError, "The thing named does not exist.");
create_exception!(eagleray._core, ConflictError, EagleRayError, "Somebody else got there first.");
create_exception!(eagleray._core, UnavailableError, EagleRayError, "A service did not answer.");
create_exception!(eagleray._core, CorruptError, EagleRayError, "Stored bytes are not what was written.");
create_exception!(eagleray._core, ExhaustedError, EagleRayError, "Space, memory or a limit has run out.");
create_exception!(eagleray._core, InternalError, EagleRayError, "A defect of this program.");

/// The Python exception for `error`: its text is the rendered message with causes and hint.
pub(crate) fn to_py(error: Error) -> PyErr {
    let rendered = error.render();
    let text = rendered.strip_prefix("error: ").unwrap_or(&rendered).to_owned();
    let exception = match error.kind() {
        Kind::Invalid => InvalidError::new_err(text),
        Kind::NotFound => NotFoundError::new_err(text),
        Kind::Conflict => ConflictError::new_err(text),
        Kind::Unavailable => UnavailableError::new_err(text),
        Kind::Corrupt => CorruptError::new_err(text),
        Kind::Exhausted => ExhaustedError::new_err(text),
        Kind::Internal => InternalError::new_err(text),
    };
    Python::attach(|py| {
        let value = exception.value(py);
        let attributes =
            [("kind", Some(error.kind().name())), ("message", Some(error.message())), ("hint", error.hint())];
        for (name, attribute) in attributes {
            // Setting a plain attribute on our own exception class cannot fail but for memory.
            let _ = value.setattr(name, attribute);
        }
    });
    exception
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("EagleRayError", py.get_type::<EagleRayError>())?;
    module.add("InvalidError", py.get_type::<InvalidError>())?;
    module.add("NotFoundError", py.get_type::<NotFoundError>())?;
    module.add("ConflictError", py.get_type::<ConflictError>())?;
    module.add("UnavailableError", py.get_type::<UnavailableError>())?;
    module.add("CorruptError", py.get_type::<CorruptError>())?;
    module.add("ExhaustedError", py.get_type::<ExhaustedError>())?;
    module.add("InternalError", py.get_type::<InternalError>())
}
