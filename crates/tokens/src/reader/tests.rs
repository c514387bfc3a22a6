use std::io::{Cursor, Read, Write};

use eagleray_base::Kind;
use eagleray_store::Store;
use proptest::prelude::*;

use super::*;

fn read_all(reader: &mut dyn DocumentReader) -> Result<Vec<Result<String, (u64, String)>>> {
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(match record {
            Record::Document { text, .. } => Ok(text.to_owned()),
            Record::Bad { offset, reason } => Err((offset, reason)),
        });
    }
    Ok(records)
}

fn jsonl(bytes: &[u8], field: &str) -> Vec<Result<String, (u64, String)>> {
    let source = Box::new(Cursor::new(bytes.to_vec()));
    read_all(&mut Jsonl::new(source, "x".into(), field)).unwrap()
}

fn reason(line: &[u8]) -> String {
    let mut records = jsonl(line, "text");
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0).unwrap_err().1
}

#[test]
fn a_line_is_a_document_and_an_empty_line_is_none() {
    let bytes =
        "\u{feff}{\"text\":\"a\"}\r\n\n  \n{\"id\":1,\"text\":\"b\\n\\u00e9\\ud83d\\ude00\"}".as_bytes();
    assert_eq!(jsonl(bytes, "text"), [Ok("a".to_owned()), Ok("b\né😀".to_owned())]);
}

#[test]
fn a_dotted_path_reaches_into_objects() {
    let bytes = br#"{"a":{"text":"x"}, "text": 5}"#;
    assert_eq!(jsonl(bytes, "a.text"), [Ok("x".to_owned())]);
}

#[test]
fn each_way_to_be_bad_has_its_own_words() {
    assert_eq!(reason(b"{\"text\":\"a\xff\"}"), "is not UTF-8 at byte 10 of the line");
    for broken in [
        &b"{\"text\":\"a\""[..],
        b"{\"text\":\"a\"} x",
        b"{\"text\":\"a\",}",
        b"{\"text\":\"a\" \"b\":1}",
        b"text",
        b"{\"text\":\"a\nb\"}",
        b"{\"text\":\"a\tb\"}",
        b"{'text':'a'}",
        b"{\"text\":\"\\x\"}",
        b"{\"text\":\"a\",\"n\":01}",
        b"{\"text\":\"a\",\"n\":[1,}",
        b"{\"text\":\"a\",\"n\":nul}",
    ] {
        for (_, reason) in jsonl(broken, "text").into_iter().map(Result::unwrap_err) {
            assert!(reason.starts_with("is not JSON"), "{reason}: {}", String::from_utf8_lossy(broken));
        }
    }
    assert_eq!(reason(b"[1]"), "is JSON but not an object");
    assert_eq!(reason(b"{\"body\":\"a\"}"), "has no field `text`");
    assert_eq!(reason(b"{\"text\":null}"), "has a field `text` that is not a string");
    assert_eq!(reason(b"{\"text\":[\"a\"]}"), "has a field `text` that is not a string");
    assert!(!reason(b"{\"text\":\"\\ud800\"}").is_empty());
}

#[test]
fn a_line_over_the_limit_is_named_with_its_offset_and_not_kept() {
    let long = format!("{{\"text\":\"{}\"}}", "a".repeat(5000));
    let bytes = format!("{{\"text\":\"1\"}}\n{long}\n{{\"text\":\"2\"}}\n");
    let source = Box::new(Cursor::new(bytes.into_bytes()));
    let records = read_all(&mut Jsonl::limited(source, "x".into(), "text", 1000)).unwrap();
    assert_eq!(records[0], Ok("1".to_owned()));
    let (offset, reason) = records[1].clone().unwrap_err();
    assert_eq!((offset, reason.as_str()), (13, "is 4.9 KiB long, over the limit of 1000 B"));
    assert_eq!(records[2], Ok("2".to_owned()));
}

/// A stream of three billion bytes without a newline, made as it is read.
struct Endless(u64);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.min(buffer.len() as u64) as usize;
        buffer[..count].fill(b'a');
        self.0 -= count as u64;
        Ok(count)
    }
}

#[test]
fn a_line_of_three_gigabytes_is_read_past_in_bounded_memory() {
    let mut reader = Jsonl::limited(Box::new(Endless(3_000_000_000)), "x".into(), "text", 8 << 20);
    let records = read_all(&mut reader).unwrap();
    assert_eq!(records.len(), 1);
    assert!(records[0].clone().unwrap_err().1.starts_with("is 2.8 GiB long"));
}

