//! Checkpoint place, lineage, commit and verification
