//! Which meshes a model and its workers allow, and which legal ones lie next to a refused one.
//!
//! The checks of a spec and whoever looks for a strategy ask the same functions.

use crate::types::LlamaConfig;
use crate::types::train::{Mesh, NamedStrategy, Offload, Pipeline, Strategy};
use crate::types::values::Count;

/// What is wrong with a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The axis at fault; `None` where it is the product of all.
    pub axis: Option<&'static str>,
    /// Both sides of what does not fit.
    pub message: String,
    /// The nearest legal choices.
    pub hint: String,
}

/// All that is wrong with `mesh`; what is not known is not checked.
pub fn faults(
    mesh: &Mesh,
    workers: Count,
    sequence_length: Option<u32>,
    config: Option<&LlamaConfig>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some((axis, size)) = mesh.axes().into_iter().find(|(_, size)| *size == 0) {
        let message = format!("expected 1 or more, found `{size}`");
        return vec![Fault { axis: Some(axis), message, hint: String::new() }];
    }
    faults.extend(world_fault(mesh, workers));
    if let Some(config) = config {
        faults.extend(model_faults(mesh, config));
    }
    let sequence = sequence_length.and_then(|length| sequence_fault(mesh, length));
    // One fault an axis: what the model does not allow comes first.
    let new = sequence.filter(|fault| faults.iter().all(|found| found.axis != fault.axis));
    faults.extend(new);
    faults
}

/// Between its blocks, each part of a tensor has a part of the sequence too; each part of `cp` is two chunks.
fn sequence_fault(mesh: &Mesh, length: u32) -> Option<Fault> {
    let chunks = u64::from(mesh.cp) * 2;
    if mesh.cp > 1 && !u64::from(length).is_multiple_of(chunks) {
        let message = format!(
            "`cp` {} makes {chunks} chunks, which do not divide `data.sequence_length` {length}",
            mesh.cp
        );
        let pairs = if length.is_multiple_of(2) { length / 2 } else { 1 };
        return Some(Fault { axis: Some("cp"), message, hint: near_divisors("cp", mesh.cp, pairs) });
    }
    let part = length / mesh.cp;
    if part.is_multiple_of(mesh.tp) {
        return None;
    }
    let what = if mesh.cp > 1 { format!(" ÷ `cp` {}", mesh.cp) } else { String::new() };
    let message = format!("`tp` {} does not divide `data.sequence_length` {length}{what}", mesh.tp);
    Some(Fault { axis: Some("tp"), message, hint: near_divisors("tp", mesh.tp, part) })
}

fn world_fault(mesh: &Mesh, workers: Count) -> Option<Fault> {
    let size = mesh.size();
    let bounds = [("min", workers.min), ("max", workers.max)];
    let (bound, count) = bounds.into_iter().find(|(_, count)| !u64::from(*count).is_multiple_of(size))?;
    let (below, above) = (u64::from(count) / size * size, u64::from(count).div_ceil(size) * size);
    let worlds = if below == 0 { format!("{above}") } else { format!("{below} or {above}") };
    let mut hint = format!(
        "make the number of workers a multiple of the product of the axes: nearest {}{worlds}",
        if workers.min == workers.max { "" } else { "for that bound " }
    );
    // What is left for the shards once the other axes have their workers.
    let others = size / u64::from(mesh.dp_shard);
    let both = gcd(u64::from(workers.min), u64::from(workers.max));
    if both >= others && both.is_multiple_of(others) {
        let shards = u32::try_from(both / others).unwrap_or(u32::MAX);
        hint.push_str("; or ");
        hint.push_str(&near_divisors("dp_shard", mesh.dp_shard, shards));
    }
    let message = format!("a mesh of {size} workers does not fit `cluster.workers.{bound}` {count}");
    Some(Fault { axis: None, message, hint })
}

