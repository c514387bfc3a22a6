use eagleray_base::{Kind, mix64};
use eagleray_store::Store;
use eagleray_tokens::fixture::{self, Options};
use eagleray_tokens::{Dataset, format::manifest::SUFFIXES};

use crate::{Arrays, Batch, SourceConfig, Stream, StreamConfig, batch_digests, fixture::repeat_shards};

const SEQUENCE: u64 = 32;

struct World {
    store: Store,
    sources: Vec<SourceConfig>,
    /// All tokens of each source, and whether a document begins there.
    tokens: Vec<Vec<(i64, bool)>>,
    _folder: Option<tempfile::TempDir>,
}

/// Two sources of documents of 1 to 600 tokens over several shards, in memory or in a folder.
fn world(name: &str, local: bool, vocab_size: u64) -> World {
    let folder = local.then(|| tempfile::tempdir().unwrap());
    let root =
        folder.as_ref().map_or(format!("memory://{name}"), |folder| folder.path().display().to_string());
    let store = Store::open(&root).unwrap();
    let (mut sources, mut tokens) = (Vec::new(), Vec::new());
    for (number, (name, weight)) in [("web", 0.75), ("code", 0.25)].into_iter().enumerate() {
        let mut draw = number as u64;
        let mut next = |bound: u64| {
            draw += 1;
            mix64(draw) % bound
        };
        let shards: Vec<Vec<Vec<u32>>> = (0..3)
            .map(|shard| {
                // Short documents crowd their blocks, so that records cannot list them all.
                let longest = if shard == 1 { 20 } else { 600 };
                (0..60).map(|_| (0..=next(longest)).map(|_| next(vocab_size) as u32).collect()).collect()
            })
            .collect();
        let hash =
            fixture::write_dataset(&store, &Options { vocab_size, ..Options::default() }, &shards).unwrap();
        let begins = |document: &Vec<u32>| {
            let ids: Vec<u32> = document.iter().copied().chain([0]).collect();
            ids.into_iter().enumerate().map(|(i, id)| (i64::from(id), i == 0)).collect::<Vec<_>>()
        };
        tokens.push(shards.iter().flatten().flat_map(begins).collect());
        sources.push(SourceConfig { name: name.to_owned(), url: store.url_of(&hash.to_string()), weight });
    }
    World { store, sources, tokens, _folder: folder }
}

impl World {
    fn config(&self) -> StreamConfig {
        StreamConfig {
            sources: self.sources.clone(),
            sequence_length: SEQUENCE,
            seed: 17,
            global_batch: 8,
            micro_batch: 3,
            rank: 0,
            world: 1,
            position: 0,
            end_position: Some(804),
            prefetch_bytes: 1 << 20,
            state: None,
        }
    }

    fn dataset(&self, source: usize) -> Dataset {
        Dataset::open(&Store::open(&self.sources[source].url).unwrap()).unwrap()
    }
}

/// Samples as `(position, source, epoch, index, tokens, labels, position ids)`.
type Row = (u64, [u64; 3], Vec<i64>, Vec<i64>, Vec<i64>);

fn rows(batch: &Batch) -> Vec<Row> {
    let sequence = SEQUENCE as usize;
    let row = |array: &[i64], i: usize| array[i * sequence..(i + 1) * sequence].to_vec();
    (0..batch.len())
        .map(|i| {
            let id = [batch.source[i], batch.epoch[i], batch.index[i]];
            (
                batch.positions[i],
                id,
                row(&batch.tokens, i),
                row(&batch.labels, i),
                row(&batch.position_ids, i),
            )
        })
        .collect()
}

fn drain(config: StreamConfig) -> Vec<Row> {
    let mut stream = Stream::open(config).unwrap();
    let mut all = Vec::new();
    while let Some(batch) = stream.wait().unwrap() {
        all.extend(rows(&batch));
    }
    all
}

fn digests(batch: &Batch) -> (u64, u64) {
    let Batch { tokens, labels, positions, source, epoch, index, .. } = batch;
    batch_digests(&Arrays { tokens, labels, positions, source, epoch, index }).unwrap()
}

