//! The guide for teams that come from `PyTorchJob`: what it says to type does what it says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use common::shown;

mod common;

const GUIDE: &str = include_str!("../../../docs/afternoon.md");
const JOB: &str = include_str!("../../../examples/pytorchjob.yaml");

/// Commands that talk to a cluster: `tests/cluster` runs them on one.
const LIVE: [&str; 8] = ["doctor", "diff", "launch", "watch", "logs", "stop", "resume", "runs"];

fn commands() -> impl Iterator<Item = Vec<&'static str>> {
    GUIDE.lines().filter_map(|line| line.strip_prefix("$ eagleray ")).map(|words| words.split(' ').collect())
}

#[test]
fn every_command_that_needs_no_cluster_succeeds_in_the_order_of_the_guide() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pytorchjob.yaml"), JOB).unwrap();
    let mut count = 0;
    for words in commands().filter(|words| !LIVE.contains(&words[0])) {
        let told = shown(folder.path(), &words);
        assert!(told.starts_with("exit 0\n"), "eagleray {}: {told}", words.join(" "));
        count += 1;
    }
    assert!(count >= 8, "the guide has lost its commands: {count}");
    for made in [
        "runs/chat/run.yaml",
        "runs/chat/Dockerfile",
        "runs/chat/migration.md",
        "manifests/train/ray-job.yaml",
    ] {
        assert!(folder.path().join(made).is_file(), "{made}");
    }
}

#[test]
fn a_command_that_needs_a_cluster_says_so_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pytorchjob.yaml"), JOB).unwrap();
    shown(folder.path(), &["migrate", "pytorchjob.yaml", "-o", "runs"]);
    for words in commands().filter(|words| LIVE.contains(&words[0])) {
        let nowhere = [&words[..], &["--kubeconfig", "none.yaml"]].concat();
        let told = shown(folder.path(), &nowhere);
        assert!(told.starts_with("exit 1\n"), "eagleray {}: {told}", nowhere.join(" "));
        assert!(told.contains("none.yaml") && told.contains("aws eks update-kubeconfig"), "{told}");
    }
}
