//! Every path of a run, below its store.

/// The spec as given, for people.
pub const SPEC: &str = "run.yaml";
/// The resolved spec, for programs.
pub const RESOLVED: &str = "resolved.json";
/// The folder of claims.
pub const ATTEMPTS: &str = "attempts";
/// The folder of worlds.
pub const WORLD: &str = "world";
/// The folder of events.
pub const LEDGER: &str = "ledger";
/// What each attempt's ledger comes to so far.
pub const TOLD: &str = "told";
/// The folder of saves.
pub const CHECKPOINTS: &str = "checkpoints";
/// The folder of what was decided of single batches.
pub const SKIPPED: &str = "skipped";
/// What `eagleray report` writes.
pub const REPORT_JSON: &str = "report/report.json";
/// The page that `eagleray report` writes.
pub const REPORT_HTML: &str = "report/report.html";

/// The claim of an attempt.
pub fn claim(attempt: u32) -> String {
    format!("{ATTEMPTS}/{attempt:04}.json")
}

/// How an attempt ended.
pub fn end(attempt: u32) -> String {
    format!("{ATTEMPTS}/{attempt:04}.end.json")
}

/// What asks an attempt's driver to save and stop.
pub fn stop(attempt: u32) -> String {
    format!("{ATTEMPTS}/{attempt:04}.stop")
}

/// The sign of life of an attempt's driver.
pub fn alive(attempt: u32) -> String {
    format!("{ATTEMPTS}/{attempt:04}.alive")
}

/// Where the ranks of an attempt are. Not beside the claims, so that no reader of those can take it for one.
pub fn world(attempt: u32) -> String {
    format!("{WORLD}/{attempt:04}.json")
}

/// The events of an attempt.
pub fn ledger(attempt: u32) -> String {
    format!("{LEDGER}/{attempt:04}")
}

/// One flush of one writer.
pub fn ledger_object(attempt: u32, writer: &str, number: u64) -> String {
    format!("{}/{writer}-{number:06}.jsonl", ledger(attempt))
}

/// What an attempt's ledger comes to so far. Not in the ledger's folder, whose objects are events alone.
pub fn told(attempt: u32) -> String {
    format!("{TOLD}/{attempt:04}.json")
}

/// What whoever goes on from the save in `dir` leaves out.
pub fn left_out(dir: &str) -> String {
    format!("{dir}/LEFT_OUT")
}

/// That the update of a global batch was left out.
pub fn skipped(batch: u64) -> String {
    format!("{SKIPPED}/{batch:012}.json")
}

/// The global batch whose update was left out, by the path that says so.
pub fn batch_of_skipped(path: &str) -> Option<u64> {
    path.strip_prefix(SKIPPED)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}

/// The attempt whose claim a path is.
pub fn attempt_of_claim(path: &str) -> Option<u32> {
    let name = path.strip_prefix(ATTEMPTS)?.strip_prefix('/')?.strip_suffix(".json")?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

/// Attempt, writer and number of a flush, by its path.
pub fn parts_of_ledger_object(path: &str) -> Option<(u32, &str, u64)> {
    let (attempt, name) = path.strip_prefix(LEDGER)?.strip_prefix('/')?.split_once('/')?;
    let (writer, number) = name.strip_suffix(".jsonl")?.rsplit_once('-')?;
    Some((attempt.parse().ok()?, writer, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        assert_eq!(attempt_of_claim(&claim(12)), Some(12));
        assert_eq!(attempt_of_claim(&end(12)), None);
        assert_eq!(attempt_of_claim(&alive(12)), None);
        assert_eq!(parts_of_ledger_object(&ledger_object(3, "driver", 42)), Some((3, "driver", 42)));
        assert_eq!(ledger_object(1, "driver", 42), "ledger/0001/driver-000042.jsonl");
        assert_eq!(parts_of_ledger_object("ledger/0001/notes.txt"), None);
        assert_eq!(
            (skipped(25), batch_of_skipped(&skipped(25))),
            ("skipped/000000000025.json".to_owned(), Some(25))
        );
        assert_eq!(batch_of_skipped("skipped/notes.txt"), None);
    }
}
