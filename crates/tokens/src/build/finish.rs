//! The end of a build: from shards in the work folder to a dataset under its hash.

use eagleray_base::{Digest, Error, Result};
use eagleray_store::Store;
use serde::Serialize;

use super::plan::{KeyEntry, find_done};
use super::{BadRecord, MapStats, Plan, RawObject, ReduceStats, Role, Settings, from_json, paths, to_json};
use crate::Dataset;
use crate::format::manifest::{self, Manifest, SUFFIXES, Shard, Shards};

/// Bad records that a message names.
const NAMED: usize = 3;

/// Beside the manifest: where the tokens came from. Not a part of the dataset hash.
#[derive(Serialize)]
struct Provenance<'a> {
    format: &'static str,
    format_version: u32,
    program: &'static str,
    source: &'a str,
    role: Role,
    build_key: Digest,
    settings: &'a Settings,
    counts: Counts,
    bad_records: Vec<BadRecord>,
    objects: &'a [RawObject],
}

/// Sums over map tasks.
#[derive(Clone, Debug, Default, Serialize)]
struct Counts {
    raw_bytes: u64,
    documents: u64,
    text_bytes: u64,
    tokens: u64,
    empty: u64,
    long: u64,
    long_dropped: u64,
    long_truncated: u64,
    bad: u64,
    bad_listed: u64,
}

impl Counts {
    fn of(stats: &[MapStats]) -> Self {
        stats.iter().fold(Self::default(), |sum, task| Self {
            raw_bytes: sum.raw_bytes + task.bytes,
            documents: sum.documents + task.documents,
            text_bytes: sum.text_bytes + task.text_bytes,
            tokens: sum.tokens + task.tokens,
            empty: sum.empty + task.empty,
            long: sum.long + task.long,
            long_dropped: sum.long_dropped + task.long_dropped,
            long_truncated: sum.long_truncated + task.long_truncated,
            bad: sum.bad + task.bad,
            bad_listed: sum.bad_listed + task.bad_listed.len() as u64,
        })
    }
}

/// Checks what the map tasks found before anything is made of it.
///
/// # Errors
/// `Invalid` where more records are bad than the spec allows, naming the first, or no document is left.
pub fn check_map(plan: &Plan, stats: &[MapStats]) -> Result<()> {
    let counts = Counts::of(stats);
    let records = counts.bad + counts.documents + counts.empty + counts.long_dropped;
    let limit = plan.settings.bad_fraction_max;
    let place = format!("source `{}`", plan.source);
    if counts.bad > 0 && (counts.bad as f64 > limit * records as f64 || counts.documents == 0) {
        let listed = stats.iter().flat_map(|task| &task.bad_listed);
        let first: Vec<String> = listed
            .take(NAMED)
            .map(|bad| format!("`{}` at byte {} {}", bad.object, bad.offset, bad.reason))
            .collect();
        return Err(Error::invalid(format!(
            "{place}: {} of {records} records are bad, more than the limit of {} %: {}{}",
            counts.bad,
            limit * 100.0,
            first.join("; "),
            if counts.bad > NAMED as u64 { "; …" } else { "" },
        ))
        .with_hint("mend the records or the source's `text`, or raise `data.bad_records.max_fraction`"));
    }
    if counts.documents == 0 {
        return Err(Error::invalid(format!(
            "{place} has no document: {} objects, {} empty and {} long documents left out",
            plan.objects.len(),
            counts.empty,
            counts.long_dropped
        ))
        .with_hint("check that the source's pattern names the files that hold the text"));
    }
    Ok(())
}

/// Puts the shards under the dataset's hash, writes the manifest and the build key, sweeps the work
/// folder, and returns the dataset's URL.
///
/// # Errors
/// As the store and [`check_map`]; `Corrupt` where an intermediate object is not what was written.
pub fn finish(plan: &Plan) -> Result<String> {
    let built = Store::open(&plan.built)?;
    if let Some(dataset) = &plan.dataset {
        return Ok(dataset.clone());
    }
    let hash = match find_done(&built, plan.build_key)? {
        Some(hash) => hash,
        None => publish(plan, &built)?,
    };
    sweep(&built, plan.build_key);
    Ok(built.url_of(&hash.to_string()))
}

