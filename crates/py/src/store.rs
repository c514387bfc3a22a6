//! Bindings of the `store` floor.

use std::sync::{Mutex, MutexGuard, PoisonError};

use eagleray_base::Error;
use eagleray_store::{Store, Writer};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::to_py;

/// A root on a local folder, S3 or memory, and the objects below it.
#[pyclass(name = "Store", module = "eagleray._core", frozen)]
struct PyStore {
    store: Store,
}

#[pymethods]
impl PyStore {
    #[new]
    fn new(url: &str) -> PyResult<Self> {
        Ok(Self { store: Store::open(url).map_err(to_py)? })
    }

    /// The root, without secrets.
    #[getter]
    fn url(&self) -> &str {
        self.store.url()
    }

    fn get<'py>(&self, py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.store.get(path)).map_err(to_py)?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn get_range<'py>(
        &self,
        py: Python<'py>,
        path: &str,
        start: u64,
        length: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.store.get_range(path, start, length)).map_err(to_py)?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn put(&self, py: Python<'_>, path: &str, data: Vec<u8>) -> PyResult<()> {
        py.detach(|| self.store.put(path, data)).map_err(to_py)
    }

    /// Writes unless there is an object already; `False` when there was.
    fn put_if_absent(&self, py: Python<'_>, path: &str, data: Vec<u8>) -> PyResult<bool> {
        py.detach(|| self.store.put_if_absent(path, data)).map_err(to_py)
    }

    /// The size in bytes, or `None` when there is no such object.
    fn head(&self, py: Python<'_>, path: &str) -> PyResult<Option<u64>> {
        let info = py.detach(|| self.store.head(path)).map_err(to_py)?;
        Ok(info.map(|info| info.bytes))
    }

    fn list(&self, py: Python<'_>, prefix: &str) -> PyResult<Vec<(String, u64)>> {
        let objects = py.detach(|| self.store.list(prefix)).map_err(to_py)?;
        Ok(objects.into_iter().map(|object| (object.path, object.bytes)).collect())
    }

    fn list_dirs(&self, py: Python<'_>, prefix: &str) -> PyResult<Vec<String>> {
        py.detach(|| self.store.list_dirs(prefix)).map_err(to_py)
    }

    fn delete(&self, py: Python<'_>, path: &str) -> PyResult<()> {
        py.detach(|| self.store.delete(path)).map_err(to_py)
    }

    fn delete_prefix(&self, py: Python<'_>, prefix: &str) -> PyResult<()> {
        py.detach(|| self.store.delete_prefix(prefix)).map_err(to_py)
    }

    /// Reads, bytes read, writes and bytes written since the store was opened.
    fn counters(&self) -> (u64, u64, u64, u64) {
        let counters = self.store.counters();
        (counters.gets, counters.bytes_read, counters.puts, counters.bytes_written)
    }

    /// A streamed write that becomes visible at `finish`.
    fn writer(&self, py: Python<'_>, path: &str) -> PyResult<PyWriter> {
        let writer = py.detach(|| self.store.writer(path)).map_err(to_py)?;
        Ok(PyWriter { writer: Mutex::new(Some(writer)) })
    }
}

/// A streamed write; nothing is visible before `finish`, and `abort` leaves nothing.
#[pyclass(name = "Writer", module = "eagleray._core", frozen)]
struct PyWriter {
    writer: Mutex<Option<Writer>>,
}

#[pymethods]
impl PyWriter {
    /// Adds the bytes of any contiguous buffer and returns their number.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let buffer = PyBuffer::<u8>::get(data)?;
        let cells =
            buffer.as_slice(py).ok_or_else(|| PyBufferError::new_err("the buffer is not contiguous"))?;
        // The cells are read in pieces small enough to stay in cache; the copy frees the engine of the
        // buffer's owner, who may change it once the GIL is released.
        let mut piece = Vec::with_capacity(cells.len().min(COPY_BYTES));
        for cells in cells.chunks(COPY_BYTES) {
            piece.clear();
            piece.extend(cells.iter().map(pyo3::buffer::ReadOnlyCell::get));
            py.detach(|| self.slot().as_mut().ok_or_else(finished)?.push(&piece)).map_err(to_py)?;
        }
        Ok(cells.len())
    }

    /// Makes the object visible; returns its size in bytes and its CRC-32C.
    fn finish(&self, py: Python<'_>) -> PyResult<(u64, u32)> {
        let written = py.detach(|| self.slot().take().ok_or_else(finished)?.finish()).map_err(to_py)?;
        Ok((written.bytes, written.crc32c))
    }

    fn abort(&self, py: Python<'_>) {
        py.detach(|| drop(self.slot().take()));
    }
}

impl PyWriter {
    /// The writer, locked; a thread that died while it held the lock left it whole or half-written, and
    /// half-written is what `abort` is for.
    fn slot(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes copied out of a Python buffer at a time.
const COPY_BYTES: usize = 4 << 20;

fn finished() -> Error {
    Error::internal("the writer is finished")
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyStore>()?;
    module.add_class::<PyWriter>()
}
