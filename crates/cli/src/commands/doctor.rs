//! `eagleray doctor`: whether a cluster, an identity and a store have what a launch needs.

use std::path::PathBuf;

use eagleray_base::{Error, Result};
use eagleray_kube::render::{File, Kind, Options, render};
use eagleray_launch::doctor::{Answer, Facts, Level, Report, Wanted, gather, judge, try_source, try_store};
use eagleray_spec::Resolved;
use serde_json::Value;

use super::SpecArgs;
use super::live::{ClusterArgs, namespace};
use crate::output::Output;

const AFTER_HELP: &str = "\
Asks the API server about rights, KubeRay, Kueue, nodes and the namespace; with a run spec also whether what its launch \
asks for is there, and tries the run's store and data as whoever runs this. Nothing is changed but a scratch key on the \
store, which is deleted. What may not be asked is reported as unknown, with the right that is missing.

Each finding has a remedy to paste. The exit code is 1 where there is an error; warnings and unknowns leave it 0.

  eagleray doctor run.yaml
  eagleray doctor run.yaml --built
  eagleray doctor --namespace training --format json";

/// Find what a cluster, an identity or a store lacks for a launch.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Doctor {
    /// The run spec; without one only what all launches need is looked at
    #[arg(value_name = "RUN.YAML")]
    spec: Option<PathBuf>,
    /// Override one value of the spec, such as train.steps=200; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "spec")]
    overrides: Vec<String>,
    /// The data is built: make no launch that builds it
    #[arg(long, requires = "spec")]
    built: bool,
    /// Where launches are to be; that of the spec, or of the context
    #[arg(long, value_name = "NAME", conflicts_with = "spec")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Doctor {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let run = match &self.spec {
            Some(path) => Some(Run::read(path.clone(), self.overrides.clone(), self.built)?),
            None => None,
        };
        let mut facts = self.ask(run.as_ref());
        if let Some(run) = &run {
            run.try_stores(&mut facts, output);
        }
        let report = Report(judge(&facts));
        if output.is_json() {
            output.json(&report.json());
        } else {
            output.print(&report.text());
        }
        match report.count(Level::Error) {
            0 => Ok(()),
            errors => Err(output.reported(Error::invalid(format!("{errors} errors")))),
        }
    }

    /// Where there is no configuration at all, that is a finding too, and the stores are still tried.
    fn ask(&self, run: Option<&Run>) -> Facts {
        let wanted = |own: &str| {
            let given = run.map(|run| run.namespace.clone()).or_else(|| self.namespace.clone());
            Wanted {
                namespace: given.unwrap_or_else(|| own.to_owned()),
                rendered: run.map(|run| run.rendered.clone()).unwrap_or_default(),
                kuberay: run.and_then(Run::kuberay),
            }
        };
        match self.cluster.connect() {
            Ok(cluster) => gather(&cluster, wanted(cluster.namespace())),
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                let version = Answer::Failed(format!("{}{hint}", error.message()));
                let Wanted { namespace, rendered, kuberay } = wanted("default");
                Facts { namespace, rendered, kuberay, version, ..Facts::default() }
            }
        }
    }
}

/// A run on EKS, rendered as its next launch would be.
struct Run {
    resolved: Resolved,
    namespace: String,
    rendered: Vec<Value>,
}

impl Run {
    fn read(path: PathBuf, overrides: Vec<String>, built: bool) -> Result<Self> {
        let resolved = SpecArgs { path, overrides }.resolve()?;
        let namespace = namespace(&resolved)?;
        let rendered = render(&resolved, Options { kind: Kind::Run, launch: 1, kueue: false, built })?;
        let rendered = rendered.files.iter().map(File::value).collect();
        Ok(Self { resolved, namespace, rendered })
    }

    fn kuberay(&self) -> Option<String> {
        let eks = self.resolved.spec.cluster.eks.as_ref()?;
        Some(eks["kuberay"].as_str()?.to_owned())
    }

    /// What lies on a volume of the pods is nowhere here.
    fn try_stores(&self, facts: &mut Facts, output: &Output) {
        let spec = &self.resolved.spec;
        let reached = |url: &&str| url.starts_with("s3://");
        match Some(spec.store.as_str()).filter(reached) {
            Some(store) => facts.store = try_store(store),
            None => output
                .note(&format!("note: `{}` lies in the pods, and cannot be tried from here", spec.store)),
        }
        let Some(data) = &spec.data else { return };
        let texts = data.sources.values().chain(data.validation.values());
        let mut urls = vec![data.tokenizer.as_str()];
        urls.extend(texts.flat_map(locations));
        urls.sort_unstable();
        urls.dedup();
        facts.sources = urls.into_iter().filter(|url| reached(url)).map(try_source).collect();
    }
}

/// Where a text lies: its `tokens` or `documents`, one or several.
fn locations(text: &Value) -> Vec<&str> {
    let fields = ["tokens", "documents"].into_iter().map(|key| &text[key]);
    fields
        .flat_map(|field| match field {
            Value::String(one) => vec![one.as_str()],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        })
        .collect()
}