/// Deletes the work of a build whose dataset is done. Another builder may still write there, or this one be
/// killed on the way: the next plan of the same build finds the dataset done and sweeps again.
pub(super) fn sweep(built: &Store, build_key: Digest) {
    let works = paths::works(build_key);
    if let Err(error) = built.delete_prefix(&works) {
        tracing::warn!(work = built.url_of(&works), reason = error.message(), "the work folder is left");
    }
}

fn publish(plan: &Plan, built: &Store) -> Result<Digest> {
    let work_path = paths::work(plan.build_key, &plan.settings.engine);
    let work = built.child(&work_path);
    let read = |path: String| work.get(&path).map(|bytes| (bytes, format!("`{}`", work.url_of(&path))));
    let mut maps: Vec<MapStats> = Vec::with_capacity(plan.map.len());
    for task in &plan.map {
        let (bytes, place) = read(paths::map_done(task.index))?;
        maps.push(from_json(&bytes, &place)?);
    }
    check_map(plan, &maps)?;
    let mut shards: Vec<ReduceStats> = Vec::with_capacity(plan.reduce.len());
    for task in &plan.reduce {
        let (bytes, place) = read(paths::shard_done(task.shard))?;
        shards.push(from_json(&bytes, &place)?);
    }
    shards.retain(|shard| shard.documents > 0);
    let counts = Counts::of(&maps);
    let manifest = manifest_of(plan, &shards);
    let hash = manifest.dataset_hash;
    if (manifest.tokens, manifest.documents) != (counts.tokens, counts.documents) {
        return Err(Error::internal(format!(
            "{} tokens in {} documents went in, {} in {} came out",
            counts.tokens, counts.documents, manifest.tokens, manifest.documents
        ))
        .with_hint("delete the build's `work` folder and build again"));
    }
    let folder = built.child(&hash.to_string());
    if folder.head(manifest::NAME)?.is_none() {
        for (written, listed) in shards.iter().zip(manifest.shards.iter()) {
            for suffix in SUFFIXES {
                let from = format!("{}{suffix}", paths::shard(written.shard));
                built.copy(&format!("{work_path}/{from}"), &format!("{hash}/{}{suffix}", listed.path))?;
            }
        }
        folder.put(paths::TOKENIZER, work.get(paths::TOKENIZER)?)?;
        folder.put("provenance.json", provenance(plan, counts, maps)?)?;
        folder.put_if_absent(manifest::NAME, manifest.encode()?)?;
    }
    // Another tokenizer may have given the same tokens before.
    Dataset::open(&folder)?.add_tokenizer(plan.settings.tokenizer_hash, work.get(paths::TOKENIZER)?)?;
    built.put(&format!("keys/{}", plan.build_key), to_json(&KeyEntry { dataset: hash })?)?;
    Ok(hash)
}

fn manifest_of(plan: &Plan, written: &[ReduceStats]) -> Manifest {
    let listed = written.iter().enumerate().map(|(number, shard)| Shard {
        path: paths::shard(number as u32),
        tokens: shard.tokens,
        documents: shard.documents,
        bytes: shard.bytes,
        crc32c: shard.crc32c,
        bin_digest: shard.bin_digest,
        lengths_digest: shard.lengths_digest,
    });
    let shards: Shards = listed.collect();
    Manifest {
        dataset_hash: shards.dataset_hash(),
        tokenizer_hash: plan.settings.tokenizer_hash,
        engine: plan.settings.engine.clone(),
        vocab_size: plan.settings.vocab_size,
        eod_id: plan.settings.eod_id,
        token_bytes: plan.settings.token_type().bytes() as u32,
        loss_mask: plan.settings.chat.is_some(),
        tokens: written.iter().map(|shard| shard.tokens).sum(),
        documents: written.iter().map(|shard| shard.documents).sum(),
        shards,
    }
}

fn provenance(plan: &Plan, counts: Counts, maps: Vec<MapStats>) -> Result<Vec<u8>> {
    let provenance = Provenance {
        format: "eagleray.provenance",
        format_version: 1,
        program: env!("CARGO_PKG_VERSION"),
        source: &plan.source,
        role: plan.role,
        build_key: plan.build_key,
        settings: &plan.settings,
        counts,
        bad_records: maps.into_iter().flat_map(|task| task.bad_listed).collect(),
        objects: &plan.objects,
    };
    to_json(&provenance)
}