#[test]
fn every_sample_is_the_tokens_the_order_names_with_positions_reset_per_document() {
    for (local, vocab_size) in [(true, 50_257), (false, 50_257), (true, 128_000), (false, 128_000)] {
        let world = world(&format!("content-{vocab_size}"), local, vocab_size);
        let config = world.config();
        let order = crate::open_order(&config).unwrap();
        let found = drain(config);
        assert_eq!(found.len(), 804);
        for (number, (position, [key, epoch, index], tokens, labels, position_ids)) in
            found.into_iter().enumerate()
        {
            let sample = order.sample(position);
            assert_eq!((position, epoch, index), (number as u64, sample.epoch, sample.index));
            assert_eq!(key, order.source_key(sample.source));
            // The order sorts sources by name: `code`, `web`.
            let all = &world.tokens[1 - sample.source];
            let cut = &all[(index * SEQUENCE) as usize..=((index + 1) * SEQUENCE) as usize];
            assert!(tokens.iter().eq(cut[..cut.len() - 1].iter().map(|(token, _)| token)));
            assert!(labels.iter().eq(cut[1..].iter().map(|(token, _)| token)));
            let mut expected = Vec::new();
            for (_, begins) in &cut[..cut.len() - 1] {
                let after = expected.last().map_or(0, |last| last + 1);
                expected.push(if *begins { 0 } else { after });
            }
            assert_eq!(position_ids, expected, "position {position}");
        }
    }
}

#[test]
fn the_documents_at_a_position_are_those_whose_tokens_stand_there() {
    let world = world("documents", true, 50_257);
    let config = world.config();
    let order = crate::open_order(&config).unwrap();
    let positions: Vec<u64> = (0..804).collect();
    let mut across_shards = 0;
    for place in crate::documents_at(&config, &positions).unwrap() {
        let sample = order.sample(place.position);
        let number = 1 - sample.source;
        assert_eq!((place.index, &place.source), (sample.index, &world.sources[number].name));
        // Documents are counted over the whole source here, and within their shard, of 60 each, there.
        let all = &world.tokens[number];
        let (start, end) = ((sample.index * SEQUENCE) as usize, ((sample.index + 1) * SEQUENCE) as usize);
        let document_of =
            |token: usize| all[..=token].iter().filter(|(_, begins)| *begins).count() as u64 - 1;
        let dataset = world.dataset(number);
        let mut found = Vec::new();
        for part in &place.parts {
            let paths = 0..dataset.manifest().shards.len();
            let shard =
                paths.into_iter().find(|&shard| part.shard.ends_with(&dataset.path(shard, ".bin"))).unwrap();
            found.extend((part.documents.0..part.documents.1).map(|document| 60 * shard as u64 + document));
        }
        assert_eq!(found, (document_of(start)..=document_of(end)).collect::<Vec<_>>());
        across_shards += usize::from(place.parts.len() > 1);
    }
    assert!(across_shards > 0, "no sample goes over the end of a shard");
}

#[test]
fn any_world_gives_the_same_samples_and_digests_of_every_step() {
    let made = world("worlds", true, 50_257);
    let whole = drain(made.config());
    for world in [2, 3, 5, 11] {
        let mut streams: Vec<_> = (0..world)
            .map(|rank| Stream::open(StreamConfig { rank, world, ..made.config() }).unwrap())
            .collect();
        let mut found = Vec::new();
        let mut step_digest = 0_u64;
        loop {
            let batches: Vec<_> = streams.iter_mut().map(|stream| stream.wait().unwrap()).collect();
            let Some(batches) = batches.into_iter().collect::<Option<Vec<_>>>() else { break };
            let first = &batches[0];
            let at = (first.step_position, first.micro_index, first.micro_count);
            for batch in &batches {
                assert_eq!((batch.step_position, batch.micro_index, batch.micro_count), at);
                step_digest = step_digest.wrapping_add(digests(batch).0);
                found.extend(rows(batch));
            }
            if first.micro_index + 1 == first.micro_count {
                let end = (first.step_position + 8).min(804);
                assert_eq!(step_digest, streams[0].order().order_digest(first.step_position, end));
                step_digest = 0;
            }
        }
        found.sort();
        assert_eq!(found, whole);
    }
}

