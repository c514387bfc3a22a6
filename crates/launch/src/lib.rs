//! The launches of a run on a live cluster: what is applied, what has become of it, and how it ends.
//!
//! The only crate that talks to an API server. It keeps nothing: what there is, is asked of the cluster, and what
//! belongs to a run has its label.
//!
//! Why not a controller of our own? `KubeRay`, Kueue and Karpenter do the work of one; what is missing is
//! somebody who reads all three and says in a line why nothing happens.
//!
//! Why not generated types of the custom resources? They compile for ever, and a tenth of the fields is looked at.
//!
//! ```
//! use eagleray_launch::launches::{Launch, Phase};
//! use serde_json::json;
//!
//! let job = json!({
//!     "metadata": {"name": "solar-2", "namespace": "training", "labels": {"eagleray/run": "solar"}},
//!     "status": {"jobDeploymentStatus": "Running"},
//! });
//! let launch = Launch::of(&job).unwrap();
//! assert_eq!((launch.number, launch.phase), (2, Phase::Running));
//! ```
//!
//! Map: [`cluster`] asking and telling · [`resource`] the kinds of objects · [`launches`] what has become of each launch ·
//! [`change`] what applying would change · [`wait`] for an end ·
//! [`watch`] why nothing happens, or what does · [`leaks`] what is held for nothing · [`driver`] what a driver says ·
//! [`grow`] an elastic launch, once it trains · [`doctor`] whether a cluster has what a launch needs ·
//! [`live`] the objects that rules and migration look at · [`page`] lists that are reduced while they are read ·
//! [`tail`] an output over connections that die.

pub mod change;
pub mod cluster;
pub mod doctor;
pub mod driver;
pub mod grow;
pub mod launches;
pub mod leaks;
pub mod live;
pub mod page;
pub mod resource;
pub mod tail;
pub mod wait;
pub mod watch;
