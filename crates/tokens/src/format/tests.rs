use eagleray_base::{Digest, Kind};
use eagleray_store::Store;
use proptest::prelude::*;

use super::blocks::{BlockRecord, BlocksHeader, RECORD_BYTES, STARTS_MAX};
use super::index::Index;
use super::manifest::{Manifest, Shard, Shards};
use super::shard::ShardEncoder;
use super::{BLOCK_BYTES, TokenType};
use crate::Dataset;
use crate::fixture::{Options, write_dataset};

fn store(name: &str) -> Store {
    Store::open(&format!("memory://format-{name}")).unwrap()
}

fn shard(token_type: TokenType, documents: &[Vec<u32>]) -> (Vec<u8>, super::shard::ShardParts) {
    let mut encoder = ShardEncoder::new(Vec::new(), token_type);
    for document in documents {
        let mut bytes = Vec::new();
        token_type.encode(document, &mut bytes);
        encoder.push(&bytes).unwrap();
    }
    encoder.finish()
}

#[test]
fn the_index_is_megatrons_byte_by_byte() {
    let (bin, parts) = shard(TokenType::U16, &[vec![1, 2, 3], vec![4]]);
    assert_eq!(bin, [1, 0, 2, 0, 3, 0, 4, 0]);
    let mut expected = b"MMIDIDX\0\0".to_vec();
    expected.extend(1_u64.to_le_bytes());
    expected.push(8);
    expected.extend(2_u64.to_le_bytes());
    expected.extend(3_u64.to_le_bytes());
    expected.extend([3_i32, 1].iter().flat_map(|v| v.to_le_bytes()));
    expected.extend([0_i64, 6].iter().flat_map(|v| v.to_le_bytes()));
    expected.extend([0_i64, 1, 2].iter().flat_map(|v| v.to_le_bytes()));
    assert_eq!(parts.index, expected);
}

#[test]
fn a_vocabulary_below_65500_takes_two_bytes_a_token() {
    assert_eq!(TokenType::for_vocabulary(65_499), TokenType::U16);
    assert_eq!(TokenType::for_vocabulary(65_500), TokenType::I32);
}

#[test]
fn a_block_with_many_documents_says_that_it_cannot_list_them() {
    let documents = vec![vec![7]; STARTS_MAX + 1];
    let (bin, parts) = shard(TokenType::I32, &documents);
    let record = BlockRecord::parse(&parts.blocks[64..]).unwrap();
    assert!(record.verify(&bin));
    assert_eq!((record.num_starts, record.starts()), (12, None));
}

#[test]
fn a_flipped_bit_anywhere_in_a_shard_is_found_and_named() {
    let store = store("flip");
    let documents: Vec<Vec<u32>> = (0..40).map(|i| (0..100 + i).collect()).collect();
    let hash = write_dataset(&store, &Options::default(), &[documents]).unwrap();
    let folder = store.child(&hash.to_string());
    let dataset = Dataset::open(&folder).unwrap();
    assert_eq!(dataset.verify(&mut |_| ()).unwrap().documents, 40);
    for suffix in [".bin", ".idx", ".blocks"] {
        let path = dataset.path(0, suffix);
        let good = folder.get(&path).unwrap();
        for place in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.to_vec();
            bad[place] ^= 0x10;
            folder.put(&path, bad).unwrap();
            let error = dataset.verify(&mut |_| ()).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.message().contains(&path), "{}", error.message());
        }
        folder.put(&path, good).unwrap();
    }
}

#[test]
fn a_manifest_with_any_byte_changed_is_refused() {
    let store = store("manifest");
    let hash = write_dataset(&store, &Options::default(), &[vec![vec![1, 2]], vec![vec![3]]]).unwrap();
    let good = store.get(&format!("{hash}/manifest")).unwrap();
    for place in 0..good.len() {
        let mut bad = good.to_vec();
        bad[place] ^= 1;
        assert!(Manifest::parse(&bad).is_err(), "byte {place}");
        assert!(Manifest::parse(&good[..place]).is_err(), "cut at {place}");
    }
}

#[test]
fn a_manifest_whose_hash_is_not_its_shards_is_found_by_verify() {
    let store = store("hash");
    let hash = write_dataset(&store, &Options::default(), &[vec![vec![1, 2]], vec![vec![3]]]).unwrap();
    let folder = store.child(&hash.to_string());
    let mut manifest = Dataset::open(&folder).unwrap().manifest().clone();
    let swapped = [manifest.shards.get(1), manifest.shards.get(0)];
    manifest.shards = swapped.into_iter().collect();
    folder.put("manifest", manifest.encode().unwrap()).unwrap();
    let error = Dataset::open(&folder).unwrap().verify(&mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains("states dataset hash"), "{}", error.message());
}

#[test]
fn a_shard_is_decoded_as_it_was_listed() {
    let listed: Vec<Shard> = (0..3)
        .map(|i| Shard {
            path: format!("shards/{}", "å".repeat(i)),
            tokens: i as u64 * 10,
            documents: i as u64,
            bytes: [i as u64 * 20, 7, 1 << 40],
            crc32c: [1, 2, i as u32],
            bin_digest: Digest::of(&[i as u8]),
            lengths_digest: Digest::of(&[i as u8, 1]),
        })
        .collect();
    let shards: Shards = listed.iter().cloned().collect();
    assert_eq!(shards.iter().collect::<Vec<_>>(), listed);
    assert_eq!(shards.path(2), "shards/åå");
    let swapped: Shards = listed.into_iter().rev().collect();
    assert_ne!(shards.dataset_hash(), swapped.dataset_hash());
}

