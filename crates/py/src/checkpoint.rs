//! Bindings of the `checkpoint` floor.

use std::time::{SystemTime, UNIX_EPOCH};

use eagleray_checkpoint::{self as checkpoint, Fields, Keep, Segment, Share};
use eagleray_store::Store;
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::json::{parse, render};

/// The folder of the next save of an attempt, below the run's store; nothing is written.
#[pyfunction]
fn next_save(py: Python<'_>, store_url: &str, attempt: u32, step: u64) -> PyResult<String> {
    py.detach(|| checkpoint::next_save(&Store::open(store_url)?, attempt, step)).map_err(to_py)
}

/// Writes what a rank wrote: JSON `{rank, files: [{name, bytes, crc32c}]}`.
#[pyfunction]
fn write_segment(py: Python<'_>, store_url: &str, dir: &str, rank: u32, segment: &str) -> PyResult<()> {
    py.detach(|| {
        let mut segment: Segment = parse(segment, "the segment")?;
        segment.rank = rank;
        checkpoint::write_segment(&Store::open(store_url)?, dir, &segment)
    })
    .map_err(to_py)
}

/// Makes a save real. `fields` is JSON with `engine`, `step`, `world` and whatever else is to be kept.
#[pyfunction]
fn commit(py: Python<'_>, store_url: &str, dir: &str, fields: &str) -> PyResult<()> {
    py.detach(|| {
        let mut fields: Fields = parse(fields, "the commit")?;
        // The protocol's own fields come from the folder's name.
        for own in ["format", "format_version", "dir", "attempt", "save", "committed_us", "files"] {
            fields.other.shift_remove(own);
        }
        checkpoint::commit(&Store::open(store_url)?, dir, fields).map(drop)
    })
    .map_err(to_py)
}

/// The commit of a save's folder, as JSON.
#[pyfunction]
fn read_commit(py: Python<'_>, store_url: &str, dir: &str) -> PyResult<String> {
    py.detach(|| render(&checkpoint::read_commit(&Store::open(store_url)?, dir)?)).map_err(to_py)
}

/// The commit that the run goes on from, as JSON, or `None`.
#[pyfunction]
fn newest(py: Python<'_>, store_url: &str) -> PyResult<Option<String>> {
    py.detach(|| checkpoint::newest(&Store::open(store_url)?)?.map(|commit| render(&commit)).transpose())
        .map_err(to_py)
}

/// Reads the files of a commit (of `files_share = (rank, world)`, its share) and checks size and CRC-32C.
#[pyfunction]
#[pyo3(signature = (store_url, dir, files_share=(0, 1)))]
fn verify(py: Python<'_>, store_url: &str, dir: &str, files_share: (usize, usize)) -> PyResult<u64> {
    py.detach(|| {
        let store = Store::open(store_url)?;
        let commit = checkpoint::read_commit(&store, dir)?;
        let share = Share { rank: files_share.0, world: files_share.1 };
        checkpoint::verify(&store, &commit, share, &mut |_| {})
    })
    .map_err(to_py)
}

/// All saves of a run, as JSON.
#[pyfunction]
fn list_saves(py: Python<'_>, store_url: &str) -> PyResult<String> {
    py.detach(|| render(&checkpoint::list(&Store::open(store_url)?)?)).map_err(to_py)
}

/// Deletes what `keep` (JSON `{last, every_steps}`) does not keep; returns the folders that went, as JSON.
#[pyfunction]
fn sweep(py: Python<'_>, store_url: &str, keep: &str, attempt: u32) -> PyResult<String> {
    py.detach(|| {
        let keep: Keep = parse(keep, "`checkpoint.keep`")?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the binding is the rim: it gives the engine its clock"
        )]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64);
        render(&checkpoint::sweep(&Store::open(store_url)?, keep, attempt, now)?)
    })
    .map_err(to_py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(next_save, module)?)?;
    module.add_function(wrap_pyfunction!(write_segment, module)?)?;
    module.add_function(wrap_pyfunction!(commit, module)?)?;
    module.add_function(wrap_pyfunction!(read_commit, module)?)?;
    module.add_function(wrap_pyfunction!(newest, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(list_saves, module)?)?;
    module.add_function(wrap_pyfunction!(sweep, module)?)
}
