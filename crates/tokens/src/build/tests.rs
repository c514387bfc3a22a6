use std::collections::BTreeMap;

use eagleray_base::Kind;
use eagleray_store::{ObjectInfo, Store};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Dataset;
use crate::reader::Version;
use crate::tokenizer::{probe, train};

/// A folder of raw text with a tokenizer, in memory.
struct Corpus {
    name: String,
    store: Store,
}

impl Corpus {
    fn new(name: &str) -> Self {
        let name = format!("memory://build-{name}");
        let store = Store::open(&name).unwrap();
        let tokenizer = train::byte_level_bpe(probe::TEXT.lines().map(str::to_owned), 400).unwrap();
        store.put("tokenizer.json", tokenizer).unwrap();
        Self { name, store }
    }

    fn put(&self, path: &str, texts: &[&str]) {
        let lines = texts.iter().map(|text| format!("{}\n", json!({ "text": text })));
        self.store.put(&format!("raw/{path}"), lines.collect::<String>()).unwrap();
    }

    fn resolved(&self, data: &serde_json::Value) -> String {
        let mut merged = json!({
            "tokenizer": format!("{}/tokenizer.json", self.name),
            "sequence_length": 8, "shuffle_key": "k", "long_documents": "split",
            "bad_records": {"max_fraction": 0.0}, "built": format!("{}/built", self.name),
            "sources": {"s": {"kind": "documents", "documents": [format!("{}/raw/**/*", self.name)]}},
        });
        for (key, value) in data.as_object().unwrap() {
            merged[key] = value.clone();
        }
        json!({ "spec": { "data": merged } }).to_string()
    }

    fn plan(&self, data: &serde_json::Value) -> Result<Plan> {
        plan(&self.resolved(data), "s", Role::Train)
    }

    fn build(&self, data: &serde_json::Value) -> Result<Dataset> {
        let plan = self.plan(data)?;
        let stats: Result<Vec<MapStats>> = plan.map.iter().map(run_map).collect();
        if plan.done.is_none() {
            check_map(&plan, &stats?)?;
        }
        plan.reduce.iter().try_for_each(|task| run_reduce(task).map(drop))?;
        let dataset = Dataset::open(&Store::open(&finish(&plan)?)?)?;
        dataset.verify(&mut |_| ())?;
        Ok(dataset)
    }

    fn objects(&self, prefix: &str) -> BTreeMap<String, bytes::Bytes> {
        let listed = self.store.list(prefix).unwrap();
        listed.into_iter().map(|o| (o.path.clone(), self.store.get(&o.path).unwrap())).collect()
    }
}

fn documents(dataset: &Dataset) -> Vec<Vec<u32>> {
    let mut documents = Vec::new();
    for shard in 0..dataset.manifest().shards.len() {
        let bin = dataset.store().get(&dataset.path(shard, ".bin")).unwrap();
        let index = dataset.store().get(&dataset.path(shard, ".idx")).unwrap();
        let mut ids = Vec::new();
        dataset.token_type().decode(&bin, &mut ids);
        let mut rest = &ids[..];
        for length in crate::format::index::Index::parse(&index).unwrap().lengths {
            let (document, later) = rest.split_at(length as usize);
            documents.push(document.to_vec());
            rest = later;
        }
    }
    documents
}

#[test]
fn every_document_comes_out_once_and_where_files_and_names_change_the_hash_does_not() {
    let corpus = Corpus::new("once");
    corpus.put("a.jsonl", &["one", "two", "한국어", "two"]);
    corpus.put("deep/b.jsonl", &["three"]);
    let first = corpus.build(&json!({})).unwrap();
    let tokenizer = crate::tokenizer::Definition::read(&format!("{}/tokenizer.json", corpus.name)).unwrap();
    let engine = tokenizer.load().unwrap();
    let mut expected: Vec<Vec<u32>> = ["one", "two", "two", "three", "한국어"]
        .iter()
        .map(|text| {
            let mut ids = Vec::new();
            engine.encode(text, &mut ids).unwrap();
            ids.push(0);
            ids
        })
        .collect();
    let mut found = documents(&first);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(corpus.store.list("built/work").unwrap().is_empty(), "the work folder is swept");

    let other = Corpus::new("once-moved");
    other.put("z.jsonl", &["three", "two", "two"]);
    other.put("y.jsonl", &["한국어", "one"]);
    let second = other.build(&json!({})).unwrap();
    assert_eq!(second.manifest(), first.manifest());
    let keyed = other.build(&json!({"shuffle_key": "other"})).unwrap();
    assert_ne!(keyed.manifest().dataset_hash, first.manifest().dataset_hash);
}

