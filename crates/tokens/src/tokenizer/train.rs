//! Training a byte-level BPE tokenizer on documents.

use eagleray_base::{Error, Result};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerImpl};

use super::END_OF_DOCUMENT;

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
