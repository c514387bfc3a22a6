//! Bindings of the `stream` and `order` floors: batches as numpy arrays that own their memory.

use std::time::Duration;

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use eagleray_stream::{Arrays, Batch, Next, Stream, StreamConfig};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::to_py;

/// How long a wait goes on before signals are looked at, so that Ctrl-C works.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// A rank's stream of micro batches.
#[pyclass(name = "Stream", module = "eagleray._core", frozen)]
struct PyStream {
    stream: Mutex<Stream>,
    sequence_length: usize,
}

#[pymethods]
impl PyStream {
    /// Opens the datasets of a JSON configuration and starts to read ahead.
    #[new]
    fn new(py: Python<'_>, config_json: &str) -> PyResult<Self> {
        let stream = py.detach(|| Stream::open(StreamConfig::from_json(config_json)?)).map_err(to_py)?;
        let sequence_length = stream.config().sequence_length as usize;
        Ok(Self { stream: Mutex::new(stream), sequence_length })
    }

    /// The next micro batch as a dict, or `None` at the end.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        loop {
            match py.detach(|| self.stream.lock().next(SIGNAL_INTERVAL)).map_err(to_py)? {
                Next::Batch(batch) => return self.to_dict(py, batch).map(Some),
                Next::End => return Ok(None),
                Next::Pending => py.check_signals()?,
            }
        }
    }

    const fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.next(py)
    }

    /// The state behind the last batch returned, as JSON below 4 KB.
    fn state(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| self.stream.lock().state()).map_err(to_py)
    }

    /// Whether samples may have labels that no loss counts.
    fn is_masked(&self) -> bool {
        self.stream.lock().is_masked()
    }

    /// Counters and waits, as JSON.
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| {
            serde_json::to_string(&self.stream.lock().stats())
                .map_err(|error| Error::internal(error.to_string()))
        })
        .map_err(to_py)
    }

    /// The closed form of the order digest of positions `start` to `end`.
    fn expected_order_digest(&self, py: Python<'_>, start: u64, end: u64) -> PyResult<u64> {
        in_range(end).map_err(to_py)?;
        Ok(py.detach(|| self.stream.lock().order().order_digest(start, end)))
    }

    /// Stops reading ahead.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.stream.lock().close());
    }
}

impl PyStream {
    fn to_dict<'py>(&self, py: Python<'py>, batch: Batch) -> PyResult<Bound<'py, PyDict>> {
        let shape = [batch.len(), self.sequence_length];
        let dict = PyDict::new(py);
        for (name, array) in
            [("tokens", batch.tokens), ("labels", batch.labels), ("position_ids", batch.position_ids)]
        {
            dict.set_item(name, PyArray1::from_vec(py, array).reshape(shape)?)?;
        }
        for (name, array) in [
            ("positions", batch.positions),
            ("source", batch.source),
            ("epoch", batch.epoch),
            ("index", batch.index),
        ] {
            dict.set_item(name, PyArray1::from_vec(py, array))?;
        }
        for (name, value) in [
            ("micro_index", batch.micro_index),
            ("micro_count", batch.micro_count),
            ("step_position", batch.step_position),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}

/// The order of a stream's configuration, without reading samples.
#[pyclass(name = "Order", module = "eagleray._core", frozen)]
struct PyOrder {
    order: eagleray_order::Order,
}

#[pymethods]
impl PyOrder {
    /// Opens the manifests of a JSON configuration.
    #[new]
    fn new(py: Python<'_>, config_json: &str) -> PyResult<Self> {
        let order = py
            .detach(|| eagleray_stream::open_order(&StreamConfig::from_json(config_json)?))
            .map_err(to_py)?;
        Ok(Self { order })
    }

    /// Samples of one epoch of all sources.
    #[getter]
    fn num_samples(&self) -> u64 {
        self.order.num_samples()
    }

    /// Source name, epoch and index of the sample at a position.
    fn sample(&self, position: u64) -> PyResult<(&str, u64, u64)> {
        in_range(position).map_err(to_py)?;
        let sample = self.order.sample(position);
        Ok((&self.order.sources()[sample.source].name, sample.epoch, sample.index))
    }

