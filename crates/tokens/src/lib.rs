//! Document readers, tokenizers, and token datasets