#[test]
fn a_text_file_is_one_document_and_bad_where_it_is_not_utf8() {
    let text = |bytes: &[u8], limit| {
        read_all(&mut Text::limited(Box::new(Cursor::new(bytes.to_vec())), "x".into(), limit)).unwrap()
    };
    assert_eq!(text("\u{feff}a\n\nb\n".as_bytes(), 100), [Ok("a\n\nb\n".to_owned())]);
    assert_eq!(text(b"ab\xff", 100), [Err((0, "is not UTF-8 at byte 2".to_owned()))]);
    assert_eq!(text(b"abcd", 3), [Err((0, "is longer than the limit of 3 B".to_owned()))]);
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Zstd => {
            let (left, right) = bytes.split_at(bytes.len() / 2);
            [frame(left), frame(right)].concat()
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| format!("{{\"text\":\"document {i} é\"}}\n").into_bytes()).collect()
}

#[test]
fn a_cut_or_damaged_compressed_object_ends_with_an_error_that_names_it() {
    let store = Store::open("memory://reader-cut").unwrap();
    let plain = lines(20_000);
    for (compression, name) in [(Compression::Zstd, "a.jsonl.zst"), (Compression::Gzip, "a.jsonl.gz")] {
        let whole = compressed(&plain, compression);
        let mut damaged = whole.clone();
        let place = damaged.len() / 3;
        damaged[place..place + 40].fill(0xAA);
        let piece = |bytes: &[u8]| {
            store.put(name, bytes.to_vec()).unwrap();
            let (format, compression) = detect(name, None).unwrap();
            let piece = Piece {
                root: String::new(),
                path: name.into(),
                format,
                compression,
                range: None,
                bytes: 0,
                version: None,
            };
            read_all(open(&store, &piece, "text").unwrap().as_mut())
        };
        assert_eq!(piece(&whole).unwrap().len(), 20_000);
        for bad in [&whole[..whole.len() - 7], &damaged] {
            let error = piece(bad).err().unwrap();
            assert_eq!(error.kind(), Kind::Corrupt, "{}", error.render());
            assert!(error.message().contains(name), "{}", error.message());
        }
    }
}

#[test]
fn an_unknown_ending_is_refused_unless_the_spec_says_what_it_is() {
    assert_eq!(detect("a/b.jsonl.zst", None).unwrap(), (Format::Jsonl, Compression::Zstd));
    assert_eq!(detect("a/B.TXT", None).unwrap(), (Format::Txt, Compression::None));
    assert_eq!(detect("dump.gz", Some("jsonl")).unwrap(), (Format::Jsonl, Compression::Gzip));
    assert!(detect("a.parquet", None).unwrap_err().message().contains("a.parquet"));
    assert!(
        detect("a.jsonl", Some("parquet")).unwrap_err().message().contains("not available in this build")
    );
}

proptest! {
    #[test]
    fn pieces_of_an_object_give_each_line_once_wherever_they_are_cut(
        texts in prop::collection::vec("[a-zé\\\\\"]{0,12}", 1..30),
        mut cuts in prop::collection::vec(0..600_u64, 0..6),
        newline_at_end in any::<bool>(),
    ) {
        let mut bytes: Vec<u8> = Vec::new();
        for text in &texts {
            bytes.extend(serde_json::to_vec(&serde_json::json!({ "text": text })).unwrap());
            bytes.push(b'\n');
        }
        if !newline_at_end {
            bytes.pop();
        }
        let store = Store::open("memory://reader-pieces").unwrap();
        store.put("a.jsonl", bytes.clone()).unwrap();
        cuts.extend([0, bytes.len() as u64]);
        cuts.retain(|&cut| cut <= bytes.len() as u64);
        cuts.sort_unstable();
        let mut found = Vec::new();
        for pair in cuts.windows(2) {
            let piece = Piece {
                root: String::new(), path: "a.jsonl".into(), format: Format::Jsonl,
                compression: Compression::None, range: Some((pair[0], pair[1])), bytes: 0, version: None,
            };
            found.extend(read_all(open(&store, &piece, "text").unwrap().as_mut()).unwrap());
        }
        let expected: Vec<_> = texts.into_iter().map(Ok).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_are_read_to_the_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for (compression, field) in [(Compression::None, "text"), (Compression::Zstd, "a.b"), (Compression::Gzip, "")] {
            let source = decompress(Box::new(Cursor::new(bytes.clone())), compression).unwrap();
            let _ = read_all(&mut Jsonl::new(source, "x".into(), field));
            let with = [b"{\"text\":\"", &bytes[..], b"\"}"].concat();
            let _ = jsonl(&with, "text");
        }
    }
}
