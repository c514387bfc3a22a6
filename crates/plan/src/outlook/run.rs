//! Speed, reads, saves, the useful share of time, and the whole run.

use eagleray_spec::types::{Capacity, Precision};
use eagleray_spec::{VOCABULARY_GUESS, resolved};

use super::cluster::{End, Fleet, tokens_of_step};
use super::figure::Unit;
use super::formulas::{
    AUTO_SECONDS, GETS_OF_A_PREFIX, ettr, fleet_mtbf, interval, prefixes, tokens_per_second,
};
use super::{Draft, Question, show, source};
use crate::band::Band;
use crate::shape::{Part, Shape};
use crate::situation::Situation;

/// From this vocabulary on a token takes four bytes on the store instead of two.
const WIDE_VOCABULARY: u64 = 65_500;

/// What a save holds for each parameter: its fp32 value and Adam's two moments.
const SAVED_BYTES: f64 = 12.0;

/// What a rank copies to the host in a second while its step waits, at least and at most.
const COPY_BYTES_PER_SECOND: Band = Band { low: 0.77e9, high: 25e9 };
const COPY_SOURCE: &str = "0.77 GB/s to pageable memory measured on one H100 (docs/benchmarks.md, `./dev bench gpu`); 25 GB/s is what pinned memory on PCIe 4 × 16 gives";

/// What is left of a spot notice of 120 s for a save: Ray drains for 90 s.
pub(super) const NOTICE_SECONDS: f64 = 90.0;

/// What one end of the run comes to, as far as it can be said.
#[derive(Clone, Copy, Debug)]
struct Pace {
    tokens_per_second: Option<Band>,
    /// A save of a node to the store.
    background: Option<f64>,
    stall: Option<Band>,
    mtbf: f64,
    interval: Option<Band>,
    ettr: Option<Band>,
}

pub(super) fn tell(question: &Question<'_>, fleet: &Fleet, dollars: Option<Vec<Band>>, draft: &mut Draft) {
    let spec = &question.resolved.spec;
    let situation = Situation::of(question.resolved).ok();
    let shape = situation.map(|situation| situation.shape);
    let speed = speed(question, fleet, shape, draft);
    reads(question, situation, speed.as_deref(), draft);
    let paces: Vec<Pace> = fleet
        .ends
        .iter()
        .enumerate()
        .map(|(index, end)| {
            let tokens = speed.as_ref().map(|bands| bands[index]);
            pace(question, fleet, end, shape, tokens)
        })
        .collect();
    saves(question, fleet, shape, &paces, draft);
    goodput(question, fleet, &paces, draft);
    whole(spec, &paces, dollars, draft);
}

/// All of them joined; `None` where one is not known.
fn joined<T>(items: &[T], of: impl Fn(&T) -> Option<Band>) -> Option<Band> {
    let bands: Option<Vec<Band>> = items.iter().map(of).collect();
    bands?.into_iter().reduce(Band::join)
}

