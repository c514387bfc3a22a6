//! All outcomes of a trial together.

use std::collections::{BTreeMap, HashMap};

use eagleray_base::Result;
use serde::Serialize;

use super::{Outcome, Spot, Survey, TokenizerUse, Trial, quantile};
use crate::tokenizer::Definition;

/// Faults of one kind that are listed.
const LISTED_MAX: usize = 1_000;

/// A fault with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listed {
    /// The object's URL.
    pub object: String,
    /// Where in it.
    #[serde(flatten)]
    pub spot: Spot,
    /// What is wrong, to be read after the place.
    pub reason: String,
}

/// A document that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The object's URL.
    pub object: String,
    /// Where in it.
    #[serde(flatten)]
    pub spot: Spot,
    /// Its first characters.
    pub text: String,
    /// Bytes of all its text.
    pub bytes: u64,
    /// All its tokens, its end included.
    pub tokens: u64,
    /// Its first tokens, decoded one by one; bytes that are no character alone are written `\xNN`.
    pub pieces: Vec<String>,
}

/// How fast it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// CPU seconds of reading: requests, decompression, cutting, checks, hashes.
    pub read_cpu_seconds: f64,
    /// CPU seconds of tokenising.
    pub tokenise_cpu_seconds: f64,
    /// Seconds that tasks took, summed.
    pub wall_seconds: f64,
    /// Bytes on the store a CPU second of reading.
    pub read_bytes_per_cpu_second: f64,
    /// Bytes on the store a CPU second of tokenising; 0 without a tokenizer.
    pub tokenise_bytes_per_cpu_second: f64,
    /// Bytes on the store a CPU second of both.
    pub bytes_per_cpu_second: f64,
    /// Bytes on the store a second of a task.
    pub bytes_per_wall_second: f64,
}

/// What a trial found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// What the patterns name.
    pub corpus: Survey,
    /// The tokenizer, where there is one.
    pub tokenizer: Option<TokenizerUse>,
    /// Whether everything was read.
    pub whole: bool,
    /// Objects that were read.
    pub objects: u64,
    /// Places in them.
    pub places: u64,
    /// Bytes on the store that were read.
    pub raw_bytes: u64,
    /// Documents with text.
    pub documents: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Their tokens, the end of each document included.
    pub tokens: u64,
    /// Bytes of text a token.
    pub text_bytes_per_token: Option<f64>,
    /// Tokens of a document, or bytes of text without a tokenizer: 50 %, 95 %, 99 % and all have no more.
    pub lengths: [u64; 4],
    /// A sample has so many tokens.
    pub sequence_length: u64,
    /// The share of documents with more.
    pub long_share: f64,
    /// The share of tokens that stand for what the vocabulary lacks; `None` where it lacks nothing.
    pub unknown_share: Option<f64>,
    /// The share of tokens that stand for single bytes; `None` where there is no such fallback.
    pub fallback_share: Option<f64>,
    /// Records that are no documents.
    pub bad: u64,
    /// The first of them.
    pub bad_listed: Vec<Listed>,
    /// Documents without text.
    pub empty: u64,
    /// The first of them.
    pub empty_listed: Vec<Listed>,
    /// Documents whose text was read before.
    pub duplicates: u64,
    /// The first of them.
    pub duplicates_listed: Vec<Listed>,
    /// Objects that end early or are damaged.
    pub damaged: Vec<String>,
    /// Documents to look at.
    pub samples: Vec<Sample>,
    /// How fast it went.
    pub rates: Rates,
    /// Requests made.
    pub gets: u64,
}

