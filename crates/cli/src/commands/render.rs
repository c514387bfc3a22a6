//! `eagleray render`: the manifests of a run on EKS.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result};
use eagleray_kube::render::{FOLDERS, Options, Rendered, render};
use eagleray_spec::Purpose;
use serde_json::{Value, json};

use super::SpecArgs;
use crate::output::Output;

/// Write the manifests of a run on EKS.
#[derive(clap::Args)]
pub(crate) struct Render {
    #[command(flatten)]
    spec: SpecArgs,
    /// The folder that they are written to; made where there is none
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The number of the launch, part of its name: a run that is launched again takes the next
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    launch: u32,
    /// Write the flavors and queues of Kueue too, with the quota that this run needs
    #[arg(long)]
    kueue: bool,
    /// The data is built: write no launch that builds it
    #[arg(long)]
    built: bool,
}

impl Render {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let resolved = self.spec.resolve()?;
        resolved.refuse_unavailable(Purpose::Train)?;
        let options = Options { launch: self.launch, kueue: self.kueue, built: self.built };
        let rendered = render(&resolved, options)?;
        refuse_strangers(&self.output, &rendered)?;
        write(&self.output, &rendered)?;
        self.tell(output, &rendered);
        Ok(())
    }

    fn tell(&self, output: &Output, rendered: &Rendered) {
        let folder = self.output.display();
        if output.is_json() {
            let files: Vec<Value> = rendered
                .files
                .iter()
                .map(|file| json!({"path": format!("{folder}/{}", file.path), "kind": file.kind(), "name": file.name()}))
                .collect();
            output.json(&json!({"folder": folder.to_string(), "files": files, "notes": rendered.notes}));
            return;
        }
        for note in &rendered.notes {
            output.note(&format!("note: {note}"));
        }
        let mut shown = String::new();
        for file in &rendered.files {
            let _ = writeln!(shown, "{folder}/{}  {} {}", file.path, file.kind(), file.name());
        }
        let there = FOLDERS.iter().filter(|name| rendered.files.iter().any(|file| is_in(&file.path, name)));
        let order: Vec<String> = there.map(|name| format!("`{folder}/{name}`")).collect();
        let _ = writeln!(shown, "apply, each after the one before is done: {}", order.join(", "));
        output.print(&shown);
    }
}

fn is_in(path: &str, folder: &str) -> bool {
    path.split_once('/').is_some_and(|(first, _)| first == folder)
}

/// Manifests that an older render left would be applied with the new ones.
fn refuse_strangers(output: &Path, rendered: &Rendered) -> Result<()> {
    let mut strangers = Vec::new();
    for folder in FOLDERS {
        let inner = output.join(folder);
        let entries = match std::fs::read_dir(&inner) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(at(error, &inner)),
        };
        for entry in entries {
            let name = entry.map_err(|error| at(error, &inner))?.file_name();
            let path = format!("{folder}/{}", name.to_string_lossy());
            if !rendered.files.iter().any(|file| file.path == path) {
                strangers.push(format!("`{}`", output.join(path).display()));
            }
        }
    }
    if strangers.is_empty() {
        return Ok(());
    }
    strangers.sort_unstable();
    Err(Error::conflict(format!("not of this render: {}", strangers.join(", ")))
        .with_hint("they would be applied with it: remove them, or render into another folder"))
}

fn write(output: &Path, rendered: &Rendered) -> Result<()> {
    for file in &rendered.files {
        let path = output.join(&file.path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| at(error, folder))?;
        }
        std::fs::write(&path, file.text()).map_err(|error| at(error, &path))?;
    }
    Ok(())
}

fn at(error: std::io::Error, path: &Path) -> Error {
    Error::from(error).at(format!("`{}`", path.display()))
}
