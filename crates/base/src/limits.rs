//! Every limit, by name.

/// The largest text of one document; a longer record is quarantined without being buffered.
pub const DOCUMENT_BYTES_MAX: u64 = 256 << 20;

/// The largest JSON state of an order or a stream.
pub const STATE_BYTES_MAX: usize = 4 << 10;

/// The largest manifest, commit or claim that a reader accepts.
pub const METADATA_BYTES_MAX: u64 = 1 << 30;
