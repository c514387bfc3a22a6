//! Units, hashes, error kinds and limits that every other crate uses.
//!
//! The floor of the workspace: it knows no clock, file, network or thread. What needs one of those
//! takes it as an argument, or as one of the traits here ([`Clock`], [`Rng`]), whose real forms live
//! at the rim. That is what lets everything that decides be driven by a seeded simulation.
//!
//! ```
//! use eagleray_base::{Error, Kind, crc32c, units};
//!
//! assert_eq!(crc32c(b"123456789"), 0xe306_9283);
//! assert_eq!(units::parse_bytes("64MiB").unwrap(), 64 << 20);
//! let error = Error::corrupt("block 7 of `shard-00001.bin` does not match its checksum")
//!     .with_hint("run `eagleray tokens verify` on the dataset");
//! assert_eq!(error.kind(), Kind::Corrupt);
//! ```
//!
//! Map: [`error`] kinds and the one error type · [`hash`] digests and checksums · [`units`] bytes and
//! durations as people write them · [`limits`] every limit, by name · [`time`] the traits of the rim.

pub mod error;
pub mod hash;
pub mod limits;
pub mod time;
pub mod units;

pub use error::{Error, Kind, Result};
pub use hash::{Crc32c, Digest, crc32c, crc32c_append, mix64};
pub use time::{Clock, Rng};
