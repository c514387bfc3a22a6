//! Properties, published figures, and refusals.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use eagleray_spec::types::train::Mesh;
use eagleray_spec::types::{Count, Offload, Pipeline, Precision, model};
use proptest::prelude::*;

use crate::accelerator::{accelerator, instance};
use crate::{Device, Layout, Moment, Part, Recompute, Setting, Shape, Term, Traits, choose, fewest, memory};

fn preset(name: &str, vocab_size: u32) -> Shape {
    Shape::new(&model::preset(name).unwrap(), Some(vocab_size))
}

fn setting(layout: Layout, world: u32) -> Setting {
    Setting {
        layout,
        world,
        sequence_length: 4096,
        micro_batch: 1,
        global_batch: None,
        precision: Precision::Bf16,
        recompute: Recompute::None,
        pipeline: Pipeline::default(),
        offload: Offload::None,
        device: Device::Gpu,
    }
}

/// `found` lies within `share` of `wanted`.
fn near(found: f64, wanted: f64, share: f64) {
    assert!((found / wanted - 1.0).abs() <= share, "expected {wanted} within {share}, found {found}");
}

#[test]
fn published_parameter_counts_are_met_exactly() {
    // The totals of the published checkpoints' own indices.
    assert_eq!(preset("llama-7b", 32_000).parameters(), 6_738_415_616);
    assert_eq!(preset("llama-13b", 32_000).parameters(), 13_015_864_320);
    assert_eq!(preset("llama-8b", 128_256).parameters(), 8_030_261_248);
    assert_eq!(preset("llama-70b", 128_256).parameters(), 70_553_706_496);
    assert_eq!(preset("llama-1b", 128_256).parameters(), 1_235_814_400);
}

#[test]
fn mixed_precision_adam_takes_sixteen_bytes_a_parameter() {
    // ZeRO, section 3.1: 16 bytes with Adam, 120 GB for 7.5 B parameters.
    let shape = preset("llama-7b", 32_000);
    let usage = memory(&shape, &setting(Layout::Ddp, 1)).unwrap().peak;
    let state: u64 =
        [Term::Parameters, Term::Gradients, Term::Optimizer].iter().map(|t| usage.term(*t)).sum();
    assert_eq!(state, 16 * shape.parameters());
    near(state as f64 / 1e9, 120.0 * 6.738 / 7.5, 0.01);
}

#[test]
fn zero3_agrees_with_deepspeed_s_own_estimate() {
    // estimate_zero3_model_states_mem_needs without offload: 18 bytes a parameter over all GPUs.
    let shape = preset("llama-13b", 32_000);
    let usage = memory(&shape, &setting(Layout::Zero3, 16)).unwrap().peak;
    let state: u64 =
        [Term::Parameters, Term::Gradients, Term::Optimizer].iter().map(|t| usage.term(*t)).sum();
    near(state as f64, 18.0 * shape.parameters() as f64 / 16.0, 1e-6);
}

#[test]
fn the_stages_before_it_have_whole_parameters() {
    // estimate_zero2_model_states_mem_needs without offload: 2 bytes a parameter on each GPU, and 18 over all, of
    // which 2 are gradients in bf16: summed up in fp32 at once, they are not kept.
    let shape = preset("llama-13b", 32_000);
    let parameters = shape.parameters() as f64;
    let state = |layout| {
        let usage = memory(&shape, &setting(layout, 16)).unwrap().peak;
        [Term::Parameters, Term::Gradients, Term::Optimizer].iter().map(|t| usage.term(*t)).sum::<u64>()
            as f64
    };
    near(state(Layout::Zero2), 2.0 * parameters + 16.0 * parameters / 16.0, 1e-6);
    near(state(Layout::Zero1), 6.0 * parameters + 12.0 * parameters / 16.0, 1e-6);
}

