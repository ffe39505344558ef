//! Axial rotary position embedding: each head's pairs of features turn by `position · θ^(−2m/d)`, one group of pairs
//! per axis of the position `(0, row, column)`.
//!
//! Angles are computed in f64 on the host and stored in f32, as the reference does (`rope` in BFL's
//! `flux/math.py`): positions beyond 256 would lose digits otherwise.

use crate::segments::Segments;
use ace_kernels::rotate_pairs;
use burn::{prelude::*, tensor::assert_shape};

/// Cosines and sines of every token's angles, `[1, 1, L, d/2]` each; of several examples on one sequence, for each example.
#[derive(Debug, Clone)]
pub struct Rope {
    tables: Vec<[Tensor<4>; 2]>,
    segments: Option<Segments>,
}

impl Rope {
    /// Tables for `ids`, one triple of positions per token.
    ///
    /// `axes_dim` says how many features of a head each axis turns; their sum is the head size.
    pub fn new(ids: &[[f32; 3]], axes_dim: &[usize; 3], theta: f64, device: &Device) -> Self {
        let half = axes_dim.iter().sum::<usize>() / 2;
        let mut angles = Vec::with_capacity(ids.len() * half);
        for id in ids {
            for (position, dim) in id.iter().zip(axes_dim) {
                angles.extend((0..dim / 2).map(|m| f64::from(*position) * theta.powf(-2.0 * m as f64 / *dim as f64)));
            }
        }
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, ids.len(), half]), device)
        };
        Self { tables: vec![[table(f64::cos), table(f64::sin)]], segments: None }
    }

    /// Tables of several examples on one sequence: text tokens (all at position 0) and image tokens of each.
    ///
    /// # Panics
    /// If there is no example, or one has no tokens of a kind.
    pub fn packed(examples: &[(usize, &[[f32; 3]])], axes_dim: &[usize; 3], theta: f64, device: &Device) -> Self {
        let lens: Vec<(usize, usize)> = examples.iter().map(|(text, ids)| (*text, ids.len())).collect();
        let tables = examples.iter().flat_map(|(text_len, ids)| {
            let all: Vec<[f32; 3]> = std::iter::repeat_n([0.0; 3], *text_len).chain(ids.iter().copied()).collect();
            Self::new(&all, axes_dim, theta, device).tables
        });
        Self { tables: tables.collect(), segments: Some(Segments::new(&lens)) }
    }

    /// How the sequence is divided, if several examples are on it.
    pub fn segments(&self) -> Option<&Segments> {
        self.segments.as_ref()
    }

    /// Examples of a batch of so many sequences.
    ///
    /// # Panics
    /// If there are several sequences with several examples each.
    pub(crate) fn examples(&self, batch: usize) -> usize {
        let Some(segments) = &self.segments else { return batch };
        assert_eq!(batch, 1, "packed examples are on one sequence");
        segments.count()
    }

    /// Turns the interleaved pairs `(2p, 2p+1)` of every head, in f32, and returns to the dtype of `x`.
    ///
    /// # Shapes
    /// - x, output: `[B, heads, L, d]`
    ///
    /// # Panics
    /// If `x` has another number of tokens or another head size than the tables, which are the first example's.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [cos, sin] = self.tables(0);
        let [_, _, tokens, pairs] = cos.dims();
        assert_shape!(x, [_, _, tokens, 2 * pairs]);
        rotate_pairs(x, cos, sin)
    }

    /// Cosines and sines of an example, `[1, 1, L, d/2]` each.
    pub(crate) fn tables(&self, example: usize) -> [Tensor<4>; 2] {
        self.tables[example].clone()
    }
}