/// Tokens a second at each end.
fn speed(
    question: &Question<'_>,
    fleet: &Fleet,
    shape: Option<Shape>,
    draft: &mut Draft,
) -> Option<Vec<Band>> {
    draft.section("speed");
    let spec = &question.resolved.spec;
    let Some(shape) = shape else {
        draft.unknown("speed", "the operations of a token need the model's shape (a `preset` or a `config`) and `data.sequence_length`");
        return None;
    };
    let length = spec.data.as_ref().map_or(0, |data| data.sequence_length);
    let flops = shape.flops_per_token(length);
    let matrices = shape.multiplied(&Part::whole(&shape)) as f64;
    let formula = format!(
        "6·N + 12·L·q·s = 6 × {} + 12 × {} × {} × {length}",
        show(Band::exactly(matrices), Unit::Count),
        shape.num_layers,
        shape.query_size()
    );
    let how = [formula, "PaLM, arXiv:2204.02311, appendix B; docs/metrics.md".into()];
    draft.add("flops_per_token", "operations of a token", Unit::Flops, Band::exactly(flops), how);
    let Some(kind) = fleet.slowest else {
        draft.unknown("speed", "the spec names no accelerator: say `--accelerator H100`");
        return None;
    };
    if spec.train.precision != Precision::Bf16 {
        draft.unknown("speed", "peaks are known for `precision: bf16` alone");
        return None;
    }
    let peak = kind.peak_bf16_flops();
    let how = [
        "dense bf16; the slowest of all groups, which the others wait for".into(),
        "NVIDIA's data sheets; docs/metrics.md".into(),
    ];
    draft.add(
        "peak_flops",
        format!("peak of one {}", kind.name),
        Unit::FlopsPerSecond,
        Band::exactly(peak),
        how,
    );
    let mfu = question.assumptions.mfu;
    let how = ["share of the peak that the model's own operations reach".into(), source::MFU.into()];
    draft.add("mfu", "model FLOPs utilization", Unit::Share, mfu, how);
    let of_end = |end: &End| mfu.map(|mfu| tokens_per_second(end.workers, peak, mfu, flops));
    let bands: Vec<Band> = fleet.ends.iter().map(of_end).collect();
    let all = joined(&bands, |band| Some(*band)).unwrap_or(Band::ZERO);
    let workers = fleet.band(|end| f64::from(end.workers));
    let formula = format!(
        "workers × peak × MFU ÷ operations of a token = {} × {} × {} ÷ {}",
        show(workers, Unit::Count),
        show(Band::exactly(peak), Unit::FlopsPerSecond),
        show(mfu, Unit::Share),
        show(Band::exactly(flops), Unit::Flops)
    );
    draft.add("tokens_per_second", "tokens", Unit::PerSecond, all, [formula, "the rows above".into()]);
    if let Some(tokens) = tokens_of_step(spec) {
        let formula = format!(
            "global_batch × sequence_length ÷ tokens a second, {} tokens",
            show(Band::exactly(tokens), Unit::Count)
        );
        let seconds = Band::exactly(tokens).over(all);
        draft.add("step_seconds", "a step", Unit::Seconds, seconds, [formula, source::SPEC.into()]);
    }
    Some(bands)
}

/// What the data asks of the store.
fn reads(question: &Question<'_>, situation: Option<Situation>, speed: Option<&[Band]>, draft: &mut Draft) {
    draft.section("reads of data");
    let spec = &question.resolved.spec;
    let (Some(Situation { shape, setting, .. }), Some(speed), Some(data)) = (situation, speed, &spec.data)
    else {
        return draft.unknown("reads of data", "they follow from the tokens a second");
    };
    let tokens = joined(speed, |band| Some(*band)).unwrap_or(Band::ZERO);
    let axes = setting.axes();
    let sharing = (axes.pp * axes.cp * axes.tp) as f64;
    let length = f64::from(data.sequence_length);
    let gets = tokens * (sharing / length);
    let how = [
        format!(
            "tokens a second ÷ {length} × {sharing} ranks that share a sample, each with a range read of its own"
        ),
        "a sample is one range of a shard (docs/formats/token-dataset.md)".into(),
    ];
    draft.add("gets_per_second", "GETs of the store", Unit::PerSecond, gets, how);
    let width = if shape.vocab_size < WIDE_VOCABULARY { 2.0 } else { 4.0 };
    let guessed = if shape.vocab_size == u64::from(VOCABULARY_GUESS) {
        ", where the spec leaves it to the tokenizer"
    } else {
        ""
    };
    let how = [
        format!("tokens a second × {sharing} × {width} bytes: a vocabulary of {}{guessed}", shape.vocab_size),
        "docs/formats/token-dataset.md: two bytes below a vocabulary of 65,500, else four".into(),
    ];
    draft.add(
        "read_bytes_per_second",
        "bytes of tokens",
        Unit::BytesPerSecond,
        tokens * (sharing * width),
        how,
    );
    let how = [
        format!("GETs ÷ {GETS_OF_A_PREFIX}, rounded up"),
        "S3 serves 5,500 GETs a second of a prefix; 3,000 leave room for retries".into(),
    ];
    draft.add("prefixes", "prefixes to spread them over", Unit::Count, gets.map(prefixes), how);
    if gets.high > GETS_OF_A_PREFIX {
        let message = format!(
            "the data asks for up to {} of the store, more than one prefix of S3 gives",
            show(Band::exactly(gets.high), Unit::PerSecond)
        );
        draft.risk(
            "reads-throttled",
            message,
            "keep the dataset's shards under several prefixes, or take longer samples",
        );
    }
    if let (Some((dollars, origin)), true) = (&question.prices.s3_get_per_1000, is_s3(spec)) {
        let how = [format!("GETs × 3,600 × ${dollars} ÷ 1,000"), origin.to_string()];
        draft.add("gets_price", "GETs", Unit::DollarsPerHour, gets * (3.6 * dollars), how);
    }
}

