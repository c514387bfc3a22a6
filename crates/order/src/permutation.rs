//! A keyed bijection on `[0, n)`: a generalised Feistel network over `a × b ≥ n`, with cycle walking.
//!
//! A number is split into `(left, right)` with `left < a = ⌈√n⌉` and `right < b = ⌈n / a⌉`. Rounds add to one
//! half a mixed function of the other, modulo its size, so each is invertible. Results outside `[0, n)` go
//! through the network again; `a·b − n < a`, so that is rare. (J. Black, P. Rogaway: Ciphers with arbitrary
//! finite domains, 2002. Six rounds are enough in theory; eight cost 20 ns and leave a margin.)

use eagleray_base::{Digest, mix64};

const ROUNDS: usize = 8;

/// A bijection on `[0, n)` chosen by a key.
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    left_len: u64,
    right_len: u64,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The bijection on `[0, len)` of a key.
    ///
    /// # Panics
    /// Where `len` is 0 or above 2⁶³.
    pub fn new(len: u64, key: &Digest) -> Self {
        assert!(len > 0 && len <= 1 << 63, "a permutation of {len} numbers");
        let root = len.isqrt();
        let left_len = if root * root == len { root } else { root + 1 };
        let right_len = len.div_ceil(left_len);
        let mut keys = [0; ROUNDS];
        let words = key.as_bytes().chunks_exact(8);
        let seeds: Vec<u64> =
            words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        for (round, key) in keys.iter_mut().enumerate() {
            *key = mix64(seeds[round % seeds.len()].wrapping_add(round as u64 + 1))
                ^ seeds[(round + 1) % seeds.len()];
        }
        Self { len, left_len, right_len, keys }
    }

    /// Where `value` goes.
    pub fn apply(&self, value: u64) -> u64 {
        assert!(value < self.len);
        let mut value = value;
        loop {
            value = self.forward(value);
            if value < self.len {
                return value;
            }
        }
    }

    /// What goes to `value`.
    pub fn invert(&self, value: u64) -> u64 {
        assert!(value < self.len);
        let mut value = value;
        loop {
            value = self.backward(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn forward(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value / self.right_len, value % self.right_len);
        for pair in self.keys.chunks_exact(2) {
            left = add(left, bounded(right, pair[0], self.left_len), self.left_len);
            right = add(right, bounded(left, pair[1], self.right_len), self.right_len);
        }
        left * self.right_len + right
    }

    fn backward(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value / self.right_len, value % self.right_len);
        for pair in self.keys.chunks_exact(2).rev() {
            right = subtract(right, bounded(left, pair[1], self.right_len), self.right_len);
            left = subtract(left, bounded(right, pair[0], self.left_len), self.left_len);
        }
        left * self.right_len + right
    }
}

/// A mixed function of `value` below `bound`, by the high half of a product (no division).
fn bounded(value: u64, key: u64, bound: u64) -> u64 {
    let mixed = mix64(mix64(value.wrapping_add(key)) ^ key.rotate_left(32));
    ((u128::from(mixed) * u128::from(bound)) >> 64) as u64
}

fn add(value: u64, amount: u64, modulus: u64) -> u64 {
    let sum = value + amount;
    if sum >= modulus { sum - modulus } else { sum }
}

fn subtract(value: u64, amount: u64, modulus: u64) -> u64 {
    if value >= amount { value - amount } else { value + modulus - amount }
}

#[cfg(test)]
mod tests;
