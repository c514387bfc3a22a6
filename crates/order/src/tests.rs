use eagleray_base::Digest;
use proptest::prelude::*;

use super::{Order, OrderSpec, SourceSpec};

fn source(name: &str, num_samples: u64, weight: f64) -> SourceSpec {
    SourceSpec { name: name.to_owned(), dataset_hash: Digest::of(name.as_bytes()), num_samples, weight }
}

fn order(sources: Vec<SourceSpec>) -> Order {
    Order::new(OrderSpec { seed: 17, sequence_length: 128, packing: "concat".to_owned(), sources }).unwrap()
}

#[test]
fn every_epoch_holds_every_sample_once_in_another_order() {
    let order = order(vec![source("only", 1000, 2.0)]);
    let epoch =
        |number: u64| (number * 1000..(number + 1) * 1000).map(|p| order.sample(p)).collect::<Vec<_>>();
    let (first, second) = (epoch(0), epoch(1));
    for (number, samples) in [&first, &second].into_iter().enumerate() {
        assert!(samples.iter().all(|sample| sample.epoch == number as u64));
        let mut indices: Vec<u64> = samples.iter().map(|sample| sample.index).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..1000));
    }
    let same = first.iter().zip(&second).filter(|(a, b)| a.index == b.index).count();
    assert!(same < 12, "{same} samples stand where they stood");
}

#[test]
fn the_listing_order_of_sources_does_not_matter() {
    let (a, b) = (source("a", 500, 0.3), source("b", 700, 0.7));
    let (one, other) = (order(vec![a.clone(), b.clone()]), order(vec![b, a]));
    assert_eq!(one.order_digest(0, 5000), other.order_digest(0, 5000));
    assert_eq!(one.fingerprint(), other.fingerprint());
}

#[test]
fn golden_samples_are_frozen() {
    let order = order(vec![source("web", 1_000_003, 0.75), source("code", 97, 0.25)]);
    let found: Vec<_> = [0, 1, 2, 1024, 123_456_789]
        .map(|position| order.sample(position))
        .map(|sample| (sample.source, sample.epoch, sample.index))
        .to_vec();
    assert_eq!(found, GOLDEN);
    assert_eq!(order.order_digest(0, 1000), GOLDEN_DIGEST);
}

const GOLDEN: [(usize, u64, u64); 5] =
    [(1, 0, 986_597), (0, 2, 54), (1, 0, 97_171), (1, 0, 474_237), (1, 92, 865_484)];
const GOLDEN_DIGEST: u64 = 15_012_122_188_840_136_011;

#[test]
fn a_digest_of_a_range_is_the_sum_over_its_parts() {
    let order = order(vec![source("a", 500, 0.3), source("b", 700, 0.7)]);
    let parts = order.order_digest(100, 250).wrapping_add(order.order_digest(250, 400));
    assert_eq!(parts, order.order_digest(100, 400));
}

#[test]
fn a_source_shorter_than_a_sample_is_named() {
    let spec = OrderSpec {
        seed: 0,
        sequence_length: 8192,
        packing: "concat".into(),
        sources: vec![source("tiny", 0, 1.0)],
    };
    let error = Order::new(spec).unwrap_err().render();
    assert!(error.contains("`tiny`") && error.contains("8192") && error.contains("hint"), "{error}");
}

#[test]
fn a_state_returns_to_its_position_and_to_no_other_order() {
    let ours = order(vec![source("a", 500, 0.3), source("b", 700, 0.7)]);
    let json = ours.state(12_345).to_json().unwrap();
    assert_eq!(ours.restore(&json).unwrap(), 12_345);
    let grown = order(vec![source("a", 501, 0.3), source("b", 700, 0.7)]);
    let error = grown.restore(&json).unwrap_err().render();
    assert!(error.contains("501") && error.contains("500"), "{error}");
    let scaled = order(vec![source("a", 500, 3.0), source("b", 700, 7.0)]);
    assert_eq!(scaled.restore(&json).unwrap(), 12_345);
    let renamed = order(vec![source("a", 500, 0.3), source("c", 700, 0.7)]);
    let error = renamed.restore(&json).unwrap_err().render();
    assert!(error.contains("sources") && error.contains("hint"), "{error}");
    let newer = json.replace("\"format_version\":1", "\"format_version\":2");
    assert!(ours.restore(&newer).unwrap_err().render().contains("version 2"));
    assert!(ours.restore("{}").is_err());
    let phases = json.replace("[{\"from_position\":0}]", "[{\"from_position\":0},{\"from_position\":9000}]");
    assert!(ours.restore(&phases).unwrap_err().render().contains("`phases`"));
}

#[test]
fn the_state_of_many_sources_stays_below_its_limit() {
    let sources = (0..500)
        .map(|i| source(&format!("a-rather-long-name-of-a-source-{i:04}-and-more"), 100, 1.0))
        .collect();
    let json = order(sources).state(u64::MAX >> 3).to_json().unwrap();
    assert!(json.len() < 4096);
}

proptest! {
    #[test]
    fn a_sample_leads_back_to_its_position(position in 0_u64..(1 << 55), sizes in prop::collection::vec(1_u64..1_000_000_000, 1..5)) {
        let sources = sizes.iter().enumerate().map(|(i, &size)| source(&format!("s{i}"), size, (i + 1) as f64)).collect();
        let order = order(sources);
        let sample = order.sample(position);
        prop_assert_eq!(order.position(sample.source, sample.epoch, sample.index), Some(position));
    }
}
