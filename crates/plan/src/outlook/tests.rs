//! An outlook as a whole: what it says of a run, and how its ends move.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use eagleray_spec::{Resolved, Source};
use proptest::prelude::*;

use super::{Assumptions, Outlook, Question, outlook};
use crate::accelerator::{ACCELERATORS, accelerator};
use crate::band::Band;
use crate::prices::{Date, Prices};

const EKS: &str = "
version: 1
name: eight
store: s3://acme/runs/eight
data:
  tokenizer: tokenizer.json
  sequence_length: 4096
  sources: {web: {tokens: s3://acme/tokens/web}}
model: {preset: llama-8b}
train: {global_batch: 256, steps: 1000, strategy: fsdp2}
cluster:
  workers: {min: 16, max: 48}
  eks:
    namespace: training
    image: acme/eagleray:1
    groups:
      - {name: steady, instance: p5.48xlarge, zone: us-east-2a, nodes: 2}
      - {name: spot, instance: p5.48xlarge, capacity: spot, zone: us-east-2a, nodes: {min: 0, max: 4}}
";

fn resolved(text: &str, overrides: &[&str]) -> Resolved {
    let overrides: Vec<String> = overrides.iter().map(|one| (*one).to_owned()).collect();
    let environment = |_: &str| None;
    let source = Source {
        name: "run.yaml",
        text,
        base: Path::new("/srv"),
        overrides: &overrides,
        environment: &environment,
    };
    crate::resolve(&source).unwrap_or_else(|problems| panic!("{}", problems.into_error().render())).resolved
}

fn told_of(resolved: &Resolved, assumptions: Assumptions, prices: &Prices) -> Outlook {
    let as_of = Date::parse("2026-08-01").unwrap();
    outlook(&Question { resolved, prices, assumptions, as_of, accelerator: None }).unwrap()
}

fn told(text: &str, overrides: &[&str]) -> Outlook {
    told_of(&resolved(text, overrides), Assumptions::default(), &Prices::embedded().unwrap())
}

fn value(outlook: &Outlook, key: &str) -> Band {
    outlook.figure(key).unwrap_or_else(|| panic!("no `{key}` in {:?}", outlook.unknown)).value
}

fn ids(outlook: &Outlook) -> Vec<&'static str> {
    outlook.risks.iter().map(|risk| risk.id).collect()
}

/// `found` lies within a thousandth of `wanted`.
fn near(found: f64, wanted: f64) {
    assert!((found / wanted - 1.0).abs() < 1e-3, "expected {wanted}, found {found}");
}

#[test]
fn the_numbers_of_a_run_are_those_of_its_formulas() {
    let outlook = told(EKS, &[]);
    // 7.50e9 weights that multiply, 32 layers of 4,096, samples of 4,096 tokens.
    let flops = 6.0 * 7_504_658_432.0 + 12.0 * 32.0 * 4096.0 * 4096.0;
    near(value(&outlook, "flops_per_token").low, flops);
    let tokens = value(&outlook, "tokens_per_second");
    near(tokens.low, 16.0 * 989e12 * 0.30 / flops);
    near(tokens.high, 48.0 * 989e12 * 0.45 / flops);
    near(value(&outlook, "gets_per_second").high, tokens.high / 4096.0);
    near(value(&outlook, "read_bytes_per_second").high, tokens.high * 4.0);
    near(value(&outlook, "checkpoint_bytes").low, 12.0 * 8_030_261_248.0);
    // The head and two nodes on demand, or four spot nodes more.
    let hour = value(&outlook, "hour");
    near(hour.low, 2.0 * 55.04 + 0.8064);
    near(hour.high, 2.0 * 55.04 + 4.0 * 33.51 + 0.8064);
    near(value(&outlook, "hour_on_demand").high, 6.0 * 55.04 + 0.8064);
    // Four spot nodes at a day each, beside six that fail every 6,330 hours.
    near(value(&outlook, "mtbf").low, 3600.0 / (4.0 / 24.0 + 6.0 / 6_330.0));
    let (cost, seconds, useful) =
        (value(&outlook, "cost"), value(&outlook, "seconds"), value(&outlook, "goodput"));
    assert!(useful.low > 0.9 && useful.high < 1.0, "{useful:?}");
    let total = 1000.0 * 256.0 * 4096.0;
    assert!(seconds.low > total / tokens.high && seconds.high < total / tokens.low / useful.low * 1.001);
    assert!(cost.low > 0.0 && cost.high < seconds.high / 3600.0 * hour.high * 1.001, "{cost:?}");
    assert!(outlook.unknown.is_empty(), "{:?}", outlook.unknown);
}

#[test]
fn every_number_has_a_formula_and_a_source() {
    for outlook in [told(EKS, &[]), told(EKS, &["checkpoint.every=500 steps", "checkpoint.async=false"])] {
        let figures: Vec<_> = outlook.sections.iter().flat_map(|section| &section.figures).collect();
        assert!(figures.len() > 30, "{}", figures.len());
        for figure in figures {
            assert!(!figure.formula.is_empty() && !figure.source.is_empty(), "{}", figure.key);
            assert!(figure.value.low <= figure.value.high && figure.value.low >= 0.0, "{}", figure.key);
        }
    }
}

#[test]
fn risks_are_those_of_the_shape() {
    assert_eq!(ids(&told(EKS, &[])), ["prices-old", "prices-elsewhere"]);
    let gang = EKS.replace("nodes: {min: 0, max: 4}", "nodes: 4").replace("{min: 16, max: 48}", "48");
    assert!(ids(&told(&gang, &[])).contains(&"spot-in-a-gang"));
    assert!(ids(&told(&gang, &[])).contains(&"spot-below-the-floor"));
    let spot = EKS.replace("zone: us-east-2a, nodes: 2}", "capacity: spot, nodes: 2}");
    let found = ids(&told(&spot, &[]));
    assert!(found.contains(&"spot-without-floor") && found.contains(&"several-zones"), "{found:?}");
    let idle = ids(&told(EKS, &["cluster.workers={min: 16, max: 40}"]));
    assert!(idle.contains(&"idle-accelerators"), "{idle:?}");
    // 70 billion parameters on two nodes: 420 GB of a save each.
    let large =
        EKS.replace("llama-8b", "llama-70b").replace("strategy: fsdp2", "strategy: fsdp2, recompute: full");
    let found = ids(&told(&large, &[]));
    assert!(found.contains(&"checkpoint-longer-than-notice"), "{found:?}");
    let often = ids(&told(&large, &["checkpoint.every=30s"]));
    assert!(often.contains(&"checkpoint-longer-than-interval"), "{often:?}");
    let small = EKS.replace("p5.48xlarge", "g5.48xlarge").replace("llama-8b", "llama-70b");
    assert!(ids(&told(&small, &[])).contains(&"memory-too-small"));
    let unbuilt = EKS.replace("tokens: s3://acme/tokens/web", "documents: s3://acme/*.jsonl");
    assert!(ids(&told(&unbuilt, &[])).contains(&"unbuilt-data"));
}

#[test]
fn what_a_spec_does_not_say_is_unknown_and_the_rest_is_told() {
    let local = EKS.split("  eks:").next().unwrap();
    let outlook = told(local, &[]);
    assert!(outlook.figure("hour").is_none() && outlook.figure("tokens_per_second").is_none());
    assert!(outlook.figure("checkpoint_interval").is_some() && outlook.figure("goodput").is_some());
    let unknown: Vec<&str> = outlook.unknown.iter().map(|one| one.what).collect();
    assert_eq!(unknown, ["whether the model fits", "speed", "reads of data", "time and cost of the run"]);
    let resolved = resolved(local, &[]);
    let (prices, as_of) = (Prices::embedded().unwrap(), Date::parse("2026-08-01").unwrap());
    let question = Question {
        resolved: &resolved,
        prices: &prices,
        assumptions: Assumptions::default(),
        as_of,
        accelerator: accelerator("H100"),
    };
    let asked = outlook_of(&question);
    assert!(asked.unknown.is_empty() && asked.figure("seconds").is_some() && asked.figure("cost").is_none());
}

fn outlook_of(question: &Question<'_>) -> Outlook {
    outlook(question).unwrap()
}

#[test]
fn a_price_that_no_table_has_leaves_the_cost_unknown() {
    let outlook = told(&EKS.replace("p5.48xlarge", "p5e.48xlarge"), &[]);
    assert!(outlook.figure("cost").is_none() && outlook.figure("seconds").is_some());
    let why = &outlook.unknown.iter().find(|one| one.what == "price").unwrap().why;
    assert!(why.contains("`p5e.48xlarge` on demand") && why.contains("--prices"), "{why}");
}

#[test]
fn a_table_laid_over_takes_the_place_of_rows_with_its_own_date_and_region() {
    let text = "
version: 1
on_demand: {date: 2026-07-30, region: us-east-2, source: our bill}
instances:
  p5.48xlarge: {on_demand: 40, spot: {low: 10, high: 50}}
  m7i.4xlarge: {on_demand: 1}
";
    let prices = Prices::embedded().unwrap().overlaid(text).unwrap();
    // AWS never asks for more than on demand.
    assert_eq!(prices.spot("p5.48xlarge").unwrap().dollars, Band { low: 10.0, high: 40.0 });
    assert_eq!(prices.on_demand("g5.xlarge").unwrap().origin.region, "us-east-1");
    let outlook = told_of(&resolved(EKS, &[]), Assumptions::default(), &prices);
    assert!(ids(&outlook).is_empty(), "{:?}", outlook.risks);
    near(value(&outlook, "hour").low, 81.0);
    // A new price on demand without one of spot forgets the old spot price, which would contradict it.
    let prices = prices.overlaid(&text.replace(", spot: {low: 10, high: 50}", "")).unwrap();
    let spot = prices.spot("p5.48xlarge").unwrap();
    assert!(spot.derived && spot.dollars == Band { low: 4.0, high: 40.0 }, "{spot:?}");
}

#[test]
fn a_table_that_is_none_is_refused() {
    let table = "version: 1\non_demand: {date: 2026-07-30, region: r, source: s}\n";
    let with =
        |more: &str| Prices::embedded().unwrap().overlaid(&format!("{table}{more}")).unwrap_err().render();
    for (more, message) in [
        ("instances: {a.b: {on_demand: -1}}", "the price of `a.b` is none"),
        ("instances: {a.b: {on_demand: .nan}}", "the price of `a.b` is none"),
        ("instances: {a.b: {spot: {low: 2, high: 1}}}", "the price of `a.b` is none"),
        ("instances: {a.b: {ondemand: 1}}", "ondemand"),
        ("spot_share: {low: 0.5, high: 1.5}", "`spot_share` is a band"),
        ("spot: {date: 2026-02-29, region: r, source: s}", "`2026-02-29` is not a day"),
    ] {
        assert!(with(more).contains(message), "{}", with(more));
    }
    let other = Prices::embedded().unwrap().overlaid(&table.replace("version: 1", "version: 2")).unwrap_err();
    assert!(other.message().contains("version 1, found 2"));
}

#[test]
fn days_are_counted_by_the_calendar() {
    let days =
        |later: &str, earlier: &str| Date::parse(later).unwrap().days_since(Date::parse(earlier).unwrap());
    assert_eq!(days("2026-11-29", "2026-07-20"), 132);
    assert_eq!(days("2024-03-01", "2024-02-28"), 2);
    assert_eq!(days("2100-03-01", "2100-02-28"), 1);
    assert_eq!(days("1970-01-01", "2000-01-01"), -10_957);
    for wrong in ["2026-13-01", "2026-02-30", "26-01-01", "2026-1-1", "today", "2026-00-10"] {
        assert!(Date::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn peaks_are_those_that_mfu_is_measured_against() {
    let text = include_str!("../../../../python/eagleray/train/flops.py");
    for kind in ACCELERATORS {
        let family = kind.name.split('-').next().unwrap();
        let tflops = kind.peak_bf16_flops() / 1e12;
        let named =
            text.lines().any(|line| line.contains(family) && line.contains(&format!(": {tflops}e12")));
        assert!(named, "{} {tflops}", kind.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_better_is_never_later_nor_dearer(mfu in 0.05..0.5_f64, more in 1.0..1.9_f64, hours in 1.0..100.0_f64) {
        let resolved = resolved(EKS, &[]);
        let prices = Prices::embedded().unwrap();
        let with = |mfu: f64, hours: f64, recovery: f64| {
            let assumptions = Assumptions {
                mfu: Band::exactly(mfu), spot_mtbf_seconds: hours * 3600.0,
                recovery_seconds: Band::exactly(recovery), ..Assumptions::default()
            };
            told_of(&resolved, assumptions, &prices)
        };
        let base = with(mfu, hours, 30.0);
        for better in [with(mfu * more, hours, 30.0), with(mfu, hours * more, 30.0), with(mfu, hours, 30.0 / more)] {
            for key in ["seconds", "cost"] {
                prop_assert!(value(&better, key).low <= value(&base, key).low * 1.000_001);
                prop_assert!(value(&better, key).high <= value(&base, key).high * 1.000_001);
            }
        }
    }
}
