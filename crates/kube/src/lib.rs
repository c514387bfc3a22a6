//! A run on EKS: its manifests, out of its spec.
//!
//! Offline and deterministic: the same input gives the same bytes, so that what is rendered can be kept
//! under version control and compared.
//!
//! Why not templates? A chart cannot size a head by its nodes, refuse a group whose instance has too few
//! accelerators, or say at each field why it is there.
//!
//! Map: [`render`] a run's manifests · [`yaml`] how manifests are written.

pub mod render;
pub mod yaml;
