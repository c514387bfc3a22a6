//! What every step is checked by: 64-bit digests of samples, summed over a batch.
//!
//! Sums wrap, so they do not depend on the order of the samples or on how ranks share them.

use eagleray_base::{Digest, mix64};

/// 2⁶⁴ divided by the golden ratio: keeps a zero from being a fixed point of the mixer.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const ORDER: u64 = u64::from_le_bytes(*b"er order");
const TOKENS: u64 = u64::from_le_bytes(*b"er token");

/// The key of a source in digests: the first eight bytes of the BLAKE3 of its name, little-endian.
pub fn source_key(name: &str) -> u64 {
    Digest::of(name.as_bytes()).as_key()
}

/// The order digest of one sample: which sample stands at which position.
pub fn order_digest(position: u64, source_key: u64, epoch: u64, index: u64) -> u64 {
    [position, source_key, epoch, index].into_iter().fold(ORDER, absorb)
}

/// The token digest of one sample: `crc` is the CRC-32C of its tokens, then its labels, as u32 little-endian.
pub fn token_digest(position: u64, crc: u32) -> u64 {
    [position, u64::from(crc)].into_iter().fold(TOKENS, absorb)
}

fn absorb(state: u64, word: u64) -> u64 {
    mix64((state ^ word).wrapping_add(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_digests_are_frozen() {
        let found = [
            source_key("web"),
            order_digest(0, 0, 0, 0),
            order_digest(7, source_key("web"), 1, 99),
            token_digest(7, 5),
        ];
        assert_eq!(found, GOLDEN);
    }

    const GOLDEN: [u64; 4] = [
        6_031_893_456_108_606_744,
        15_917_023_822_938_989_631,
        7_578_473_938_441_265_482,
        1_744_174_893_698_542_957,
    ];

    #[test]
    fn every_part_counts() {
        let base = order_digest(1, 2, 3, 4);
        let others = [
            order_digest(2, 1, 3, 4),
            order_digest(1, 2, 4, 3),
            order_digest(1, 2, 3, 5),
            order_digest(0, 2, 3, 4),
        ];
        assert!(others.iter().all(|&other| other != base));
        assert_ne!(token_digest(1, 2), token_digest(2, 1));
    }
}
