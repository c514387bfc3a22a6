//! Kubernetes as text: what goes into a cluster, what comes from one, and what is wrong with it.
//!
//! Offline and deterministic: the same input gives the same bytes, so that what is rendered can be kept
//! under version control and compared.
//!
//! Why not templates? A chart cannot size a head by its nodes, refuse a group whose instance has too few
//! accelerators, or say at each field why it is there.
//!
//! Why not generated types of the custom resources? A linter must read what people wrote, with the line of
//! each key and with the mistakes that types would refuse, and it looks at a tenth of the fields.
//!
//! ```
//! use eagleray_kube::lint::{File, Options, lint};
//!
//! let text = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: a-job}\nspec: {submissionMode: HTTPModee}\n";
//! let report = lint(&[File { name: "job.yaml", text }], &Options::default()).unwrap();
//! let finding = report.findings.iter().find(|finding| finding.rule == "submission-mode-unknown").unwrap();
//! assert_eq!((finding.line, finding.path.as_str()), (4, "spec.submissionMode"));
//! ```
//!
//! Map: [`render`] a run's manifests · [`yaml`] how manifests are written · [`migrate`] jobs of Kubeflow → a run spec
//! and an account of every field · [`manifest`] YAML of several documents, with places · [`lint`] rules over manifests ·
//! [`live`] objects as an API server holds them.

pub mod lint;
pub mod live;
pub mod manifest;
pub mod migrate;
pub mod render;
pub mod yaml;

pub use lint::{quantity, seconds};

/// Variables by which a training operator or `torchrun` tells a process where it stands among the others, and that Ray
/// Train sets anew for each worker.
pub(crate) const RANK_VARIABLES: [&str; 9] = [
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "NNODES",
];
