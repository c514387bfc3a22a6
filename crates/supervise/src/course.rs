//! Which of the data each step trains on: the global batches of the order one by one, but for those left out.

use eagleray_base::{Error, Result};
use serde::{Deserialize, Serialize};

/// Global batches that no step trains on. Batches are counted from 0: batch b is positions b·B to (b + 1)·B.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Course {
    /// From one batch up to, not with, another; in order, apart from each other.
    left_out: Vec<(u64, u64)>,
}

impl TryFrom<Vec<(u64, u64)>> for Course {
    type Error = String;

    fn try_from(left_out: Vec<(u64, u64)>) -> std::result::Result<Self, String> {
        let ends: Vec<u64> = left_out.iter().flat_map(|(from, until)| [*from, *until]).collect();
        if ends.is_sorted_by(|before, after| before < after) {
            Ok(Self { left_out })
        } else {
            Err(format!("ranges are out of order: {left_out:?}"))
        }
    }
}

impl From<Course> for Vec<(u64, u64)> {
    fn from(course: Course) -> Self {
        course.left_out
    }
}

impl Course {
    /// The course of a list of ranges, as [`Course::to_json`] writes it.
    ///
    /// # Errors
    /// `Invalid` where it is not one.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("not a list of batches left out: {error}")))
    }

    /// The ranges as JSON: `[[57, 60]]`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How many batches are left out in all.
    pub fn len(&self) -> u64 {
        self.left_out.iter().map(|(from, until)| until - from).sum()
    }

    /// Whether every batch is trained on.
    pub fn is_empty(&self) -> bool {
        self.left_out.is_empty()
    }

    /// The batch that comes after `steps` steps.
    pub fn batch_after(&self, steps: u64) -> u64 {
        let mut batch = steps;
        for (from, until) in &self.left_out {
            if batch < *from {
                break;
            }
            batch += until - from;
        }
        batch
    }

    /// The batch that the data of `steps` steps ends before.
    pub fn end_of(&self, steps: u64) -> u64 {
        steps.checked_sub(1).map_or(0, |before| self.batch_after(before) + 1)
    }

    /// The course that also leaves out `from` up to, not with, `until`; where that meets a range it is joined with it.
    #[must_use]
    pub fn without(&self, from: u64, until: u64) -> Self {
        if from >= until {
            return self.clone();
        }
        let mut joined = (from, until);
        let mut left_out = Vec::new();
        for range in &self.left_out {
            if range.1 < joined.0 || joined.1 < range.0 {
                left_out.push(*range);
            } else {
                joined = (joined.0.min(range.0), joined.1.max(range.1));
            }
        }
        left_out.push(joined);
        left_out.sort_unstable();
        Self { left_out }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_pass_over_what_is_left_out() {
        let course = Course::default().without(3, 5).without(6, 7);
        let batches: Vec<u64> = (0..6).map(|steps| course.batch_after(steps)).collect();
        assert_eq!(batches, [0, 1, 2, 5, 7, 8]);
        let ends: Vec<u64> = (0..6).map(|steps| course.end_of(steps)).collect();
        assert_eq!(ends, [0, 1, 2, 3, 6, 8]);
        assert_eq!(course.to_json(), "[[3,5],[6,7]]");
        assert_eq!(course.without(4, 6).to_json(), "[[3,7]]", "what meets is joined");
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        for text in ["{}", "[[3]]", "[[5,3]]", "[[3,5],[5,7]]", "[[3,5],[1,2]]"] {
            assert!(Course::from_json(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_course_visits_every_batch_but_those_left_out(ranges in prop::collection::vec((0u64..200, 1u64..20), 0..8)) {
            let course = ranges.iter().fold(Course::default(), |course, (from, count)| course.without(*from, from + count));
            let visited: Vec<u64> = (0..300).map(|steps| course.batch_after(steps)).collect();
            let out = |batch: &u64| ranges.iter().any(|(from, count)| (*from..from + count).contains(batch));
            let wanted: Vec<u64> = (0u64..).filter(|batch| !out(batch)).take(300).collect();
            prop_assert_eq!(visited, wanted);
            prop_assert_eq!(Course::from_json(&course.to_json()).unwrap(), course);
        }
    }
}
