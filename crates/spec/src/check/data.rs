//! Checks of `data`.

use super::{Checks, is_python_name};
use crate::types::data::{Data, Filter, Share, Text, Validation};
use crate::types::values::OneOrMany;

/// The longest sample in tokens; also what fits a `u32` comfortably with its labels.
const SEQUENCE_LENGTH_MAX: u32 = 1 << 24;

/// The longest name of a source.
const SOURCE_NAME_CHARS_MAX: usize = 64;

pub(super) fn check(checks: &mut Checks<'_>, data: &Data) {
    let length = data.sequence_length;
    let wanted = format!("2 to {SEQUENCE_LENGTH_MAX} tokens");
    checks.range((2..=SEQUENCE_LENGTH_MAX).contains(&length), &["data", "sequence_length"], length, &wanted);
    checks.require(
        !data.shuffle_key.is_empty(),
        &["data", "shuffle_key"],
        "the key of the shuffle is empty",
        "",
    );
    checks.require(
        data.end_of_document.as_deref() != Some(""),
        &["data", "end_of_document"],
        "the token that ends a document is empty",
        "leave it out, or write one of the tokenizer's tokens",
    );
    let fraction = data.bad_records.max_fraction;
    checks.range(
        (0.0..=1.0).contains(&fraction),
        &["data", "bad_records", "max_fraction"],
        fraction,
        "a share from 0 to 1",
    );
    let hint = "give at least one: `sources: {web: {documents: corpus/*.jsonl}}`";
    checks.require(!data.sources.0.is_empty(), &["data", "sources"], "`data.sources` has no source", hint);
    for (name, source) in data.sources.iter() {
        check_name(checks, "sources", name);
        check_source(checks, name, source);
    }
    check_weights(checks, data);
    for (name, validation) in data.validation.iter() {
        check_name(checks, "validation", name);
        check_validation(checks, name, validation);
    }
}

fn check_name(checks: &mut Checks<'_>, group: &str, name: &str) {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let holds = !name.is_empty() && name.len() <= SOURCE_NAME_CHARS_MAX && name.chars().all(legal);
    checks.require(
        holds && !name.starts_with('.'),
        &["data", group, name],
        format!("`{name}` is not a name for a text"),
        "use letters, digits, `-`, `_` and `.`, at most 64 characters",
    );
}

fn check_source(checks: &mut Checks<'_>, name: &str, source: &Text) {
    let owner = ["data", "sources", name];
    let at = |key| ["data", "sources", name, key];
    checks.exactly_one(
        &owner,
        &[
            ("documents", source.documents.is_some()),
            ("tokens", source.tokens.is_some()),
            ("ray_data", source.ray_data.is_some()),
        ],
    );
    check_documents(checks, &at("documents"), source.documents.as_ref());
    check_field(checks, &at("text"), &source.text);
    check_chat(checks, &owner, source.chat.as_deref(), source.documents.is_some());
    if let Some(function) = source.ray_data.as_deref().filter(|function| !is_python_name(function)) {
        let message = format!("`{function}` names no function");
        checks.report(&at("ray_data"), message, "write `package.module:function`");
    }
    if source.tokens.is_some() {
        for key in ["text", "format", "filters"] {
            let message = format!("`{key}` has no effect on `tokens`");
            checks.require(
                !checks.written(&at(key)),
                &at(key),
                message,
                "it belongs to `documents`: remove it",
            );
        }
    }
    for (index, filter) in source.filters.iter().enumerate() {
        let index = format!("[{index}]");
        check_filter(checks, &["data", "sources", name, "filters", &index], filter);
    }
}

fn check_documents(checks: &mut Checks<'_>, path: &[&str], documents: Option<&OneOrMany>) {
    let empty = documents.is_some_and(|documents| documents.0.is_empty());
    checks.require(!empty, path, "the list of documents is empty", "give a path or a glob: `corpus/*.jsonl`");
}

fn check_field(checks: &mut Checks<'_>, path: &[&str], field: &str) {
    let legal = field.split('.').all(|part| !part.is_empty());
    checks.require(
        legal,
        path,
        format!("`{field}` is not a field"),
        "write `text`, or a dotted path such as `body.text`",
    );
}