fn model_faults(mesh: &Mesh, config: &LlamaConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    let layers = config.num_layers;
    if mesh.pp > layers {
        let message = format!("`pp` {} is above the model's {layers} layers", mesh.pp);
        let hint = format!("a stage needs at least one layer: nearest `pp: {layers}`");
        faults.push(Fault { axis: Some("pp"), message, hint });
    }
    let (heads, inner) = (config.num_kv_heads.unwrap_or(config.num_heads), config.intermediate_size);
    // The axis must divide the key heads, which divide the heads, and the inner width.
    let common = u32::try_from(gcd(heads.into(), inner.into())).unwrap_or(1);
    if mesh.pp > 1 && config.tie_embeddings {
        let message = format!(
            "`pp` {} with `tie_embeddings`: the first stage and the last would share weights",
            mesh.pp
        );
        faults.push(Fault {
            axis: Some("pp"),
            message,
            hint: "nearest `pp: 1`, or `tie_embeddings: false`".into(),
        });
    }
    let hint = near_divisors("tp", mesh.tp, common);
    if !heads.is_multiple_of(mesh.tp) {
        let message = format!("`tp` {} does not divide the model's {heads} key heads", mesh.tp);
        faults.push(Fault { axis: Some("tp"), message, hint });
    } else if !inner.is_multiple_of(mesh.tp) {
        let message = format!("`tp` {} does not divide the model's `intermediate_size` {inner}", mesh.tp);
        faults.push(Fault { axis: Some("tp"), message, hint });
    } else if let Some(size) = config.vocab_size.filter(|size| !size.is_multiple_of(mesh.tp)) {
        let above = u64::from(size).div_ceil(mesh.tp.into()) * u64::from(mesh.tp);
        let message = format!("`tp` {} does not divide the model's vocabulary of {size}", mesh.tp);
        let hint = format!(
            "a `vocab_size` of {above}, whose last ids are never used; or {}",
            near_divisors("tp", mesh.tp, size)
        );
        faults.push(Fault { axis: Some("tp"), message, hint });
    }
    faults
}

/// How many steps away from what was written a legal choice is looked for.
const NEAREST_STEPS_MAX: u32 = 4096;

/// What of a run decides about the schedule of its pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// How stages take turns.
    pub pipeline: Pipeline,
    /// The workers.
    pub workers: Count,
    /// The samples of a step, where they are known.
    pub global_batch: Option<u32>,
    /// The samples that a worker takes through the model at once.
    pub micro_batch: u32,
}

/// What a pipeline's schedule does not allow of a mesh that is legal; what is not known is not checked.
pub fn schedule_fault(mesh: &Mesh, flow: &Flow, config: Option<&LlamaConfig>) -> Option<Fault> {
    if flow.pipeline != Pipeline::Interleaved {
        return None;
    }
    if mesh.pp <= 1 {
        let message = "`pipeline: interleaved` without pipeline stages".into();
        let hint = "nearest `pp: 2`, or leave `pipeline` out".into();
        return Some(Fault { axis: None, message, hint });
    }
    let each = flow.pipeline.stages_per_worker();
    let stages = u64::from(mesh.pp) * u64::from(each);
    if let Some(layers) = config.map(|config| config.num_layers).filter(|layers| u64::from(*layers) < stages)
    {
        let most = layers / each;
        let nearest = if most > 1 { format!("`pp: {most}`, or ") } else { String::new() };
        return Some(Fault {
            axis: None,
            message: format!(
                "`pipeline: interleaved` makes {stages} stages of `pp` {}, above the model's {layers} layers",
                mesh.pp
            ),
            hint: format!(
                "each worker has {each} stages of at least one layer: nearest {nearest}`pipeline: 1f1b`"
            ),
        });
    }
    rounds_fault(mesh, flow)
}

/// Why a strategy has nothing that could lie on the host; `auto` is judged by what it becomes.
pub fn offload_fault(strategy: Strategy, offload: Offload) -> Option<Fault> {
    if offload == Offload::None {
        return None;
    }
    let (message, hint) = match strategy {
        Strategy::Named(NamedStrategy::Auto | NamedStrategy::Fsdp2) => return None,
        Strategy::Named(named) => (
            format!("`offload: cpu` with `strategy: {}`", named.name()),
            "shards of `fsdp2` and of a mesh with `dp_shard` can lie on the host: nearest `strategy: fsdp2`",
        ),
        Strategy::Mesh(mesh) if mesh.pp > 1 => (
            format!("`offload: cpu` with `pp` {}", mesh.pp),
            "a stage keeps whole parameters and gradients until its step ends: nearest `pp: 1`, or `offload: none`",
        ),
        Strategy::Mesh(mesh) if mesh.dp_shard <= 1 => (
            "`offload: cpu` with a mesh that shards nothing".to_owned(),
            "nearest `dp_shard: 2`, or `offload: none`",
        ),
        Strategy::Mesh(_) => return None,
    };
    Some(Fault { axis: None, message, hint: hint.into() })
}