#[test]
fn activations_agree_with_korthikanti_where_the_models_do() {
    // Korthikanti et al. 2022, equation 1 without scores, dropout and mask: with f = 4h and as many key
    // heads as heads, 34 sbh less the three masks (3 sbh) is 31 sbh bytes. GELU has two wide tensors where
    // SwiGLU has four: 2 · 2 · 4 sbh more; one norm output is shared by q, k and v in both.
    let h = 4096_u64;
    let shape = Shape {
        vocab_size: 32_000,
        hidden_size: h,
        intermediate_size: 4 * h,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: 32,
        tie_embeddings: false,
        traits: Traits::default(),
    };
    let one = Setting { sequence_length: 2048, ..setting(Layout::Fsdp2, 64) };
    let kept = |shape: &Shape| memory(shape, &one).unwrap().moments[0].term(Term::Activations) as f64;
    let layer = kept(&shape) - kept(&Shape { num_layers: 31, ..shape });
    near(layer / (2048.0 * h as f64), 31.0 + 16.0, 0.05);
}

#[test]
fn full_recomputation_keeps_two_bytes_an_element_of_each_layer_s_input() {
    // Korthikanti et al. 2022, table 2: full recomputation keeps 2sbh a layer.
    let shape = preset("llama-8b", 128_256);
    let full = Setting { recompute: Recompute::Full, ..setting(Layout::Fsdp2, 8) };
    let kept = |shape: &Shape| memory(shape, &full).unwrap().moments[0].term(Term::Activations);
    let layer = kept(&shape) - kept(&Shape { num_layers: 31, ..shape });
    assert_eq!(layer, 2 * 4096 * 4096);
}

#[test]
fn tensors_are_the_same_share_of_what_torchtitan_s_allocator_reserved_in_four_settings() {
    // Its account of December 2024: Llama 3.1 8B on H100s, FSDP2, bf16. It shows what the allocator
    // reserved, which is more than tensors hold; the share says by how much, and is no fit.
    let eight = preset("llama-8b", 128_256);
    let shards = |dp_shard, cp| Layout::Mesh(Mesh { dp_shard, cp, ..Mesh::default() });
    let measured = [
        (8, 8192, 2, Recompute::Selective, Layout::Fsdp2, 82.4),
        (128, 8192, 2, Recompute::Selective, Layout::Fsdp2, 67.0),
        (8, 32_768, 1, Recompute::Full, Layout::Fsdp2, 83.9),
        (8, 131_072, 1, Recompute::Full, shards(2, 4), 84.0),
    ];
    for (world, sequence_length, micro_batch, recompute, layout, reserved_gib) in measured {
        let given = Setting { sequence_length, micro_batch, recompute, ..setting(layout, world) };
        let tensors_gib = memory(&eight, &given).unwrap().peak.bytes as f64 / f64::from(1 << 30);
        let share = tensors_gib / reserved_gib;
        assert!((0.85..0.88).contains(&share), "{share} of {reserved_gib} GiB on {world} workers");
    }
}

#[test]
fn what_torchtitan_reports_as_running_fits_and_what_ran_out_does_not() {
    // Its account of 2024: Llama 2 on 64 A100-80, FSDP2, samples of 4,096 tokens.
    let memory_of = |name: &str, micro_batch, recompute| {
        let given = Setting { micro_batch, recompute, ..setting(Layout::Fsdp2, 64) };
        memory(&preset(name, 32_000), &given).unwrap().peak.bytes
    };
    let usable = accelerator("A100-80").unwrap().usable_bytes();
    assert!(memory_of("llama-13b", 2, Recompute::None) < usable);
    assert!(memory_of("llama-70b", 1, Recompute::Selective) < usable);
    assert!(memory_of("llama-70b", 2, Recompute::Selective) > usable);
    assert!(memory_of("llama-70b", 2, Recompute::Full) < usable);
}

#[test]
fn sixteen_bytes_a_parameter_decide_how_many_devices_a_model_needs_at_least() {
    // 7B: 100 GiB of state; 70B: 1,028 GiB.
    let node = instance("p4de.24xlarge").unwrap();
    let full = Setting { recompute: Recompute::Full, sequence_length: 2048, ..setting(Layout::Ddp, 1) };
    assert_eq!(fewest(&preset("llama-7b", 32_000), &full, node).unwrap().world, 2);
    assert_eq!(fewest(&preset("llama-70b", 32_000), &full, node).unwrap().world, 16);
}