fn is_s3(spec: &resolved::Spec) -> bool {
    let data = spec.data.as_ref();
    let sources = data.into_iter().flat_map(|data| data.sources.values());
    let built = data.is_some_and(|data| data.built.starts_with("s3://"));
    built
        || sources
            .into_iter()
            .any(|source| source["tokens"].as_str().is_some_and(|at| at.starts_with("s3://")))
}

fn pace(
    question: &Question<'_>,
    fleet: &Fleet,
    end: &End,
    shape: Option<Shape>,
    tokens: Option<Band>,
) -> Pace {
    let assumed = &question.assumptions;
    let spec = &question.resolved.spec;
    let nodes = fleet.nodes(end);
    let state = shape.map(|shape| SAVED_BYTES * shape.parameters() as f64);
    let background =
        state.map(|state| state / f64::from(nodes.max(1)) * 8.0 / (store_gbps(question, fleet) * 1e9));
    let mtbf = fleet_mtbf(
        fleet.bought(end, Capacity::Spot),
        assumed.spot_mtbf_seconds,
        nodes,
        assumed.node_mtbf_seconds,
    );
    let stall = match (state, background, spec.checkpoint.r#async) {
        (Some(state), _, true) => {
            Some(Band::exactly(state / f64::from(end.workers.max(1))).over(COPY_BYTES_PER_SECOND))
        }
        (_, background, false) => background.map(Band::exactly),
        (None, ..) => None,
    };
    let step = tokens_of_step(spec).zip(tokens).map(|(step, tokens)| Band::exactly(step).over(tokens));
    let chosen = match spec.checkpoint.every["kind"].as_str() {
        Some("seconds") => spec.checkpoint.every["seconds"].as_f64().map(Band::exactly),
        Some("steps") => spec.checkpoint.every["steps"].as_f64().zip(step).map(|(steps, step)| step * steps),
        _ => stall
            .zip(background)
            .map(|(stall, background)| stall.map(|stall| interval(stall, background, mtbf))),
    };
    let useful = stall.zip(chosen).map(|(stall, gap)| {
        let recovery = assumed.recovery_seconds;
        let corner = |stall, gap, recovery| Band::exactly(ettr(stall, gap, recovery, mtbf));
        // Under `auto` the interval belongs to its stall; one that was set is crossed with both.
        let auto = spec.checkpoint.every["kind"] == "auto";
        let crossed = |one: f64, other: f64| {
            corner(stall.low, one, recovery.low).join(corner(stall.high, other, recovery.high))
        };
        let straight = crossed(gap.low, gap.high);
        if auto { straight } else { straight.join(crossed(gap.high, gap.low)) }
    });
    Pace { tokens_per_second: tokens, background, stall, mtbf, interval: chosen, ettr: useful }
}

/// What a node moves to the store.
fn store_gbps(question: &Question<'_>, fleet: &Fleet) -> f64 {
    let cards = fleet.groups.iter().map(|nodes| nodes.instance.store_gbps());
    cards.fold(question.assumptions.store_gbps, f64::min)
}

