//! A run on its store: paths, the claim of an attempt, ledger events and their account
