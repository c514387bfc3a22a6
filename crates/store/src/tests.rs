use std::io::{Read, Write};

use eagleray_base::{Kind, crc32c};

use super::{Store, glob_matches};

/// What every backend must do alike.
fn conforms(store: &Store) {
    assert_eq!(store.get("absent").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.head("absent").unwrap(), None);
    assert!(store.list("").unwrap().is_empty());
    store.put("a/one", "first").unwrap();
    store.put("a/one", "second").unwrap();
    assert_eq!(&store.get("a/one").unwrap()[..], b"second");
    assert_eq!(&store.get_range("a/one", 1, 4).unwrap()[..], b"econ");
    assert_eq!(store.get_range("a/one", 4, 4).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(store.get_range("a/one", 40, 4).unwrap_err().kind(), Kind::Corrupt);
    // A length out of a rotten header is an error like any other, not a panic.
    for (start, length) in [(0, u64::MAX), (1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (2, 1 << 62)] {
        let error = store.get_range("a/one", start, length).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.render());
    }
    assert!(store.put_if_absent("a/b/two", "x").unwrap());
    assert!(!store.put_if_absent("a/b/two", "y").unwrap());
    assert_eq!(&store.get("a/b/two").unwrap()[..], b"x");

    let mut writer = store.writer("c/three").unwrap();
    writer.write_all(b"1234").unwrap();
    assert_eq!(store.head("c/three").unwrap(), None, "nothing is visible before the end");
    writer.write_all(b"56789").unwrap();
    let written = writer.finish().unwrap();
    assert_eq!((written.bytes, written.crc32c), (9, crc32c(b"123456789")));
    drop(store.writer("c/dropped").unwrap());
    let mut text = String::new();
    store.reader("c/three").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "123456789");

    let paths: Vec<_> = store.list("").unwrap().into_iter().map(|object| object.path).collect();
    assert_eq!(paths, ["a/b/two", "a/one", "c/three"]);
    assert_eq!(store.list_dirs("").unwrap(), ["a", "c"]);
    for pattern in
        ["*", "**", "*/*", "*/*/*", "**/t*", "{a,c}/t*", "a/**", "a/*/two", "a/one/**", "x/**", "*/one"]
    {
        let matching: Vec<_> = paths.iter().filter(|path| glob_matches(pattern, path)).cloned().collect();
        let listed = store.list_matching(pattern).unwrap();
        assert_eq!(listed.into_iter().map(|object| object.path).collect::<Vec<_>>(), matching, "{pattern}");
    }
    assert_eq!(
        store.child("a").list_matching("*").unwrap()[0],
        store.child("a").head("one").unwrap().unwrap()
    );
    let child = Store::open(store.child("a").url()).unwrap();
    assert_eq!(child.list("").unwrap().len(), 2);
    assert_eq!(child.list("b").unwrap()[0].path, "b/two");
    store.copy("c/three", "a/one").unwrap();
    store.copy("c/three", "a/one").unwrap();
    assert_eq!(&store.get("a/one").unwrap()[..], b"123456789");
    assert_eq!(store.list("a").unwrap().len(), 2);
    assert_eq!(store.copy("absent", "a/one").unwrap_err().kind(), Kind::NotFound);
    store.delete("a/one").unwrap();
    store.delete("a/one").unwrap();
    store.delete_prefix("a").unwrap();
    // A server may still show the emptied folder; what counts is that no object is there.
    assert!(store.list("a").unwrap().is_empty());
    assert!(store.counters().bytes_read >= 19);
}

#[test]
fn a_local_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&Store::open(folder.path().to_str().unwrap()).unwrap());
}

#[test]
fn memory_conforms() {
    conforms(&Store::open("memory://conforms").unwrap());
    conforms(&Store::open("memory://conforms/deep/prefix").unwrap());
}

#[test]
fn s3_conforms_when_a_test_bucket_is_given() {
    let Ok(url) = std::env::var("EAGLERAY_TEST_S3") else {
        return;
    };
    let store = Store::open(&format!("{url}/store-conforms-{}", std::process::id())).unwrap();
    conforms(&store);
    let mut writer = store.writer("large").unwrap();
    let part = vec![7_u8; 5 << 20];
    for _ in 0..8 {
        writer.push(&part).unwrap();
    }
    let written = writer.finish().unwrap();
    assert_eq!(crc32c(&store.get("large").unwrap()), written.crc32c);
    store.delete_prefix("").unwrap();
    let absent = Store::open("s3://absent-bucket/run").unwrap();
    let errors = [absent.head("x").unwrap_err(), absent.list("").unwrap_err(), absent.get("x").unwrap_err()];
    assert!(errors.iter().all(|error| error.message().contains("no such bucket")), "{errors:?}");
}

#[test]
fn of_many_conditional_puts_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    for url in [folder.path().to_str().unwrap(), "memory://race"] {
        let store = Store::open(url).unwrap();
        let wins = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|i| {
                    scope.spawn({
                        let store = store.clone();
                        move || store.put_if_absent("claim", format!("{i}")).unwrap()
                    })
                })
                .collect();
            tries.into_iter().map(|attempt| usize::from(attempt.join().unwrap())).sum::<usize>()
        });
        assert_eq!(wins, 1, "{url}");
    }
}

#[test]
fn an_error_names_the_whole_address() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let text = store.child("deep").get("x.bin").unwrap_err().render();
    assert!(text.contains(&format!("{}/deep/x.bin", folder.path().display())), "{text}");
}

#[test]
fn a_write_cut_short_leaves_nothing_a_listing_shows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let mut writer = store.writer("x/data").unwrap();
    writer.push(b"half").unwrap();
    std::mem::forget(writer);
    assert!(store.list("").unwrap().is_empty());
    assert!(store.head("x/data").unwrap().is_none());
}