fn saves(question: &Question<'_>, fleet: &Fleet, shape: Option<Shape>, paces: &[Pace], draft: &mut Draft) {
    draft.section("checkpoints");
    let Some(shape) = shape else {
        return draft.unknown("checkpoints", "their size needs the model's shape: a `preset` or a `config`");
    };
    let state = SAVED_BYTES * shape.parameters() as f64;
    let parameters = show(Band::exactly(shape.parameters() as f64), Unit::Count);
    let how = [
        format!("{SAVED_BYTES} × {parameters} parameters: fp32 value and two moments"),
        "docs/formats/checkpoint.md".into(),
    ];
    draft.add("checkpoint_bytes", "one checkpoint", Unit::Bytes, Band::exactly(state), how);
    let of_node = fleet.band(|end| state / f64::from(fleet.nodes(end).max(1)));
    let nodes = fleet.band(|end| f64::from(fleet.nodes(end)));
    let how =
        [format!("checkpoint ÷ {} nodes", show(nodes, Unit::Count)), "each rank writes its own share".into()];
    draft.add("checkpoint_bytes_of_node", "of a node", Unit::Bytes, of_node, how);
    let gbps = store_gbps(question, fleet);
    if let Some(background) = joined(paces, |pace| pace.background.map(Band::exactly)) {
        let how = [format!("bytes of a node ÷ {gbps} Gbit/s"), source::STORE.into()];
        draft.add("checkpoint_background", "until it is on the store", Unit::Seconds, background, how);
        if background.high > NOTICE_SECONDS
            && fleet.ends.iter().any(|end| fleet.bought(end, Capacity::Spot) > 0)
        {
            let message = format!(
                "a save takes up to {} on the store, a spot notice leaves {NOTICE_SECONDS} s: work since the last save is lost with the node",
                show(Band::exactly(background.high), Unit::Seconds)
            );
            draft.risk(
                "checkpoint-longer-than-notice",
                message,
                "more nodes, or a faster way to the store: each node then saves less, or sooner",
            );
        }
    }
    if let Some(stall) = joined(paces, |pace| pace.stall) {
        let asynchronous = question.resolved.spec.checkpoint.r#async;
        let how = if asynchronous {
            ["bytes of a rank ÷ copy to the host".to_owned(), COPY_SOURCE.to_owned()]
        } else {
            [
                "`checkpoint.async: false`: training waits until it is on the store".to_owned(),
                source::STORE.to_owned(),
            ]
        };
        draft.add("checkpoint_stall", "training waits, δ", Unit::Seconds, stall, how);
    }
    cadence(question, state, of_node, paces, draft);
}

/// How often a save is made, and what that writes.
fn cadence(question: &Question<'_>, state: f64, of_node: Band, paces: &[Pace], draft: &mut Draft) {
    let Some(gap) = joined(paces, |pace| pace.interval) else {
        return draft
            .unknown("checkpoint interval", "`checkpoint.every` in steps needs the seconds of a step");
    };
    let every = &question.resolved.spec.checkpoint.every;
    let how = if every["kind"] == "auto" {
        [
            format!(
                "max(until on the store, √(2·δ·MTBF)), from {} to {} s",
                AUTO_SECONDS.low, AUTO_SECONDS.high
            ),
            "Young 1974; the driver computes it anew from what its saves cost".into(),
        ]
    } else {
        ["`checkpoint.every`".to_owned(), source::SPEC.to_owned()]
    };
    draft.add("checkpoint_interval", "between two saves", Unit::Seconds, gap, how);
    let how = ["bytes of a node ÷ interval".into(), "the rows above".into()];
    draft.add("checkpoint_bandwidth_of_node", "a node writes", Unit::BytesPerSecond, of_node.over(gap), how);
    let how = ["checkpoint ÷ interval".into(), "the rows above".into()];
    draft.add(
        "checkpoint_bandwidth",
        "all nodes write",
        Unit::BytesPerSecond,
        Band::exactly(state).over(gap),
        how,
    );
    let late =
        paces.iter().any(|pace| pace.background.zip(pace.interval).is_some_and(|(save, gap)| save > gap.low));
    if late {
        let message =
            "a save is not on the store when the next is due: it will be waited for, or late".to_owned();
        draft.risk(
            "checkpoint-longer-than-interval",
            message,
            "save less often (`checkpoint.every: auto` never does this), or spread it over more nodes",
        );
    }
}

