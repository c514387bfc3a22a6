//! Which meshes a model and its workers allow, and which legal ones lie next to a refused one.
//!
//! The checks of a spec and whoever looks for a strategy ask the same functions.

use crate::types::LlamaConfig;
use crate::types::train::Mesh;
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

/// Between its blocks, each part of a tensor has a part of the sequence too.
fn sequence_fault(mesh: &Mesh, length: u32) -> Option<Fault> {
    let (axis, size, whole, what) = if !length.is_multiple_of(mesh.cp) {
        ("cp", mesh.cp, length, String::new())
    } else if !(length / mesh.cp).is_multiple_of(mesh.tp) {
        let parts = if mesh.cp > 1 { format!(" ÷ `cp` {}", mesh.cp) } else { String::new() };
        ("tp", mesh.tp, length / mesh.cp, parts)
    } else {
        return None;
    };
    let message = format!("`{axis}` {size} does not divide `data.sequence_length` {length}{what}");
    Some(Fault { axis: Some(axis), message, hint: near_divisors(axis, size, whole) })
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
    }

    #[test]
    fn a_part_of_a_sequence_that_tensors_cannot_share_names_the_parts_they_can() {
        let config = preset("llama-8b");
        let mesh = Mesh { cp: 2, tp: 8, ..Mesh::default() };
        let faults = faults(&mesh, Count::exactly(16), Some(4104), config.as_ref());
        assert_eq!(faults[0].message, "`tp` 8 does not divide `data.sequence_length` 4104 ÷ `cp` 2");
        assert_eq!(faults[0].hint, "nearest `tp: 6` or `tp: 9`");
    }

    #[test]
    fn an_axis_of_nothing_is_a_fault_of_its_own() {
        assert_eq!(found(Mesh { dp_shard: 0, ..Mesh::default() }, 8)[0].axis, Some("dp_shard"));
    }
}
