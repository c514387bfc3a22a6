//! Document readers, tokenizers, and token datasets.
//!
//! Raw text becomes tokens once, in parallel, and is then immutable: a **dataset** is a folder whose name
//! is the hash of its own tokens. Its shards are plain Megatron `.bin/.idx` pairs, so other tools read
//! them as they are; beside each lies a side table ([`format::blocks`]) with a checksum and the document
//! borders of every 4 KiB, so that a sample is one verified range read whatever the size of the shard.
//!
//! Why not rows in Parquet or Arrow: training reads fixed numbers of tokens at arbitrary offsets, millions
//! of times; a flat file makes that one range read without decoding. Why not Megatron's pair alone: its
//! index must be read whole (20 bytes a document) before the first token, and nothing in it is checked.
//!
//! ```
//! use eagleray_store::Store;
//! use eagleray_tokens::{Dataset, fixture};
//!
//! let store = Store::open("memory://guide-tokens")?;
//! let hash = fixture::write_dataset(&store, &fixture::Options::default(), &[vec![vec![5, 6, 7], vec![8]]])?;
//! let dataset = Dataset::open(&store.child(&hash.to_string()))?;
//! assert_eq!(dataset.manifest().tokens, 6); // an end-of-document token is added to each document
//! assert_eq!(dataset.num_samples(2), 2);
//! # Ok::<(), eagleray_base::Error>(())
//! ```
//!
//! Map: [`reader`] raw objects → documents · [`tokenizer`] text → ids, one trait over two engines ·
//! [`chat`] conversations → ids, by the tokenizer's template, with a loss mask ·
//! [`build`] plan, map, reduce, finish: the parallel build · [`format`] what lies on the store, byte by
//! byte · [`dataset`] open, locate, verify · [`corpus`] files → a corpus with documents held out ·
//! [`trial`] a slice of a corpus, read before the whole is · [`fixture`] small datasets for tests.

pub mod build;
pub mod chat;
pub mod corpus;
pub mod dataset;
pub mod fixture;
pub mod format;
pub mod reader;
pub mod tokenizer;
pub mod trial;

pub use dataset::Dataset;
pub use format::manifest::{Manifest, Shard};
