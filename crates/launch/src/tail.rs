//! The lines of an output that is followed, over a connection that may die without a word.
//!
//! A connection through gateways and load balancers is forgotten by some of them after minutes without a byte, and who
//! reads from it is told nothing. So a stream that is silent for long is opened again from where it was, and what comes
//! twice is left out: [`Tail`], which is pure, knows what came. It goes by the time that the kubelet writes before
//! each line.
//!
//! Why not TCP's own keepalive? It ends at the nearest proxy, which may be well while what is behind it is gone.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};

/// What is asked for again: API servers cut times to seconds, and the two streams of a container may be written a
/// moment out of order.
const BACK: SignedDuration = SignedDuration::from_secs(2);

/// What is as old as this, on a stream that was opened again, came before. Younger than [`BACK`], so that the rest of
/// a line that was cut at its edge falls away.
const KNOWN: SignedDuration = SignedDuration::from_secs(1);

/// What has come of an output.
#[derive(Debug, Default)]
pub struct Tail {
    newest: Option<Timestamp>,
    /// The lines of the last moment, by their time and hash.
    recent: VecDeque<(Timestamp, u64)>,
    /// Of a stream that was opened again: all until then came before, and of these lines so many.
    before: Option<(Timestamp, HashMap<u64, usize>)>,
}

impl Tail {
    /// From when on a stream is to be opened again; none where nothing has come, and all is still wanted.
    pub fn again(&mut self) -> Option<Timestamp> {
        let newest = self.newest?;
        let mut counts = HashMap::new();
        for (_, line) in &self.recent {
            *counts.entry(*line).or_default() += 1;
        }
        self.before = Some((earlier(newest, KNOWN), counts));
        // Whoever asks writes whole seconds, and would round.
        let back = earlier(newest, BACK);
        Some(Timestamp::from_second(back.as_second()).unwrap_or(back))
    }

    /// What is new of a line as it came, without its time.
    pub fn take<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (time, text) = line.split_once(' ').unwrap_or((line, ""));
        // What the kubelet says by itself, of a file that it cannot read, has no time.
        let Ok(time) = time.parse::<Timestamp>() else { return Some(line) };
        let hash = hash(line);
        if let Some((known, counts)) = &mut self.before {
            if time < *known {
                return None;
            }
            if let Some(count) = counts.get_mut(&hash).filter(|count| **count > 0) {
                *count -= 1;
                return None;
            }
        }
        let newest = self.newest.map_or(time, |newest| newest.max(time));
        self.newest = Some(newest);
        self.recent.push_back((time, hash));
        let edge = earlier(newest, BACK);
        while self.recent.front().is_some_and(|(time, _)| *time < edge) {
            self.recent.pop_front();
        }
        Some(text)
    }
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn hash(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(millis: i64, text: &str) -> String {
        format!("{} {text}", Timestamp::from_millisecond(1_795_950_000_000 + millis).unwrap())
    }

    #[test]
    fn a_line_is_told_without_its_time_and_what_has_none_as_it_is() {
        let mut tail = Tail::default();
        assert_eq!(tail.again(), None, "nothing has come");
        assert_eq!(tail.take("2026-11-29T12:00:00.000000001+09:00 step 1"), Some("step 1"));
        assert_eq!(tail.take("2026-11-29T03:00:01Z "), Some(""));
        assert_eq!(tail.take("2026-11-29T03:00:01Z"), Some(""));
        assert_eq!(tail.take("unable to retrieve container logs"), Some("unable to retrieve container logs"));
        assert_eq!(tail.again(), Some("2026-11-29T02:59:59Z".parse().unwrap()));
    }

    #[test]
    fn the_rest_of_a_line_that_was_cut_at_the_edge_falls_away() {
        let mut tail = Tail::default();
        assert!(tail.take(&line(0, "a long line")).is_some());
        assert!(tail.take(&line(2_000, "last")).is_some());
        tail.again();
        assert_eq!(tail.take(&line(1, "line")), None);
        assert_eq!(tail.take(&line(2_000, "last")), None);
        assert_eq!(tail.take(&line(2_000, "last")), Some("last"), "said twice in one moment");
    }

    proptest! {
        /// Whatever an output is, and wherever it breaks off: each line once, in its order.
        #[test]
        fn no_line_is_lost_or_told_twice(
            steps in prop::collection::vec((0i64..1_500, -400i64..400, 0u8..3), 1..60),
            breaks in prop::collection::vec(0usize..60, 0..5),
        ) {
            let mut at = 0;
            // Out of order by less than a second, and the same words again and again.
            let all: Vec<(i64, String)> = steps.iter().map(|(gap, shift, text)| {
                at += gap;
                (at + shift, line(at + shift, &text.to_string()))
            }).collect();
            let mut breaks = breaks;
            breaks.sort_unstable();
            let (mut tail, mut told, mut since) = (Tail::default(), Vec::new(), None);
            for end in breaks.into_iter().chain([all.len()]) {
                let seconds = since.map(|since: Timestamp| since.as_second());
                let written = all.iter().take(end);
                let from = written.filter(|(millis, _)| seconds.is_none_or(|s| 1_795_950_000_000 + millis >= s * 1_000));
                let first = since.is_none();
                for (_, line) in from {
                    told.extend(tail.take(line).map(str::to_owned));
                }
                since = tail.again();
                // Nothing came: all is asked for again.
                prop_assert!(first || since.is_some());
            }
            let wanted: Vec<String> = all.iter().map(|(_, line)| line.split_once(' ').unwrap().1.to_owned()).collect();
            prop_assert_eq!(told, wanted);
        }
    }
}