#[test]
fn a_finished_build_is_found_and_a_changed_file_is_built_again() {
    let corpus = Corpus::new("found");
    corpus.put("a.jsonl", &["one"]);
    let first = corpus.build(&json!({})).unwrap();
    let again = corpus.plan(&json!({})).unwrap();
    assert_eq!(again.done, Some(first.manifest().dataset_hash));
    assert!(again.map.is_empty());
    corpus.put("a.jsonl", &["two"]);
    assert_eq!(corpus.plan(&json!({})).unwrap().done, None);
}

#[test]
fn a_build_that_was_killed_after_any_write_ends_in_the_same_objects() {
    let corpus = Corpus::new("killed");
    let texts: Vec<String> = (0..200).map(|i| format!("document {i} of {}", i % 7)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    corpus.put("a.jsonl", &texts[..90]);
    corpus.put("b.jsonl", &texts[90..]);
    let plan = corpus.plan(&json!({})).unwrap();
    let hash = corpus.build(&json!({})).unwrap().manifest().dataset_hash;
    let finished = corpus.objects("built");
    // Every subset that a kill can leave: the first `count` writes of a second build.
    for stop in 0..5 {
        corpus.store.delete_prefix("built").unwrap();
        let key = plan.build_key;
        let plan = corpus.plan(&json!({})).unwrap();
        assert_eq!(plan.build_key, key);
        if stop > 0 {
            run_map(&plan.map[0]).unwrap();
        }
        if stop > 1 {
            plan.map.iter().for_each(|task| drop(run_map(task).unwrap()));
        }
        if stop > 2 {
            run_reduce(&plan.reduce[0]).unwrap();
        }
        if stop > 3 {
            corpus.store.put(&format!("built/{hash}/shards/00000.bin"), "half").unwrap();
        }
        corpus.build(&json!({})).unwrap();
        assert_eq!(corpus.objects("built"), finished, "killed after step {stop}");
    }
}

#[test]
fn work_that_a_killed_or_slower_builder_left_is_swept_by_the_next_plan() {
    let corpus = Corpus::new("left");
    corpus.put("a.jsonl", &["one"]);
    corpus.put("b.jsonl", &["two"]);
    let slower = corpus.plan(&json!({})).unwrap();
    let other = corpus.plan(&json!({"shuffle_key": "other"})).unwrap();
    corpus.build(&json!({})).unwrap();
    // The slower builder had a task under way when the dataset was done, and is killed before it sweeps.
    Store::open(&slower.work)
        .unwrap()
        .put("tokenizer.json", corpus.store.get("tokenizer.json").unwrap())
        .unwrap();
    run_map(&slower.map[0]).unwrap();
    assert!(corpus.plan(&json!({})).unwrap().done.is_some());
    let left = corpus.store.list("built/work").unwrap();
    assert!(left.iter().all(|object| object.path.contains(&other.build_key.to_string())), "{left:?}");
    assert_eq!(left.len(), 1, "the work of a build that is not done stays");
}

#[test]
fn what_another_engine_has_done_is_done_again_and_a_task_of_another_version_is_refused() {
    let corpus = Corpus::new("engine");
    corpus.put("a.jsonl", &["one"]);
    let planned = corpus.plan(&json!({})).unwrap();
    let engine = &planned.settings.engine;
    // An older version had other ids: its map is done and its run lies there.
    let older = planned.work.replace(&engine.replace(' ', "-"), "fastokens-0.0.1");
    assert_ne!(older, planned.work);
    let work = Store::open(&older).unwrap();
    let stats = MapStats { runs: 1, documents: 5, tokens: 50, ..MapStats::default() };
    work.put("map/000000.json", serde_json::to_vec(&stats).unwrap()).unwrap();
    work.put("runs/000000-0000.run", "ids of another engine").unwrap();
    let dataset = corpus.build(&json!({})).unwrap();
    assert_eq!((dataset.manifest().documents, &dataset.manifest().engine), (1, engine));
    assert!(corpus.store.list("built/work").unwrap().is_empty(), "the older work is swept too");

    corpus.store.delete_prefix("built").unwrap();
    let mut task = corpus.plan(&json!({})).unwrap().map[0].clone();
    task.settings.engine = "fastokens 0.0.1".to_owned();
    let error = run_map(&task).unwrap_err();
    assert!(error.message().contains("`fastokens 0.0.1` is not in this build"), "{error}");
    assert!(error.hint().unwrap().contains("one version on every machine"));
}

#[test]
fn long_documents_are_split_cut_or_dropped_as_the_spec_says_and_counted() {
    let corpus = Corpus::new("long");
    let long = "abcdefgh ".repeat(30);
    corpus.put("a.jsonl", &["short", &long, ""]);
    let counts = |policy: &str| {
        let dataset = corpus.build(&json!({"long_documents": policy})).unwrap();
        let provenance: serde_json::Value =
            serde_json::from_slice(&dataset.store().get("provenance.json").unwrap()).unwrap();
        let longest = documents(&dataset).iter().map(Vec::len).max().unwrap();
        let count = |name: &str| provenance["counts"][name].as_u64().unwrap();
        (
            dataset.manifest().documents,
            longest > 8,
            count("long"),
            count("long_truncated"),
            count("long_dropped"),
            count("empty"),
        )
    };
    assert_eq!(counts("split"), (2, true, 1, 0, 0, 1));
    assert_eq!(counts("truncate"), (2, false, 1, 1, 0, 1));
    assert_eq!(counts("drop"), (1, false, 1, 0, 1, 1));
}

#[test]
fn bad_records_stop_the_build_over_the_limit_and_are_listed_below_it() {
    let corpus = Corpus::new("bad");
    corpus
        .store
        .put("raw/a.jsonl", "{\"text\":\"one\"}\nnot json\n{\"text\":\"two\"}\n{\"body\":1}\n")
        .unwrap();
    let error = corpus.build(&json!({})).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let message = error.message();
    assert!(message.contains("2 of 4 records are bad"), "{message}");
    assert!(message.contains("raw/a.jsonl` at byte 15 is not JSON"), "{message}");
    assert!(message.contains("at byte 39 has no field `text`"), "{message}");
    let dataset = corpus.build(&json!({"bad_records": {"max_fraction": 0.5}})).unwrap();
    let provenance: serde_json::Value =
        serde_json::from_slice(&dataset.store().get("provenance.json").unwrap()).unwrap();
    assert_eq!(provenance["counts"]["bad"], 2);
    assert_eq!(provenance["bad_records"][1]["offset"], 39);
}

#[test]
fn what_cannot_be_built_is_refused_with_the_place() {
    let corpus = Corpus::new("refused");
    let refused = |data: &serde_json::Value| corpus.build(data).unwrap_err();
    let source =
        |pattern: &str| json!({"sources": {"s": {"documents": [format!("{}/{pattern}", corpus.name)]}}});
    let error = refused(&source("raw/*.jsonl"));
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.message().contains("data.sources.s: no object matches"), "{}", error.message());
    assert!(refused(&source("raw/x.jsonl")).message().contains("does not exist"));
    corpus.put("a.jsonl", &["", ""]);
    assert!(refused(&json!({})).message().contains("source `s` has no document"));
    assert!(refused(&source("raw")).message().contains("is a folder"));
    let mut filtered = source("raw/*.jsonl");
    filtered["sources"]["s"]["filters"] = json!([{"length": {"min_chars": 2}}]);
    assert!(refused(&filtered).message().contains("filter `length` is not available in this build"));
    corpus.store.put("raw/b.csv", "x").unwrap();
    assert!(refused(&json!({})).message().contains("b.csv"));
}

