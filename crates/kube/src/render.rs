//! From a resolved run to the objects of its cluster.
//!
//! Six folders, in the order in which they are applied: `nodes` what Karpenter needs, `queues` what Kueue
//! needs, `run` what all launches of the run share, `build` the launch that makes text into tokens without
//! holding an accelerator, `train` the launch that trains; or, in place of the two, `cluster`: a long-lived
//! cluster to work in. And beside them, for whoever runs the cluster: `operator`, how `KubeRay` is installed.
//!
//! ```
//! use eagleray_kube::render::{Kind, Options, render};
//! use eagleray_spec::Source;
//!
//! let text = "
//! version: 1
//! name: first
//! store: s3://acme/runs/first
//! data:
//!   tokenizer: s3://acme/tokenizer.json
//!   sequence_length: 4096
//!   sources: {web: {tokens: s3://acme/tokens/web}}
//! model: {preset: llama-8b}
//! train: {global_batch: 256, steps: 1000}
//! cluster:
//!   workers: 16
//!   eks:
//!     namespace: training
//!     image: acme/eagleray:1
//!     groups: [{name: a, instance: p5.48xlarge, zone: us-east-2a, nodes: 2}]
//! ";
//! let base = std::path::Path::new("/srv");
//! let environment = |_: &str| None;
//! let source = Source { name: "run.yaml", text, base, overrides: &[], environment: &environment };
//! let resolved = eagleray_plan::resolve(&source).unwrap().resolved;
//! let rendered = render(&resolved, Options { kind: Kind::Run, launch: 1, kueue: false, built: false }).unwrap();
//! let job = rendered.files.last().unwrap();
//! assert_eq!((job.path.as_str(), job.name().as_str()), ("train/ray-job.yaml", "first-1"));
//! assert!(job.text().contains("# why: "));
//! ```
//!
//! Map: `context` what all objects are made from · `pod` pod templates · `merge` the spec's own additions to
//! them · `ray_cluster` what a job and a long-lived cluster have in common, and the latter · `ray_job` the
//! launches · `nodes` Karpenter · `queues` Kueue · `shared` the rest · [`operator`] `KubeRay` itself. What an
//! instance offers and how large a head is stand in the crate `plan`.

mod context;
mod merge;
mod nodes;
pub mod operator;
mod pod;
mod queues;
mod ray_cluster;
mod ray_job;
mod shared;

use eagleray_base::Result;
use eagleray_spec::Resolved;

use crate::yaml::Map;
use context::Context;

/// The folders of a render, in the order in which they are applied.
pub const FOLDERS: [&str; 6] = ["nodes", "queues", "run", "build", "train", "cluster"];

/// The label of everything that belongs to a run.
pub const RUN_LABEL: &str = "eagleray/run";

/// The label of everything that belongs to a launch: its name, `<run>-<number>`.
pub const LAUNCH_LABEL: &str = "eagleray/launch";

/// The spec, in the `ConfigMap` that is named after its launch.
pub const SPEC_FILE: &str = "run.yaml";

/// What the name of the launch that builds has after its number.
pub const BUILD_SUFFIX: &str = "-build";

/// What the name of a long-lived cluster has after its number.
pub const CLUSTER_SUFFIX: &str = "-cluster";

/// What is made of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Launches that end by themselves: a `RayJob` that builds, one that trains.
    Run,
    /// A cluster to work in, which stays until somebody deletes it: a `RayCluster`.
    Cluster,
}

/// What a render depends on beside the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is made.
    pub kind: Kind,
    /// The number of the launch: part of the names, so that the bytes stay a function of the input.
    pub launch: u32,
    /// Whether the objects of Kueue are rendered too.
    pub kueue: bool,
    /// Whether the data is built: no build launch is rendered.
    pub built: bool,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// `train/ray-job.yaml`.
    pub path: String,
    /// The object.
    pub object: Map,
}

impl File {
    /// What is written.
    pub fn text(&self) -> String {
        self.object.document()
    }

    /// The kind of the object.
    pub fn kind(&self) -> String {
        self.field(&["kind"])
    }

    /// The name of the object.
    pub fn name(&self) -> String {
        self.field(&["metadata", "name"])
    }

    /// The object without its reasons.
    pub fn value(&self) -> serde_json::Value {
        crate::yaml::Node::Map(self.object.clone()).value()
    }

    fn field(&self, path: &[&str]) -> String {
        let mut value = self.value();
        for key in path {
            value = value[*key].take();
        }
        value.as_str().unwrap_or_default().to_owned()
    }
}

/// All objects of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The objects, in the order in which they are applied.
    pub files: Vec<File>,
    /// What is right, and still worth knowing before it is paid for.
    pub notes: Vec<String>,
}

/// The manifests of a run.
///
/// # Errors
/// `Invalid` where the spec has no cluster on EKS, or asks for what cannot be rendered: each with the key.
pub fn render(resolved: &Resolved, options: Options) -> Result<Rendered> {
    let context = Context::new(resolved, options)?;
    let mut files = Vec::new();
    files.extend(nodes::render(&context)?);
    files.extend(queues::render(&context));
    files.extend(shared::render(&context));
    match options.kind {
        Kind::Run => {
            files.extend(ray_job::build(&context));
            files.push(ray_job::train(&context)?);
        }
        Kind::Cluster => files.push(ray_cluster::render(&context)?),
    }
    Ok(Rendered { files, notes: context.notes() })
}
