//! Which places of a corpus a slice is taken from, and where quantiles lie.

use std::collections::BTreeMap;

use eagleray_base::{Digest, mix64};

/// Places that a slice has, where it is large enough for them.
const PLACES: u64 = 64;
/// A place holds so much, so that a line of usual length fits into it.
const PLACE_BYTES_MIN: u64 = 256 << 10;
/// Objects that are read at most.
const OBJECTS_MAX: usize = 4096;

/// An object that places may lie in.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) url: &'a str,
    pub(super) bytes: u64,
    /// Whether it can be entered in the middle.
    pub(super) cuttable: bool,
    /// Whether it is read to its end or not at all.
    pub(super) indivisible: bool,
}

/// A place in a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) object: usize,
    /// Where in the object, of one that is entered in the middle.
    pub(super) range: Option<(u64, u64)>,
    pub(super) bytes: u64,
    pub(super) documents_max: u64,
}

/// Chooses places that hold about `bytes_max` together.
///
/// Few objects share the slice by their sizes, each in places spread over it. Of many, some are drawn with a
/// chance that is proportional to their sizes, by the hash of their URLs: objects that come later do not change
/// what is drawn of those that were there, but for the last places.
pub(super) fn choose(candidates: &[Candidate<'_>], bytes_max: u64, documents_max: u64) -> Vec<Taken> {
    let total: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    let mut order: Vec<usize> = (0..candidates.len()).filter(|&i| candidates[i].bytes > 0).collect();
    order.sort_by(|&a, &b| key(&candidates[a]).total_cmp(&key(&candidates[b])).then(a.cmp(&b)));
    let whole = total <= bytes_max && order.len() <= OBJECTS_MAX;
    let place = (bytes_max / PLACES).max(PLACE_BYTES_MIN).min(bytes_max.max(1));
    let many = order.len() as u64 > bytes_max / place;
    let mut taken = Vec::new();
    let mut planned = 0;
    for object in order {
        if !whole && many && (planned >= bytes_max || taken.len() >= OBJECTS_MAX) {
            break;
        }
        let candidate = &candidates[object];
        let share = if whole {
            candidate.bytes
        } else if many {
            place.min(candidate.bytes)
        } else {
            let share = u128::from(candidate.bytes) * u128::from(bytes_max) / u128::from(total.max(1));
            (share as u64).max(PLACE_BYTES_MIN).min(candidate.bytes)
        };
        planned += enter(candidate, object, share, place, &mut taken);
    }
    taken.truncate(usize::try_from(documents_max).unwrap_or(usize::MAX));
    let places = taken.len() as u64;
    for (index, taken) in taken.iter_mut().enumerate() {
        taken.documents_max = documents_max / places + u64::from((index as u64) < documents_max % places);
    }
    taken
}

/// Takes `share` bytes of an object, in one place or in several; returns how many it took.
fn enter(candidate: &Candidate<'_>, object: usize, share: u64, place: u64, taken: &mut Vec<Taken>) -> u64 {
    let bytes = candidate.bytes;
    if share >= bytes || candidate.indivisible || !candidate.cuttable {
        let bytes = if candidate.indivisible { bytes } else { share.min(bytes) };
        taken.push(Taken { object, range: None, bytes, documents_max: 0 });
        return bytes;
    }
    let count = share.div_ceil(place).max(1);
    let length = (share / count).max(1);
    let seed = Digest::of(candidate.url.as_bytes()).as_key();
    for index in 0..count {
        let cut = |i: u64| (u128::from(bytes) * u128::from(i) / u128::from(count)) as u64;
        let (low, high) = (cut(index), cut(index + 1));
        let start = low + mix64(seed ^ index) % (high - low).saturating_sub(length).saturating_add(1);
        let range = Some((start, (start + length).min(bytes)));
        taken.push(Taken { object, range, bytes: length, documents_max: 0 });
    }
    length * count
}

/// Small for what is drawn first: an exponential variable whose rate is the size (Efraimidis and Spirakis 2006).
fn key(candidate: &Candidate<'_>) -> f64 {
    let hash = Digest::of(candidate.url.as_bytes()).as_key() >> 11;
    let uniform = (hash as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / candidate.bytes.max(1) as f64
}

/// The smallest value that at least `share` of all counted ones do not exceed; `None` of none.
pub fn quantile(counts: &BTreeMap<u64, u64>, share: f64) -> Option<u64> {
    let total: u64 = counts.values().sum();
    let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
    let mut seen = 0;
    counts.iter().find_map(|(&value, &count)| {
        seen += count;
        (seen >= rank).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, bytes: u64, cuttable: bool) -> Candidate<'_> {
        Candidate { url, bytes, cuttable, indivisible: false }
    }

    #[test]
    fn a_corpus_smaller_than_the_slice_is_read_whole() {
        let taken = choose(&[of("a", 10, true), of("b", 0, true), of("c", 30, false)], 64 << 20, 100);
        let mut objects: Vec<(usize, u64)> = taken.iter().map(|taken| (taken.object, taken.bytes)).collect();
        objects.sort_unstable();
        assert_eq!(objects, [(0, 10), (2, 30)]);
        assert!(taken.iter().all(|taken| taken.range.is_none()));
        assert_eq!(taken.iter().map(|taken| taken.documents_max).sum::<u64>(), 100);
    }

    #[test]
    fn one_large_object_is_entered_all_over() {
        let bytes = 100 << 30;
        let taken = choose(&[of("a", bytes, true)], 64 << 20, 1 << 40);
        assert_eq!(taken.len(), 64);
        assert_eq!(taken.iter().map(|taken| taken.bytes).sum::<u64>(), 64 << 20);
        for (index, taken) in taken.iter().enumerate() {
            let (start, end) = taken.range.unwrap();
            let stratum = (bytes / 64 * index as u64)..=(bytes / 64 * (index as u64 + 1));
            assert!(stratum.contains(&start) && stratum.contains(&end) && end - start == 1 << 20);
        }
        assert_eq!(choose(&[of("a", bytes, false)], 64 << 20, 9).len(), 1);
    }

    #[test]
    fn many_objects_are_drawn_by_size_and_the_same_each_time() {
        let names: Vec<String> = (0..20_000).map(|i| format!("s3://b/{i:05}.jsonl.zst")).collect();
        // Every second object is nine times as large: nine places of ten should lie there.
        let of_all: Vec<Candidate<'_>> = names
            .iter()
            .enumerate()
            .map(|(i, name)| of(name, if i % 2 == 0 { 9 << 20 } else { 1 << 20 }, false))
            .collect();
        let taken = choose(&of_all, 1 << 30, u64::MAX);
        assert_eq!(taken, choose(&of_all, 1 << 30, u64::MAX));
        assert!(taken.len() >= 64);
        let large = taken.iter().filter(|taken| taken.object % 2 == 0).count() as f64 / taken.len() as f64;
        assert!((0.75..=1.0).contains(&large), "{large}");
        assert!(taken.iter().map(|taken| taken.object).max() > Some(15_000), "not the head of the list");
        // A tenth more objects leave most of what was drawn.
        let fewer = choose(&of_all[..18_000], 1 << 30, u64::MAX);
        let kept = fewer.iter().filter(|old| taken.iter().any(|new| new.object == old.object)).count();
        assert!(kept * 10 >= fewer.len() * 7, "{kept} of {}", fewer.len());
    }

    #[test]
    fn a_limit_of_documents_is_kept_whatever_the_places() {
        let names: Vec<String> = (0..50).map(|i| format!("{i}")).collect();
        let of_all: Vec<Candidate<'_>> = names.iter().map(|name| of(name, 1 << 20, true)).collect();
        for limit in [1, 7, 50, 1_003] {
            let taken = choose(&of_all, 1 << 30, limit);
            assert_eq!(taken.iter().map(|taken| taken.documents_max).sum::<u64>(), limit);
            assert!(taken.iter().all(|taken| taken.documents_max > 0));
        }
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let counts = BTreeMap::from([(1, 50), (10, 45), (1_000, 4), (5_000, 1)]);
        let at = |share| quantile(&counts, share).unwrap();
        assert_eq!([at(0.0), at(0.5), at(0.51), at(0.95), at(0.99), at(1.0)], [1, 1, 10, 10, 1_000, 5_000]);
        assert_eq!(quantile(&BTreeMap::new(), 0.5), None);
    }
}
