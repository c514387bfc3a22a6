//! Digests of batches, read from the arrays that enter the step.

use eagleray_base::{Error, Result, crc32c};
use eagleray_order::digest::{order_digest, token_digest};

use crate::batch::IGNORED;

/// The arrays of a batch that its digests cover; `tokens` and `labels` are `b × S`, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Arrays<'a> {
    /// Inputs.
    pub tokens: &'a [i64],
    /// Labels.
    pub labels: &'a [i64],
    /// Positions.
    pub positions: &'a [u64],
    /// Keys of sources.
    pub source: &'a [u64],
    /// Epochs.
    pub epoch: &'a [u64],
    /// Indices.
    pub index: &'a [u64],
}

/// The wrapping sums of the order and the token digests of a batch's samples.
///
/// # Errors
/// `Invalid` where lengths do not fit each other; `Corrupt` where a value is no token id.
pub fn batch_digests(arrays: &Arrays<'_>) -> Result<(u64, u64)> {
    let samples = arrays.positions.len();
    let mut lengths = [arrays.source.len(), arrays.epoch.len(), arrays.index.len()].into_iter();
    let sequence_length = arrays.tokens.len().checked_div(samples).unwrap_or(0);
    if lengths.any(|length| length != samples)
        || arrays.tokens.len() != samples * sequence_length
        || arrays.labels.len() != arrays.tokens.len()
    {
        return Err(Error::invalid("the arrays of a batch have lengths that do not fit each other"));
    }
    let (mut order, mut tokens) = (0_u64, 0_u64);
    let mut bytes = Vec::with_capacity(8 * sequence_length);
    for i in 0..samples {
        let position = arrays.positions[i];
        let digest = order_digest(position, arrays.source[i], arrays.epoch[i], arrays.index[i]);
        order = order.wrapping_add(digest);
        let row = i * sequence_length..(i + 1) * sequence_length;
        bytes.clear();
        let mut seen = 0;
        for (values, unseen) in [(&arrays.tokens[row.clone()], 0), (&arrays.labels[row], IGNORED)] {
            seen = values.iter().filter(|value| **value != unseen).fold(seen, |seen, value| seen | value);
            bytes.extend(values.iter().flat_map(|&value| (value as u32).to_le_bytes()));
        }
        if u32::try_from(seen).is_err() {
            return Err(Error::corrupt(format!(
                "the sample of position {position} holds values that are no token ids"
            )));
        }
        tokens = tokens.wrapping_add(token_digest(position, crc32c(&bytes)));
    }
    Ok((order, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_do_not_depend_on_how_samples_are_batched() {
        let (tokens, labels) = ([1, 2, 3, 4_i64], [2, 3, 4, 5_i64]);
        let part = |range: std::ops::Range<usize>| {
            let row = range.start * 2..range.end * 2;
            batch_digests(&Arrays {
                tokens: &tokens[row.clone()],
                labels: &labels[row],
                positions: &[7, 8][range.clone()],
                source: &[1, 1][range.clone()],
                epoch: &[0, 0][range.clone()],
                index: &[5, 9][range],
            })
            .unwrap()
        };
        let (first, second, both) = (part(0..1), part(1..2), part(0..2));
        assert_eq!(both, (first.0.wrapping_add(second.0), first.1.wrapping_add(second.1)));
        assert_eq!(part(1..1), (0, 0));
    }

    #[test]
    fn a_label_that_is_left_out_is_part_of_the_digest() {
        let label = |label: i64| {
            let arrays = Arrays {
                tokens: &[1],
                labels: &[label],
                positions: &[0],
                source: &[0],
                epoch: &[0],
                index: &[0],
            };
            batch_digests(&arrays).map(|(_, tokens)| tokens)
        };
        assert_ne!(label(IGNORED).unwrap(), label(5).unwrap());
        assert!(label(-1).is_err());
    }

    #[test]
    fn a_negative_token_or_an_odd_length_is_refused() {
        let base =
            Arrays { tokens: &[-1], labels: &[1], positions: &[0], source: &[0], epoch: &[0], index: &[0] };
        assert_eq!(batch_digests(&base).unwrap_err().kind(), eagleray_base::Kind::Corrupt);
        assert!(batch_digests(&Arrays { labels: &[], ..base }).is_err());
    }
}