fn goodput(question: &Question<'_>, fleet: &Fleet, paces: &[Pace], draft: &mut Draft) {
    draft.section("goodput");
    let assumed = &question.assumptions;
    let spot = fleet.band(|end| f64::from(fleet.bought(end, Capacity::Spot)));
    let nodes = fleet.band(|end| f64::from(fleet.nodes(end)));
    let how = [
        format!(
            "1 ÷ (spot nodes ÷ {} + nodes ÷ {}): {} spot, {} in all",
            show(Band::exactly(assumed.spot_mtbf_seconds), Unit::Seconds),
            show(Band::exactly(assumed.node_mtbf_seconds), Unit::Seconds),
            show(spot, Unit::Count),
            show(nodes, Unit::Count)
        ),
        if spot.high > 0.0 {
            format!("{}; {}", source::SPOT_MTBF, source::NODE_MTBF)
        } else {
            source::NODE_MTBF.into()
        },
    ];
    let mtbf = joined(paces, |pace| Some(Band::exactly(pace.mtbf))).unwrap_or(Band::ZERO);
    draft.add("mtbf", "between two losses, MTBF", Unit::Seconds, mtbf, how);
    let how = ["from a loss until training goes on, R".into(), source::RECOVERY.into()];
    draft.add("recovery", "recovery, R", Unit::Seconds, assumed.recovery_seconds, how);
    let Some(useful) = joined(paces, |pace| pace.ettr) else {
        return draft.unknown("goodput", "it needs what a save costs and how often one is made");
    };
    let how = [
        "1 − δ/T − (T/2 + R)/MTBF, T between two saves; waits for capacity are not in it".into(),
        "effective training time ratio (Llama 3, arXiv:2407.21783; Young 1974)".into(),
    ];
    draft.add("goodput", "useful share of time", Unit::Share, useful, how);
    if useful.low < 0.9 {
        let message = format!(
            "losses and saves may take {} of the time",
            show(Band::exactly(1.0 - useful.low), Unit::Share)
        );
        draft.risk(
            "goodput-low",
            message,
            "fewer spot nodes, or shorter saves: more nodes share one, or a faster way to the store",
        );
    }
}

/// Hours and dollars.
fn whole(spec: &resolved::Spec, paces: &[Pace], dollars: Option<Vec<Band>>, draft: &mut Draft) {
    draft.section("the whole run");
    let Some(tokens) = tokens_of_step(spec).zip(spec.train.steps).map(|(step, steps)| step * steps as f64)
    else {
        return draft.unknown(
            "the whole run",
            "it needs `train.steps`, `train.global_batch` and `data.sequence_length`",
        );
    };
    let how = ["steps × global_batch × sequence_length".into(), source::SPEC.into()];
    draft.add("tokens", "tokens", Unit::Count, Band::exactly(tokens), how);
    let of_pace = |pace: &Pace| {
        let useful = pace.ettr.filter(|useful| useful.low > 0.0)?;
        Some(Band::exactly(tokens).over(pace.tokens_per_second? * useful))
    };
    let Some(seconds) = joined(paces, of_pace) else {
        let why = if joined(paces, |pace| pace.ettr).is_some_and(|useful| useful.low <= 0.0) {
            "at the lower end nothing useful is left between two losses: the run may never end"
        } else {
            "it needs the speed and the goodput"
        };
        return draft.unknown("time and cost of the run", why);
    };
    let how = [
        "tokens ÷ tokens a second ÷ useful share; build and waits for capacity are not in it".into(),
        "the rows above".into(),
    ];
    draft.add("seconds", "time", Unit::Seconds, seconds, how);
    let Some(dollars) = dollars else { return };
    let costs = paces.iter().zip(dollars).map(|(pace, hour)| Some(of_pace(pace)? * hour * (1.0 / 3_600.0)));
    let costs: Option<Vec<Band>> = costs.collect();
    if let Some(cost) = costs.and_then(|costs| costs.into_iter().reduce(Band::join)) {
        let how = [
            "time × price per hour of the cluster, at each end; disks, requests and traffic are not in it"
                .into(),
            "the rows above".into(),
        ];
        draft.add("cost", "cost", Unit::Dollars, cost, how);
    }
}
