//! Why a launch waits, or what it does, in one line.
//!
//! [`gather`] asks everything that has a say in it and keeps of each object what matters; [`tell`] makes a line
//! of that, and is pure. The order in which reasons are looked for is that in which things happen: quota, cluster,
//! machines, images, containers, Ray, driver, steps. What stands earlier explains what stands later.

pub mod gather;
pub mod groups;
pub mod pods;
pub mod situation;
pub mod tell;

pub use gather::Watcher;
pub use groups::{Group, groups};
pub use situation::Situation;
pub use tell::{Phase, Told, tell};

#[cfg(test)]
pub(crate) mod tests;
