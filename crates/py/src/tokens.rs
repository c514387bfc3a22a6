//! Bindings of the `tokens` floor: the steps of a build, datasets, tokenizers.

use eagleray_base::Result;
use eagleray_store::Store;
use eagleray_tokens::build::{self, MapStats, MapTask, Plan, ReduceTask, Role};
use eagleray_tokens::tokenizer::Definition;
use eagleray_tokens::{Dataset, fixture};
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::json::{parse, render};

/// Plans the build of a source, or finds its dataset; see `Plan` in the tokens crate.
#[pyfunction]
fn plan_build(py: Python<'_>, resolved: &str, source: &str, role: &str) -> PyResult<String> {
    py.detach(|| {
        let role: Role = parse(&format!("\"{role}\""), "the role")?;
        render(&build::plan(resolved, source, role)?)
    })
    .map_err(to_py)
}

/// Runs a map task and returns its statistics.
#[pyfunction]
fn run_map(py: Python<'_>, task: &str) -> PyResult<String> {
    py.detach(|| render(&build::run_map(&parse::<MapTask>(task, "the map task")?)?)).map_err(to_py)
}

/// Checks the statistics of all map tasks before the reduce.
#[pyfunction]
fn check_map(py: Python<'_>, plan: &str, stats: Vec<String>) -> PyResult<()> {
    py.detach(|| {
        let stats: Result<Vec<MapStats>> = stats.iter().map(|json| parse(json, "map statistics")).collect();
        build::check_map(&parse::<Plan>(plan, "the plan")?, &stats?)
    })
    .map_err(to_py)
}

/// Runs a reduce task and returns its statistics.
#[pyfunction]
fn run_reduce(py: Python<'_>, task: &str) -> PyResult<String> {
    py.detach(|| render(&build::run_reduce(&parse::<ReduceTask>(task, "the reduce task")?)?)).map_err(to_py)
}

/// Publishes the dataset and returns its URL.
#[pyfunction]
fn finish_build(py: Python<'_>, plan: &str) -> PyResult<String> {
    py.detach(|| build::finish(&parse::<Plan>(plan, "the plan")?)).map_err(to_py)
}

/// Reads a whole dataset and checks every byte of it.
#[pyfunction]
fn verify_dataset(py: Python<'_>, url: &str) -> PyResult<String> {
    py.detach(|| render(&Dataset::open(&Store::open(url)?)?.verify(&mut |_| ())?)).map_err(to_py)
}

/// What a dataset's manifest says, without its shards.
#[pyfunction]
fn dataset_info(py: Python<'_>, url: &str) -> PyResult<String> {
    py.detach(|| {
        let dataset = Dataset::open(&Store::open(url)?)?;
        let manifest = dataset.manifest();
        render(&serde_json::json!({
            "dataset_hash": manifest.dataset_hash,
            "tokenizer_hash": manifest.tokenizer_hash,
            "engine": manifest.engine,
            "vocab_size": manifest.vocab_size,
            "eod_id": manifest.eod_id,
            "token_bytes": manifest.token_bytes,
            "tokens": manifest.tokens,
            "documents": manifest.documents,
            "shards": manifest.shards.len(),
        }))
    })
    .map_err(to_py)
}

/// What a tokenizer is: `hash`, `vocab_size`, and `eod_id` where one is found.
#[pyfunction]
fn tokenizer_info(py: Python<'_>, location: &str) -> PyResult<String> {
    py.detach(|| {
        let definition = Definition::read(location)?;
        render(&serde_json::json!({
            "hash": definition.hash(),
            "vocab_size": definition.vocab_size(),
            "eod_id": definition.end_of_document(None).ok(),
        }))
    })
    .map_err(to_py)
}

/// The ids of texts by the engine that a build would use; special tokens are plain text.
#[pyfunction]
fn tokenize(py: Python<'_>, location: &str, texts: Vec<String>) -> PyResult<Vec<Vec<u32>>> {
    py.detach(|| {
        let tokenizer = Definition::read(location)?.load()?;
        let encode = |text: &String| {
            let mut ids = Vec::new();
            tokenizer.encode(text, &mut ids).map(|()| ids)
        };
        texts.iter().map(encode).collect::<Result<Vec<_>>>()
    })
    .map_err(to_py)
}

/// Writes a small dataset for a test from the ids of each shard's documents; returns its URL.
#[pyfunction]
#[pyo3(signature = (store, shards, vocab_size=50_257, eod_id=0))]
fn write_fixture_dataset(
    py: Python<'_>,
    store: &str,
    shards: Vec<Vec<Vec<u32>>>,
    vocab_size: u64,
    eod_id: u32,
) -> PyResult<String> {
    py.detach(|| {
        let store = Store::open(store)?;
        let options = fixture::Options { vocab_size, eod_id, ..fixture::Options::default() };
        Ok(store.url_of(&fixture::write_dataset(&store, &options, &shards)?.to_string()))
    })
    .map_err(to_py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(plan_build, module)?)?;
    module.add_function(wrap_pyfunction!(run_map, module)?)?;
    module.add_function(wrap_pyfunction!(check_map, module)?)?;
    module.add_function(wrap_pyfunction!(run_reduce, module)?)?;
    module.add_function(wrap_pyfunction!(finish_build, module)?)?;
    module.add_function(wrap_pyfunction!(verify_dataset, module)?)?;
    module.add_function(wrap_pyfunction!(dataset_info, module)?)?;
    module.add_function(wrap_pyfunction!(tokenizer_info, module)?)?;
    module.add_function(wrap_pyfunction!(tokenize, module)?)?;
    module.add_function(wrap_pyfunction!(write_fixture_dataset, module)?)
}