#[test]
fn a_pipeline_s_first_stage_holds_as_many_micro_batches_as_there_are_stages() {
    let shape = Shape { num_layers: 32, ..preset("llama-8b", 128) };
    let activations = |pp: u32, global_batch: Option<u32>| {
        let mesh = Layout::Mesh(Mesh { pp, ..Mesh::default() });
        let found = memory(&shape, &Setting { global_batch, ..setting(mesh, pp) }).unwrap();
        found.moments.iter().find(|usage| usage.moment == Moment::Backward).unwrap().term(Term::Activations)
    };
    // A quarter of the layers, four times over: what one device held.
    near(activations(4, None) as f64, activations(1, None) as f64, 0.02);
    // With one micro batch a step there is never more than one in flight.
    near(activations(4, Some(1)) as f64, activations(1, None) as f64 / 4.0, 0.02);
}

#[test]
fn two_stages_a_worker_hold_more_micro_batches_of_half_the_layers() {
    let shape = Shape { num_layers: 32, ..preset("llama-8b", 128) };
    let activations = |pipeline, global_batch| {
        let mesh = Layout::Mesh(Mesh { pp: 4, ..Mesh::default() });
        let found = memory(&shape, &Setting { global_batch, pipeline, ..setting(mesh, 4) }).unwrap();
        found.moments.iter().find(|usage| usage.moment == Moment::Backward).unwrap().term(Term::Activations)
    };
    let plain = activations(Pipeline::OneForwardOneBackward, Some(64)) as f64;
    // Of four ranks the first is 4 + 2 · 3 ahead and takes one more: 11 micro batches of half a stage, not 4 of one.
    near(activations(Pipeline::Interleaved, Some(64)) as f64 / plain, 11.0 / 8.0, 0.02);
    // Ten micro batches make two rounds of five.
    near(activations(Pipeline::Interleaved, Some(10)) as f64 / plain, 12.0 / 8.0, 0.02);
    // One micro batch passes both stages before it comes back.
    near(activations(Pipeline::Interleaved, Some(1)) as f64 / plain, 2.0 / 8.0, 0.02);
}

#[test]
fn what_lies_on_the_host_is_off_the_device_and_counted_apart() {
    let shape = preset("llama-8b", 128_256);
    let on_device = memory(&shape, &setting(Layout::Fsdp2, 8)).unwrap();
    let offloaded = memory(&shape, &Setting { offload: Offload::Cpu, ..setting(Layout::Fsdp2, 8) }).unwrap();
    assert_eq!(on_device.host_bytes, 0);
    let state = 16 * shape.parameters() / 8;
    let root = 4 * 128_256 * 4096 / 8;
    assert_eq!(offloaded.host_bytes, state + root);
    for usage in &offloaded.moments {
        for term in [Term::Parameters, Term::Gradients, Term::Optimizer] {
            assert_eq!(usage.term(term), 0);
        }
    }
    // What goes is the state; what comes is a passage for two layers.
    assert!(offloaded.peak.bytes + state < on_device.peak.bytes + state / 8);
    let error = memory(&shape, &Setting { offload: Offload::Cpu, ..setting(Layout::Ddp, 8) }).unwrap_err();
    assert_eq!(error.message(), "`offload: cpu` with `strategy: ddp`");
}

#[test]
fn auto_with_state_on_the_host_never_takes_whole_models() {
    let offload = Setting { offload: Offload::Cpu, ..setting(Layout::Ddp, 1) };
    let node = instance("p5.48xlarge").unwrap();
    let found = choose(&preset("llama-125m", 32_000), &offload, Count::exactly(1), node).unwrap();
    assert_eq!(found.chosen.strategy, Layout::Fsdp2);
}