/// The schedule goes in rounds of at least `pp` micro batches, all of a length.
fn rounds_fault(mesh: &Mesh, flow: &Flow) -> Option<Fault> {
    let global = flow.global_batch.filter(|global| *global > 0)?;
    let (readers, count) = uneven(mesh, flow.workers, global, flow.micro_batch)?;
    let rounds = count / mesh.pp;
    let fits = |micro: &u32| uneven(mesh, flow.workers, global, *micro).is_none();
    let below = (1..flow.micro_batch).rev().take(NEAREST_STEPS_MAX as usize).find(fits);
    let above = (flow.micro_batch + 1..=global).take(NEAREST_STEPS_MAX as usize).find(fits);
    let mut nearest: Vec<String> =
        below.into_iter().chain(above).map(|micro| format!("`micro_batch: {micro}`")).collect();
    if flow.workers.min == flow.workers.max {
        // A multiple of `pp` is always legal, so that neither search goes far.
        let batch = |count: u32| {
            let samples = u64::from(count) * readers * u64::from(flow.micro_batch);
            u32::try_from(samples).ok().map(|samples| format!("`global_batch: {samples}`"))
        };
        let even = |count: &u32| goes_even(*count, mesh.pp);
        nearest.extend((1..count).rev().find(even).and_then(batch));
        nearest.extend((count + 1..=count.saturating_add(mesh.pp)).find(even).and_then(batch));
    }
    nearest.push("`pipeline: 1f1b`".into());
    Some(Fault {
        axis: None,
        message: format!(
            "`pipeline: interleaved` cannot share out {count} micro batches of a step evenly to {rounds} rounds"
        ),
        hint: format!("a round has `pp` {} micro batches or more: nearest {}", mesh.pp, nearest.join(", ")),
    })
}

/// Whether `count` micro batches make rounds of a length.
fn goes_even(count: u32, pp: u32) -> bool {
    count.is_multiple_of((count / pp).max(1))
}

/// The readers and the micro batches of each, of the first world whose micro batches do not make rounds.
fn uneven(mesh: &Mesh, workers: Count, global: u32, micro: u32) -> Option<(u64, u32)> {
    let size = mesh.size();
    let readers_of_mesh = u64::from(mesh.dp_replicate) * u64::from(mesh.dp_shard);
    let micro = u64::from(micro.max(1));
    let (mut meshes, most) = ((u64::from(workers.min) / size).max(1), u64::from(workers.max) / size);
    while meshes <= most {
        let readers = meshes * readers_of_mesh;
        let before = u64::from(global - 1) / (readers * micro);
        let count = u32::try_from(before + 1).unwrap_or(u32::MAX);
        if !goes_even(count, mesh.pp) {
            return Some((readers, count));
        }
        if before == 0 {
            break;
        }
        // The next world that gives a rank fewer micro batches: those in between are as this one.
        meshes = (u64::from(global - 1) / (before * micro) / readers_of_mesh + 1).max(meshes + 1);
    }
    None
}

/// The divisors of `whole` on both sides of `size`, in words.
fn near_divisors(axis: &str, size: u32, whole: u32) -> String {
    let (mut below, mut above) = (1, u32::MAX);
    // Divisors come in pairs around the root: nothing is walked further than that.
    let mut small = 1;
    while u64::from(small) * u64::from(small) <= u64::from(whole) {
        if whole.is_multiple_of(small) {
            for part in [small, whole / small] {
                if part <= size {
                    below = below.max(part);
                } else {
                    above = above.min(part);
                }
            }
        }
        small += 1;
    }
    if above > whole {
        return format!("nearest `{axis}: {below}`");
    }
    format!("nearest `{axis}: {below}` or `{axis}: {above}`")
}

