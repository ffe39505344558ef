//! What the passes through the blocks keep in memory, in rows of the stream.
//!
//! A *row* is `hidden_size` numbers of one token. What a block keeps for its way back depends on which operations it is made
//! of; the numbers here are counted at the allocator, as the difference that one block more makes, and hold for every size
//! because everything a block keeps has `tokens × hidden_size` or `heads × tokens²` numbers.

use super::Sequence;
use ace_nn::flux::FluxConfig;

/// Rows that the graph of a double block keeps for each token, with a feed-forward of four times the width.
const DOUBLE_ROWS: f64 = 40.0;
/// The same of a single block.
const SINGLE_ROWS: f64 = 30.0;
/// Matrices of scores, `heads × tokens²` numbers each, that the graph of a block keeps.
const SCORES: f64 = 3.0;
/// Rows that come and go on a block's way back, at their highest.
const PASSING_ROWS: f64 = 8.0;
/// Matrices of scores that come and go.
const PASSING_SCORES: f64 = 2.0;

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
}

impl Sizes {
    /// Bytes of one row for every token.
    fn stream(&self) -> f64 {
        (self.batch * self.sequence.all() * self.flux.hidden_size) as f64 * self.bytes as f64
    }

    /// Bytes of one matrix of scores.
    fn scores(&self) -> f64 {
        (self.batch * self.flux.num_heads * self.sequence.all().pow(2)) as f64 * self.bytes as f64
    }

    /// What a block's graph keeps.
    fn graph(&self, rows: f64) -> f64 {
        rows * self.stream() + SCORES * self.scores()
    }

    /// What is kept from the forward pass to the way back: with recomputation what each block was given, otherwise
    /// every block's graph.
    pub fn kept(&self, recompute: bool) -> u64 {
        let (double, single) = (self.flux.depth as f64, self.flux.depth_single_blocks as f64);
        let bytes = match recompute {
            true => (double + single + 1.0) * self.stream(),
            false => double * self.graph(DOUBLE_ROWS) + single * self.graph(SINGLE_ROWS),
        };
        bytes as u64
    }

    /// What one block needs on its way back: with recomputation its graph too.
    pub fn one_block(&self, recompute: bool) -> u64 {
        let passing = PASSING_ROWS * self.stream() + PASSING_SCORES * self.scores();
        let graph = if self.flux.depth > 0 { self.graph(DOUBLE_ROWS) } else { self.graph(SINGLE_ROWS) };
        (if recompute { passing + graph } else { passing }) as u64
    }

    /// An encoded example, on the host.
    pub fn example(&self) -> u64 {
        let flux = &self.flux;
        let numbers =
            self.sequence.image * flux.in_channels + self.sequence.text * flux.context_in_dim + flux.vec_in_dim;
        4 * numbers as u64
    }

    /// What a micro-batch is asked: its examples, their noise, and the positions of their tokens.
    pub fn question(&self) -> u64 {
        let flux = &self.flux;
        let noise = self.batch * self.sequence.image * (2 * flux.out_channels + flux.in_channels);
        let turning = self.sequence.all() * flux.axes_dim.iter().sum::<usize>();
        self.batch as u64 * self.example() + 4 * (noise + turning) as u64
    }
}
