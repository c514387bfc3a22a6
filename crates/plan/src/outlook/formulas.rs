//! The formulas, each a function of plain numbers. `docs/plan.md` has them with their sources.

use crate::band::Band;

/// Seconds that lie between two saves under `checkpoint.every: auto`, at least and at most: the driver's bounds.
pub const AUTO_SECONDS: Band = Band { low: 30.0, high: 1_800.0 };

/// `workers × peak × MFU ÷ FLOPs per token`.
pub fn tokens_per_second(workers: u32, peak_flops: f64, mfu: f64, flops_per_token: f64) -> f64 {
    f64::from(workers) * peak_flops * mfu / flops_per_token
}

/// The seconds between two failures of a fleet: one over the sum of all nodes' rates; infinite without nodes.
pub fn fleet_mtbf(spot_nodes: u32, spot_mtbf: f64, nodes: u32, node_mtbf: f64) -> f64 {
    1.0 / (f64::from(spot_nodes) / spot_mtbf + f64::from(nodes) / node_mtbf)
}

/// The interval of Young: `√(2·δ·MTBF)`, but never shorter than a save takes, and within the driver's bounds.
pub fn interval(stall: f64, background: f64, mtbf: f64) -> f64 {
    (2.0 * stall * mtbf).sqrt().max(background).clamp(AUTO_SECONDS.low, AUTO_SECONDS.high)
}

/// The share of time that is useful: `1 − δ/T − (T/2 + R)/MTBF`, never below 0.
pub fn ettr(stall: f64, interval: f64, recovery: f64, mtbf: f64) -> f64 {
    (1.0 - stall / interval - (interval / 2.0 + recovery) / mtbf).clamp(0.0, 1.0)
}

/// The prefixes over which so many GETs a second are spread: S3 is asked for 3,000 of each at most.
pub fn prefixes(gets_per_second: f64) -> f64 {
    (gets_per_second / GETS_OF_A_PREFIX).ceil().max(1.0)
}

/// Of the 5,500 that S3 promises for a prefix, with room for retries.
pub const GETS_OF_A_PREFIX: f64 = 3_000.0;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_yardstick_is_met() {
        // 16 spot nodes at 24 h each fail every 90 minutes.
        let mtbf = fleet_mtbf(16, 86_400.0, 0, 1.0);
        assert!((mtbf - 5_400.0).abs() < 1e-6);
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 0.0006, "{found} {wanted}");
        near(ettr(0.5, 73.0, 15.0, mtbf), 0.984);
        near(ettr(0.5, 73.0, 15.0, mtbf), 1.0 - 0.5 / 73.0 - 51.5 / 5_400.0);
        // The interval of that row is the one that the formula finds.
        assert!((interval(0.5, 10.0, mtbf) - 73.48).abs() < 0.01);
    }

    #[test]
    fn a_fleet_without_failures_loses_stalls_alone() {
        let mtbf = fleet_mtbf(0, 86_400.0, 0, 1.0);
        assert!(mtbf.is_infinite());
        assert!((interval(1.0, 10.0, mtbf) - AUTO_SECONDS.high).abs() < 1e-9);
        assert!((ettr(1.8, 1_800.0, 15.0, mtbf) - 0.999).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn more_of_what_hurts_never_helps(
            stall in 0.01..100.0_f64, more in 1.0..10.0_f64, gap in 30.0..1_800.0_f64,
            recovery in 0.0..500.0_f64, mtbf in 60.0..1e7_f64,
        ) {
            let base = ettr(stall, gap, recovery, mtbf);
            prop_assert!((0.0..=1.0).contains(&base));
            prop_assert!(ettr(stall * more, gap, recovery, mtbf) <= base);
            prop_assert!(ettr(stall, gap, recovery * more, mtbf) <= base);
            prop_assert!(ettr(stall, gap, recovery, mtbf * more) >= base);
        }

        #[test]
        fn no_interval_between_the_bounds_is_better_than_the_found_one(
            stall in 0.01..20.0_f64, recovery in 0.0..100.0_f64, mtbf in 600.0..1e6_f64, other in 30.0..1_800.0_f64,
        ) {
            let best = ettr(stall, interval(stall, 0.0, mtbf), recovery, mtbf);
            prop_assert!(ettr(stall, other, recovery, mtbf) <= best + 1e-9);
        }

        #[test]
        fn saves_never_overlap_and_come_more_seldom_where_less_fails(
            stall in 0.01..20.0_f64, background in 0.0..1_800.0_f64, mtbf in 60.0..1e7_f64, more in 1.0..10.0_f64,
        ) {
            let found = interval(stall, background, mtbf);
            prop_assert!(found >= background);
            prop_assert!(interval(stall, background, mtbf * more) >= found);
            prop_assert!(interval(stall, background * more, mtbf) >= found);
        }

        #[test]
        fn more_nodes_fail_more_often(spot in 0_u32..1_000, nodes in 1_u32..1_000, more in 1_u32..1_000) {
            let base = fleet_mtbf(spot, 86_400.0, nodes, 2e7);
            prop_assert!(fleet_mtbf(spot + more, 86_400.0, nodes, 2e7) < base);
            prop_assert!(fleet_mtbf(spot, 86_400.0, nodes + more, 2e7) < base);
        }

        #[test]
        fn tokens_grow_with_workers_and_shrink_with_their_cost(
            workers in 1_u32..10_000, mfu in 0.01..1.0_f64, flops in 1e6..1e13_f64,
        ) {
            let base = tokens_per_second(workers, 989e12, mfu, flops);
            prop_assert!(tokens_per_second(workers + 1, 989e12, mfu, flops) > base);
            prop_assert!(tokens_per_second(workers, 989e12, mfu, flops * 2.0) < base);
            prop_assert!(prefixes(base) >= 1.0 && prefixes(base * 2.0) >= prefixes(base));
        }
    }
}