#[test]
fn two_stages_a_worker_hold_what_the_layers_of_both_need() {
    let shape = preset("llama-8b", 128_256);
    for pp in [2, 3, 5, 16] {
        let parts: Vec<Part> = (0..pp).map(|rank| Part::stages(&shape, rank, pp, 2, 1)).collect();
        let sum: u128 = parts.iter().map(|part| shape.parameters_of(part)).sum();
        assert_eq!(sum, u128::from(shape.parameters()));
    }
    let uneven = Part::stages(&Shape { num_layers: 7, ..shape }, 1, 3, 2, 1);
    assert_eq!((uneven.num_layers, uneven.stage_layers), (2, 1));
}

#[test]
fn stages_share_out_every_layer_and_nothing_twice() {
    let shape = preset("llama-8b", 128_256);
    for pp in [1, 2, 3, 5, 32] {
        let parts: Vec<Part> = (0..pp).map(|stage| Part::stage(&shape, stage, pp, 1)).collect();
        let sum: u128 = parts.iter().map(|part| shape.parameters_of(part)).sum();
        assert_eq!(sum, u128::from(shape.parameters()));
    }
}

#[test]
fn what_no_world_can_run_is_refused_with_the_nearest_that_can() {
    let shape = preset("llama-8b", 128_256);
    let tp = Layout::Mesh(Mesh { tp: 3, ..Mesh::default() });
    let error = memory(&shape, &setting(tp, 3)).unwrap_err();
    assert_eq!(error.message(), "`tp` 3 does not divide the model's 8 key heads");
    assert_eq!(error.hint(), Some("nearest `tp: 2` or `tp: 4`"));
    assert!(memory(&shape, &setting(Layout::Ddp, 0)).is_err());
    assert!(memory(&Shape { num_heads: 0, ..shape }, &setting(Layout::Ddp, 1)).is_err());
}

#[test]
fn auto_takes_the_simplest_that_fits_and_says_what_it_rejected() {
    let node = instance("p5.48xlarge").unwrap();
    let taken = |name: &str, world: u32| {
        let found = choose(&preset(name, 128_256), &setting(Layout::Ddp, 1), Count::exactly(world), node);
        found.unwrap()
    };
    assert_eq!(taken("llama-125m", 8).chosen.strategy, Layout::Ddp);
    let eight = taken("llama-8b", 8);
    assert_eq!(eight.chosen.strategy, Layout::Fsdp2);
    assert_eq!(eight.rejected.len(), 1);
    assert_eq!(eight.rejected[0].strategy, Layout::Ddp);
    assert_eq!(eight.rejected[0].needed_bytes - eight.budget_bytes, eight.rejected[0].excess_bytes);
    insta::assert_snapshot!(eight.explain().join("\n"));
}

#[test]
fn auto_refuses_where_nothing_fits() {
    let node = instance("g5.48xlarge").unwrap();
    let shape = preset("llama-70b", 128_256);
    let error = choose(&shape, &setting(Layout::Ddp, 1), Count::exactly(8), node).unwrap_err();
    insta::assert_snapshot!(error.render());
}

#[test]
fn instances_carry_the_accelerators_that_their_makers_say() {
    assert_eq!(instance("p4de.24xlarge").unwrap().accelerator.name, "A100-80");
    assert_eq!(instance("g5.12xlarge").unwrap().num_accelerators, 4);
    assert_eq!(instance("m7i.8xlarge"), None);
    assert_eq!(instance("g5.metal"), None);
}

#[test]
fn numbers_beyond_all_devices_saturate_and_do_not_panic() {
    let huge = 1 << 28;
    let shape = Shape {
        vocab_size: huge,
        hidden_size: huge,
        intermediate_size: huge,
        num_layers: huge,
        num_heads: 1,
        num_kv_heads: 1,
        tie_embeddings: false,
        traits: Traits::default(),
    };
    let most = Setting { sequence_length: u32::MAX, micro_batch: u32::MAX, ..setting(Layout::Ddp, u32::MAX) };
    assert_eq!(memory(&shape, &most).unwrap().peak.bytes, u64::MAX);
    assert!(memory(&Shape { hidden_size: u64::MAX, ..shape }, &most).is_err());
}

