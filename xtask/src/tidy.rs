//! The rules of this repository that no lint of a language knows.
//!
//! - [`layers`]: which crate may use which, after the table of floors in ARCHITECTURE.md, and which
//!   frameworks stay at the rim;
//! - [`code`]: the length of files and functions, leftovers, paths of one machine;
//! - [`documents`]: one title a document, links that resolve, a README that stays short.
//!
//! Each rule is a function from text to findings, so that its tests need no repository.

mod code;
mod documents;
mod layers;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// What a rule has to say about a place.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Whether it fails the check, or is only said.
    fatal: bool,
    /// `file` or `file:line`.
    place: String,
    message: String,
}

impl Finding {
    fn error(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { fatal: true, place: place.into(), message: message.into() }
    }

    fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { fatal: false, ..Self::error(place, message) }
    }
}

/// Checks every file that git tracks or would track; fails where a finding is fatal.
pub(crate) fn run() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?;
    let mut findings = layers::check(root)?;
    let paths = tracked_files(root)?;
    for path in &paths {
        // What is not text has no lines.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        findings.extend(code::check(path, &text));
        if has_extension(path, "md") {
            findings.extend(documents::check(root, path, &text));
        }
    }
    for finding in &findings {
        let level = if finding.fatal { "error" } else { "warning" };
        eprintln!("{level}: {}: {}", finding.place, finding.message);
    }
    let errors = findings.iter().filter(|finding| finding.fatal).count();
    eprintln!("tidy: {} files, {errors} errors, {} warnings", paths.len(), findings.len() - errors);
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn has_extension(path: &str, wanted: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == wanted)
}

fn tracked_files(root: &Path) -> Result<Vec<String>> {
    // In CI the clone may belong to another user than the one that checks it.
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run `git ls-files`")?;
    ensure!(listed.status.success(), "`git ls-files` failed: {}", String::from_utf8_lossy(&listed.stderr));
    let mut paths: Vec<String> = String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect();
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}
