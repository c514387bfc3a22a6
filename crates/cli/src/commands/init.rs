//! `eagleray init`: a run spec to start from, whose comments teach.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use eagleray_base::{Error, Kind, Result};
use eagleray_spec::{Problems, Source};

use crate::output::Output;

/// The text that `init` writes; `<…>` are filled in.
const TEMPLATE: &str = include_str!("run.yaml");

/// The file that `init` writes.
const FILE: &str = "run.yaml";

/// Write a commented run.yaml to start from.
#[derive(clap::Args)]
pub(crate) struct Init {
    /// The folder; made where there is none
    dir: PathBuf,
    /// The name of the run [default: the name of the folder]
    #[arg(long)]
    name: Option<String>,
    /// The text to train on: a path or glob, relative to DIR, or s3://…
    #[arg(long, value_name = "GLOB", default_value = "corpus/train/*.jsonl.zst")]
    documents: String,
    /// The text held out to measure on
    #[arg(long, value_name = "GLOB", default_value = "corpus/validation/*.jsonl")]
    validation: String,
    /// The tokenizer.json
    #[arg(long, value_name = "FILE", default_value = "tokenizer.json")]
    tokenizer: String,
    /// Replace a run.yaml that is there
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let absolute = std::path::absolute(&self.dir)?;
        let name = self.name.clone().unwrap_or_else(|| name_of(&absolute));
        let text = TEMPLATE
            .replace("<name>", &quoted(&name))
            .replace("<documents>", &quoted(&self.documents))
            .replace("<validation>", &quoted(&self.validation))
            .replace("<tokenizer>", &quoted(&self.tokenizer));
        // What was asked for is checked before anything is written.
        let environment = |name: &str| std::env::var(name).ok();
        let source =
            Source { name: FILE, text: &text, base: &absolute, overrides: &[], environment: &environment };
        eagleray_spec::resolve(&source).map_err(Problems::into_error)?;
        let path = self.dir.join(FILE);
        write(&path, &text, self.force).map_err(|error| at(error, &path))?;
        let path = path.display();
        if output.is_json() {
            output.json(&serde_json::json!({"path": path.to_string(), "name": name}));
        } else {
            output.print(&format!("wrote {path}\nnext: edit it, then `eagleray check {path}`"));
        }
        Ok(())
    }
}

/// Writes whole or not at all.
pub(super) fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file =
        tempfile::Builder::new().prefix(".run.yaml-").permissions(readable()).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    let kept = if force { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map_err(|error| Error::from(error.error))?;
    Ok(())
}

fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

/// Says which file could not be written, and what to do.
pub(super) fn at(error: Error, path: &Path) -> Error {
    if error.kind() == Kind::Conflict {
        return Error::invalid(format!("`{}` exists and is left as it is", path.display()))
            .with_hint("use another folder, or `--force` to replace it");
    }
    error.at(format!("`{}`", path.display()))
}

/// A name for a run out of the name of a folder.
fn name_of(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let legal: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let legal: String = legal.trim_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(36).collect();
    let legal = legal.trim_end_matches('-');
    if legal.starts_with(|c: char| c.is_ascii_lowercase()) {
        legal.to_owned()
    } else {
        format!("run-{legal}").trim_end_matches('-').to_owned()
    }
}

/// As YAML reads it back: plain where that is safe, else in double quotes.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.*?:${}".contains(c);
    let safe =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || "/.$".contains(c)) && !text.ends_with(':');
    let flow = text.contains(['{', '}']);
    if safe && !flow && text.chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
