//! Listing, choosing, and looking at the tokenizer: all that can be refused before Ray starts.

use std::collections::BTreeMap;

use eagleray_base::{Error, Result};
use eagleray_store::{READ_CHUNK_BYTES, Store};

use super::choose::{Candidate, choose};
use super::{Asked, DOCUMENTS_MAX, Draw, Kind, Settings, Survey, Task, TokenizerUse, Trial};
use crate::build::{self, MAP_BYTES};
use crate::format::TokenType;
use crate::reader::{self, CHUNK_BYTES, Compression, Format, Piece};
use crate::tokenizer::{self, Definition};

/// What one task reads, so that a few seconds of work go to every CPU of a small cluster.
const TASK_BYTES: u64 = 2 << 20;
/// Places that one task reads.
const TASK_DRAWS_MAX: usize = 128;
/// Names that are listed.
const LISTED_MAX: usize = 5;

struct Found {
    url: String,
    field: String,
    piece: Piece,
}

/// Plans a trial.
///
/// # Errors
/// `NotFound` for a pattern that matches nothing or a tokenizer that is not there; `Invalid` where no object can
/// be read or a limit is none.
pub fn plan(asked: &Asked) -> Result<Trial> {
    if asked.bytes_max == 0 || asked.documents_max == 0 || asked.sequence_length == 0 {
        return Err(Error::invalid("a slice of nothing says nothing").with_hint("give limits above 0"));
    }
    if asked.documents_max > DOCUMENTS_MAX {
        return Err(Error::invalid(format!(
            "expected at most {DOCUMENTS_MAX} documents, found a limit of {}",
            asked.documents_max
        ))
        .with_hint("take a smaller slice; `eagleray tokens build` reads everything"));
    }
    let tokenizer = asked.tokenizer.as_deref().map(used).transpose()?;
    let mut survey = Survey::default();
    let found = survey_of(asked, &mut survey)?;
    let candidates: Vec<Candidate<'_>> = found.iter().map(candidate).collect();
    let taken = choose(&candidates, asked.bytes_max, asked.documents_max);
    let settings = Settings { tokenizer, samples: asked.samples, sequence_length: asked.sequence_length };
    let bytes = taken.iter().map(|taken| taken.bytes).sum();
    let whole = bytes == survey.bytes;
    let draws = taken.into_iter().map(|taken| {
        let Found { field, piece, .. } = &found[taken.object];
        Draw {
            piece: Piece { range: taken.range, bytes: taken.bytes, ..piece.clone() },
            text_field: field.clone(),
            bytes_max: taken.bytes,
            documents_max: taken.documents_max,
        }
    });
    let tasks = grouped(draws, &settings);
    Ok(Trial { survey, settings, bytes, whole, tasks })
}

fn used(location: &str) -> Result<TokenizerUse> {
    let definition = Definition::read(location)?;
    let loaded = definition.load()?;
    let engine = loaded.engine().to_owned();
    tokenizer::remember(definition.hash(), loaded);
    let vocab_size = definition.vocab_size();
    let token_bytes = TokenType::for_vocabulary(vocab_size).bytes() as u64;
    Ok(TokenizerUse {
        location: location.to_owned(),
        hash: definition.hash(),
        engine,
        vocab_size,
        token_bytes,
    })
}

fn survey_of(asked: &Asked, survey: &mut Survey) -> Result<Vec<Found>> {
    let mut found = BTreeMap::new();
    for source in &asked.sources {
        for (url, store, info) in build::listing(&source.patterns)? {
            match reader::detect(&url, source.format.as_deref()) {
                Ok((format, compression)) => {
                    let piece = piece(&store, info.path, format, compression, info.bytes);
                    found.insert(url.clone(), Found { url, field: source.text_field.clone(), piece });
                }
                Err(error) if source.format.is_some() => return Err(error),
                Err(_) => {
                    survey.unnamed += 1;
                    if survey.unnamed_listed.len() < LISTED_MAX {
                        survey.unnamed_listed.push(url);
                    }
                }
            }
        }
    }
    let found: Vec<Found> = found.into_values().collect();
    let mut kinds: Vec<Kind> = Vec::new();
    for Found { piece: Piece { format, compression, bytes, .. }, .. } in &found {
        survey.objects += 1;
        survey.bytes += bytes;
        survey.empty_objects += u64::from(*bytes == 0);
        let cuttable = (*format, *compression) == (Format::Jsonl, Compression::None);
        survey.uncut_bytes_max =
            survey.uncut_bytes_max.max(if cuttable { MAP_BYTES.min(*bytes) } else { *bytes });
        survey.gets += gets(*bytes, cuttable);
        match kinds.iter_mut().find(|kind| (kind.format, kind.compression) == (*format, *compression)) {
            Some(kind) => (kind.objects, kind.bytes) = (kind.objects + 1, kind.bytes + bytes),
            None => {
                kinds.push(Kind { format: *format, compression: *compression, objects: 1, bytes: *bytes });
            }
        }
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    survey.kinds = kinds;
    if survey.bytes == 0 {
        return Err(nothing_to_read(survey));
    }
    Ok(found)
}

fn nothing_to_read(survey: &Survey) -> Error {
    if survey.objects > 0 {
        return Error::invalid(format!("the {} objects found are all empty", survey.objects))
            .with_hint("check what wrote them");
    }
    let named = survey.unnamed_listed.join("`, `");
    Error::invalid(format!("none of {} objects has a name that tells its format: `{named}`", survey.unnamed))
        .with_hint("`.jsonl`, `.ndjson` and `.txt` are read, each with `.zst` or `.gz` behind it too; `--as jsonl` says it for other names")
}

fn piece(store: &Store, path: String, format: Format, compression: Compression, bytes: u64) -> Piece {
    let root = store.url().to_owned();
    Piece { root, path, format, compression, range: None, bytes, version: None }
}

fn candidate(found: &Found) -> Candidate<'_> {
    let Piece { format, compression, bytes, .. } = found.piece;
    Candidate {
        url: &found.url,
        bytes,
        cuttable: (format, compression) == (Format::Jsonl, Compression::None),
        indivisible: format == Format::Txt,
    }
}

/// The requests that a build reads an object with: two looks at a piece, and its ranges; one more range for the
/// line that a piece ends within.
fn gets(bytes: u64, cuttable: bool) -> u64 {
    if cuttable && bytes > MAP_BYTES {
        let pieces = bytes.div_ceil(MAP_BYTES);
        return pieces * (3 + MAP_BYTES.div_ceil(CHUNK_BYTES));
    }
    2 + bytes.div_ceil(READ_CHUNK_BYTES)
}

fn grouped(draws: impl Iterator<Item = Draw>, settings: &Settings) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut bytes = 0;
    for draw in draws {
        let fits = bytes + draw.bytes_max <= TASK_BYTES;
        bytes = if fits { bytes + draw.bytes_max } else { draw.bytes_max };
        match tasks.last_mut() {
            Some(task) if fits && task.draws.len() < TASK_DRAWS_MAX => task.draws.push(draw),
            _ => tasks.push(Task { settings: settings.clone(), draws: vec![draw] }),
        }
    }
    tasks
}
