use super::*;

fn hidden_files(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(HIDDEN)).count()
}

#[test]
fn a_hidden_name_in_use_is_left_alone_and_another_taken() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    fs::write(&target, "live").unwrap();
    // What a process killed within a copy leaves: a hidden name of live data.
    let left_over = folder.path().join(format!("{HIDDEN}{:016x}-data", 7));
    fs::hard_link(&target, &left_over).unwrap();
    let create = |hidden: &Path| File::create_new(hidden);
    let mut numbers = [7, 7, 8].into_iter();
    let (_, hidden) = under_fresh_name(&target, || numbers.next().unwrap(), create).unwrap();
    assert_eq!(hidden, folder.path().join(format!("{HIDDEN}{:016x}-data", 8)));
    assert_eq!(fs::read(&target).unwrap(), b"live");
    let mut numbers = [8, 7, 9].into_iter();
    let link = |hidden: &Path| fs::hard_link(&target, hidden);
    let ((), hidden) = under_fresh_name(&target, || numbers.next().unwrap(), link).unwrap();
    assert_eq!(fs::read(hidden).unwrap(), b"live");
}

#[test]
fn hidden_names_differ_between_calls_and_threads() {
    let draw = || (0..100).map(|_| random()).collect::<Vec<_>>();
    let mut drawn = draw();
    drawn.extend(std::thread::spawn(draw).join().unwrap());
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 200);
}

#[test]
fn a_claim_whose_answer_was_lost_on_the_network_is_still_won() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("claim");
    let (ours, theirs) = (Pending::create(&target).unwrap(), Pending::create(&target).unwrap());
    fs::hard_link(&ours.hidden, &target).unwrap();
    assert!(ours.publish_if_absent().unwrap());
    assert!(!theirs.publish_if_absent().unwrap());
}

#[test]
fn every_write_takes_its_hidden_name_away_and_a_left_over_goes_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path().to_owned());
    local.put("x/a", b"1").unwrap();
    assert!(local.put_if_absent("x/b", b"2").unwrap());
    assert!(!local.put_if_absent("x/b", b"3").unwrap());
    local.copy("x/a", "x/c").unwrap();
    local.copy("x/a", "x/c").unwrap();
    local.copy("x/absent", "x/c").unwrap_err();
    assert_eq!(hidden_files(&folder.path().join("x")), 0);
    std::mem::forget(Pending::create(&local.path("x/d")).unwrap());
    assert_eq!(hidden_files(&folder.path().join("x")), 1);
    assert_eq!(local.list("", &Pattern::all()).unwrap().len(), 3);
    local.delete_prefix("x").unwrap();
    assert!(!folder.path().join("x").exists());
}

fn listed(local: &Local, pattern: &str) -> Vec<String> {
    let mut paths: Vec<_> =
        local.list("", &Pattern::new(pattern)).unwrap().into_iter().map(|object| object.path).collect();
    paths.sort();
    paths
}

#[test]
fn links_are_followed_but_not_in_circles_and_those_that_lead_nowhere_are_not_there() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path().join("root"));
    local.put("a/b/1.txt", b"1").unwrap();
    local.put("../outside/2.txt", b"2").unwrap();
    symlink(folder.path().join("outside/2.txt"), local.path("a/file.txt")).unwrap();
    symlink(folder.path().join("outside"), local.path("a/linked")).unwrap();
    symlink(local.path(""), local.path("a/b/up")).unwrap();
    symlink("here", local.path("a/b/here")).unwrap();
    symlink("nowhere", local.path("a/b/gone")).unwrap();
    let everything = ["a/b/1.txt", "a/file.txt", "a/linked/2.txt"];
    assert_eq!(listed(&local, "**"), everything);
    assert_eq!(listed(&local, "a/*.txt"), ["a/file.txt"]);
    assert_eq!(listed(&local, "a/l*/*.txt"), ["a/linked/2.txt"]);
    assert_eq!(local.list_dirs("a/b").unwrap(), ["up"]);
}

#[test]
fn a_folder_that_cannot_be_read_is_in_the_way_only_of_patterns_that_enter_it() {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let folder = tempfile::tempdir().unwrap();
    let local = Local::new(folder.path().to_owned());
    local.put("1.txt", b"1").unwrap();
    local.put("deep/2.txt", b"2").unwrap();
    // Deeper than any path may be long, so that not even the superuser lists it by its path.
    let mut deepest = open(local.path("deep"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let name = "d".repeat(250);
    for _ in 0..20 {
        mkdirat(&deepest, &name, Mode::RWXU).unwrap();
        deepest = openat(&deepest, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert_eq!(listed(&local, "*.txt"), ["1.txt"]);
    assert_eq!(listed(&local, "*/*.txt"), ["deep/2.txt"]);
    for pattern in [Pattern::new("**/*.txt"), Pattern::all()] {
        let (path, _) = local.list("", &pattern).unwrap_err();
        assert!(path.starts_with(&format!("deep/{name}/{name}")), "{path}");
    }
}
