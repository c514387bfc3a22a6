//! Spans to seconds by cause. Pure.
//!
//! Each rank of each attempt has a time line: the stretches in which it was a member of the world. A world
//! begins when the failure that ended the one before was seen, so that the time it took to form is its own.
//! Spans are laid on the line in the order in which they began; where two overlap, the second gets what the
//! first left. What none covers is `unattributed`, and the time between two attempts is `idle`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::event::{CAUSES, Event, UNATTRIBUTED};

/// Stretches of equal length that a run's time is cut into for plotting.
pub(crate) const BANDS: usize = 240;

/// Seconds by cause.
pub type Seconds = BTreeMap<&'static str, f64>;

/// The time of a run, by cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    /// When it begins and ends, seconds since the epoch.
    pub start: f64,
    /// The end of the last event.
    pub end: f64,
    /// Rank-seconds by cause; together `total`.
    pub seconds: Seconds,
    /// Rank-seconds in all.
    pub total: f64,
    /// Rank-seconds by cause in stretches of equal length.
    pub bands: Vec<Seconds>,
}

/// A stretch of one rank's time and what it was spent on.
struct Piece {
    start: f64,
    end: f64,
    seconds: Seconds,
}

impl Timeline {
    /// The time line of a run's events, which are sorted by attempt, and of its claims: which attempt was
    /// claimed when. An attempt lasts from its claim to its last event.
    pub fn of(events: &[Event], claims: &[(u32, f64)]) -> Self {
        let mut attempts: BTreeMap<u32, (&[Event], Option<f64>)> = BTreeMap::new();
        for own in events.chunk_by(|a, b| a.attempt == b.attempt) {
            attempts.insert(own[0].attempt, (own, None));
        }
        for &(attempt, claimed) in claims {
            attempts.entry(attempt).or_default().1 = Some(claimed);
        }
        let mut pieces = Vec::new();
        let mut before: Option<(f64, Option<usize>)> = None;
        for (attempt, claimed) in attempts.into_values() {
            let (start, end) = extent(attempt, claimed);
            let members = memberships(attempt, start, end);
            // An attempt that died before it had a world says nothing of its size.
            let ranks = Some(members.len()).filter(|_| !attempt.is_empty());
            if let Some((ended, waiting)) = before.filter(|(ended, _)| start > *ended) {
                pieces.extend((0..waiting.or(ranks).unwrap_or(1)).map(|_| Piece {
                    start: ended,
                    end: start,
                    seconds: Seconds::from([("idle", start - ended)]),
                }));
            }
            before = Some((before.map_or(end, |(ended, _)| ended.max(end)), ranks));
            let spans = spans_by_rank(attempt);
            for (rank, stretches) in members {
                pieces.extend(rank_pieces(&spans, rank, &stretches));
            }
        }
        Self::sum(&pieces)
    }

    fn sum(pieces: &[Piece]) -> Self {
        let start = pieces.iter().map(|piece| piece.start).fold(f64::INFINITY, f64::min);
        let end = pieces.iter().map(|piece| piece.end).fold(f64::NEG_INFINITY, f64::max);
        if start >= end {
            return Self::default();
        }
        let mut timeline = Self { start, end, bands: vec![Seconds::new(); BANDS], ..Self::default() };
        for piece in pieces {
            timeline.total += piece.end - piece.start;
            for (cause, seconds) in &piece.seconds {
                *timeline.seconds.entry(cause).or_insert(0.0) += seconds;
            }
            timeline.spread(piece);
        }
        timeline
    }

    /// Shares out a piece's seconds over the bands it touches.
    fn spread(&mut self, piece: &Piece) {
        let width = (self.end - self.start) / BANDS as f64;
        let length = piece.end - piece.start;
        if length <= 0.0 {
            return;
        }
        let first = ((piece.start - self.start) / width) as usize;
        let last = (((piece.end - self.start) / width) as usize).min(BANDS - 1);
        for band in first..=last {
            let from = self.start + band as f64 * width;
            let overlap = (piece.end.min(from + width) - piece.start.max(from)).max(0.0);
            for (cause, seconds) in &piece.seconds {
                *self.bands[band].entry(cause).or_insert(0.0) += seconds * overlap / length;
            }
        }
    }