#[test]
fn a_resume_at_any_step_or_within_one_equals_going_on() {
    let made = world("resume", true, 50_257);
    let whole = drain(made.config());
    let mut stream = Stream::open(made.config()).unwrap();
    let mut seen = 0;
    for _ in 0..40 {
        let state = stream.state().unwrap();
        assert!(state.len() < 4096);
        let resumed = StreamConfig { state: serde_json::from_str(&state).unwrap(), ..made.config() };
        let mut resumed = Stream::open(resumed).unwrap();
        let batch = stream.wait().unwrap().unwrap();
        assert_eq!(resumed.wait().unwrap().unwrap(), batch);
        seen += batch.len();
    }
    assert_eq!(drain(StreamConfig { position: 400, ..made.config() }), whole[400..]);
    assert_eq!(rows(&stream.wait().unwrap().unwrap())[0], whole[seen]);
}

#[test]
fn a_state_within_a_step_is_refused_at_another_world_and_any_of_another_order() {
    let made = world("refuse", true, 50_257);
    let mut stream = Stream::open(made.config()).unwrap();
    let between = stream.state().unwrap();
    stream.wait().unwrap();
    let within = stream.state().unwrap();
    let open = |state: &str, config: StreamConfig| {
        Stream::open(StreamConfig { state: serde_json::from_str(state).unwrap(), ..config })
            .map(drop)
            .map_err(|error| error.render())
    };
    let other_world = || StreamConfig { world: 2, ..made.config() };
    assert!(open(&between, other_world()).is_ok());
    assert!(open(&within, other_world()).unwrap_err().contains("world: 2"));
    let error = open(&between, StreamConfig { seed: 18, ..made.config() }).unwrap_err();
    assert!(error.contains("`seed`: expected 18, found 17"), "{error}");
    assert!(open("{}", made.config()).unwrap_err().contains("not the state of a stream"));
}

