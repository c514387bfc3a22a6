//! `eagleray render`: the manifests of a run on EKS, and what installs the operator that reads them.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result};
use eagleray_kube::render::{FOLDERS, Kind, Options, Rendered, operator, render};
use eagleray_spec::types::KubeRay;
use eagleray_spec::{Purpose, Resolved};
use serde_json::{Value, json};

use super::SpecArgs;
use crate::output::Output;

/// Write the manifests of a run on EKS, or how `KubeRay` is installed for it.
#[derive(clap::Args)]
pub(crate) struct Render {
    /// The run spec; `--operator` needs none
    #[arg(value_name = "RUN.YAML", required_unless_present = "operator")]
    path: Option<PathBuf>,
    /// Override one value of the spec, such as train.steps=200; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "path")]
    overrides: Vec<String>,
    /// The folder that they are written to; made where there is none
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// What is made: jobs that end by themselves, or a cluster to work in until somebody deletes it
    #[arg(long, value_enum, default_value_t = Made::Run)]
    kind: Made,
    /// The number of the launch, part of its name: a run that is launched again takes the next
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    launch: u32,
    /// Write the flavors and queues of Kueue too, with the quota that this run needs
    #[arg(long)]
    kueue: bool,
    /// The data is built: write no launch that builds it
    #[arg(long)]
    built: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// What is made of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Made {
    /// `RayJobs`: one that builds the data, one that trains
    Run,
    /// A `RayCluster`, for people
    Cluster,
}

/// How `KubeRay` is installed.
#[derive(clap::Args)]
struct OperatorArgs {
    /// Write how `KubeRay` is installed instead: values of its Helm chart, and a script
    #[arg(long, conflicts_with_all = ["kind", "launch", "kueue", "built"])]
    operator: bool,
    /// The version of `KubeRay`, where no spec says it; 1.7 where this does not either
    #[arg(long, value_name = "VERSION", requires = "operator", conflicts_with = "path", value_parser = ["1.6", "1.7"])]
    kuberay: Option<String>,
    /// A namespace that the operator looks at, where another operator has others; may be repeated
    #[arg(long, value_name = "NAMESPACE", requires = "operator")]
    watch: Vec<String>,
    /// The most pods of Ray that all runs together have, by which it is sized [default: 500, or twice those of the spec]
    #[arg(long, requires = "operator", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pods: Option<u32>,
}

impl Render {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        if self.operator.operator {
            return self.operator(output);
        }
        let resolved = self.resolved()?.ok_or_else(|| Error::internal("a render without a spec"))?;
        let kind = match self.kind {
            Made::Run => Kind::Run,
            Made::Cluster => Kind::Cluster,
        };
        let options = Options { kind, launch: self.launch, kueue: self.kueue, built: self.built };
        let rendered = render(&resolved, options)?;
        let files: Vec<(&str, String)> =
            rendered.files.iter().map(|file| (file.path.as_str(), file.text())).collect();
        refuse_strangers(&self.output, &FOLDERS, &files)?;
        write(&self.output, &files)?;
        self.tell(output, &rendered);
        Ok(())
    }

    fn resolved(&self) -> Result<Option<Resolved>> {
        let Some(path) = &self.path else { return Ok(None) };
        let spec = SpecArgs { path: path.clone(), overrides: self.overrides.clone() };
        let resolved = spec.resolve()?;
        resolved.refuse_unavailable(Purpose::Train)?;
        Ok(Some(resolved))
    }

    fn operator(&self, output: &Output) -> Result<()> {
        let OperatorArgs { kuberay, watch, pods, .. } = &self.operator;
        let kuberay = kuberay.as_deref().map(|version| match version {
            "1.6" => KubeRay::V1_6,
            _ => KubeRay::V1_7,
        });
        let options = operator::Options { kuberay, pods: *pods, watch: watch.clone() };
        let texts = operator::render(self.resolved()?.as_ref(), &options)?;
        let files: Vec<(&str, String)> =
            texts.iter().map(|file| (file.path.as_str(), file.text.clone())).collect();
        refuse_strangers(&self.output, &[operator::FOLDER], &files)?;
        write(&self.output, &files)?;
        let folder = self.output.display();
        let paths: Vec<String> = files.iter().map(|(path, _)| format!("{folder}/{path}")).collect();
        if output.is_json() {
            let files: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
            output.json(&json!({"folder": folder.to_string(), "files": files}));
        } else {
            let script = quoted(&format!("{folder}/{}/install.sh", operator::FOLDER));
            output.print(&format!("{}\nread them, then: bash {script}\n", paths.join("\n")));
        }
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

/// A path as a shell takes it for one word.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

fn is_in(path: &str, folder: &str) -> bool {
    path.split_once('/').is_some_and(|(first, _)| first == folder)
}

/// Manifests that an older render left would be applied with the new ones.
fn refuse_strangers(output: &Path, folders: &[&str], files: &[(&str, String)]) -> Result<()> {
    let mut strangers = Vec::new();
    for folder in folders {
        let inner = output.join(folder);
        let entries = match std::fs::read_dir(&inner) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(at(error, &inner)),
        };
        for entry in entries {
            let name = entry.map_err(|error| at(error, &inner))?.file_name();
            let path = format!("{folder}/{}", name.to_string_lossy());
            if !files.iter().any(|(known, _)| *known == path) {
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

fn write(output: &Path, files: &[(&str, String)]) -> Result<()> {
    for (path, text) in files {
        let path = output.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| at(error, folder))?;
        }
        std::fs::write(&path, text).map_err(|error| at(error, &path))?;
    }
    Ok(())
}

fn at(error: std::io::Error, path: &Path) -> Error {
    Error::from(error).at(format!("`{}`", path.display()))
}