    /// Each cause's share of the whole; together 1, or all 0 where nothing happened.
    pub fn shares(&self) -> BTreeMap<&'static str, f64> {
        let share = |cause: &&'static str| {
            let seconds = self.seconds.get(cause).copied().unwrap_or(0.0);
            (*cause, if self.total > 0.0 { seconds / self.total } else { 0.0 })
        };
        CAUSES.iter().map(share).collect()
    }
}

/// From an attempt's claim, or the first moment that its events speak of, to the last.
fn extent(attempt: &[Event], claimed: Option<f64>) -> (f64, f64) {
    let moments = |event: &Event| [Some(event.t), event.start, event.end];
    let all = || attempt.iter().flat_map(moments).chain([claimed]).flatten().filter(|t| t.is_finite());
    (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max))
}

/// When each rank was a member of the world: in the stretches of those generations that were large enough.
fn memberships(attempt: &[Event], start: f64, end: f64) -> BTreeMap<u32, Vec<(f64, f64)>> {
    let mut borders: Vec<(f64, u32)> = Vec::new();
    let mut lost: Option<f64> = None;
    for event in attempt {
        match event.kind.as_str() {
            // What a rank reports is no loss of the world.
            "failure" if event.rank.is_none() => lost = lost.or(Some(event.t)),
            "generation" => {
                borders.push((lost.take().unwrap_or(event.t), event.number("world").unwrap_or(0.0) as u32));
            }
            _ => {}
        }
    }
    if borders.is_empty() {
        let ranks: BTreeSet<u32> = attempt.iter().filter_map(|event| event.rank).collect();
        let ranks = if ranks.is_empty() { BTreeSet::from([0]) } else { ranks };
        return ranks.into_iter().map(|rank| (rank, vec![(start, end)])).collect();
    }
    // The time before the first worker group belongs to it.
    borders[0].0 = start;
    let ends = borders.iter().skip(1).map(|border| border.0).chain([end]);
    let mut members: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for ((from, world), to) in borders.iter().copied().zip(ends) {
        for rank in 0..world {
            let stretches = members.entry(rank).or_default();
            match stretches.last_mut() {
                Some(last) if last.1 >= from => last.1 = to,
                _ => stretches.push((from, to)),
            }
        }
    }
    members
}

/// Start, end, and seconds by cause in between.
type Span = (f64, f64, Seconds);

/// The spans of each rank, and under `None` those of the whole world.
fn spans_by_rank(attempt: &[Event]) -> BTreeMap<Option<u32>, Vec<Span>> {
    let mut spans: BTreeMap<Option<u32>, Vec<Span>> = BTreeMap::new();
    for event in attempt {
        if let Some(span) = event.seconds() {
            spans.entry(event.rank).or_default().push(span);
        }
    }
    spans
}

/// A rank's stretches cut into pieces: those that a span covers, and those that none does.
fn rank_pieces(
    by_rank: &BTreeMap<Option<u32>, Vec<Span>>,
    rank: u32,
    stretches: &[(f64, f64)],
) -> Vec<Piece> {
    let mut spans: Vec<&Span> =
        [None, Some(rank)].iter().filter_map(|key| by_rank.get(key)).flatten().collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut pieces = Vec::new();
    for &(from, to) in stretches {
        let mut covered = from;
        for (start, end, seconds) in spans.iter().copied() {
            let (begin, finish) = (start.max(covered), end.min(to));
            if begin >= finish {
                continue;
            }
            if begin > covered {
                pieces.push(uncovered(covered, begin));
            }
            pieces.push(part(begin, finish, (finish - begin) / (end - start), seconds));
            covered = finish;
        }
        if to > covered {
            pieces.push(uncovered(covered, to));
        }
    }
    pieces
}

/// A part of a span: its causes scaled, and what they do not fill unattributed.
fn part(start: f64, end: f64, fraction: f64, causes: &Seconds) -> Piece {
    let length = end - start;
    let mut seconds: Seconds = causes.iter().map(|(cause, seconds)| (*cause, seconds * fraction)).collect();
    let named: f64 = seconds.values().sum();
    if named > length {
        for value in seconds.values_mut() {
            *value *= length / named;
        }
    } else {
        *seconds.entry(UNATTRIBUTED).or_insert(0.0) += length - named;
    }
    Piece { start, end, seconds }
}

fn uncovered(start: f64, end: f64) -> Piece {
    Piece { start, end, seconds: Seconds::from([(UNATTRIBUTED, end - start)]) }
}