#[test]
fn a_token_that_the_spec_names_ends_documents_and_the_refusal_says_which_key_names_one() {
    let corpus = Corpus::new("ending");
    let tokenizer = String::from_utf8(corpus.store.get("tokenizer.json").unwrap().to_vec()).unwrap();
    corpus.store.put("tokenizer.json", tokenizer.replace("<|endoftext|>", "<|im_end|>")).unwrap();
    corpus.put("a.jsonl", &["one"]);
    let text = format!(
        "version: 1\nname: ending\nstore: {name}/runs\nmodel: {{preset: llama-tiny}}\ndata:\n  tokenizer: \
         {name}/tokenizer.json\n  sequence_length: 8\n  sources: {{s: {{documents: {name}/raw/*.jsonl}}}}\n\
         train: {{global_batch: 1, micro_batch: 1, steps: 1}}\n",
        name = corpus.name
    );
    let plan_of = |overrides: &[String]| {
        let source = eagleray_spec::Source {
            name: "run.yaml",
            text: &text,
            base: std::path::Path::new("/"),
            overrides,
            environment: &|_| None,
        };
        let resolved =
            eagleray_spec::resolve(&source).unwrap_or_else(|p| panic!("{}", p.into_error().render()));
        plan(&resolved.to_json(), "s", Role::Train)
    };
    let error = plan_of(&[]).unwrap_err();
    assert!(error.message().contains("no token that ends a document"), "{}", error.message());
    let key = error.hint().unwrap().split('`').nth(1).unwrap().to_owned();
    let planned = plan_of(&[format!("{key}='<|im_end|>'")]).unwrap();
    assert_eq!(planned.settings.eod_id, 0);
    let error = plan_of(&[format!("{key}='<|no|>'")]).unwrap_err();
    assert!(error.message().contains("looked for `<|no|>`"), "{}", error.message());
    let documented = eagleray_spec::explain::schema().to_string();
    assert!(crate::tokenizer::END_OF_DOCUMENT.iter().all(|token| documented.contains(token)));
}