/// Puts the outcomes of a trial together, and in order: they may have come in any.
///
/// # Errors
/// As [`Definition::parse`], where `tokenizer` is none.
pub fn findings(trial: &Trial, outcomes: &mut [Outcome], tokenizer: Option<&[u8]>) -> Result<Findings> {
    outcomes.sort_by(|a, b| {
        let first = |outcome: &Outcome| outcome.seen.first().map(|(_, spot)| spot.offset);
        a.object.cmp(&b.object).then(first(a).cmp(&first(b)))
    });
    let used = trial.settings.tokenizer.clone();
    let definition = match (&used, tokenizer) {
        (Some(used), Some(bytes)) => Some(Definition::parse(bytes.to_vec(), &used.location)?),
        _ => None,
    };
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (documents, tokens) = (sum(|each| each.documents), sum(|each| each.tokens));
    let (raw_bytes, text_bytes) = (sum(|each| each.raw_bytes), sum(|each| each.text_bytes));
    let mut lengths = BTreeMap::new();
    for (length, count) in outcomes.iter().flat_map(|outcome| &outcome.lengths) {
        *lengths.entry(*length).or_default() += count;
    }
    let (duplicates, duplicates_listed) = duplicates(outcomes);
    let mut objects: Vec<&str> = outcomes.iter().map(|outcome| outcome.object.as_str()).collect();
    objects.dedup();
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let lacks = definition.as_ref().and_then(Definition::unknown_id).is_some();
    let falls = definition.as_ref().is_some_and(|definition| !definition.fallback_ids().is_empty());
    Ok(Findings {
        corpus: trial.survey.clone(),
        whole: trial.whole && raw_bytes >= trial.survey.bytes,
        objects: objects.len() as u64,
        places: outcomes.len() as u64,
        raw_bytes,
        documents,
        text_bytes,
        tokens,
        text_bytes_per_token: (tokens > 0).then(|| share(text_bytes, tokens)),
        lengths: [0.5, 0.95, 0.99, 1.0].map(|part| quantile(&lengths, part).unwrap_or(0)),
        sequence_length: trial.settings.sequence_length,
        long_share: share(sum(|each| each.long), documents),
        unknown_share: lacks.then(|| share(sum(|each| each.unknown_tokens), tokens)),
        fallback_share: falls.then(|| share(sum(|each| each.fallback_tokens), tokens)),
        bad: sum(|each| each.bad),
        bad_listed: listed(outcomes, |each| &each.bad_listed),
        empty: sum(|each| each.empty),
        empty_listed: listed(outcomes, |each| &each.empty_listed),
        duplicates,
        duplicates_listed,
        damaged: outcomes.iter().filter_map(|outcome| outcome.damaged.clone()).collect(),
        samples: samples(outcomes, trial.settings.samples as usize, definition.as_ref()),
        rates: rates(outcomes, raw_bytes as f64),
        gets: sum(|each| each.gets),
        tokenizer: used,
    })
}

fn listed(outcomes: &[Outcome], of: fn(&Outcome) -> &Vec<super::Fault>) -> Vec<Listed> {
    let all = outcomes.iter().flat_map(|outcome| {
        of(outcome).iter().map(|fault| Listed {
            object: outcome.object.clone(),
            spot: fault.spot,
            reason: fault.reason.clone(),
        })
    });
    all.take(LISTED_MAX).collect()
}

fn duplicates(outcomes: &[Outcome]) -> (u64, Vec<Listed>) {
    let mut first: HashMap<u64, (&str, Spot)> = HashMap::new();
    let (mut count, mut found) = (0, Vec::new());
    for outcome in outcomes {
        for &(hash, spot) in &outcome.seen {
            let Some((object, before)) = first.get(&hash) else {
                first.insert(hash, (&outcome.object, spot));
                continue;
            };
            count += 1;
            if found.len() < LISTED_MAX {
                let reason = format!("has the text of {}", super::show::place(object, *before));
                found.push(Listed { object: outcome.object.clone(), spot, reason });
            }
        }
    }
    (count, found)
}

fn samples(outcomes: &[Outcome], wanted: usize, definition: Option<&Definition>) -> Vec<Sample> {
    let mut drawn: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| outcome.samples.iter().map(move |each| (&outcome.object, each)))
        .collect();
    drawn.sort_by_key(|(_, each)| each.hash);
    // A text that occurs twice is shown once.
    drawn.dedup_by_key(|(_, each)| each.hash);
    drawn.truncate(wanted);
    let names = definition.map(Definition::pieces);
    let shown = drawn.into_iter().map(|(object, each)| Sample {
        object: object.clone(),
        spot: each.spot,
        text: each.text.clone(),
        bytes: each.bytes,
        tokens: each.tokens,
        pieces: names.as_ref().map_or_else(Vec::new, |names| names.of(&each.ids)),
    });
    shown.collect()
}

fn rates(outcomes: &[Outcome], raw_bytes: f64) -> Rates {
    let sum = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>();
    let (read, tokenise, wall) = (
        sum(|each| each.read_cpu_seconds),
        sum(|each| each.tokenise_cpu_seconds),
        sum(|each| each.wall_seconds),
    );
    let per = |seconds: f64| if seconds > 0.0 { raw_bytes / seconds } else { 0.0 };
    Rates {
        read_cpu_seconds: read,
        tokenise_cpu_seconds: tokenise,
        wall_seconds: wall,
        read_bytes_per_cpu_second: per(read),
        tokenise_bytes_per_cpu_second: per(tokenise),
        bytes_per_cpu_second: per(read + tokenise),
        bytes_per_wall_second: per(wall),
    }
}
