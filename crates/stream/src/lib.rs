//! The prefetching, resumable sample stream of a rank
