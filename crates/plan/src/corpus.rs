//! What reading a whole corpus takes, from what a slice of it took.

use std::fmt::Write as _;

use serde::Serialize;

use crate::band::Band;
use crate::instance::Instance;
use crate::outlook::{Figure, Section, Unit, Unknown, show};
use crate::prices::{Price, Prices};

/// The nodes that times are told for.
const NODES: [(u32, [&str; 3]); 3] = [
    (1, ["seconds_1", "dollars_1", "dollars_spot_1"]),
    (10, ["seconds_10", "dollars_10", "dollars_spot_10"]),
    (100, ["seconds_100", "dollars_100", "dollars_spot_100"]),
];
/// Bytes of an index a document: length, place, number (docs/formats/token-dataset.md).
const INDEX_BYTES: f64 = 20.0;
/// Bytes of a side table a byte of tokens: 32 for each 4,096.
const SIDE_TABLE: f64 = 32.0 / 4096.0;
/// Two-sided 95 % points of Student's t by degrees of freedom; between two, the smaller counts.
const STUDENT: [(usize, f64); 14] = [
    (1, 12.706),
    (2, 4.303),
    (3, 3.182),
    (4, 2.776),
    (5, 2.571),
    (6, 2.447),
    (7, 2.365),
    (8, 2.306),
    (9, 2.262),
    (10, 2.228),
    (15, 2.131),
    (20, 2.086),
    (30, 2.042),
    (60, 2.0),
];

/// Columns of a label; the lines before these, of the slice, have as many.
const LABEL_CHARS: usize = 26;

/// What one place of the slice took and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Bytes on the store.
    pub raw_bytes: f64,
    /// Documents.
    pub documents: f64,
    /// Tokens.
    pub tokens: f64,
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// Seconds that passed.
    pub wall_seconds: f64,
}

/// A corpus, and the slice of it that was read.
#[derive(Clone, Debug)]
pub struct Corpus<'a> {
    /// Bytes of all objects on the store.
    pub bytes: u64,
    /// The most bytes that one task reads alone.
    pub uncut_bytes_max: u64,
    /// Requests that reading everything takes.
    pub gets: u64,
    /// The bytes of a stored token; `None` where nothing was tokenised.
    pub token_bytes: Option<u64>,
    /// Whether the slice is everything.
    pub whole: bool,
    /// The places of the slice.
    pub places: &'a [Place],
    /// The nodes to read it on.
    pub instance: &'a Instance,
    /// What they cost.
    pub prices: &'a Prices,
}

/// What reading a whole corpus takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Extent {
    /// The numbers.
    pub sections: Vec<Section>,
    /// What cannot be said.
    pub unknown: Vec<Unknown>,
}

impl Extent {
    /// A number by its key.
    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.sections.iter().flat_map(|section| &section.figures).find(|figure| figure.key == key)
    }

    /// For people; with `explain` each number's formula and source too.
    pub fn show(&self, explain: bool) -> String {
        let mut shown = String::new();
        for section in &self.sections {
            shown += &section.show(LABEL_CHARS, explain);
        }
        for Unknown { what, why } in &self.unknown {
            let _ = writeln!(shown, "  {what}: not known: {why}");
        }
        shown
    }
}

/// A sum over the corpus, from the slice: bytes × what a byte gave, with 95 % of the spread between places.
///
/// The classical ratio estimate (Cochran, Sampling Techniques, chapter 6), places being the sampled units, with
/// Student's t for few of them, and nothing to doubt of what was read.
pub fn total(places: &[Place], of: impl Fn(&Place) -> f64, bytes: u64) -> Band {
    let read: f64 = places.iter().map(|place| place.raw_bytes).sum();
    let seen: f64 = places.iter().map(&of).sum();
    if read <= 0.0 {
        return Band::ZERO;
    }
    let (ratio, bytes) = (seen / read, bytes as f64);
    let count = places.len();
    let unread = (1.0 - read / bytes).max(0.0);
    let estimate = if unread > 0.0 { ratio * bytes } else { seen };
    if count < 2 || unread <= 0.0 {
        return Band::exactly(estimate);
    }
    let squares: f64 = places.iter().map(|place| (of(place) - ratio * place.raw_bytes).powi(2)).sum();
    let deviation = (count as f64 / (count as f64 - 1.0) * squares * unread).sqrt();
    let half = student(count - 1) * deviation * bytes / read;
    Band { low: (estimate - half).max(seen), high: estimate + half }
}

