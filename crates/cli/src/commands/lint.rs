//! `eagleray lint`: what is wrong with manifests of Kubernetes.

use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result};
use eagleray_kube::lint::{File, KubeRay, Options, Report, Severity, lint, lint_live, rule};
use eagleray_launch::live::linted;
use serde_json::json;

use super::live::{LIVE, LiveArgs};
use crate::output::{Format, Output};

const AFTER_HELP: &str = "\
All files are looked at together, a folder with all below it that ends in .yaml, .yml or .json. \
`live` in their place looks at the objects of a cluster, as far as this account may read them; a folder of \
that name is ./live. The exit code is 1 where there is an error; warnings and infos leave it 0. --format also takes \
sarif, which is SARIF 2.1.0 for code scanners.

  eagleray lint manifests/ --accept ttl-keeps-gpus
  eagleray lint live --all-namespaces
  eagleray lint --explain do-not-disrupt-on-spot";

/// The deepest folder that is looked into.
const FOLDERS_DEPTH_MAX: usize = 32;

/// Find what is wrong with manifests of Ray, Karpenter and Kueue
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Lint {
    /// Manifests, or folders of them; or `live`, the objects of a cluster
    #[arg(value_name = "FILE|DIR|live", required_unless_present = "explain")]
    paths: Vec<PathBuf>,
    /// The operator version that will read them; that of the operator that runs, or 1.7, or what an object's label
    /// ray.io/kuberay-version says
    #[arg(long, value_name = "VERSION", value_parser = kuberay)]
    kuberay: Option<KubeRay>,
    /// Leave the findings of a rule out; may be repeated
    #[arg(long, value_name = "RULE")]
    accept: Vec<String>,
    /// Say what a rule looks for, why, and what to do
    #[arg(long, value_name = "RULE", conflicts_with_all = ["paths", "kuberay", "accept"])]
    explain: Option<String>,
    #[command(flatten)]
    live: LiveArgs,
}

fn kuberay(text: &str) -> Result<KubeRay, String> {
    KubeRay::parse(text).ok_or_else(|| "the rules know KubeRay 1.6 and 1.7".to_owned())
}

impl Lint {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        if let Some(id) = &self.explain {
            return explain(output, id);
        }
        let report = if self.paths.iter().any(|path| path.as_os_str() == LIVE) {
            self.of_cluster(output)?
        } else {
            self.live.refuse_beside_files()?;
            self.of_files()?
        };
        match output.format {
            Format::Text => output.print(&report.text()),
            Format::Json => output.json(&report.json()),
            Format::Sarif => output.json(&report.sarif()),
        }
        match report.count(Severity::Error) {
            0 => Ok(()),
            errors => Err(output.reported(Error::invalid(format!("{errors} errors in manifests")))),
        }
    }

    fn of_files(&self) -> Result<Report> {
        let mut names = Vec::new();
        for path in &self.paths {
            gather(path, 0, &mut names)?;
        }
        if names.is_empty() {
            let shown: Vec<String> = self.paths.iter().map(|path| format!("`{}`", path.display())).collect();
            return Err(Error::not_found(format!("no manifest lies in {}", shown.join(", ")))
                .with_hint("manifests end in .yaml, .yml or .json"));
        }
        let texts = names.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        let shown: Vec<String> = names.iter().map(|path| path.display().to_string()).collect();
        let files: Vec<File<'_>> = shown.iter().zip(&texts).map(|(name, text)| File { name, text }).collect();
        lint(&files, &Options { kuberay: self.kuberay, accept: self.accept.clone() })
    }

    fn of_cluster(&self, output: &Output) -> Result<Report> {
        if self.paths.len() > 1 {
            return Err(Error::invalid("`live` stands alone: objects of a cluster are not mixed with files")
                .with_hint("lint them one after the other; a folder of this name is `./live`"));
        }
        // A rule that is accepted under a wrong name is said before anything is asked.
        self.accept.iter().try_for_each(|id| rule(id).map(|_| ()))?;
        let (cluster, namespace) = self.live.connect()?;
        let seen = linted(&cluster, namespace.as_deref())?;
        for note in &seen.notes {
            output.note(note);
        }
        let running = seen.kuberay.as_deref().and_then(KubeRay::parse);
        if let (Some(version), None, None) = (&seen.kuberay, running, self.kuberay) {
            output.note(&format!("KubeRay {version} runs, which no rule knows: objects are judged by their labels, or as of 1.7"));
        }
        lint_live(&seen.objects, &Options { kuberay: self.kuberay.or(running), accept: self.accept.clone() })
    }
}

fn explain(output: &Output, id: &str) -> Result<()> {
    let rule = rule(id)?;
    match output.format {
        Format::Text => output.print(&rule.explain()),
        Format::Json => output.json(&json!({
            "id": rule.id, "severity": rule.severity, "kinds": rule.kinds, "summary": rule.summary,
            "mode": rule.mode.map(eagleray_kube::lint::Mode::name), "why": rule.why, "remedy": rule.remedy,
            "upstream": rule.upstream,
        })),
        Format::Sarif => return Err(Error::invalid("`--explain` prints text or json, not sarif")),
    }
    Ok(())
}

/// The manifests at a path: the file itself whatever its name, or what a folder holds, by name.
fn gather(path: &Path, depth: usize, names: &mut Vec<PathBuf>) -> Result<()> {
    let place = format!("`{}`", path.display());
    if !std::fs::metadata(path).map_err(|error| Error::from(error).at(&place))?.is_dir() {
        names.push(path.to_owned());
        return Ok(());
    }
    if depth > FOLDERS_DEPTH_MAX {
        return Err(
            Error::invalid(format!("folders are nested deeper than {FOLDERS_DEPTH_MAX} levels")).at(&place)
        );
    }
    let entries = std::fs::read_dir(path).map_err(|error| Error::from(error).at(&place))?;
    let mut inside = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    inside.sort();
    for path in inside {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let manifest =
            path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if !name.starts_with('.') && (manifest || path.is_dir()) {
            gather(&path, depth + 1, names)?;
        }
    }
    Ok(())
}

/// A file's text.
fn read(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).map_err(|error| Error::from(error).at(format!("`{}`", path.display())))?;
    String::from_utf8(bytes).map_err(|_| {
        Error::invalid(format!("`{}`: not UTF-8", path.display()))
            .with_hint("a manifest is YAML or JSON in UTF-8")
    })
}