#[test]
fn a_token_is_located_in_its_shard_across_borders() {
    let store = store("locate");
    let shards = [vec![vec![1, 2]], vec![vec![3, 4, 5, 6]], vec![vec![7]]];
    let hash = write_dataset(&store, &Options::default(), &shards).unwrap();
    let dataset = Dataset::open(&store.child(&hash.to_string())).unwrap();
    let places: Vec<_> = (0..10).map(|token| dataset.locate(token)).collect();
    assert_eq!(places[..4], [(0, 0), (0, 1), (0, 2), (1, 0)]);
    assert_eq!(places[7..], [(1, 4), (2, 0), (2, 1)]);
    assert_eq!([1, 3, 9, 10].map(|length| dataset.num_samples(length)), [9, 3, 1, 0]);
}

#[test]
fn opening_what_is_no_dataset_says_so() {
    let error = Dataset::open(&store("nothing")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.message().contains("is not a token dataset"));
}

/// The frozen bytes of version 1: a change here is a change of the format, and breaks stored datasets.
#[test]
fn the_formats_are_frozen() {
    let store = store("golden");
    let long: Vec<u32> = (0..3000).collect();
    let shards = [vec![vec![1, 2, 3], long, vec![9]], vec![vec![50_000]; 13]];
    let hash = write_dataset(&store, &Options::default(), &shards).unwrap();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dataset-v1");
    let folder = Store::open(golden.to_str().unwrap()).unwrap();
    let written = store.child(&hash.to_string());
    let paths: Vec<String> = written.list("").unwrap().into_iter().map(|object| object.path).collect();
    assert_eq!(paths.len(), 7);
    for path in paths {
        if std::env::var_os("EAGLERAY_WRITE_GOLDEN").is_some() {
            folder.put(&path, written.get(&path).unwrap()).unwrap();
        }
        assert_eq!(written.get(&path).unwrap(), folder.get(&path).unwrap(), "{path}");
    }
    let dataset = Dataset::open(&folder).unwrap();
    assert_eq!(dataset.verify(&mut |_| ()).unwrap().dataset_hash, hash);
}

fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let length = prop_oneof![4 => 1..6_usize, 2 => 1..3000_usize];
    prop::collection::vec(length.prop_flat_map(|n| prop::collection::vec(0..60_000_u32, n)), 0..80)
}

proptest! {
    #[test]
    fn index_and_side_table_tell_the_same_borders(documents in documents(), wide in any::<bool>()) {
        let token_type = if wide { TokenType::I32 } else { TokenType::U16 };
        let (bin, parts) = shard(token_type, &documents);
        let index = Index::parse(&parts.index).unwrap();
        prop_assert_eq!(&index.lengths, &documents.iter().map(|d| d.len() as u32).collect::<Vec<_>>());
        let mut ids = Vec::new();
        token_type.decode(&bin, &mut ids);
        prop_assert_eq!(&ids, &documents.concat());
        let header = BlocksHeader::parse(&parts.blocks).unwrap();
        prop_assert_eq!(header.num_blocks as usize, bin.len().div_ceil(BLOCK_BYTES));
        let mut starts: Vec<u64> = Vec::new();
        let mut at = 0;
        for document in &documents {
            starts.push(at);
            at += document.len() as u64;
        }
        for (number, (record, block)) in
            parts.blocks[64..].chunks(RECORD_BYTES).zip(bin.chunks(BLOCK_BYTES)).enumerate()
        {
            let record = BlockRecord::parse(record).unwrap();
            prop_assert!(record.verify(block));
            let first = (number * token_type.block_tokens()) as u64;
            let end = first + token_type.block_tokens() as u64;
            let holder = starts.partition_point(|&start| start <= first) - 1;
            prop_assert_eq!(record.first_document as usize, holder);
            let inside: Vec<u16> =
                starts.iter().filter(|&&s| s >= first && s < end).map(|&s| (s - first) as u16).collect();
            prop_assert_eq!(usize::from(record.num_starts), inside.len());
            if inside.len() <= STARTS_MAX {
                prop_assert_eq!(record.starts(), Some(&inside[..]));
            }
        }
    }

    #[test]
    fn parsers_never_panic_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Index::parse(&bytes);
        let _ = BlocksHeader::parse(&bytes);
        let _ = BlockRecord::parse(&bytes);
        let _ = Manifest::parse(&bytes);
        for magic in [&b"MMIDIDX\0\0"[..], b"ERBLOCKS\x01\0\0\0", b"ERTOKENS\x01\0\0\0"] {
            let with: Vec<u8> = magic.iter().chain(&bytes).copied().collect();
            let _ = (Index::parse(&with), BlocksHeader::parse(&with), Manifest::parse(&with));
        }
    }

    #[test]
    fn equal_tokens_give_an_equal_hash_and_a_moved_border_another(ids in prop::collection::vec(0..100_u32, 2..50)) {
        let store = store("hash");
        let options = Options::default();
        let hash = |shards: &[Vec<Vec<u32>>]| write_dataset(&store, &options, shards).unwrap();
        let whole = hash(&[vec![ids.clone()]]);
        prop_assert_eq!(whole, hash(&[vec![ids.clone()]]));
        let (left, right) = ids.split_at(1);
        prop_assert_ne!(whole, hash(&[vec![left.to_vec(), right.to_vec()]]));
        prop_assert_ne!(whole, Digest::of(b"fixture"));
    }
}