fn shapes() -> impl Strategy<Value = Shape> {
    (1_u64..9, 1_u64..65, 1_u64..5000, 1_u64..40, 0_u32..4, any::<bool>()).prop_map(
        |(heads, width, inner, layers, doublings, tie_embeddings)| Shape {
            vocab_size: 1000 * width,
            hidden_size: 8 * heads * width,
            intermediate_size: inner,
            num_layers: layers,
            num_heads: heads << doublings,
            num_kv_heads: heads,
            tie_embeddings,
            traits: Traits::default(),
        },
    )
}

fn settings() -> impl Strategy<Value = Setting> {
    let layouts = prop_oneof![
        Just(Layout::Ddp),
        Just(Layout::Fsdp2),
        Just(Layout::Zero1),
        Just(Layout::Zero2),
        Just(Layout::Zero3)
    ];
    let recompute = prop_oneof![Just(Recompute::None), Just(Recompute::Selective), Just(Recompute::Full)];
    let precision = prop_oneof![Just(Precision::Fp32), Just(Precision::Bf16)];
    let device = prop_oneof![Just(Device::Gpu), Just(Device::Cpu)];
    (layouts, recompute, precision, device, 1_u32..512, 1_u32..8192, 1_u32..16).prop_map(
        |(layout, recompute, precision, device, world, sequence_length, micro_batch)| Setting {
            layout,
            world,
            sequence_length,
            micro_batch,
            global_batch: None,
            precision,
            recompute,
            pipeline: Pipeline::default(),
            offload: Offload::None,
            device,
        },
    )
}

proptest! {
    #[test]
    fn more_workers_never_need_more(shape in shapes(), setting in settings(), more in 1_u32..64) {
        let few = memory(&shape, &setting).unwrap().peak.bytes;
        let many = memory(&shape, &Setting { world: setting.world + more, ..setting }).unwrap().peak.bytes;
        prop_assert!(many <= few, "{many} of more workers, {few} of fewer");
    }

    #[test]
    fn a_moment_is_the_sum_of_its_terms_and_the_peak_the_fullest(shape in shapes(), setting in settings()) {
        let found = memory(&shape, &setting).unwrap();
        for usage in &found.moments {
            prop_assert_eq!(usage.bytes, usage.terms.iter().sum::<u64>());
            prop_assert!(usage.bytes <= found.peak.bytes);
        }
    }

    #[test]
    fn longer_samples_and_larger_micro_batches_never_need_less(shape in shapes(), setting in settings()) {
        let bytes = |setting: Setting| memory(&shape, &setting).unwrap().peak.bytes;
        let longer = Setting { sequence_length: setting.sequence_length + 1, ..setting };
        let wider = Setting { micro_batch: setting.micro_batch + 1, ..setting };
        prop_assert!(bytes(longer) >= bytes(setting));
        prop_assert!(bytes(wider) >= bytes(setting));
    }

    #[test]
    fn what_is_computed_again_is_not_kept(shape in shapes(), setting in settings()) {
        let kept = Recompute::ALL.map(|recompute| {
            memory(&shape, &Setting { recompute, ..setting }).unwrap().moments[0].term(Term::Activations)
        });
        prop_assert!(kept[0] >= kept[2] && kept[1] >= kept[2], "{kept:?}");
    }

    #[test]
    fn shards_of_all_devices_sum_up_to_the_model(shape in shapes(), world in 1_u32..300) {
        let usage = memory(&shape, &setting(Layout::Fsdp2, world)).unwrap().peak;
        let sum = usage.term(Term::Optimizer) * u64::from(world);
        let wanted = 8 * shape.parameters();
        prop_assert!(sum >= wanted && sum < wanted + 8 * u64::from(world), "{sum} for {wanted}");
    }

    #[test]
    fn tensor_parts_never_need_more_than_the_whole(doubling in 0_u32..4, sequence in 1_u32..500) {
        let shape = preset("llama-8b", 32_000);
        let bytes = |tp: u32| {
            let mesh = Layout::Mesh(Mesh { tp, ..Mesh::default() });
            memory(&shape, &Setting { sequence_length: 8 * sequence, ..setting(mesh, tp) }).unwrap().peak.bytes
        };
        prop_assert!(bytes(1 << doubling) <= bytes(1));
    }
}
