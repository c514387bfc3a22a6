//! The parallel build.

/// Splits a location into the folder that a store can open and the rest.
pub(crate) fn split_location(location: &str) -> (&str, &str) {
    let trimmed = location.trim_end_matches('/');
    let scheme_end = trimmed.find("://").map_or(0, |at| at + 3);
    match trimmed.rfind('/') {
        Some(at) if at >= scheme_end && at > 0 => (&trimmed[..at], &trimmed[at + 1..]),
        Some(0) => ("/", &trimmed[1..]),
        _ if scheme_end > 0 => (trimmed, ""),
        _ => (".", trimmed),
    }
}
