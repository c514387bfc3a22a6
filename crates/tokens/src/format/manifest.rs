//! The manifest: a small JSON header and a columnar table of shards.
//!
//! Magic `ERTOKENS`; u32 version 1; u32 length of the header; the header, JSON; zero bytes up to a
//! multiple of 8. Then the columns, each an array over all shards, in this order: u64 end of the path in
//! the string heap, u64 tokens, u64 documents, u64 bytes of `.bin`, u64 of `.idx`, u64 of `.blocks`;
//! u32 crc32c of `.bin`, of `.idx`, of `.blocks`; 32 bytes BLAKE3 of `.bin`, 32 of the lengths. Then the
//! string heap, and u32 crc32c of everything before. A shard takes about 140 bytes and
//! is decoded when it is asked for: 10⁵ shards open in milliseconds.

use eagleray_base::{Digest, Error, Result, crc32c};
use serde::{Deserialize, Serialize};

use super::{Cursor, TokenType};

mod shards;

pub use shards::Shards;

/// The first bytes of every manifest.
pub const MAGIC: &[u8; 8] = b"ERTOKENS";
/// The version written.
pub const VERSION: u32 = 1;
/// The object's name in the dataset's folder.
pub const NAME: &str = "manifest";

/// One shard, as the manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The path in the dataset's folder, without `.bin`, `.idx`, `.blocks`.
    pub path: String,
    /// Tokens.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Sizes of `.bin`, `.idx` and `.blocks`.
    pub bytes: [u64; 3],
    /// CRC-32C of `.bin`, `.idx` and `.blocks`.
    pub crc32c: [u32; 3],
    /// BLAKE3 of `.bin`.
    pub bin_digest: Digest,
    /// BLAKE3 of the i32 lengths.
    pub lengths_digest: Digest,
}

/// The endings of a shard's objects, in the order of [`Shard::bytes`].
pub const SUFFIXES: [&str; 3] = [".bin", ".idx", ".blocks"];

/// What a dataset is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The hash of the tokens; also the folder's name.
    pub dataset_hash: Digest,
    /// The canonical hash of the tokenizer.
    pub tokenizer_hash: Digest,
    /// The engine that tokenised, with its version.
    pub engine: String,
    /// Ids are below this.
    pub vocab_size: u64,
    /// The end-of-document id.
    pub eod_id: u32,
    /// Bytes a token.
    pub token_bytes: u32,
    /// Whether tokens say if a loss counts them.
    pub loss_mask: bool,
    /// Tokens of all shards.
    pub tokens: u64,
    /// Documents of all shards.
    pub documents: u64,
    /// The shards, in order.
    pub shards: Shards,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    dataset_hash: Digest,
    tokenizer_hash: Digest,
    engine: String,
    vocab_size: u64,
    eod_id: u32,
    token_bytes: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    loss_mask: bool,
    block_bytes: u32,
    tokens: u64,
    documents: u64,
    shards: u64,
}

const FORMAT: &str = "eagleray.tokens";

impl Manifest {
    /// How tokens are stored.
    ///
    /// # Errors
    /// `Corrupt` where the width is unknown, or has no room for a loss mask.
    pub fn token_type(&self) -> Result<TokenType> {
        let plain = TokenType::from_bytes(u64::from(self.token_bytes))?;
        match (plain, self.loss_mask) {
            (plain, false) => Ok(plain),
            (TokenType::I32, true) => Ok(TokenType::I32Masked),
            _ => Err(Error::corrupt("has a loss mask in tokens of 2 bytes")),
        }
    }

    /// The stored form.
    ///
    /// # Errors
    /// `Internal` where the header cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let header = Header {
            format: FORMAT.to_owned(),
            dataset_hash: self.dataset_hash,
            tokenizer_hash: self.tokenizer_hash,
            engine: self.engine.clone(),
            vocab_size: self.vocab_size,
            eod_id: self.eod_id,
            token_bytes: self.token_bytes,
            loss_mask: self.loss_mask,
            block_bytes: super::BLOCK_BYTES as u32,
            tokens: self.tokens,
            documents: self.documents,
            shards: self.shards.len() as u64,
        };
        let json = serde_json::to_vec(&header)
            .map_err(|error| Error::internal("cannot write the manifest's header").with_source(error))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend_from_slice(self.shards.as_bytes());
        let checksum = crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are not a manifest, or totals and shards contradict each other; `Invalid`
    /// where a newer program wrote it. That the digests give the dataset hash, `verify` checks.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        if cursor.take(8, "the magic")? != MAGIC {
            return Err(Error::corrupt(
                "is not a token dataset's manifest: it does not begin with `ERTOKENS`",
            ));
        }
        let version = cursor.u32("the version")?;
        if version != VERSION {
            return Err(Error::invalid(format!(
                "has manifest version {version}: this build reads {VERSION}"
            ))
            .with_hint("read it with the version of the program that wrote it"));
        }
        let body = bytes.len().saturating_sub(4);
        if body < 16 || crc32c(&bytes[..body]).to_le_bytes() != bytes[body..] {
            return Err(Error::corrupt("does not match its checksum"));
        }
        let bytes = &bytes[..body];
        let mut cursor = Cursor::new(bytes);
        cursor.take(12, "the magic and version")?;
        let length = cursor.u32("the header's length")? as usize;
        let json = cursor.take(length, "the header")?;
        let header: Header = serde_json::from_slice(json)
            .map_err(|error| Error::corrupt("has an unreadable header").with_source(error))?;
        cursor.take(cursor.position().next_multiple_of(8) - cursor.position(), "the padding")?;
        let shards = Shards::parse(&bytes[cursor.position()..], header.shards)?;
        let manifest = Self {
            dataset_hash: header.dataset_hash,
            tokenizer_hash: header.tokenizer_hash,
            engine: header.engine,
            vocab_size: header.vocab_size,
            eod_id: header.eod_id,
            token_bytes: header.token_bytes,
            loss_mask: header.loss_mask,
            tokens: header.tokens,
            documents: header.documents,
            shards,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let width = self.token_type()?.bytes() as u64;
        let total = |count: fn(&Shards, usize) -> u64| {
            (0..self.shards.len()).try_fold(0_u64, |sum, shard| sum.checked_add(count(&self.shards, shard)))
        };
        let held = (total(Shards::tokens), total(Shards::documents));
        if held != (Some(self.tokens), Some(self.documents)) {
            let text =
                |total: Option<u64>| total.map_or_else(|| "more than 2⁶⁴".to_owned(), |n| n.to_string());
            let (tokens, documents) = (text(held.0), text(held.1));
            return Err(Error::corrupt(format!(
                "states {} tokens and {} documents, but its shards hold {tokens} and {documents}",
                self.tokens, self.documents
            )));
        }
        let odd = (0..self.shards.len()).find(|&shard| {
            self.shards.tokens(shard).checked_mul(width) != Some(self.shards.bin_bytes(shard))
        });
        if let Some(shard) = odd.map(|shard| self.shards.get(shard)) {
            return Err(Error::corrupt(format!(
                "lists shard `{}` with {} tokens and {} bytes",
                shard.path, shard.tokens, shard.bytes[0]
            )));
        }
        Ok(())
    }
}
