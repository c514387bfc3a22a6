use eagleray_base::{Error, Kind, Result};
use eagleray_store::Store;

use super::{
    Commit, Fields, File, Keep, Segment, Share, commit, list, newest, next_save, read_commit, sweep, verify,
    write_segment,
};
use crate::lineage::SaveState;

mod simulation;

const HOUR_US: u64 = 3_600_000_000;

fn store(name: &str) -> Store {
    Store::open(&format!("memory://checkpoint-{name}")).unwrap()
}

fn claim(store: &Store, attempt: u32, resumed_from: Option<&str>) {
    let json = serde_json::json!({"attempt": attempt, "resumed_from": resumed_from});
    assert!(store.put_if_absent(&format!("attempts/{attempt:04}.json"), json.to_string()).unwrap());
}

type Action = Box<dyn Fn(&Store, &str) -> Result<()>>;

/// The steps of a save by two ranks, one by one.
fn steps(step: u64) -> Vec<Action> {
    let file = move |rank: u32| format!("data-{rank}-{step}");
    let mut steps: Vec<Action> = Vec::new();
    for rank in 0..2 {
        steps.push(Box::new(move |store, dir| {
            store.put(&format!("{dir}/{}", file(rank)), vec![rank as u8; 1000])
        }));
        steps.push(Box::new(move |store, dir| {
            let crc32c = eagleray_base::crc32c(&[rank as u8; 1000]);
            let files = vec![File { name: file(rank), bytes: 1000, crc32c }];
            write_segment(store, dir, &Segment { rank, files })
        }));
    }
    steps.push(Box::new(move |store, dir| commit(store, dir, Fields::new("torch.dcp", step, 2)).map(drop)));
    steps
}

fn save(store: &Store, attempt: u32, step: u64) -> String {
    let dir = next_save(store, attempt, step).unwrap();
    for action in steps(step) {
        action(store, &dir).unwrap();
    }
    dir
}

fn verify_newest(store: &Store) -> Result<u64> {
    verify(store, &newest(store)?.ok_or_else(|| Error::not_found("no commit"))?, Share::ALL, &mut |_| {})
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_checkpoint_before() {
    for done in 0..5 {
        let store = store(&format!("crash-{done}"));
        claim(&store, 1, None);
        let before = save(&store, 1, 100);
        let dir = next_save(&store, 1, 200).unwrap();
        for action in steps(200).into_iter().take(done) {
            action(&store, &dir).unwrap();
        }
        assert_eq!(newest(&store).unwrap().unwrap().dir, before, "after {done} steps");
        assert_eq!(verify_newest(&store).unwrap(), 2000);
        claim(&store, 2, Some(&before));
        let resumed = save(&store, 2, 200);
        assert_ne!(resumed, dir);
        assert_eq!(newest(&store).unwrap().unwrap().dir, resumed);
    }
}

#[test]
fn savers_of_one_step_and_attempt_never_get_one_folder() {
    let store = store("reserved");
    let taken: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
        let savers: Vec<_> = (0..8).map(|_| scope.spawn(|| next_save(&store, 1, 10).unwrap())).collect();
        savers.into_iter().map(|saver| saver.join().unwrap()).collect()
    });
    assert_eq!(taken.len(), 8);
    assert!(newest(&store).unwrap().is_none());
}

#[test]
fn a_commit_without_all_segments_or_with_a_short_file_is_refused_by_name() {
    let store = store("missing");
    let dir = next_save(&store, 1, 10).unwrap();
    for (left_out, name) in
        [(1, "segment-00000.json"), (3, "segment-00001.json"), (0, "data-0-10"), (2, "data-1-10")]
    {
        store.delete_prefix(&dir).unwrap();
        for (number, action) in steps(10).iter().enumerate().take(4) {
            if number != left_out {
                action(&store, &dir).unwrap();
            }
        }
        let error = commit(&store, &dir, Fields::new("torch.dcp", 10, 2)).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.message().contains(name), "{error}");
        assert!(newest(&store).unwrap().is_none());
    }
}

#[test]
fn a_world_of_hundreds_is_collected_whole_and_in_order_and_its_one_hole_is_named() {
    let store = store("hundreds");
    let dir = next_save(&store, 1, 10).unwrap();
    let world = 300;
    for rank in 0..world {
        let name = format!("data-{rank:05}");
        store.put(&format!("{dir}/{name}"), "x").unwrap();
        let files = vec![File { name, bytes: 1, crc32c: eagleray_base::crc32c(b"x") }];
        write_segment(&store, &dir, &Segment { rank, files }).unwrap();
    }
    let hole = format!("{dir}/segment-00211.json");
    let segment = store.get(&hole).unwrap();
    for damage in [&b"{"[..], &segment[..segment.len() - 1]] {
        store.put(&hole, damage.to_vec()).unwrap();
        let error = commit(&store, &dir, Fields::new("torch.dcp", 10, world)).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.message().contains("segment-00211"), "{error}");
    }
    store.put(&hole, segment).unwrap();
    let commit = commit(&store, &dir, Fields::new("torch.dcp", 10, world)).unwrap();
    let names: Vec<String> = (0..world).map(|rank| format!("data-{rank:05}")).collect();
    assert_eq!(commit.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>(), names);
    assert_eq!(verify(&store, &commit, Share::ALL, &mut |_| {}).unwrap(), u64::from(world));
}

#[test]
fn a_save_of_no_ranks_is_refused() {
    let store = store("no-ranks");
    let dir = next_save(&store, 1, 10).unwrap();
    assert_eq!(commit(&store, &dir, Fields::new("torch.dcp", 10, 0)).unwrap_err().kind(), Kind::Invalid);
    assert!(newest(&store).unwrap().is_none());
}

