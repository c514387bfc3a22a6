//! Kubernetes as text: what goes into a cluster, what comes from one, and what is wrong with it.
//!
//! Offline and deterministic: the same input gives the same bytes, so that what is rendered can be kept
//! under version control and compared.
//!
//! Why not templates? A chart cannot size a head by its nodes, refuse a group whose instance has too few
//! accelerators, or say at each field why it is there.
//!
//! Map: [`render`] a run's manifests · [`yaml`] how manifests are written · [`migrate`] jobs of Kubeflow → a run spec
//! and an account of every field.

pub mod migrate;
pub mod render;
pub mod yaml;
