//! The bars that a shuffle has to clear, and that affine maps do not.

use eagleray_base::{Digest, mix64};
use proptest::prelude::*;

use super::Permutation;

fn keyed(len: u64, key: u64) -> Permutation {
    Permutation::new(len, &Digest::of(&key.to_le_bytes()))
}

/// Pearson's statistic of counts against equal expectation, as standard deviations from its mean.
fn chi_square_deviation(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let expected = total as f64 / counts.len() as f64;
    let statistic: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
    let freedom = counts.len() as f64 - 1.0;
    (statistic - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn every_small_domain_is_permuted_whole() {
    for len in (1..=300).chain([1023, 1024, 1025, 4095, 4097]) {
        for key in 0..3 {
            let permutation = keyed(len, key);
            let mut seen = vec![false; len as usize];
            for value in 0..len {
                let image = permutation.apply(value);
                assert!(!std::mem::replace(&mut seen[image as usize], true), "len {len}: {image} twice");
                assert_eq!(permutation.invert(image), value);
            }
        }
    }
}

#[test]
fn golden_vectors_are_frozen() {
    let images = |len: u64| (0..6).map(|value| keyed(len, 17).apply(value)).collect::<Vec<_>>();
    let found = [images(10), images(1_000_003), images(1 << 40)];
    assert_eq!(found, GOLDEN);
}

const GOLDEN: [[u64; 6]; 3] = [
    [7, 8, 0, 3, 5, 9],
    [82_561, 651_538, 400_778, 385_270, 175_076, 310_964],
    [469_095_742_063, 997_621_417_604, 789_967_017_642, 780_679_863_950, 45_170_442_679, 421_900_897_518],
];

#[test]
fn windows_of_a_domain_with_round_size_have_random_low_and_high_bits() {
    for len in [1_u64 << 20, 1_000_000, 999_983] {
        for bits in [1, 3, 6] {
            let permutation = keyed(len, 5);
            let (mut low, mut high) = (vec![0; 1 << bits], vec![0; 1 << bits]);
            for value in 0..8192 {
                let image = permutation.apply(value);
                low[(image & ((1 << bits) - 1)) as usize] += 1;
                high[((u128::from(image) << bits) / u128::from(len)) as usize] += 1;
            }
            for counts in [low, high] {
                let deviation = chi_square_deviation(&counts);
                assert!(deviation.abs() < 5.0, "len {len}, {bits} bits: {deviation} deviations");
            }
        }
    }
}

#[test]
fn the_first_images_of_a_power_of_two_are_not_all_even() {
    let even = (0..1024).filter(|&value| keyed(1 << 20, 1).apply(value).is_multiple_of(2)).count();
    assert!((400..=624).contains(&even), "{even} of 1024");
}

#[test]
fn neighbours_are_uncorrelated_at_every_lag() {
    let len = 1_u64 << 20;
    let permutation = keyed(len, 9);
    let images: Vec<f64> =
        (0..50_000).map(|value| permutation.apply(value) as f64 / len as f64 - 0.5).collect();
    for lag in [1, 2, 3, 7, 64, 1024, 1025] {
        let pairs = images.len() - lag;
        let covariance: f64 = (0..pairs).map(|i| images[i] * images[i + lag]).sum::<f64>() / pairs as f64;
        // The variance of a uniform variable is 1/12; the estimate's standard deviation is about 1/√pairs.
        let correlation = covariance * 12.0;
        assert!(correlation.abs() < 5.0 / (pairs as f64).sqrt(), "lag {lag}: {correlation}");
    }
}

#[test]
fn strides_between_neighbours_do_not_repeat() {
    let permutation = keyed(1 << 30, 3);
    let images: Vec<u64> = (0..10_000).map(|value| permutation.apply(value)).collect();
    let mut strides: Vec<u64> = images.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    strides.sort_unstable();
    strides.dedup();
    assert!(strides.len() > 9_900, "{} distinct strides", strides.len());
}

#[test]
fn values_move_as_far_as_under_a_fisher_yates_shuffle() {
    let len = 100_000_u64;
    let permutation = keyed(len, 21);
    let displacement = |image: &dyn Fn(u64) -> u64| {
        (0..len).map(|value| value.abs_diff(image(value)) as f64).sum::<f64>() / len as f64 / len as f64
    };
    let mut shuffled: Vec<u64> = (0..len).collect();
    let mut state = 1;
    for i in (1..len as usize).rev() {
        state = mix64(state + i as u64);
        shuffled.swap(i, (state % (i as u64 + 1)) as usize);
    }
    let ours = displacement(&|value| permutation.apply(value));
    let theirs = displacement(&|value| shuffled[value as usize]);
    assert!((ours - theirs).abs() < 0.005, "mean displacement {ours} of the length, Fisher–Yates {theirs}");
}

#[test]
fn fixed_points_are_as_rare_as_chance_makes_them() {
    let fixed: usize =
        (0..200).map(|key| (0..1000).filter(|&v| keyed(1000, key).apply(v) == v).count()).sum();
    // One is expected per permutation, with variance one.
    assert!((130..=270).contains(&fixed), "{fixed} fixed points in 200 permutations");
}

#[test]
fn every_image_of_a_tiny_domain_is_as_likely_under_random_keys() {
    let mut counts = vec![0; 24];
    for key in 0..24_000 {
        let permutation = keyed(4, key);
        let images: Vec<u64> = (0..4).map(|value| permutation.apply(value)).collect();
        let mut code = 0;
        for (i, image) in images.iter().enumerate() {
            let smaller = images[i + 1..].iter().filter(|&later| later < image).count();
            code = code * (4 - i) + smaller;
        }
        counts[code] += 1;
    }
    assert!(counts.iter().all(|&count| count > 700), "{counts:?}");
}

proptest! {
    #[test]
    fn the_inverse_inverts_at_any_size(len in 1_u64..(1 << 63), key: u64, value: u64) {
        let permutation = keyed(len, key);
        let value = value % len;
        let image = permutation.apply(value);
        prop_assert!(image < len);
        prop_assert_eq!(permutation.invert(image), value);
    }
}
