//! Training a byte-level BPE tokenizer on documents.

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerImpl};

use super::END_OF_DOCUMENT;
use crate::reader::{self, DocumentReader, Record};

/// The smallest vocabulary: all bytes and the end of a document.
pub const VOCAB_SIZE_MIN: usize = 257;

/// Trains on `documents` and returns the bytes of a `tokenizer.json`; equal documents in whatever order
/// give equal bytes. Its one special token is `<|endoftext|>`, which is id 0.
///
/// # Errors
/// `Invalid` where there is no document, or the vocabulary is smaller than the bytes need.
pub fn byte_level_bpe(documents: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Vec<u8>> {
    if vocab_size < VOCAB_SIZE_MIN {
        return Err(Error::invalid(format!(
            "a vocabulary of {vocab_size} is too small: expected {VOCAB_SIZE_MIN} or more"
        )));
    }
    let special = AddedToken::from(END_OF_DOCUMENT[0], true);
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![special])
        .build();
    let byte_level = || ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel> =
        TokenizerImpl::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(byte_level()))
        .with_post_processor(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(byte_level()));
    let mut num_documents = 0_u64;
    let counted = documents.inspect(|_| num_documents += 1);
    let failed = |error: tokenizers::Error| Error::internal("cannot train the tokenizer").with_source(error);
    tokenizer.train(&mut trainer, counted).map_err(failed)?;
    if num_documents == 0 {
        return Err(Error::invalid("there is no document to train a tokenizer on"));
    }
    let mut json = tokenizer.to_string(false).map_err(failed)?;
    json.push('\n');
    Ok(json.into_bytes())
}

/// The documents of files and patterns, one after the other; what ends the stream is kept for
/// [`Documents::finish`], since an iterator cannot fail.
pub struct Documents {
    pieces: std::vec::IntoIter<reader::Piece>,
    text_field: String,
    open: Option<(Box<dyn DocumentReader + Send>, String)>,
    failed: Option<Error>,
}

impl Documents {
    /// Finds the objects of `patterns`, as a build does; nothing is read yet.
    ///
    /// # Errors
    /// `NotFound` for a pattern without a match; `Invalid` for a name that tells no format.
    pub fn open(patterns: &[String], text_field: &str) -> Result<Self> {
        let pieces = crate::build::pieces(patterns)?;
        Ok(Self { pieces: pieces.into_iter(), text_field: text_field.to_owned(), open: None, failed: None })
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// What ended it early; `Invalid` for the first bad record.
    pub fn finish(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err)
    }

    fn advance(&mut self) -> Result<Option<String>> {
        loop {
            let (reader, url) = if let Some(open) = &mut self.open {
                open
            } else {
                let Some(piece) = self.pieces.next() else { return Ok(None) };
                let store = Store::open(&piece.root)?;
                let url = store.url_of(&piece.path);
                self.open.insert((reader::open(&store, &piece, &self.text_field)?, url))
            };
            match reader.next()? {
                Some(Record::Document { text, .. }) => return Ok(Some(text.to_owned())),
                Some(Record::Bad { offset, reason }) => {
                    return Err(Error::invalid(format!("`{url}` at byte {offset} {reason}"))
                        .with_hint("mend the record, or name the field that holds the text"));
                }
                None => self.open = None,
            }
        }
    }
}

impl Iterator for Documents {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.failed.is_some() {
            return None;
        }
        self.advance().unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }
}