fn student(degrees: usize) -> f64 {
    STUDENT.iter().rev().find(|(from, _)| *from <= degrees).map_or(STUDENT[0].1, |(_, t)| *t)
}

/// What reading the whole corpus takes and gives.
pub fn extent(corpus: &Corpus<'_>) -> Extent {
    let mut teller = Teller { corpus, extent: Extent::default() };
    teller.content();
    teller.work();
    teller.nodes();
    teller.extent.sections.retain(|section| !section.figures.is_empty());
    teller.extent
}

struct Teller<'a> {
    corpus: &'a Corpus<'a>,
    extent: Extent,
}

impl Teller<'_> {
    fn section(&mut self, title: &'static str) {
        self.extent.sections.push(Section { title, figures: Vec::new() });
    }

    fn add(&mut self, key: &'static str, label: &str, unit: Unit, value: Band, how: [String; 2]) {
        let [formula, source] = how;
        if let Some(section) = self.extent.sections.last_mut() {
            section.figures.push(Figure { key, label: label.to_owned(), unit, value, formula, source });
        }
    }

    fn total(&self, of: fn(&Place) -> f64) -> Band {
        total(self.corpus.places, of, self.corpus.bytes)
    }

    /// How a sum over the corpus came about.
    fn spread(&self, what: &str) -> [String; 2] {
        let Corpus { bytes, places, whole, .. } = self.corpus;
        let read: f64 = places.iter().map(|place| place.raw_bytes).sum();
        if *whole {
            return [format!("the sum of {what}"), "everything was read".to_owned()];
        }
        let band = if places.len() < 2 {
            "one place, so that nothing is known of the spread".to_owned()
        } else {
            format!("± t({}) × the standard error between {} places (95 %)", places.len() - 1, places.len())
        };
        [format!("{bytes} bytes × {what} ÷ {read:.0} bytes read; {band}"), "the slice".to_owned()]
    }

    fn content(&mut self) {
        self.section("the whole corpus");
        let documents = self.total(|place| place.documents);
        self.add("documents", "documents", Unit::Count, documents, self.spread("documents"));
        let Some(token_bytes) = self.corpus.token_bytes else {
            let why = "no tokenizer was given, so times below are of reading alone".to_owned();
            return self.extent.unknown.push(Unknown { what: "tokens", why });
        };
        let tokens = self.total(|place| place.tokens);
        self.add("tokens", "tokens", Unit::Count, tokens, self.spread("tokens"));
        let dataset = tokens * (token_bytes as f64 * (1.0 + SIDE_TABLE)) + documents * INDEX_BYTES;
        let formula = format!(
            "tokens × {token_bytes} bytes × (1 + 32/4096 of side tables) + documents × {INDEX_BYTES} bytes of index"
        );
        let source = "the figures above, and docs/formats/token-dataset.md".to_owned();
        self.add("dataset_bytes", "token dataset", Unit::Bytes, dataset, [formula, source]);
    }

    fn work(&mut self) {
        self.section("reading and tokenising it once");
        let cpu = self.total(|place| place.cpu_seconds);
        self.add("cpu_seconds", "CPU time", Unit::Seconds, cpu, self.spread("CPU seconds"));
        let gets = Band::exactly(self.corpus.gets as f64);
        let formula = "two looks at each object or 32 MiB piece, and a request for each 8 MiB of an object or 4 MiB of a piece".to_owned();
        self.add("gets", "GET requests", Unit::Count, gets, [formula, "the listing".to_owned()]);
        match &self.corpus.prices.s3_get_per_1000 {
            Some((dollars, origin)) => {
                let how = [format!("requests ÷ 1,000 × ${dollars}"), origin.to_string()];
                self.add("gets_dollars", "their price on S3", Unit::Dollars, gets * (dollars / 1_000.0), how);
            }
            None => self
                .extent
                .unknown
                .push(Unknown { what: "the price of requests", why: "no table of prices has it".to_owned() }),
        }
    }

    fn nodes(&mut self) {
        let Instance { name, cpus, .. } = self.corpus.instance;
        let on_demand = self.corpus.prices.on_demand(name).cloned();
        let spot = self.corpus.prices.spot(name);
        self.section("on nodes of the CPU instance");
        for (nodes, keys) in NODES {
            let seconds = self.seconds(nodes);
            let formula = format!(
                "the longer of (CPU time to task time) ÷ ({nodes} × {cpus} CPUs that pods ask for) and that of the largest uncut object, {} bytes",
                self.corpus.uncut_bytes_max
            );
            let source = format!(
                "the slice; a CPU of {name} taken for one of those here; the low end waits for nothing, the high end as here; shuffle and writes of a build not counted"
            );
            let label = if nodes == 1 { format!("1 {name}") } else { format!("{nodes} {name}") };
            self.add(keys[0], &label, Unit::Seconds, seconds, [formula, source]);
            for (key, how, price) in [(keys[1], "on demand", &on_demand), (keys[2], "spot", &spot)] {
                if let Some(Price { dollars, origin, derived }) = price {
                    let value = seconds * f64::from(nodes) * (1.0 / 3_600.0) * *dollars;
                    let each = show(*dollars, Unit::DollarsPerHour);
                    let from = if *derived { ", as a share of on demand" } else { "" };
                    let how = [format!("time × {nodes} × {each} {how}{from}"), origin.to_string()];
                    let label = if key == keys[1] { "  on demand" } else { "  spot" };
                    self.add(key, label, Unit::Dollars, value, how);
                }
            }
        }
        match &on_demand {
            None => self.extent.unknown.push(Unknown {
                what: "the cost",
                why: format!("no table of prices has `{name}`; lay one over with `--prices`"),
            }),
            Some(price) => {
                let how = ["the table of prices".to_owned(), price.origin.to_string()];
                self.add("dollars_per_hour", "price of a node", Unit::DollarsPerHour, price.dollars, how);
            }
        }
    }

    /// From when nothing waits but for CPUs to when tasks wait as they did here.
    fn seconds(&self, nodes: u32) -> Band {
        let parallel = f64::from(nodes) * f64::from(self.corpus.instance.cpus);
        let alone = self.corpus.uncut_bytes_max as f64 / (self.corpus.bytes as f64).max(1.0);
        let least = |all: f64| (all / parallel).max(all * alone);
        let (cpu, wall) = (self.total(|place| place.cpu_seconds), self.total(|place| place.wall_seconds));
        Band { low: least(cpu.low), high: least(wall.high.max(cpu.high)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(raw_bytes: f64, tokens: f64) -> Place {
        Place {
            raw_bytes,
            tokens,
            documents: 1.0,
            cpu_seconds: raw_bytes / 100e6,
            wall_seconds: raw_bytes / 50e6,
        }
    }

    fn near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 1e-9, "{value}, expected {expected}");
    }

    #[test]
    fn a_total_is_exact_where_all_was_read_or_all_places_agree() {
        let places = [place(100.0, 25.0), place(300.0, 75.0)];
        assert_eq!(total(&places, |place| place.tokens, 400), Band::exactly(100.0));
        let agreeing = total(&places, |place| place.tokens, 4_000);
        near(agreeing.low, 1_000.0);
        near(agreeing.high, 1_000.0);
        assert_eq!(total(&[], |place| place.tokens, 4_000), Band::ZERO);
        assert_eq!(total(&places[..1], |place| place.tokens, 1_000), Band::exactly(250.0));
    }

    #[test]
    fn a_band_is_the_ratio_estimates_standard_error() {
        // Residuals from the ratio 0.25 are -5, 5 and 0; t(2) = 4.303.
        let places = [place(100.0, 20.0), place(100.0, 30.0), place(100.0, 25.0)];
        let band = total(&places, |place| place.tokens, 3_000);
        let half = 4.303 * (1.5_f64 * 50.0 * 0.9).sqrt() * 10.0;
        near(band.low, 750.0 - half);
        near(band.high, 750.0 + half);
        // What was seen is there, whatever the band says.
        let wild = total(&[place(100.0, 1.0), place(100.0, 99.0)], |place| place.tokens, 1_000);
        assert!((wild.low - 100.0).abs() < 1e-9);
    }

    #[test]
    fn bands_hold_the_truth_nineteen_times_of_twenty() {
        let mut state = 7_u64;
        let mut draw = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (eagleray_base::mix64(state) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let corpus: Vec<Place> = (0..2_000).map(|_| place(1e6, 2e5 + 1e5 * draw())).collect();
        let truth: f64 = corpus.iter().map(|place| place.tokens).sum();
        let held = (0..1_000).filter(|_| {
            let slice: Vec<Place> = (0..16).map(|_| corpus[(draw() * 2_000.0) as usize]).collect();
            let band = total(&slice, |place| place.tokens, 2_000_000_000);
            band.low <= truth && truth <= band.high
        });
        let held = held.count();
        assert!((920..=980).contains(&held), "{held} of 1,000");
    }

    #[test]
    fn time_is_divided_by_cpus_until_the_largest_object_decides() {
        let (instance, prices) = (Instance::cpu("c7i.8xlarge").unwrap(), Prices::embedded().unwrap());
        let places = [place(1e6, 2.5e5), place(1e6, 2.5e5)];
        let corpus = Corpus {
            bytes: 300_000_000_000,
            uncut_bytes_max: 3_000_000_000,
            gets: 1_000_000,
            token_bytes: Some(2),
            whole: false,
            places: &places,
            instance: &instance,
            prices: &prices,
        };
        let extent = extent(&corpus);
        let band = |key: &str| extent.figure(key).unwrap().value;
        // 300 GB at 100 MB a CPU second, on 30 CPUs; tasks took twice as long as their CPU time.
        near(band("cpu_seconds").low, 3_000.0);
        near(band("seconds_1").low, 100.0);
        near(band("seconds_1").high, 200.0);
        // A hundredth of the bytes lies in one object: no number of nodes reads it faster.
        near(band("seconds_100").low, 30.0);
        near(band("tokens").low, 75e9);
        near(band("dataset_bytes").low, 75e9 * 2.0 * (1.0 + 32.0 / 4096.0) + 300_000.0 * 20.0);
        near(band("dollars_1").low, 1.428 * 100.0 / 3_600.0);
        near(band("gets_dollars").low, 0.4);
        for figure in extent.sections.iter().flat_map(|section| &section.figures) {
            assert!(!figure.formula.is_empty() && !figure.source.is_empty(), "{}", figure.key);
        }
        let dollars = extent.figure("dollars_10").unwrap();
        assert!(dollars.source.contains("2026-07-20") && dollars.source.contains("us-east-1"));
    }

    #[test]
    fn without_a_tokenizer_tokens_are_unknown_and_without_a_price_the_cost_is() {
        let (instance, prices) = (Instance::cpu("m8g.48xlarge").unwrap(), Prices::embedded().unwrap());
        let places = [place(1e6, 0.0)];
        let corpus = Corpus {
            bytes: 10_000_000,
            uncut_bytes_max: 1,
            gets: 3,
            token_bytes: None,
            whole: false,
            places: &places,
            instance: &instance,
            prices: &prices,
        };
        let extent = extent(&corpus);
        let unknown: Vec<&str> = extent.unknown.iter().map(|unknown| unknown.what).collect();
        assert_eq!(unknown, ["tokens", "the cost"]);
        assert!(extent.figure("tokens").is_none() && extent.figure("cpu_seconds").is_some());
    }
}
