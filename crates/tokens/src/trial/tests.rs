use std::fmt::Write as _;
use std::io::Write as _;

use eagleray_base::{Kind, mix64};
use eagleray_store::Store;

use super::*;

fn asked(patterns: &[&str]) -> Asked {
    Asked {
        sources: vec![Source {
            patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            text_field: "text".to_owned(),
            format: None,
        }],
        tokenizer: None,
        documents_max: 1_000_000,
        bytes_max: 64 << 20,
        samples: 2,
        sequence_length: 8,
    }
}

fn found(asked: &Asked) -> Findings {
    let trial = plan(asked).unwrap();
    let mut outcomes: Vec<Outcome> = trial.tasks.iter().flat_map(|task| run(task, None).unwrap()).collect();
    findings(&trial, &mut outcomes, None).unwrap()
}

/// Lines that differ, and do not compress to nothing.
fn lines(count: u64) -> String {
    let mut text = String::new();
    for number in 0..count {
        let words: Vec<String> =
            (0..20).map(|word| format!("{:x}", mix64(number * 20 + word) >> 40)).collect();
        writeln!(text, r#"{{"text": "{number} {}"}}"#, words.join(" ")).unwrap();
    }
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn faults_are_told_with_their_lines_and_duplicates_with_the_first() {
    let store = Store::open("memory://trial-faults").unwrap();
    let mut body = b"{\"text\": \"one\"}\n\n{\"text\": 1}\n".to_vec();
    body.extend_from_slice(b"{\"text\": \"\xff\"}\n{\"text\": \"\"}\n{\"text\": \"\xed\x95\x9c\"}\n");
    store.put("a.jsonl", body).unwrap();
    store.put("b.txt", "one").unwrap();
    store.put("c.jsonl", "").unwrap();
    store.put("d.parquet", "PAR1").unwrap();
    let cut = gzip(lines(2_000).as_bytes());
    store.put("e.jsonl.gz", cut[..cut.len() / 2].to_vec()).unwrap();
    let found = found(&asked(&["memory://trial-faults"]));
    let bad: Vec<_> = found.bad_listed.iter().map(|each| (each.spot.line, each.reason.as_str())).collect();
    assert_eq!(bad[0], (Some(3), "has a field `text` that is not a string"));
    assert_eq!((bad[1].0, &bad[1].1[..12]), (Some(4), "is not UTF-8"));
    assert_eq!((found.bad, found.empty, found.empty_listed[0].spot.line), (2, 1, Some(5)));
    assert_eq!(found.duplicates_listed[0].reason, "has the text of memory://trial-faults/a.jsonl:1");
    assert_eq!(found.duplicates_listed[0].object, "memory://trial-faults/b.txt");
    assert_eq!((found.corpus.empty_objects, found.corpus.unnamed), (1, 1));
    assert!(found.damaged[0].contains("e.jsonl.gz") && found.damaged.len() == 1);
    let text = show(&found);
    for part in ["a.jsonl:3 has a field", "d.parquet", "reading alone was measured", "damaged objects: 1"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_slice_of_a_plain_object_is_what_its_places_hold() {
    let store = Store::open("memory://trial-plain").unwrap();
    let text = lines(40_000);
    store.put("a.jsonl", text.clone()).unwrap();
    let some = found(&Asked { bytes_max: 1 << 20, ..asked(&["memory://trial-plain/*.jsonl"]) });
    assert!(!some.whole && some.places == 4 && some.duplicates == 0);
    assert_eq!(some.raw_bytes, 1 << 20);
    let (share, documents) = (some.raw_bytes as f64 / text.len() as f64, some.documents as f64 / 40_000.0);
    assert!((share / documents - 1.0).abs() < 0.01, "{share} {documents}");
    // Lines are not known there; bytes are.
    let sample = &some.samples[0];
    assert_eq!(sample.spot.line, None);
    let at = sample.spot.offset as usize;
    assert!(text[at..].starts_with(&format!(r#"{{"text": "{}"#, &sample.text[..10])));
    let few =
        found(&Asked { bytes_max: 1 << 20, documents_max: 10, ..asked(&["memory://trial-plain/*.jsonl"]) });
    assert_eq!(few.documents, 10);
    assert!(few.raw_bytes < 10 * 400, "{} bytes were charged to ten documents", few.raw_bytes);
}

#[test]
fn the_head_of_a_compressed_object_is_charged_by_what_it_holds() {
    let store = Store::open("memory://trial-packed").unwrap();
    let text = lines(40_000);
    store.put("a.jsonl.gz", gzip(text.as_bytes())).unwrap();
    store.put("b.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    for name in ["a.jsonl.gz", "b.jsonl.zst"] {
        let pattern = format!("memory://trial-packed/{name}");
        let all = found(&asked(&[&pattern]));
        assert!(all.whole && all.documents == 40_000);
        assert_eq!(all.raw_bytes, all.corpus.bytes);
        let part = found(&Asked { bytes_max: 300_000, ..asked(&[&pattern]) });
        let (share, documents) =
            (part.raw_bytes as f64 / all.raw_bytes as f64, part.documents as f64 / 40_000.0);
        assert!((share / documents - 1.0).abs() < 0.02, "{name}: {share} of bytes, {documents} of documents");
        assert!((290_000..=310_000).contains(&part.raw_bytes), "{name}: {}", part.raw_bytes);
        assert_eq!(
            part.samples[0].spot.line.map(|line| format!("{} ", line - 1)),
            part.samples[0].text.split_inclusive(' ').next().map(str::to_owned)
        );
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_the_place() {
    let store = Store::open("memory://trial-none").unwrap();
    store.put("web/a.parquet", "PAR1").unwrap();
    store.put("web/b.jsonl", "").unwrap();
    let refused = |pattern: &str, kind: Kind, part: &str| {
        let error = plan(&asked(&[pattern])).unwrap_err();
        let text = error.render();
        assert!(error.kind() == kind && text.contains(part), "{text}");
    };
    refused("memory://trial-none/wbe/*.jsonl", Kind::NotFound, "`memory://trial-none` is there, with `web/`");
    refused("memory://trial-none/web/*.parquet", Kind::Invalid, "a.parquet");
    refused("memory://trial-none/web/*.jsonl", Kind::Invalid, "all empty");
    let many = Asked { documents_max: DOCUMENTS_MAX + 1, ..asked(&["memory://trial-none/web/*"]) };
    assert!(plan(&many).unwrap_err().render().contains("tokens build"));
}

#[test]
fn text_on_a_line_moves_no_terminal() {
    assert_eq!(escaped("한글 \"a\"\n\u{1b}[2J\u{202e}"), "한글 \"a\"\\n\\u{1b}[2J\\u{202e}");
}
