//! A micro batch, and how stored tokens become its arrays.

use eagleray_tokens::format::TokenType;

/// The label that torch's cross entropy leaves out.
pub(crate) const IGNORED: i64 = -100;

/// A micro batch of `b` samples of `S` tokens; arrays are row-major.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Inputs, `b × S`.
    pub tokens: Vec<i64>,
    /// The token after each input, `b × S`; [`IGNORED`] where no loss counts it.
    pub labels: Vec<i64>,
    /// Distance of each input from the start of its document or of the sample, `b × S`.
    pub position_ids: Vec<i64>,
    /// Global sample index of each sample, `b`.
    pub positions: Vec<u64>,
    /// Key of each sample's source, `b`.
    pub source: Vec<u64>,
    /// How often the source had been gone through before, `b`.
    pub epoch: Vec<u64>,
    /// The sample's index in its dataset, `b`.
    pub index: Vec<u64>,
    /// The number of this micro batch within its step.
    pub micro_index: u64,
    /// Micro batches of the step; every rank makes as many.
    pub micro_count: u64,
    /// The first position of the step, over all ranks.
    pub step_position: u64,
}

impl Batch {
    /// Samples.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether the rank had no sample left for it.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    pub(crate) fn reserve(&mut self, samples: usize, sequence_length: usize) {
        for array in [&mut self.tokens, &mut self.labels, &mut self.position_ids] {
            array.reserve_exact(samples * sequence_length);
        }
    }

    /// Appends stored tokens that are `offset..` of a sample's `sequence_length + 1`: all but the last are
    /// inputs, all but the first are labels.
    pub(crate) fn push_tokens(
        &mut self,
        token_type: TokenType,
        bytes: &[u8],
        offset: usize,
        sequence_length: usize,
    ) {
        let width = token_type.bytes();
        let inputs = (bytes.len() / width).min(sequence_length - offset.min(sequence_length));
        let skipped = usize::from(offset == 0);
        widen(token_type, &bytes[..inputs * width], &mut self.tokens, complement);
        widen(token_type, &bytes[skipped * width..], &mut self.labels, |_| IGNORED);
    }

    /// Appends the position ids of a sample whose documents begin at `starts`, ascending.
    pub(crate) fn push_positions(&mut self, starts: &[u64], sequence_length: u64) {
        let mut begun = 0;
        for &start in starts.iter().filter(|&&start| start > 0 && start < sequence_length) {
            self.position_ids.extend(0..(start - begun) as i64);
            begun = start;
        }
        self.position_ids.extend(0..(sequence_length - begun) as i64);
    }
}

/// The id of a token that is stored as one that no loss counts.
fn complement(stored: i32) -> i64 {
    i64::from(!stored)
}

/// Appends little-endian ids as i64, masked ones as `masked` has them; the loops have known lengths, so that they are
/// vectorised.
fn widen(token_type: TokenType, bytes: &[u8], into: &mut Vec<i64>, masked: impl Fn(i32) -> i64) {
    match token_type {
        TokenType::U16 => {
            into.extend(bytes.chunks_exact(2).map(|b| i64::from(u16::from_le_bytes([b[0], b[1]]))));
        }
        TokenType::I32 => {
            into.extend(
                bytes.chunks_exact(4).map(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            );
        }
        TokenType::I32Masked => into.extend(bytes.chunks_exact(4).map(|b| {
            let stored = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if stored < 0 { masked(stored) } else { i64::from(stored) }
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_sample_make_inputs_and_labels_shifted_by_one() {
        let ids: Vec<u8> = (10_u16..15).flat_map(u16::to_le_bytes).collect();
        for cut in 0..=5 {
            let mut batch = Batch::default();
            for (offset, piece) in [(0, &ids[..2 * cut]), (cut, &ids[2 * cut..])] {
                if !piece.is_empty() {
                    batch.push_tokens(TokenType::U16, piece, offset, 4);
                }
            }
            assert_eq!(
                (&batch.tokens[..], &batch.labels[..]),
                (&[10, 11, 12, 13][..], &[11, 12, 13, 14][..])
            );
        }
    }

    #[test]
    fn what_no_loss_counts_is_an_input_and_no_label() {
        let ids: Vec<u8> = [10_i32, !11, !12, 13, 14].into_iter().flat_map(i32::to_le_bytes).collect();
        let mut batch = Batch::default();
        batch.push_tokens(TokenType::I32Masked, &ids, 0, 4);
        assert_eq!(
            (&batch.tokens[..], &batch.labels[..]),
            (&[10, 11, 12, 13][..], &[IGNORED, IGNORED, 13, 14][..])
        );
    }

    #[test]
    fn positions_begin_again_with_every_document_that_begins_within_the_inputs() {
        let positions = |starts: &[u64]| {
            let mut batch = Batch::default();
            batch.push_positions(starts, 5);
            batch.position_ids
        };
        assert_eq!(positions(&[]), [0, 1, 2, 3, 4]);
        assert_eq!(positions(&[0, 2, 3]), [0, 1, 0, 0, 1]);
        assert_eq!(positions(&[5]), [0, 1, 2, 3, 4]);
    }
}
