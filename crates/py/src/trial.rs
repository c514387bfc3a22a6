//! Bindings of a trial: a slice of a corpus read, and what it says of the whole.

use eagleray_base::Result;
use eagleray_plan::Instance;
use eagleray_plan::corpus::{self, Corpus, Place};
use eagleray_plan::prices::Prices;
use eagleray_tokens::tokenizer::Definition;
use eagleray_tokens::trial::{self, Outcome, Task, Trial};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;

use crate::errors::to_py;
use crate::json::{parse, render};

/// What the command line hands over.
#[derive(Deserialize)]
struct Request {
    trial: Trial,
    instance: String,
    prices: Option<String>,
    explain: bool,
}

/// The bytes of a `tokenizer.json`, for workers that do not see where it lies.
#[pyfunction]
fn read_tokenizer<'py>(py: Python<'py>, location: &str) -> PyResult<Bound<'py, PyBytes>> {
    let definition = py.detach(|| Definition::read(location)).map_err(to_py)?;
    Ok(PyBytes::new(py, &definition.bytes()))
}

/// Reads the places of one task; a list of outcomes.
#[pyfunction]
fn run_trial(py: Python<'_>, task: &str, tokenizer: Option<&[u8]>) -> PyResult<String> {
    py.detach(|| render(&trial::run(&parse::<Task>(task, "the task of a trial")?, tokenizer)?)).map_err(to_py)
}

/// What a trial found and what it says of the whole: as JSON, and for people.
#[pyfunction]
fn report_trial(
    py: Python<'_>,
    request: &str,
    outcomes: Vec<String>,
    tokenizer: Option<&[u8]>,
) -> PyResult<(String, String)> {
    py.detach(|| report(request, &outcomes, tokenizer)).map_err(to_py)
}

fn report(request: &str, outcomes: &[String], tokenizer: Option<&[u8]>) -> Result<(String, String)> {
    let request: Request = parse(request, "the trial")?;
    let outcomes: Result<Vec<Vec<Outcome>>> =
        outcomes.iter().map(|json| parse(json, "the outcomes of a task")).collect();
    let mut outcomes: Vec<Outcome> = outcomes?.into_iter().flatten().collect();
    let found = trial::findings(&request.trial, &mut outcomes, tokenizer)?;
    let prices = Prices::embedded()?;
    let prices = request.prices.as_deref().map_or(Ok(prices.clone()), |text| prices.overlaid(text))?;
    let places: Vec<Place> = outcomes.iter().map(place).collect();
    let extent = corpus::extent(&Corpus {
        bytes: found.corpus.bytes,
        uncut_bytes_max: found.corpus.uncut_bytes_max,
        gets: found.corpus.gets,
        token_bytes: found.tokenizer.as_ref().map(|used| used.token_bytes),
        whole: found.whole,
        places: &places,
        instance: &Instance::cpu(&request.instance)?,
        prices: &prices,
    });
    let json = render(&serde_json::json!({"slice": found, "whole": extent}))?;
    Ok((json, format!("{}{}", trial::show(&found), extent.show(request.explain))))
}

fn place(outcome: &Outcome) -> Place {
    Place {
        raw_bytes: outcome.raw_bytes as f64,
        documents: outcome.documents as f64,
        tokens: outcome.tokens as f64,
        cpu_seconds: outcome.read_cpu_seconds + outcome.tokenise_cpu_seconds,
        wall_seconds: outcome.wall_seconds,
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read_tokenizer, module)?)?;
    module.add_function(wrap_pyfunction!(run_trial, module)?)?;
    module.add_function(wrap_pyfunction!(report_trial, module)?)
}