#[test]
fn one_changed_byte_stops_the_stream_and_names_the_place() {
    for local in [true, false] {
        let made = world("corrupt", local, 50_257);
        let dataset = made.dataset(0);
        let path = dataset.path(2, SUFFIXES[0]);
        let mut bytes = dataset.store().get(&path).unwrap().to_vec();
        bytes[9_000] ^= 1;
        dataset.store().put(&path, bytes).unwrap();
        let mut stream = Stream::open(made.config()).unwrap();
        let error = loop {
            match stream.wait() {
                Ok(batch) => assert!(batch.is_some(), "the stream ended without a word"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Corrupt);
        let text = error.render();
        assert!(text.contains("shards/00002.bin`: block 2 (bytes 8192 to 12288)"), "{text}");
        assert!(stream.wait().is_err(), "a failed stream does not end like a whole one");
    }
}

#[test]
fn a_changed_length_of_a_crowded_block_stops_the_stream_and_names_the_index() {
    for (vocab_size, local) in [(50_257, true), (128_000, false)] {
        let made = world("lengths", local, vocab_size);
        let dataset = made.dataset(0);
        let path = dataset.path(1, ".idx");
        let whole = dataset.store().get(&path).unwrap().to_vec();
        assert_eq!(drain(made.config()).len(), 804);
        // All 60 documents of this shard start in its first block; the record lists 11, and the last length
        // tells the start of none.
        for (document, byte, bit) in
            [(0, 0, 1), (10, 0, 2), (11, 0, 1), (30, 1, 1), (45, 3, 0x80), (58, 0, 4)]
        {
            let mut bytes = whole.clone();
            bytes[34 + 4 * document + byte] ^= bit;
            dataset.store().put(&path, bytes).unwrap();
            let mut stream = Stream::open(made.config()).unwrap();
            let found = std::iter::from_fn(|| stream.wait().transpose()).find_map(Result::err);
            let error = found.unwrap_or_else(|| panic!("the length of document {document} went unnoticed"));
            assert_eq!(error.kind(), Kind::Corrupt);
            let text = error.render();
            assert!(text.contains("shards/00001.idx`: the lengths from document 0 on"), "{text}");
            assert!(text.contains("block 0"), "{text}");
        }
    }
}

#[test]
fn a_side_table_of_another_shard_is_noticed() {
    let made = world("records", true, 50_257);
    let dataset = made.dataset(0);
    let other = dataset.store().get(&dataset.path(0, ".blocks")).unwrap();
    dataset.store().put(&dataset.path(2, ".blocks"), other).unwrap();
    let mut stream = Stream::open(made.config()).unwrap();
    let error = std::iter::from_fn(|| Some(stream.wait())).find_map(Result::err).unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn a_rank_reads_its_slice_and_no_more() {
    let made = world("bytes", true, 50_257);
    let read = |rank, world| {
        let mut stream = Stream::open(StreamConfig { rank, world, ..made.config() }).unwrap();
        let before = stream.stats();
        let mut samples = 0;
        while let Some(batch) = stream.wait().unwrap() {
            samples += batch.len() as u64;
        }
        // A stream that is read ahead of may have begun before the first look at its counters.
        assert!(before.bytes_read > 0);
        (stream.stats().bytes_read, samples)
    };
    let manifests: u64 = (0..2).map(|source| made.dataset(source).store().counters().bytes_read).sum();
    let (whole, samples) = read(0, 1);
    assert_eq!(samples, 804);
    let parts: Vec<_> = (0..4).map(|rank| read(rank, 4)).collect();
    let sum: u64 = parts.iter().map(|(bytes, _)| bytes - manifests).sum();
    assert_eq!(sum, whole - manifests);
    for (bytes, samples) in parts {
        // A sample of 66 bytes lies in one or two blocks of 4 KiB; records and lengths are small.
        assert!(bytes - manifests <= samples * (2 * 4096 + 3000), "{bytes} bytes for {samples} samples");
    }
}

#[test]
fn opening_reads_manifests_only_however_many_samples_there_are() {
    let made = world("flat", true, 50_257);
    let dataset = repeat_shards(made.dataset(0).store(), 2000).unwrap();
    assert!(dataset.num_samples(SEQUENCE) > 1_000_000);
    let position = 1_000_000_000;
    let config = StreamConfig { position, end_position: Some(position + 16), ..made.config() };
    let found = drain(config);
    assert_eq!(found.len(), 16);
    assert_eq!(found[0].0, position);
}

#[test]
fn sources_of_different_tokenizers_are_refused() {
    let mut made = world("tokenizers", true, 50_257);
    let options = Options { tokenizer_hash: eagleray_base::Digest::of(b"other"), ..Options::default() };
    let hash = fixture::write_dataset(&made.store, &options, &[vec![(0..999).collect()]]).unwrap();
    made.sources[1].url = made.store.url_of(&hash.to_string());
    let error = Stream::open(made.config()).map(drop).unwrap_err().render();
    assert!(error.contains("`code` and `web`") && error.contains("tokenizers"), "{error}");
}

#[test]
fn sources_that_name_different_tokenizers_are_one_stream_where_one_gave_the_tokens_of_both() {
    let mut made = world("shared-tokenizer", true, 50_257);
    let hash = |name: &str| eagleray_base::Digest::of(name.as_bytes());
    let options = Options { tokenizer_hash: hash("new"), ..Options::default() };
    let dataset = fixture::write_dataset(&made.store, &options, &[vec![(0..999).collect()]]).unwrap();
    made.sources[1].url = made.store.url_of(&dataset.to_string());
    Stream::open(made.config()).map(drop).unwrap_err();
    made.dataset(0).add_tokenizer(hash("new"), "{}".into()).unwrap();
    Stream::open(made.config()).map(drop).unwrap();
    made.dataset(1).add_tokenizer(hash("newer"), "{}".into()).unwrap();
    Stream::open(made.config()).map(drop).unwrap();
}

#[test]
fn a_sequence_longer_than_a_source_is_refused_by_name() {
    let made = world("long", true, 50_257);
    let error = Stream::open(StreamConfig { sequence_length: 1 << 20, ..made.config() })
        .map(drop)
        .unwrap_err()
        .render();
    assert!(error.contains("source `code` is too short") && error.contains("1048576"), "{error}");
}

#[test]
fn a_closed_stream_says_so() {
    let made = world("closed", true, 50_257);
    let mut stream = Stream::open(made.config()).unwrap();
    stream.wait().unwrap();
    stream.close();
    assert!(stream.wait().is_err());
}
