//! Every rule, one file a topic; within a file the table first, then the functions that look.

macro_rules! rule {
    ($id:literal $severity:ident $(in $mode:ident)? $kinds:literal: $summary:literal,
     why $why:literal, fix $remedy:literal $(, see $($source:literal),+)?; $check:expr) => {
        $crate::lint::Rule {
            id: $id,
            severity: $crate::lint::Severity::$severity,
            kinds: $kinds,
            mode: rule!(@mode $($mode)?),
            summary: $summary,
            why: $why,
            remedy: $remedy,
            upstream: &[$($($source),+)?],
            check: $check,
        }
    };
    (@mode) => { None };
    (@mode $mode:ident) => { Some($crate::lint::Mode::$mode) };
}

mod cluster;
pub(super) mod files;
mod job;
mod karpenter;
mod kueue;
mod leftovers;
mod network;
mod placement;
mod storage;

use super::Rule;

/// By topic, in the order of the documents.
pub(super) const ALL: &[&[Rule]] = &[
    files::RULES,
    job::RULES,
    cluster::RULES,
    placement::RULES,
    network::RULES,
    storage::RULES,
    karpenter::RULES,
    kueue::RULES,
    leftovers::RULES,
];
