use super::*;
use crate::reader::{self, Piece, Record};

fn store(name: &str) -> Store {
    Store::open(&format!("memory://corpus-{name}")).unwrap()
}

fn all() -> Options {
    Options { suffixes: vec![".txt".into()], holdout: 0.0, bytes_max: u64::MAX }
}

fn objects(store: &Store) -> Vec<(String, bytes::Bytes)> {
    let listed = store.list("").unwrap();
    listed.into_iter().map(|object| (object.path.clone(), store.get(&object.path).unwrap())).collect()
}

fn texts(store: &Store, folder: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for object in store.list(folder).unwrap() {
        let (format, compression) = reader::detect(&object.path, None).unwrap();
        let piece = Piece {
            root: String::new(),
            path: object.path,
            format,
            compression,
            range: None,
            bytes: 0,
            version: None,
        };
        let mut reader = reader::open(store, &piece, "text").unwrap();
        while let Some(Record::Document { text, .. }) = reader.next().unwrap() {
            texts.push(text.to_owned());
        }
    }
    texts.sort();
    texts
}

#[test]
fn documents_are_held_out_by_their_text_wherever_they_lie() {
    let options = Options { suffixes: vec![".txt".into()], holdout: 0.3, bytes_max: u64::MAX };
    let run = |name: &str, files: &[(String, String)]| {
        let from = Store::open(&format!("memory://corpus-{name}-from")).unwrap();
        let to = Store::open(&format!("memory://corpus-{name}-to")).unwrap();
        for (path, text) in files {
            from.put(path, text.clone()).unwrap();
        }
        from.put("x.bin", "not wanted").unwrap();
        from.put("bad.txt", vec![0xff, 0xfe]).unwrap();
        let collected = collect(&from, &to, &options, &mut |_| ()).unwrap();
        assert_eq!(collected.left_out["not UTF-8"], 1);
        (texts(&to, "train"), texts(&to, "validation"))
    };
    let files: Vec<_> = (0..100).map(|i| (format!("{i}.txt"), format!("text {i}"))).collect();
    let moved: Vec<_> = files.iter().map(|(path, text)| (format!("deep/{path}"), text.clone())).collect();
    let (train, validation) = run("one", &files);
    assert_eq!(train.len() + validation.len(), 100);
    assert!((10..60).contains(&validation.len()), "{}", validation.len());
    assert_eq!((train, validation), run("two", &moved));
}

#[test]
fn a_collection_that_is_killed_after_its_first_part_leaves_the_corpus_that_was_there() {
    let (from, to) = (store("cut-from"), store("cut-to"));
    from.put("old.txt", "old").unwrap();
    collect(&from, &to, &all(), &mut |_| ()).unwrap();
    let before = objects(&to);
    for number in 0..3 {
        from.put(&format!("{number}.txt"), format!("{number}").repeat(OBJECT_BYTES as usize)).unwrap();
    }
    let mut seen = 0;
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        collect(&from, &to, &all(), &mut |bytes| {
            seen += bytes;
            assert!(seen <= OBJECT_BYTES, "killed");
        })
    }));
    assert!(killed.is_err());
    let left = objects(&to);
    assert!(left.iter().any(|(path, _)| path == ".collecting/train/00000.jsonl.zst"), "a part was whole");
    assert!(before.iter().all(|object| left.contains(object)));
    let root = to.url();
    let found = crate::build::pieces(&[format!("{root}/**/*.jsonl*")]).unwrap();
    assert_eq!(found.iter().map(|piece| piece.path.as_str()).collect::<Vec<_>>(), ["train/00000.jsonl.zst"]);
    collect(&from, &to, &all(), &mut |_| ()).unwrap();
    assert_eq!(texts(&to, "train").len(), 4);
    assert!(to.list(WORK).unwrap().is_empty());
}

#[test]
fn a_corpus_whose_parts_were_not_all_put_in_place_is_refused_until_it_is_collected_again() {
    let from = store("refused-from");
    (0..9).for_each(|number| from.put(&format!("{number}.txt"), format!("text {number}")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().display();
    let to = Store::open(&root.to_string()).unwrap();
    // A folder in the way: the copy fails as on a full disk.
    to.put("train/00000.jsonl.zst/in-the-way", "").unwrap();
    let options = Options { holdout: 0.5, ..all() };
    collect(&from, &to, &options, &mut |_| ()).unwrap_err();
    assert!(to.list(WORK).unwrap().is_empty(), "the work folder does not fill the disk");
    for pattern in ["train/*.jsonl.zst", "validation/*.jsonl", "train", "**/*.jsonl*"] {
        let error = crate::build::pieces(&[format!("{root}/{pattern}")]).unwrap_err();
        assert!(error.message().contains("is not whole"), "{pattern}: {}", error.message());
    }
    to.delete_prefix("train").unwrap();
    collect(&from, &to, &options, &mut |_| ()).unwrap();
    let found = crate::build::pieces(&[format!("{root}/**/*.jsonl*")]).unwrap();
    assert_eq!(found.len(), 2);
}

#[test]
fn a_second_collection_leaves_no_part_of_the_first_and_nothing_else_is_deleted() {
    let (from, to) = (store("twice-from"), store("twice-to"));
    from.put("a.txt", "a").unwrap();
    from.put("b.md", "b".repeat(OBJECT_BYTES as usize)).unwrap();
    from.put("c.md", "c".repeat(OBJECT_BYTES as usize)).unwrap();
    to.put("train/mine.jsonl", "").unwrap();
    let both = Options { suffixes: vec![".txt".into(), ".md".into()], ..all() };
    collect(&from, &to, &both, &mut |_| ()).unwrap();
    let parts = to.list("train").unwrap();
    assert!(parts.len() > 2);
    collect(&from, &to, &Options { holdout: 1.0, ..all() }, &mut |_| ()).unwrap_err();
    assert_eq!(to.list("train").unwrap(), parts, "a collection that is refused deletes nothing");
    collect(&from, &to, &all(), &mut |_| ()).unwrap();
    let paths: Vec<String> = to.list("").unwrap().into_iter().map(|object| object.path).collect();
    assert_eq!(paths, ["train/00000.jsonl.zst", "train/mine.jsonl"]);
    assert_eq!(texts(&to, "train"), ["a"]);
}

#[test]
fn a_folder_without_such_files_is_refused_by_name() {
    let from = Store::open("memory://corpus-none").unwrap();
    let options = Options { suffixes: vec![".py".into()], holdout: 0.1, bytes_max: 10 };
    let error = collect(&from, &from, &options, &mut |_| ()).unwrap_err();
    assert!(error.message().contains("ends in `.py`"));
}