/// A conversation is what records of `documents` have instead of a text.
fn check_chat(checks: &mut Checks<'_>, owner: &[&str], chat: Option<&str>, has_documents: bool) {
    let Some(field) = chat else { return };
    let path = [owner, &["chat"]].concat();
    check_field(checks, &path, field);
    checks.require(has_documents, &path, "`chat` has no effect without `documents`", "remove it");
    let both = checks.written(&[owner, &["text"]].concat());
    checks.require(!both, &path, "a source has `text` or `chat`, not both", "keep `chat` for conversations");
}

fn check_weights(checks: &mut Checks<'_>, data: &Data) {
    let mut sum = 0.0;
    for (name, source) in data.sources.iter() {
        let weight = source.weight;
        checks.range(weight >= 0.0, &["data", "sources", name, "weight"], weight, "a weight of 0 or more");
        sum += weight.max(0.0);
    }
    if data.sources.0.is_empty() {
        return;
    }
    checks.require(
        sum > 0.0,
        &["data", "sources"],
        "the weights sum to nothing",
        "give at least one source a weight above 0",
    );
    checks.require(
        sum.is_finite(),
        &["data", "sources"],
        "the weights sum to more than a number holds",
        "weights are relative: make them smaller",
    );
}

fn check_filter(checks: &mut Checks<'_>, path: &[&str], filter: &Filter) {
    match filter {
        Filter::Length(length) => {
            let bounded = length.min_chars.is_some() || length.max_chars.is_some();
            checks.require(bounded, path, "`length` has no bound", "give `min_chars`, `max_chars` or both");
            if let (Some(min), Some(max)) = (length.min_chars, length.max_chars) {
                let message = format!("`min_chars` {min} is above `max_chars` {max}");
                checks.require(min <= max, path, message, "");
            }
        }
        Filter::Script(scripts) => {
            checks.require(
                !scripts.0.is_empty(),
                path,
                "`script` names no script",
                "write `{script: {hangul: {min: 0.3}}}`",
            );
            for (name, share) in scripts.iter() {
                check_share(checks, &[path, &["script", name]].concat(), name, share);
            }
        }
        Filter::Repetition(repetition) => {
            let share = repetition.max_line_share;
            let path = [path, &["repetition", "max_line_share"]].concat();
            checks.range((0.0..=1.0).contains(&share), &path, share, "a share from 0 to 1");
        }
        Filter::Replace(replace) => {
            checks.require(!replace.pattern.is_empty(), path, "the pattern is empty", "");
        }
        Filter::Dedup(_) => {}
    }
}

fn check_share(checks: &mut Checks<'_>, path: &[&str], name: &str, share: &Share) {
    for bound in [share.min, share.max].into_iter().flatten() {
        checks.range((0.0..=1.0).contains(&bound), path, bound, "a share from 0 to 1");
    }
    let bounded = share.min.is_some() || share.max.is_some();
    checks.require(bounded, path, format!("`{name}` has no bound"), "give `min`, `max` or both");
    if let (Some(min), Some(max)) = (share.min, share.max) {
        checks.require(min <= max, path, format!("`min` {min} is above `max` {max}"), "");
    }
}

fn check_validation(checks: &mut Checks<'_>, name: &str, validation: &Validation) {
    let at = |key| ["data", "validation", name, key];
    checks.exactly_one(
        &["data", "validation", name],
        &[("documents", validation.documents.is_some()), ("tokens", validation.tokens.is_some())],
    );
    check_documents(checks, &at("documents"), validation.documents.as_ref());
    check_field(checks, &at("text"), &validation.text);
    let owner = ["data", "validation", name];
    check_chat(checks, &owner, validation.chat.as_deref(), validation.documents.is_some());
    checks.range(validation.every_steps >= 1, &at("every_steps"), validation.every_steps, "1 step or more");
    checks.range(validation.samples >= 1, &at("samples"), validation.samples, "1 sample or more");
}
