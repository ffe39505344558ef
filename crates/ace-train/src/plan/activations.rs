//! What the passes through the blocks keep in memory, counted in rows of the stream: a *row* is `hidden_size` numbers for
//! each token of the micro-batch.
//!
//! An operation keeps what its way back reads, and nothing else keeps anything: attention has no scores, activations and
//! norms keep their input and compute again (see `ace-kernels`). With `m` for the width of the feed-forward over
//! `hidden_size`, a stream of a double block keeps
//!
//! ```text
//! 1 modulated norm   3 queries, keys, values   1 attended   1 projected   1 stream
//! 1 modulated norm   m feed-forward in   m after the activation   1 out   1 stream        10 + 2·m
//! ```
//!
//! and a single block
//!
//! ```text
//! 1 modulated norm   3 + m queries, keys, values, feed-forward in   1 + m attended, after the activation   1 out   1 stream
//!                                                                                          7 + 2·m
//! ```
//!
//! On top of it comes what a block passes on its way back and drops. A double block goes back part by part and gives up as
//! much as it makes; a single block has the gradients of everything behind its first layer at once, `2 + 2·m` rows. Both were
//! counted at the allocator: the graphs of a double and a single block are 17.0 to 18.1 and 14.6 to 15.0 rows at `m = 4`.

use super::Sequence;
use ace_nn::flux::FluxConfig;

/// Rows that recomputation holds besides: the gradient of the block's output.
const PULLED: f64 = 1.0;

/// Sizes of one micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Sizes of the transformer.
    pub flux: FluxConfig,
    /// Tokens of an example.
    pub sequence: Sequence,
    /// Examples.
    pub batch: usize,
    /// Bytes of a number.
    pub bytes: u64,
    /// Whether they stand behind each other on one sequence: modulations are then spread over the tokens of each.
    pub is_packed: bool,
}

/// What is there at one moment of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moment {
    /// Kept from the forward pass.
    pub kept: f64,
    /// Of the block that is at work, its graph (if it is computed again) and passing gradients.
    pub block: f64,
    /// Gradients of what learns that are there already: of the single and of the double blocks, 0 to 1.
    pub gradients: [f64; 2],
}

impl Sizes {
    /// Bytes of one row.
    pub fn row(&self) -> f64 {
        (self.batch * self.sequence.all() * self.flux.hidden_size) as f64 * self.bytes as f64
    }

    /// Rows of what one use of a modulation says: shift, scale and gate of every token, if they differ.
    fn modulation(&self) -> f64 {
        if self.is_packed { 3.0 } else { 0.0 }
    }

    fn double_graph(&self) -> f64 {
        (10.0 + 2.0 * self.flux.mlp_ratio + 2.0 * self.modulation()) * self.row()
    }

    fn single_graph(&self) -> f64 {
        (7.0 + 2.0 * self.flux.mlp_ratio + self.modulation()) * self.row()
    }

    /// What a single block passes on its way back.
    fn passing(&self) -> f64 {
        (2.0 + 2.0 * self.flux.mlp_ratio) * self.row()
    }

    /// The moments of a step at which most is there.
    pub fn moments(&self, recompute: bool) -> Vec<Moment> {
        let (double, single) = (self.flux.depth as f64, self.flux.depth_single_blocks as f64);
        let (row, passing) = (self.row(), self.passing());
        if !recompute {
            let kept = double * self.double_graph() + single * self.single_graph();
            let block = if single > 0.0 { passing } else { 0.0 };
            return vec![Moment { kept, block, gradients: [0.0; 2] }];
        }
        let moment =
            |inputs: f64, block: f64, gradients| Moment { kept: inputs * row, block: block + PULLED * row, gradients };
        let mut moments = Vec::new();
        if single > 0.0 {
            let block = self.single_graph() + passing;
            moments.push(moment(double + single, block, [0.0, 0.0]));
            moments.push(moment(double + 1.0, block, [1.0, 0.0]));
        }
        if double > 0.0 {
            moments.push(moment(double, self.double_graph(), [1.0, 0.0]));
            moments.push(moment(1.0, self.double_graph(), [1.0, 1.0]));
        }
        moments
    }

    /// An encoded example, on the host.
    pub fn example(&self) -> u64 {
        let flux = &self.flux;
        let text = self.sequence.text * flux.context_in_dim + flux.vec_in_dim;
        4 * (self.sequence.image * flux.in_channels + text) as u64
    }

    /// What a micro-batch is asked: its examples, their noise, and the positions of their tokens.
    pub fn question(&self) -> u64 {
        let flux = &self.flux;
        let noise = self.batch * self.sequence.image * (2 * flux.out_channels + flux.in_channels);
        let turning = self.sequence.all() * flux.axes_dim.iter().sum::<usize>();
        self.batch as u64 * self.example() + 4 * (noise + turning) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_plus::Card;

    fn sizes(batch: usize, image: usize) -> Sizes {
        let flux = Card::builtin("flux1-fill-dev").unwrap().flux;
        Sizes { flux, sequence: Sequence { image, text: 512 }, batch, bytes: 4, is_packed: false }
    }

    /// The most at any moment, without gradients.
    fn most(sizes: &Sizes, recompute: bool) -> f64 {
        sizes.moments(recompute).iter().map(|moment| moment.kept + moment.block).fold(0.0, f64::max)
    }

    #[test]
    fn memory_grows_with_tokens_and_batch_and_not_with_their_square() {
        for recompute in [true, false] {
            let one = most(&sizes(1, 512), recompute);
            assert!((most(&sizes(1, 1536), recompute) / one - 2.0).abs() < 1e-9);
            assert!((most(&sizes(3, 512), recompute) / one - 3.0).abs() < 1e-9);
        }
    }

    #[test]
    fn with_recomputation_a_block_more_is_a_row_more() {
        let less = sizes(1, 1024);
        let mut more = less.clone();
        more.flux.depth_single_blocks += 10;
        assert!((most(&more, true) - most(&less, true) - 10.0 * less.row()).abs() < 1.0);
        assert!((most(&more, false) - most(&less, false) - 10.0 * less.single_graph()).abs() < 1.0);
        assert!(most(&less, true) < most(&less, false) / 5.0);
    }
}
