//! The run spec: its types, checks, defaults and JSON schema; the resolved run.
//!
//! One YAML file says what to train on, what to train, how, where to keep it and what to run it on.
//! This crate turns its text into a [`Resolved`] run, with every default filled and every path
//! absolute, or into [`Problems`], each with the line and column that it is about.
//!
//! Why not deserialize with serde alone? serde stops at the first error and knows no places. People
//! who edit a file of two hundred lines want all that is wrong with it at once, with a caret under
//! each. So YAML becomes a tree with places, `--set` overrides are laid over that tree and keep a
//! place of their own, and the types are read out of it, again and again without what was refused.
//!
//! This crate is a floor: it opens no file and reads no environment. Both come in by [`Source`].
//!
//! ```
//! use eagleray_spec::{Purpose, Source, resolve};
//!
//! let text = "
//! version: 1
//! name: first
//! store: runs/first
//! data:
//!   tokenizer: tokenizer.json
//!   sequence_length: 256
//!   sources: {docs: {documents: corpus/*.jsonl}}
//! model: {preset: llama-tiny}
//! train: {global_batch: 16, steps: 100, optimiser: adamw}
//! ";
//! let base = std::path::Path::new("/srv");
//! let environment = |_: &str| None;
//! let source = Source { name: "run.yaml", text, base, overrides: &[], environment: &environment };
//! let problems = resolve(&source).unwrap_err();
//! assert_eq!(problems.list()[0].message, "unknown key `optimiser` in `train`");
//! assert_eq!(problems.list()[0].hint.as_deref(), Some("did you mean `optimizer`?"));
//!
//! let text = text.replace("optimiser", "optimizer");
//! let resolved = resolve(&Source { text: &text, ..source }).unwrap();
//! assert_eq!(resolved.spec.store, "/srv/runs/first");
//! resolved.refuse_unavailable(Purpose::Train).unwrap();
//! ```
//!
//! Map: [`types`] the spec as written · `yaml`, `de`, `read`, `overrides` from text to types ·
//! `check` what types cannot say · [`mesh`] which meshes are legal · [`resolved`] the run as everything else reads it · `resolve` the
//! way there · `names` what Kubernetes takes as a name · `secret` which names say that a value is one · `available` what this build refuses · [`explain`] schema and defaults · [`problem`]
//! what is wrong, and where.

mod available;
mod check;
mod de;
mod deepspeed;
pub mod explain;
pub mod mesh;
mod names;
mod overrides;
pub mod problem;
mod read;
mod resolve;
pub mod resolved;
mod secret;
pub mod types;
mod yaml;

pub use available::Purpose;
pub use check::NAME_CHARS_MAX;
pub use names::{is_dns_label, is_dns_service_label, is_dns_subdomain};
pub use problem::{Place, Problem, Problems};
pub use read::{Source, yaml_values};
pub use resolve::{Strategist, VOCABULARY_GUESS, resolve, resolve_with};
pub use resolved::{Difference, Resolved};
pub use secret::is_secret_name;