#[test]
fn of_two_writers_of_one_commit_one_wins() {
    let store = store("race");
    let dir = save(&store, 1, 10);
    let error = commit(&store, &dir, Fields::new("torch.dcp", 10, 2)).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn a_superseded_attempt_cannot_commit() {
    let store = store("superseded");
    claim(&store, 1, None);
    let dir = next_save(&store, 1, 10).unwrap();
    let mut actions = steps(10);
    let last = actions.pop().unwrap();
    for action in actions {
        action(&store, &dir).unwrap();
    }
    claim(&store, 2, None);
    let error = last(&store, &dir).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("attempt 2"), "{error}");
}

#[test]
fn every_kind_of_damage_is_found_and_named() {
    let store = store("damage");
    let dir = save(&store, 1, 10);
    let path = format!("{dir}/data-1-10");
    let good = store.get(&path).unwrap();
    let mut flipped = good.to_vec();
    flipped[500] ^= 4;
    for (bytes, expected) in
        [(flipped, "crc32c"), (good[..999].to_vec(), "999"), ([&good[..], b"x"].concat(), "1001")]
    {
        store.put(&path, bytes).unwrap();
        let error = verify_newest(&store).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().contains("data-1-10") && error.message().contains(expected), "{error}");
        assert!(error.hint().is_some());
    }
    store.delete(&path).unwrap();
    assert!(verify_newest(&store).unwrap_err().message().contains("is missing"));
}

#[test]
fn a_damaged_or_newer_commit_is_never_believed() {
    let store = store("torn");
    let dir = save(&store, 1, 10);
    let path = format!("{dir}/COMMIT");
    let good = store.get(&path).unwrap();
    for length in 0..good.len() {
        store.put(&path, good[..length].to_vec()).unwrap();
        let error = newest(&store).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.message().contains("COMMIT"), "{length}: {error}");
    }
    for bit in 0..good.len() * 8 {
        let mut flipped = good.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Commit::parse(&flipped).is_err(), "bit {bit}");
    }
    let json = std::str::from_utf8(&good)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .replace("\"format_version\":1", "\"format_version\":2");
    let newer = format!("{json}\ncrc32c={:08x}\n", eagleray_base::crc32c(json.as_bytes()));
    let error = Commit::parse(newer.as_bytes()).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.message().contains("version 2"), "{error}");
}

#[test]
fn ranks_share_the_verification_whole_and_evenly() {
    let store = store("share");
    let commit = read_commit(&store, &save(&store, 1, 10)).unwrap();
    let read: Vec<u64> =
        (0..2).map(|rank| verify(&store, &commit, Share { rank, world: 2 }, &mut |_| {}).unwrap()).collect();
    assert_eq!(read, [1000, 1000]);
}

#[test]
fn saves_are_numbered_within_an_attempt() {
    let store = store("numbers");
    assert_eq!(save(&store, 1, 10), "checkpoints/step-000000010/0001-0001");
    assert_eq!(save(&store, 1, 10), "checkpoints/step-000000010/0001-0002");
    assert_eq!(save(&store, 1, 5), "checkpoints/step-000000005/0001-0003");
    assert_eq!(save(&store, 2, 5), "checkpoints/step-000000005/0002-0001");
}

#[test]
fn a_sweep_keeps_the_last_the_marked_the_newest_and_what_may_still_be_written() {
    let store = store("sweep");
    claim(&store, 1, None);
    let saved: Vec<String> = (1..=7).map(|i| save(&store, 1, i * 10)).collect();
    store.put("checkpoints/step-000000080/0001-0008/part", "torn").unwrap();
    claim(&store, 2, Some(&saved[5]));
    let now = list(&store).unwrap().iter().map(|save| save.modified_us).max().unwrap();
    let keep = Keep { last: Some(2), every_steps: Some(40) };
    let gone = sweep(&store, keep, 2, now).unwrap();
    assert_eq!(gone, [6, 2, 1, 0].map(|i: usize| saved[i].clone()));
    let left: Vec<(u64, SaveState)> =
        list(&store).unwrap().iter().map(|save| (save.step, save.state)).collect();
    let committed = SaveState::Committed;
    assert_eq!(left, [(40, committed), (50, committed), (60, committed), (80, SaveState::Uncommitted)]);
    assert_eq!(newest(&store).unwrap().unwrap().dir, saved[5]);
    let gone = sweep(&store, keep, 2, now + 2 * HOUR_US).unwrap();
    assert_eq!(gone, ["checkpoints/step-000000080/0001-0008"]);
}

#[test]
fn a_torn_save_of_the_attempt_itself_goes_once_a_later_one_was_begun() {
    let store = store("own-torn");
    claim(&store, 1, None);
    store.put("checkpoints/step-000000010/0001-0001/part", "torn").unwrap();
    let later = list(&store).unwrap()[0].modified_us + 2 * HOUR_US;
    assert!(sweep(&store, Keep::default(), 1, later).unwrap().is_empty());
    save(&store, 1, 20);
    let gone = sweep(&store, Keep::default(), 1, later).unwrap();
    assert_eq!(gone, ["checkpoints/step-000000010/0001-0001"]);
}

#[test]
fn the_stored_forms_are_frozen() {
    let golden = include_str!("../tests/golden/COMMIT");
    let commit = Commit::parse(golden.as_bytes()).unwrap();
    assert_eq!((commit.fields.step, commit.attempt, commit.save, commit.fields.world), (1200, 1, 7, 1));
    assert_eq!(String::from_utf8(commit.encode().unwrap()).unwrap(), golden);
    let golden = include_str!("../tests/golden/segment-00000.json");
    let segment: Segment = serde_json::from_str(golden).unwrap();
    assert_eq!(serde_json::to_string(&segment).unwrap(), golden);
}