#[test]
fn a_dataset_built_with_another_tokenizer_is_refused() {
    let corpus = Corpus::new("other");
    let options = crate::fixture::Options::default();
    let hash = crate::fixture::write_dataset(&corpus.store, &options, &[vec![vec![1]]]).unwrap();
    let url = format!("{}/{hash}", corpus.name);
    let data = json!({"sources": {"s": {"kind": "tokens", "tokens": url}}});
    let error = corpus.plan(&data).unwrap_err();
    assert!(error.message().contains("built with another tokenizer"), "{}", error.message());
    corpus.put("a.jsonl", &["one"]);
    let built = corpus.build(&json!({})).unwrap();
    let data = json!({"sources": {"s": {"kind": "tokens", "tokens": built.store().url()}}});
    assert_eq!(corpus.plan(&data).unwrap().dataset.as_deref(), Some(built.store().url()));
}

#[test]
fn equal_tokens_of_a_changed_tokenizer_are_one_dataset_that_is_of_both() {
    let corpus = Corpus::new("both");
    corpus.put("a.jsonl", &["one"]);
    let first = corpus.build(&json!({})).unwrap();
    let older = corpus.store.get("tokenizer.json").unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&older).unwrap();
    let mut added = tokenizer["added_tokens"][0].clone();
    (added["id"], added["content"]) = (json!(400), json!("<|never|>"));
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    corpus.store.put("tokenizer.json", tokenizer.to_string()).unwrap();
    let changed = crate::tokenizer::Definition::read(&format!("{}/tokenizer.json", corpus.name)).unwrap();
    assert!(!first.is_of(changed.hash()).unwrap());
    let tokens = json!({"sources": {"s": {"kind": "tokens", "tokens": first.store().url()}}});
    corpus.plan(&tokens).unwrap_err();

    let second = corpus.build(&json!({})).unwrap();
    assert_eq!(second.manifest(), first.manifest());
    assert!(second.is_of(changed.hash()).unwrap() && second.is_of(first.manifest().tokenizer_hash).unwrap());
    assert_eq!(second.tokenizers().unwrap(), [first.manifest().tokenizer_hash, changed.hash()]);
    corpus.plan(&tokens).unwrap();
    // A dataset that was found before this was noted is noted when it is found again.
    second.store().delete_prefix("tokenizers").unwrap();
    assert!(corpus.plan(&json!({})).unwrap().done.is_some());
    assert!(second.is_of(changed.hash()).unwrap());
}

#[test]
fn a_vocabulary_larger_than_the_models_is_refused() {
    let corpus = Corpus::new("vocabulary");
    corpus.put("a.jsonl", &["one"]);
    let mut resolved: serde_json::Value = serde_json::from_str(&corpus.resolved(&json!({}))).unwrap();
    resolved["spec"]["model"] = json!({"config": {"vocab_size": 399}});
    let error = plan(&resolved.to_string(), "s", Role::Train).unwrap_err();
    assert!(error.message().contains("400 tokens, the model has 399"), "{}", error.message());
}

#[test]
fn a_touched_file_keeps_its_build_key_and_a_changed_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let corpus = Corpus::new("touched");
    let local = Store::open(root).unwrap();
    local.put("a.jsonl", "{\"text\":\"one\"}\n").unwrap();
    let data = json!({"built": format!("{root}/built"), "sources": {"s": {"documents": [format!("{root}/*.jsonl")]}}});
    let key = || corpus.plan(&data).unwrap().build_key;
    let first = key();
    local.put("a.jsonl", "{\"text\":\"one\"}\n").unwrap();
    assert_eq!(key(), first);
    local.put("a.jsonl", "{\"text\":\"two\"}\n").unwrap();
    assert_ne!(key(), first, "same size, changed within the same second");
}

