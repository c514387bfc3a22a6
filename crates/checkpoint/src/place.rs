//! The names of a run's save folders.

/// The folder below a run's store that holds all saves.
pub const FOLDER: &str = "checkpoints";
/// The object that makes a save real.
pub const COMMIT: &str = "COMMIT";
/// The object that takes a folder for one save.
pub(crate) const BEGUN: &str = "BEGUN";
/// The folder of claims, which say what an attempt resumed from.
pub(crate) const ATTEMPTS: &str = "attempts";

/// Where a save lies: after which step, by which attempt, and the how-manieth of that attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Steps done.
    pub step: u64,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// The number of the save within the attempt, from 1.
    pub save: u32,
}

impl Place {
    /// The folder, below the run's store.
    pub fn dir(&self) -> String {
        format!("{FOLDER}/step-{:09}/{:04}-{:04}", self.step, self.attempt, self.save)
    }

    /// Parses the folder at the beginning of a path.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix(FOLDER)?.strip_prefix('/')?.split('/');
        let step = parts.next()?.strip_prefix("step-")?;
        let (attempt, save) = parts.next()?.split_once('-')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if ![step, attempt, save].into_iter().all(is_number) {
            return None;
        }
        Some(Self { step: step.parse().ok()?, attempt: attempt.parse().ok()?, save: save.parse().ok()? })
    }
}

/// The name of a rank's segment in its save.
pub(crate) fn segment_name(rank: u32) -> String {
    format!("segment-{rank:05}.json")
}

/// The number of the attempt whose claim an object below `attempts/` is.
pub(crate) fn claim_number(path: &str) -> Option<u32> {
    let name = path.strip_prefix(ATTEMPTS)?.strip_prefix('/')?.strip_suffix(".json")?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_as_it_is_written() {
        let place = Place { step: 1200, attempt: 1, save: 7 };
        assert_eq!(place.dir(), "checkpoints/step-000001200/0001-0007");
        assert_eq!(Place::parse("checkpoints/step-000001200/0001-0007/COMMIT"), Some(place));
        let large = Place { step: 12_345_678_901, attempt: 12_345, save: 1 };
        assert_eq!(Place::parse(&large.dir()), Some(large));
        for wrong in
            ["", "checkpoints", "checkpoints/step-x/1-2", "checkpoints/step-1/-2", "other/step-1/1-2"]
        {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_claims_count_as_attempts() {
        assert_eq!(claim_number("attempts/0012.json"), Some(12));
        assert_eq!(claim_number("attempts/0012.end.json"), None);
    }
}
