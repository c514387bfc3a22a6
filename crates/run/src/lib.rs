//! A run on its store: paths, the claim of an attempt, ledger events and their account.
//!
//! A *run* is one spec's whole life on one store. An *attempt* is one driver process's life, claimed by a
//! conditional put, so that of two drivers started on one run exactly one goes on. The *ledger* is what the
//! attempts write down as it happens, and the *account* what it adds up to: every second of every rank under
//! one cause, and what no span covers under a cause of its own, `unattributed`.
//!
//! Why not a lock with a lease: a lease that runs out while its holder lives makes two writers, and one that
//! does not run out makes none after a crash. A claim only ever moves on; whoever finds a newer one stops.
//!
//! ```
//! use eagleray_run::{Claimant, Ledger, account, claim, read_ledger};
//! use eagleray_store::Store;
//!
//! let store = Store::open("memory://run-guide")?;
//! let attempt = claim::claim(&store, &Claimant::of_this_process("laptop"), || Ok(None))?.attempt;
//! let mut ledger = Ledger::open(&store, attempt, "driver")?;
//! ledger.append(r#"{"t":1.0,"kind":"attempt_start","attempt":1,"writer":"driver"}"#)?;
//! ledger.flush()?;
//! assert_eq!(account::of_store(&store)?.attempts.len(), 1);
//! # Ok::<(), eagleray_base::Error>(())
//! ```
//!
//! Map: [`paths`] every path of a run · [`claim`] attempts and who may make one · [`heartbeat`] the sign of life
//! of a driver · [`stop`] asking it to save and stop · [`ledger`] writing and reading events · [`event`] their form · [`timeline`] spans to seconds by
//! cause · [`account`] the report's figures · [`runs`] the runs of a folder · [`recent`] what a run is at · [`world`] where the ranks of a run are ·
//! [`huggingface`] the model a run starts from, where it lies in a folder.

pub mod account;
pub mod claim;
pub mod event;
pub mod heartbeat;
pub mod huggingface;
pub mod ledger;
pub mod paths;
pub mod recent;
pub mod runs;
pub mod stop;
pub mod timeline;
pub mod world;

pub use account::Account;
pub use claim::{Claim, Claimant, is_current};
pub use event::Event;
pub use ledger::{Before, Ledger, read_before, read_ledger};
pub use recent::Recent;
pub use runs::{RunState, Summary};
pub use world::World;

#[cfg(test)]
mod tests;
