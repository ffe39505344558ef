//! Axial rotary position embedding: each head's pairs of features turn by `position · θ^(−2m/d)`, one group of pairs
//! per axis of the position `(0, row, column)`.
//!
//! Angles are computed in f64 on the host and stored in f32, as the reference does (`rope` in BFL's
//! `flux/math.py`): positions beyond 256 would lose digits otherwise.

use ace_kernels::rotate_pairs;
use burn::{prelude::*, tensor::assert_shape};

/// Cosines and sines of every token's angles, `[1, 1, L, d/2]` each.
#[derive(Debug, Clone)]
pub struct Rope {
    cos: Tensor<4>,
    sin: Tensor<4>,
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
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Turns the interleaved pairs `(2p, 2p+1)` of every head, in f32, and returns to the dtype of `x`.
    ///
    /// # Shapes
    /// - x, output: `[B, heads, L, d]`
    ///
    /// # Panics
    /// If `x` has another number of tokens or another head size than the tables.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, tokens, pairs] = self.cos.dims();
        assert_shape!(x, [_, _, tokens, 2 * pairs]);
        rotate_pairs(x, self.cos.clone(), self.sin.clone())
    }

    /// Cosines and sines, `[1, 1, L, d/2]` each.
    pub(crate) fn tables(&self) -> [Tensor<4>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }
}
