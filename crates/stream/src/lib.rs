//! The prefetching, resumable sample stream of a rank.
//!
//! A [`Stream`] turns positions into batches: the order says which samples stand at them, the dataset where
//! those lie, and the stream reads exactly these blocks, checks every one against its checksum, and widens
//! the tokens into the arrays that enter the step. It reads ahead in the rank's own process, up to a number
//! of bytes, and starts before anyone asks. There is no index to load and nothing to share between ranks;
//! opening costs the same at any position and for any number of samples.
//!
//! Why not worker processes and queues, as data loaders of Python have them: reading, checking and widening
//! a token costs about two nanoseconds here, less than pickling it. Why not `mmap`: a page fault cannot be
//! attributed, retried or read from S3, and a torn page is not noticed.
//!
//! ```
//! use eagleray_store::Store;
//! use eagleray_stream::{Stream, StreamConfig};
//! use eagleray_tokens::fixture;
//!
//! let store = Store::open("memory://guide-stream")?;
//! let documents = vec![vec![(1..100).collect(), (1..50).collect()]];
//! let hash = fixture::write_dataset(&store, &fixture::Options::default(), &documents)?;
//! let config = format!(
//!     r#"{{"sources": [{{"name": "web", "url": "{}", "weight": 1.0}}],
//!         "sequence_length": 16, "seed": 17, "global_batch": 4, "micro_batch": 2, "end_position": 8}}"#,
//!     store.url_of(&hash.to_string()),
//! );
//! let mut stream = Stream::open(StreamConfig::from_json(&config)?)?;
//! let mut samples = 0;
//! while let Some(batch) = stream.wait()? {
//!     assert_eq!(batch.tokens.len(), batch.len() * 16);
//!     samples += batch.len();
//! }
//! assert_eq!(samples, 8);
//! # Ok::<(), eagleray_base::Error>(())
//! ```
//!
//! Map: [`stream`](Stream) the stream itself · [`slices`] which positions a rank gets, pure · `source` which
//! bytes a sample needs, and their verification · `load` one micro batch · `ahead` what fills the queues · [`Batch`] the arrays ·
//! [`digests`] what a step is checked by · [`documents`] what stands at a position, for people · [`config`] what a stream is told · [`fixture`] for benchmarks.

mod ahead;
mod batch;
pub mod config;
pub mod digests;
pub mod documents;
pub mod fixture;
mod load;
pub mod slices;
mod source;
mod stream;

pub use batch::Batch;
pub use config::{SourceConfig, StreamConfig};
pub use digests::{Arrays, batch_digests};
pub use documents::{Place, PlacePart, documents_at};
pub use stream::{Next, Stats, Stream, Waits, open_order};

#[cfg(test)]
mod tests;
