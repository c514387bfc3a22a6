//! Which documents stand at a position: for people who look for what a step has seen.

use std::ops::Range;

use eagleray_base::Result;
use eagleray_tokens::format::index::Index;
use serde::Serialize;

use crate::StreamConfig;
use crate::source::{Part, Source};
use crate::stream::open_sources;

/// What stands at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The position.
    pub position: u64,
    /// The name of the source.
    pub source: String,
    /// The sample's index in its dataset.
    pub index: u64,
    /// Where the sample lies: mostly in one shard.
    pub parts: Vec<PlacePart>,
}

/// The part of a sample that lies in one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacePart {
    /// The shard's tokens, as a URL or a path.
    pub shard: String,
    /// From which token of the shard up to, not with, which.
    pub tokens: (u64, u64),
    /// From which document of the shard up to, not with, which, as Megatron's index counts them.
    pub documents: (u64, u64),
}

/// What stands at each of `positions`. Reads the whole index of each shard that it meets: not for every step.
///
/// # Errors
/// As [`crate::open_order`]; `Corrupt` where an index is none.
pub fn documents_at(config: &StreamConfig, positions: &[u64]) -> Result<Vec<Place>> {
    let (order, sources) = open_sources(config)?;
    let mut pieces = Vec::new();
    let mut places = Vec::new();
    for &position in positions {
        let sample = order.sample(position);
        let source = &sources[sample.source];
        source.pieces(sample.index, &mut pieces);
        let part = |piece: &crate::source::Piece| {
            part_of(source, piece.shard, piece.first..piece.first + piece.count)
        };
        places.push(Place {
            position,
            source: order.sources()[sample.source].name.clone(),
            index: sample.index,
            parts: pieces.iter().map(part).collect::<Result<_>>()?,
        });
    }
    Ok(places)
}

fn part_of(source: &Source, shard: usize, tokens: Range<u64>) -> Result<PlacePart> {
    let dataset = source.dataset();
    let bytes = dataset.store().get(&dataset.path(shard, Part::Index.suffix()))?;
    let index = Index::parse(&bytes).map_err(|error| error.at(source.place(shard, Part::Index)))?;
    let ends: Vec<u64> = index
        .lengths
        .iter()
        .scan(0, |end, &length| {
            *end += u64::from(length);
            Some(*end)
        })
        .collect();
    // A document of which only the end stands in the sample belongs to it too.
    let first = ends.partition_point(|&end| end <= tokens.start) as u64;
    let last = ends.partition_point(|&end| end < tokens.end) as u64;
    let shard = source.place(shard, Part::Tokens);
    Ok(PlacePart { shard, tokens: (tokens.start, tokens.end), documents: (first, last + 1) })
}
