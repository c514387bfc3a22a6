use std::path::PathBuf;

use eagleray_base::Kind;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn trained() -> Definition {
    let documents = probe::TEXT.lines().map(|line| format!("{line} {line}\n"));
    Definition::parse(train::byte_level_bpe(documents, 600).unwrap(), "trained").unwrap()
}

fn ids(tokenizer: &dyn Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.encode(text, &mut ids).unwrap();
    ids
}

#[test]
fn a_trained_tokenizer_is_equal_for_equal_documents_in_any_order() {
    let mut lines: Vec<String> = probe::TEXT.lines().map(str::to_owned).collect();
    let one = train::byte_level_bpe(lines.clone().into_iter(), 400).unwrap();
    lines.reverse();
    assert_eq!(one, train::byte_level_bpe(lines.into_iter(), 400).unwrap());
    let definition = Definition::parse(one, "x").unwrap();
    assert_eq!((definition.vocab_size(), definition.end_of_document(None).unwrap()), (400, 0));
    assert!(train::byte_level_bpe(std::iter::empty(), 400).is_err());
}

#[test]
fn the_fast_engine_is_chosen_for_what_we_train_and_special_tokens_in_text_are_text() {
    let definition = trained();
    let tokenizer = definition.load().unwrap();
    assert_eq!(tokenizer.engine(), FASTOKENS);
    for engine in [FASTOKENS, TOKENIZERS] {
        let encoded = ids(definition.load_engine(engine).unwrap().as_ref(), "a<|endoftext|>b");
        assert!(encoded.len() > 3 && !encoded.contains(&0), "{encoded:?}");
    }
}

#[test]
fn the_hash_does_not_depend_on_how_the_file_is_written() {
    let definition = trained();
    let mut value: Value = serde_json::from_slice(&definition.bytes()).unwrap();
    value["truncation"] =
        json!({"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    let merges = value["model"]["merges"].as_array().unwrap().iter();
    let merges: Vec<String> =
        merges.map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect();
    value["model"]["merges"] = json!(merges);
    let entries: Vec<(String, Value)> = value.as_object().unwrap().clone().into_iter().rev().collect();
    let reversed: serde_json::Map<String, Value> = entries.into_iter().collect();
    let pretty = serde_json::to_vec_pretty(&reversed).unwrap();
    assert_eq!(Definition::parse(pretty, "y").unwrap().hash(), definition.hash());
    value["model"]["vocab"]["new"] = json!(600);
    let other = Definition::parse(serde_json::to_vec(&value).unwrap(), "z").unwrap();
    assert_ne!(other.hash(), definition.hash());
}

#[test]
fn what_is_no_tokenizer_is_refused_by_name() {
    for bad in ["", "[]", "{}", "{\"model\":{}}", "{\"model\":{\"vocab\":{\"a\":\"b\"}}}"] {
        let error = Definition::parse(bad.as_bytes().to_vec(), "dir/tokenizer.json").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message().starts_with("`dir/tokenizer.json` is not a tokenizer.json"));
    }
    let definition = Definition::parse(&b"{\"model\":{\"vocab\":{\"a\":0}}}"[..], "x").unwrap();
    assert!(definition.load().err().unwrap().message().contains("`x` is not a tokenizer.json"));
    assert!(definition.end_of_document(None).unwrap_err().message().contains("<|endoftext|>"));
    assert_eq!(Definition::read("/nowhere/t.json").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_tokenizer_that_fastokens_does_not_know_is_encoded_by_tokenizers() {
    let vocab: Vec<Value> = ["<unk>", "</s>", "a", "b", "ab"].iter().map(|t| json!([t, -1.0])).collect();
    let file = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false}});
    let definition = Definition::parse(serde_json::to_vec(&file).unwrap(), "unigram").unwrap();
    let tokenizer = definition.load().unwrap();
    assert_eq!(tokenizer.engine(), TOKENIZERS);
    assert_eq!(ids(tokenizer.as_ref(), "abz"), [4, 0]);
    assert_eq!(definition.end_of_document(None).unwrap(), 1);
}

#[test]
fn the_versions_in_manifests_are_the_versions_linked() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
    for engine in [FASTOKENS, TOKENIZERS] {
        let (name, version) = engine.split_once(' ').unwrap();
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"");
        assert!(lock.contains(&entry), "{engine}");
    }
}

/// GPT-2 and Llama 3.1, where `benches/fetch.py` has fetched them.
fn real(name: &str) -> Option<Definition> {
    let cache = std::env::var_os("EAGLERAY_INPUTS").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/eagleray/inputs")))?;
    let path = cache.join(name);
    if !path.exists() {
        let required = std::env::var_os("CI").is_some();
        assert!(!required, "`{}` is missing: run `python benches/fetch.py`", path.display());
        println!("skipped: `{}` is not there, `python benches/fetch.py` fetches it", path.display());
        return None;
    }
    Some(Definition::read(path.to_str().unwrap()).unwrap())
}

const REAL: [(&str, u64); 2] = [("gpt2/tokenizer.json", 50_257), ("llama3_1/models/tokenizer.json", 128_256)];

#[test]
fn gpt2_and_llama_run_on_fastokens_with_the_ids_of_tokenizers() {
    for (name, vocab_size) in REAL {
        let Some(definition) = real(name) else { continue };
        assert_eq!(definition.vocab_size(), vocab_size);
        definition.end_of_document(None).unwrap();
        assert_eq!(definition.load().unwrap().engine(), FASTOKENS, "{name}");
    }
}

/// Text that is mostly odd: any code points, with runs and pieces that tokenizers treat apart.
fn odd_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => any::<char>().prop_map(String::from),
        3 => "[ -~]{1,12}",
        2 => "\\PC{1,6}",
        1 => "[ \\n\\t\\r]{1,9}",
        1 => "['’][sStTdDmMlLvVrReE]{1,2}",
        1 => "[0-9٠-٩]{1,9}",
        1 => "[가-힣]{1,5}|[一-龥]{1,5}|[\\u{300}-\\u{36f}]{1,3}",
        1 => prop::sample::select(vec!["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "\u{feff}", "\r\n"])
            .prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

type Pair = (Arc<dyn Tokenizer>, Arc<dyn Tokenizer>);

/// Both engines of every tokenizer there is, loaded once.
fn engines() -> &'static [Pair] {
    static ENGINES: std::sync::OnceLock<Vec<Pair>> = std::sync::OnceLock::new();
    ENGINES.get_or_init(|| {
        let definitions = REAL.iter().filter_map(|(name, _)| real(name)).chain([trained()]);
        definitions.map(|d| (d.load_engine(FASTOKENS).unwrap(), d.load_engine(TOKENIZERS).unwrap())).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn both_engines_give_the_same_ids_on_fuzzed_text(text in odd_text()) {
        for (fast, oracle) in engines() {
            prop_assert_eq!(ids(fast.as_ref(), &text), ids(oracle.as_ref(), &text));
        }
    }
}

proptest! {
    #[test]
    fn bytes_read_as_text_with_replacements_give_the_same_ids(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let text = String::from_utf8_lossy(&bytes);
        for (fast, oracle) in engines() {
            prop_assert_eq!(ids(fast.as_ref(), &text), ids(oracle.as_ref(), &text));
        }
    }
}