    /// The position at which a sample stands; `None` where it never does.
    fn position(&self, source: &str, epoch: u64, index: u64) -> Option<u64> {
        let source = self.order.sources().iter().position(|known| known.name == source)?;
        self.order.position(source, epoch, index)
    }

    /// The position of an order's state, given as JSON; refuses the state of another order, saying what differs.
    fn restore(&self, state_json: &str) -> PyResult<u64> {
        self.order.restore(state_json).map_err(to_py)
    }

    /// Samples of each source among the first `position` positions.
    fn cursor<'py>(&self, py: Python<'py>, position: u64) -> PyResult<Bound<'py, PyDict>> {
        in_range(position).map_err(to_py)?;
        let counts = py.detach(|| self.order.cursor(position));
        let dict = PyDict::new(py);
        for (source, count) in self.order.sources().iter().zip(counts) {
            dict.set_item(&source.name, count)?;
        }
        Ok(dict)
    }

    /// The order digest of positions `start` to `end`.
    fn digest(&self, py: Python<'_>, start: u64, end: u64) -> PyResult<u64> {
        in_range(end).map_err(to_py)?;
        Ok(py.detach(|| self.order.order_digest(start, end)))
    }
}

fn in_range(position: u64) -> Result<()> {
    if position < eagleray_order::POSITION_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("position {position} is out of range")))
}

/// Order and token digest of a batch, from the arrays whose memory enters the step.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "numpy extracts borrowed arrays by value")]
fn batch_digests(
    py: Python<'_>,
    tokens: PyReadonlyArray2<'_, i64>,
    labels: PyReadonlyArray2<'_, i64>,
    positions: PyReadonlyArray1<'_, u64>,
    source: PyReadonlyArray1<'_, u64>,
    epoch: PyReadonlyArray1<'_, u64>,
    index: PyReadonlyArray1<'_, u64>,
) -> PyResult<(u64, u64)> {
    let arrays = Arrays {
        tokens: contiguous(tokens.as_slice().ok(), "tokens")?,
        labels: contiguous(labels.as_slice().ok(), "labels")?,
        positions: contiguous(positions.as_slice().ok(), "positions")?,
        source: contiguous(source.as_slice().ok(), "source")?,
        epoch: contiguous(epoch.as_slice().ok(), "epoch")?,
        index: contiguous(index.as_slice().ok(), "index")?,
    };
    py.detach(|| eagleray_stream::batch_digests(&arrays)).map_err(to_py)
}

fn contiguous<'a, T: Element>(slice: Option<&'a [T]>, name: &str) -> PyResult<&'a [T]> {
    slice.ok_or_else(|| to_py(Error::invalid(format!("array `{name}` is not contiguous"))))
}

/// What stands at each position, as JSON: `[{position, source, index, parts: [{shard, tokens, documents}]}]`.
#[pyfunction]
fn documents_at(py: Python<'_>, config_json: &str, positions: Vec<u64>) -> PyResult<String> {
    py.detach(|| {
        positions.iter().try_for_each(|&position| in_range(position))?;
        let places = eagleray_stream::documents_at(&StreamConfig::from_json(config_json)?, &positions)?;
        crate::json::render(&places)
    })
    .map_err(to_py)
}

/// Writes a dataset of one shard listed `times` over, for benchmarks; returns its URL.
#[pyfunction]
fn write_repeated_dataset(py: Python<'_>, store: &str, shard_tokens: u64, times: u64) -> PyResult<String> {
    py.detach(|| {
        let dataset = eagleray_stream::fixture::write_repeated(&Store::open(store)?, shard_tokens, times)?;
        Ok(dataset.store().url().to_owned())
    })
    .map_err(to_py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyStream>()?;
    module.add_class::<PyOrder>()?;
    module.add_function(wrap_pyfunction!(batch_digests, module)?)?;
    module.add_function(wrap_pyfunction!(documents_at, module)?)?;
    module.add_function(wrap_pyfunction!(write_repeated_dataset, module)?)
}
