//! The manifest: a small JSON header and a columnar table of shards.
//!
//! Magic `ERTOKENS`; u32 version 1; u32 length of the header; the header, JSON; zero bytes up to a
//! multiple of 8. Then the columns, each an array over all shards, in this order: u64 end of the path in
//! the string heap, u64 tokens, u64 documents, u64 bytes of `.bin`, u64 of `.idx`, u64 of `.blocks`;
//! u32 crc32c of `.bin`, of `.idx`, of `.blocks`; 32 bytes BLAKE3 of `.bin`, 32 of the lengths. Then the
//! string heap, and u32 crc32c of everything before. A shard takes about 140 bytes, so that 10⁵ shards
//! open in milliseconds.

use eagleray_base::{Digest, Error, Result, crc32c};
use serde::{Deserialize, Serialize};

use super::{Cursor, TokenType, shard};

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
    /// Tokens of all shards.
    pub tokens: u64,
    /// Documents of all shards.
    pub documents: u64,
    /// The shards, in order.
    pub shards: Vec<Shard>,
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
    /// `Corrupt` where the width is unknown.
    pub fn token_type(&self) -> Result<TokenType> {
        TokenType::from_bytes(u64::from(self.token_bytes))
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
        let mut end = 0;
        for shard in &self.shards {
            end += shard.path.len() as u64;
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        let mut column = |get: fn(&Shard) -> u64| {
            bytes.extend(self.shards.iter().flat_map(|shard| get(shard).to_le_bytes()));
        };
        column(|shard| shard.tokens);
        column(|shard| shard.documents);
        column(|shard| shard.bytes[0]);
        column(|shard| shard.bytes[1]);
        column(|shard| shard.bytes[2]);
        for part in 0..3 {
            bytes.extend(self.shards.iter().flat_map(|shard| shard.crc32c[part].to_le_bytes()));
        }
        bytes.extend(self.shards.iter().flat_map(|shard| *shard.bin_digest.as_bytes()));
        bytes.extend(self.shards.iter().flat_map(|shard| *shard.lengths_digest.as_bytes()));
        bytes.extend(self.shards.iter().flat_map(|shard| shard.path.bytes()));
        let checksum = crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are not a manifest, or totals, hash and shards contradict each other;
    /// `Invalid` where a newer program wrote it.
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
        let shards = parse_shards(&mut cursor, header.shards, bytes.len())?;
        let manifest = Self {
            dataset_hash: header.dataset_hash,
            tokenizer_hash: header.tokenizer_hash,
            engine: header.engine,
            vocab_size: header.vocab_size,
            eod_id: header.eod_id,
            token_bytes: header.token_bytes,
            tokens: header.tokens,
            documents: header.documents,
            shards,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let width = self.token_type()?.bytes() as u64;
        let tokens: u64 = self.shards.iter().map(|shard| shard.tokens).sum();
        let documents: u64 = self.shards.iter().map(|shard| shard.documents).sum();
        if (tokens, documents) != (self.tokens, self.documents) {
            return Err(Error::corrupt(format!(
                "states {} tokens and {} documents, but its shards hold {tokens} and {documents}",
                self.tokens, self.documents
            )));
        }
        if let Some(shard) = self.shards.iter().find(|shard| shard.bytes[0] != shard.tokens * width) {
            return Err(Error::corrupt(format!(
                "lists shard `{}` with {} tokens and {} bytes",
                shard.path, shard.tokens, shard.bytes[0]
            )));
        }
        let hash =
            shard::dataset_hash(self.shards.iter().map(|shard| (&shard.bin_digest, &shard.lengths_digest)));
        if hash != self.dataset_hash {
            let stated = self.dataset_hash;
            return Err(Error::corrupt(format!("states dataset hash {stated}, but its shards give {hash}")));
        }
        Ok(())
    }
}

fn parse_shards(cursor: &mut Cursor<'_>, count: u64, total: usize) -> Result<Vec<Shard>> {
    const COLUMNS_BYTES: u64 = 6 * 8 + 3 * 4 + 2 * 32;
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| (count as u64).saturating_mul(COLUMNS_BYTES) <= total as u64)
        .ok_or_else(|| Error::corrupt(format!("states {count} shards, more than it has room for")))?;
    let mut column = |what: &str| (0..count).map(|_| cursor.u64(what)).collect::<Result<Vec<u64>>>();
    let ends = column("the path column")?;
    let tokens = column("the token column")?;
    let documents = column("the document column")?;
    let sizes = [column("the size column")?, column("the size column")?, column("the size column")?];
    let mut column = || (0..count).map(|_| cursor.u32("the checksum column")).collect::<Result<Vec<u32>>>();
    let checksums = [column()?, column()?, column()?];
    let mut column = || (0..count).map(|_| digest(cursor)).collect::<Result<Vec<Digest>>>();
    let bin_digests = column()?;
    let lengths_digests = column()?;
    let mut start = 0;
    (0..count)
        .map(|i| {
            let length =
                ends[i].checked_sub(start).ok_or_else(|| Error::corrupt("has paths out of order"))?;
            start = ends[i];
            let path = cursor.take(usize::try_from(length).unwrap_or(usize::MAX), "the string heap")?;
            let path =
                std::str::from_utf8(path).map_err(|_| Error::corrupt("has a path that is not UTF-8"))?;
            Ok(Shard {
                path: path.to_owned(),
                tokens: tokens[i],
                documents: documents[i],
                bytes: [sizes[0][i], sizes[1][i], sizes[2][i]],
                crc32c: [checksums[0][i], checksums[1][i], checksums[2][i]],
                bin_digest: bin_digests[i],
                lengths_digest: lengths_digests[i],
            })
        })
        .collect()
}

fn digest(cursor: &mut Cursor<'_>) -> Result<Digest> {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(cursor.take(32, "a digest column")?);
    Ok(Digest::from_bytes(bytes))
}
