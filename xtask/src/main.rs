//! Repository tasks with logic: `cargo run -p xtask -- tidy`.

#![allow(clippy::print_stderr, reason = "a task talks to whoever started it")]

mod tidy;

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["tidy"] {
        return tidy::run();
    }
    eprintln!("usage: cargo run -p xtask -- tidy");
    Ok(ExitCode::from(2))
}