/// The greatest common divisor.
pub fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::model::preset;

    fn found(mesh: Mesh, workers: u32) -> Vec<Fault> {
        let config = preset("llama-8b");
        faults(&mesh, Count::exactly(workers), Some(4096), config.as_ref())
    }

    #[test]
    fn a_legal_mesh_has_no_fault() {
        assert_eq!(found(Mesh { pp: 4, tp: 8, dp_shard: 2, ..Mesh::default() }, 64), []);
    }

    #[test]
    fn heads_that_do_not_divide_name_the_divisors_on_both_sides() {
        let faults = found(Mesh { tp: 3, ..Mesh::default() }, 3);
        assert_eq!(faults[0].axis, Some("tp"));
        assert_eq!(faults[0].hint, "nearest `tp: 2` or `tp: 4`");
    }

    #[test]
    fn more_parts_than_heads_name_the_most() {
        let faults = found(Mesh { tp: 16, ..Mesh::default() }, 16);
        assert_eq!(faults[0].hint, "nearest `tp: 8`");
    }

    #[test]
    fn more_stages_than_layers_name_the_most() {
        let faults = found(Mesh { pp: 64, ..Mesh::default() }, 64);
        assert_eq!(faults[0].message, "`pp` 64 is above the model's 32 layers");
        assert!(faults[0].hint.ends_with("nearest `pp: 32`"), "{}", faults[0].hint);
    }

    #[test]
    fn weights_that_two_stages_would_share_are_refused() {
        let config = LlamaConfig { tie_embeddings: true, ..preset("llama-8b").unwrap() };
        let mesh = Mesh { pp: 2, ..Mesh::default() };
        let faults = faults(&mesh, Count::exactly(2), Some(4096), Some(&config));
        assert_eq!(faults[0].hint, "nearest `pp: 1`, or `tie_embeddings: false`");
    }

    #[test]
    fn a_vocabulary_that_does_not_divide_names_the_next_that_does() {
        let config = LlamaConfig { vocab_size: Some(50_257), ..preset("llama-8b").unwrap() };
        let mesh = Mesh { tp: 8, ..Mesh::default() };
        let faults = faults(&mesh, Count::exactly(8), Some(4096), Some(&config));
        assert!(faults[0].hint.starts_with("a `vocab_size` of 50264,"), "{}", faults[0].hint);
    }

    #[test]
    fn a_product_that_is_not_the_world_names_worlds_and_shards() {
        let faults = found(Mesh { dp_shard: 3, tp: 8, ..Mesh::default() }, 64);
        assert_eq!(faults[0].axis, None);
        assert_eq!(
            faults[0].hint,
            "make the number of workers a multiple of the product of the axes: nearest 48 or 72; \
             or nearest `dp_shard: 2` or `dp_shard: 4`"
        );
    }

    #[test]
    fn a_sequence_that_does_not_divide_names_the_parts_that_do() {
        let faults = found(Mesh { cp: 6, ..Mesh::default() }, 6);
        assert_eq!(faults[0].hint, "nearest `cp: 4` or `cp: 8`");
        assert_eq!(
            faults[0].message,
            "`cp` 6 makes 12 chunks, which do not divide `data.sequence_length` 4096"
        );
        // Parts alone would divide these, their two chunks do not.
        let hint =
            |cp, length| sequence_fault(&Mesh { cp, ..Mesh::default() }, length).map(|fault| fault.hint);
        assert_eq!(hint(4, 12).as_deref(), Some("nearest `cp: 3` or `cp: 6`"));
        assert_eq!(hint(3, 9).as_deref(), Some("nearest `cp: 1`"));
        assert_eq!(hint(3, 12), None);
        assert_eq!(hint(1, 9), None);
    }

    #[test]
    fn a_part_of_a_sequence_that_tensors_cannot_share_names_the_parts_they_can() {
        let config = preset("llama-8b");
        let mesh = Mesh { cp: 2, tp: 8, ..Mesh::default() };
        let faults = faults(&mesh, Count::exactly(16), Some(4104), config.as_ref());
        assert_eq!(faults[0].message, "`tp` 8 does not divide `data.sequence_length` 4104 ÷ `cp` 2");
        assert_eq!(faults[0].hint, "nearest `tp: 6` or `tp: 9`");
    }

    fn interleaved(pp: u32, workers: Count, global_batch: u32, micro_batch: u32) -> Option<Fault> {
        let (pipeline, config) = (Pipeline::Interleaved, preset("llama-8b"));
        let flow = Flow { pipeline, workers, global_batch: Some(global_batch), micro_batch };
        schedule_fault(&Mesh { pp, ..Mesh::default() }, &flow, config.as_ref())
    }

    #[test]
    fn rounds_of_a_length_are_legal_for_every_world() {
        // Whatever torch's ScheduleInterleaved1F1B takes: multiples of `pp`, rounds longer than `pp`, one round.
        for (global, pp) in [(8, 4), (10, 4), (3, 4), (15, 4), (1, 2)] {
            assert_eq!(interleaved(pp, Count::exactly(pp), global, 1), None, "{global} of {pp}");
        }
        assert_eq!(interleaved(2, Count { min: 2, max: 4 }, 16, 2), None);
    }

    #[test]
    fn micro_batches_that_make_no_even_rounds_name_the_nearest_that_do() {
        let fault = interleaved(4, Count::exactly(4), 18, 2).unwrap();
        assert_eq!(
            fault.message,
            "`pipeline: interleaved` cannot share out 9 micro batches of a step evenly to 2 rounds"
        );
        assert_eq!(
            fault.hint,
            "a round has `pp` 4 micro batches or more: nearest `micro_batch: 3`, \
             `global_batch: 16`, `global_batch: 20`, `pipeline: 1f1b`"
        );
    }

    #[test]
    fn each_world_of_an_elastic_run_is_looked_at() {
        // 12 micro batches of one mesh, 6 of two, 4 of three, 3 of four; 36 of `pp` 2: 36, 18, 12, 9.
        assert_eq!(interleaved(2, Count { min: 2, max: 6 }, 36, 1), None);
        let fault = interleaved(2, Count { min: 2, max: 8 }, 36, 1).unwrap();
        assert!(fault.message.contains("9 micro batches"), "{}", fault.message);
        assert!(!fault.hint.contains("global_batch"), "{}", fault.hint);
    }

    #[test]
    fn the_jump_between_worlds_misses_none() {
        for global in 1_u32..80 {
            for max in 1..40 {
                let one_by_one = (1..=max)
                    .map(|readers: u32| global.div_ceil(readers * 2))
                    .find(|count| !goes_even(*count, 3));
                let mesh = Mesh { pp: 3, ..Mesh::default() };
                let found = uneven(&mesh, Count { min: 3, max: 3 * max }, global, 2);
                assert_eq!(found.map(|(_, count)| count), one_by_one, "{global} samples, {max} meshes");
            }
        }
    }

    #[test]
    fn two_stages_a_worker_need_the_layers_for_them() {
        let fault = interleaved(32, Count::exactly(32), 64, 1).unwrap();
        assert_eq!(
            fault.message,
            "`pipeline: interleaved` makes 64 stages of `pp` 32, above the model's 32 layers"
        );
        assert!(fault.hint.ends_with("nearest `pp: 16`, or `pipeline: 1f1b`"), "{}", fault.hint);
        assert!(interleaved(1, Count::exactly(1), 64, 1).unwrap().hint.starts_with("nearest `pp: 2`"));
    }

    #[test]
    fn only_shards_lie_on_the_host() {
        let fault = |strategy| offload_fault(strategy, Offload::Cpu);
        let mesh = |mesh| fault(Strategy::Mesh(mesh));
        assert_eq!(fault(Strategy::Named(NamedStrategy::Fsdp2)), None);
        assert_eq!(mesh(Mesh { dp_shard: 2, tp: 2, ..Mesh::default() }), None);
        assert!(
            fault(Strategy::Named(NamedStrategy::Ddp)).unwrap().hint.ends_with("nearest `strategy: fsdp2`")
        );
        assert!(mesh(Mesh { tp: 2, ..Mesh::default() }).unwrap().hint.starts_with("nearest `dp_shard: 2`"));
        assert_eq!(
            mesh(Mesh { pp: 2, dp_shard: 2, ..Mesh::default() }).unwrap().message,
            "`offload: cpu` with `pp` 2"
        );
        assert_eq!(offload_fault(Strategy::Named(NamedStrategy::Ddp), Offload::None), None);
    }

    #[test]
    fn an_axis_of_nothing_is_a_fault_of_its_own() {
        assert_eq!(found(Mesh { dp_shard: 0, ..Mesh::default() }, 8)[0].axis, Some("dp_shard"));
    }
}
