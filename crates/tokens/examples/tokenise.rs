//! One cold process of `benches/tokenise.py`: encode a file of JSON lines with one engine, one thread.
//!
//! `tokenise ENGINE TOKENIZER FILE` prints a JSON line: seconds of CPU and wall for encoding alone, the
//! tokens, and a digest of the ids, by which two engines are compared.
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::Instant;

use eagleray_base::{Digest, Error, Result};
use eagleray_tokens::tokenizer::{Definition, FASTOKENS, TOKENIZERS};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, engine, tokenizer, file] = arguments.as_slice() else {
        return Err(Error::invalid("usage: tokenise ENGINE TOKENIZER FILE"));
    };
    let engine = if engine == "fastokens" { FASTOKENS } else { TOKENIZERS };
    let tokenizer = Definition::read(tokenizer)?.load_engine(engine)?;
    let lines = std::fs::read_to_string(file)?;
    let texts: std::result::Result<Vec<String>, _> = lines.lines().map(serde_json::from_str).collect();
    let texts = texts.map_err(|error| Error::invalid(error.to_string()))?;
    // Written to once, so that the pages are there before the clock starts.
    let mut all = vec![1_u32; texts.iter().map(String::len).sum()];
    all.clear();
    let mut ids = Vec::new();
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    for text in &texts {
        ids.clear();
        tokenizer.encode(text, &mut ids)?;
        all.extend_from_slice(&ids);
    }
    let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
    let bytes: Vec<u8> = all.iter().flat_map(|id| id.to_le_bytes()).collect();
    println!(
        "{}",
        serde_json::json!({
            "cpu": cpu, "wall": wall, "tokens": all.len(), "ids": Digest::of(&bytes),
            "bytes": texts.iter().map(String::len).sum::<usize>(),
        })
    );
    Ok(())
}

/// CPU time of the whole process, its other threads included.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
