//! One cold process of `benches/build.py`: one step of the chain from `.jsonl.zst` to a dataset, one thread.
//!
//! `chain STEP TOKENIZER FILE` with STEP one of `decode`, `json`, `bpe`, `write`: each does its own work on
//! what the steps before it left in memory, and prints a JSON line with the seconds of CPU and wall.
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::hint::black_box;
use std::io::{Cursor, Read};
use std::time::Instant;

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use eagleray_tokens::format::TokenType;
use eagleray_tokens::format::shard::ShardEncoder;
use eagleray_tokens::reader::{Compression, DocumentReader, Jsonl, Record, decompress};
use eagleray_tokens::tokenizer::{Definition, FASTOKENS};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, step, tokenizer, file] = arguments.as_slice() else {
        return Err(Error::invalid("usage: chain STEP TOKENIZER FILE"));
    };
    let packed = std::fs::read(file)?;
    let (cpu, wall) = match step.as_str() {
        "decode" => timed(|| decode(packed.clone()).map(drop))?,
        "json" => {
            let plain = decode(packed)?;
            timed(|| {
                parse(plain, |text| {
                    black_box(text);
                })
            })?
        }
        "bpe" => {
            let mut texts = Vec::new();
            parse(decode(packed)?, |text| texts.push(text.to_owned()))?;
            let tokenizer = Definition::read(tokenizer)?.load_engine(FASTOKENS)?;
            let mut ids = Vec::new();
            timed(|| {
                texts.iter().try_for_each(|text| {
                    ids.clear();
                    tokenizer.encode(text, &mut ids)
                })
            })?
        }
        "write" => write(&decode(packed)?, tokenizer)?,
        other => return Err(Error::invalid(format!("no step `{other}`"))),
    };
    println!("{}", serde_json::json!({ "cpu": cpu, "wall": wall }));
    Ok(())
}

fn decode(packed: Vec<u8>) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    decompress(Box::new(Cursor::new(packed)), Compression::Zstd)?.read_to_end(&mut plain)?;
    Ok(plain)
}

fn parse(plain: Vec<u8>, mut each: impl FnMut(&str)) -> Result<()> {
    let mut reader = Jsonl::new(Box::new(Cursor::new(plain)), "memory".to_owned(), "text");
    while let Some(record) = reader.next()? {
        if let Record::Document { text, .. } = record {
            each(text);
        }
    }
    Ok(())
}

/// Writes the tokens as one shard, synced to disk.
fn write(plain: &[u8], tokenizer: &str) -> Result<(f64, f64)> {
    let definition = Definition::read(tokenizer)?;
    let engine = definition.load_engine(FASTOKENS)?;
    let token_type = TokenType::for_vocabulary(definition.vocab_size());
    let mut documents = Vec::new();
    let mut failed = None;
    parse(plain.to_vec(), |text| {
        let (mut ids, mut bytes) = (Vec::new(), Vec::new());
        failed = failed.take().or_else(|| engine.encode(text, &mut ids).err());
        ids.push(0);
        token_type.encode(&ids, &mut bytes);
        documents.push(bytes);
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let folder = std::env::temp_dir().join(format!("eagleray-chain-{}", std::process::id()));
    let store = Store::open(&folder.to_string_lossy())?;
    let times = timed(|| {
        let mut encoder = ShardEncoder::new(store.writer("shard.bin")?, token_type);
        documents.iter().try_for_each(|bytes| encoder.push(bytes))?;
        let (writer, parts) = encoder.finish();
        writer.finish()?;
        store.put("shard.idx", parts.index)?;
        store.put("shard.blocks", parts.blocks)
    });
    store.delete_prefix("")?;
    times
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    work()?;
    Ok((cpu_seconds() - cpu, wall.elapsed().as_secs_f64()))
}

/// CPU time of the whole process, its other threads included.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
