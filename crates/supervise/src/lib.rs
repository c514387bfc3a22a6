//! What a run decides while it trains. Pure: a decision is a function of what was measured, the same on every rank
//! and in every attempt.
//!
//! ```
//! use eagleray_spec::types::Anomalies;
//! use eagleray_supervise::Watch;
//!
//! let mut watch = Watch::new(Anomalies::default());
//! assert!(watch.look(1, Some(9.1), true).is_none());
//! assert!(watch.look(2, None, true).is_some(), "a loss that is not finite");
//! ```
//!
//! Map: [`anomaly`] losses that jump, or are no numbers · [`course`] which of the data each step trains on.

pub mod anomaly;
pub mod course;

pub use anomaly::{Anomaly, Kind, Watch};
pub use course::Course;