#[test]
fn an_object_that_changes_while_it_is_read_stops_the_build_before_its_task_is_done() {
    let folder = tempfile::tempdir().unwrap();
    for (case, root) in
        ["memory://build-changing".to_owned(), folder.path().display().to_string()].iter().enumerate()
    {
        let corpus = Corpus::new(&format!("changing-{case}"));
        let store = Store::open(root).unwrap();
        let data = json!({
            "built": format!("{root}/built"), "sources": {"s": {"documents": [format!("{root}/*.jsonl")]}},
        });
        store.put("a.jsonl", "{\"text\":\"one\"}\n").unwrap();
        let planned = corpus.plan(&data).unwrap();
        store.put("a.jsonl", "{\"text\":\"one\"}\n{\"text\":\"mo").unwrap();
        let error = run_map(&planned.map[0]).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.message().contains("a.jsonl` changed while it was read: expected 15 bytes"), "{error}");
        store.delete("a.jsonl").unwrap();
        let error = run_map(&planned.map[0]).unwrap_err();
        assert!(error.message().contains("found nothing"), "{error}");
        assert!(Store::open(&planned.work).unwrap().list("map").unwrap().is_empty());
        store.put("a.jsonl", "{\"text\":\"two\"}\n").unwrap();
        assert_ne!(corpus.plan(&data).unwrap().build_key, planned.build_key);
        assert_eq!(corpus.build(&data).unwrap().manifest().documents, 1);
    }
    // The same number of bytes, and a part of the build is done already.
    let corpus = Corpus::new("changing-later");
    corpus.put("a.jsonl", &["one"]);
    let mut planned = corpus.plan(&json!({})).unwrap();
    run_map(&planned.map[0]).unwrap();
    corpus.put("a.jsonl", &["two"]);
    run_map(&planned.map[0]).unwrap();
    planned.map[0].index = 1;
    assert_eq!(run_map(&planned.map[0]).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(Store::open(&planned.work).unwrap().list("map").unwrap().len(), 1);
}

#[test]
fn an_object_is_known_by_its_tag_however_a_listing_writes_it() {
    let info = |etag: Option<&str>, modified_us| ObjectInfo {
        path: "a".into(),
        bytes: 1,
        etag: etag.map(str::to_owned),
        modified_us,
    };
    let version = |etag, modified_us| Version::of(&info(etag, modified_us));
    assert_eq!(version(Some("\"x\""), 1), version(Some("x"), 2));
    assert_ne!(version(Some("x"), 1), version(Some("y"), 1));
    assert_ne!(version(None, 1), version(None, 2));
}

#[test]
fn patterns_stay_within_folders_unless_told_to_descend() {
    for (pattern, path, matches) in [
        ("*.jsonl", "a.jsonl", true),
        ("*.jsonl", "b/a.jsonl", false),
        ("**/*.jsonl", "a.jsonl", true),
        ("**/*.jsonl", "b/c/a.jsonl", true),
        ("b/**", "b/c/a.jsonl", true),
        ("x-?.{txt,jsonl.zst}", "x-1.jsonl.zst", true),
        ("x-?.{txt,jsonl}", "x-12.txt", false),
        ("a*b*c", "aXbYbc", true),
    ] {
        assert_eq!(glob_matches(pattern, path), matches, "{pattern} {path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_dataset_does_not_depend_on_how_texts_lie_in_files(
        texts in prop::collection::vec("[a-d한]{1,6}", 1..40), cuts in prop::collection::vec(0..40_usize, 0..5), case in any::<u64>(),
    ) {
        let hash = |name: String, files: &[&[String]]| {
            let corpus = Corpus::new(&name);
            for (i, texts) in files.iter().enumerate() {
                corpus.put(&format!("{i}.jsonl"), &texts.iter().map(String::as_str).collect::<Vec<_>>());
            }
            corpus.build(&json!({})).unwrap().manifest().dataset_hash
        };
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut <= texts.len()).collect();
        cuts.extend([0, texts.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[String]> = cuts.windows(2).map(|pair| &texts[pair[0]..pair[1]]).rev().collect();
        prop_assert_eq!(hash(format!("whole-{case}"), &[&texts]), hash(format!("parts-{case}"), &parts));
    }
}
