//! How many numbers a transformer has, and how many operations a step takes: arithmetic on a card alone.

use super::Sequence;
use ace_nn::flux::FluxConfig;
pub use ace_plus::cost::{
    Numbers,
    flux::{Layer, Rows, branches, forward_operations, layers, numbers},
};

/// Multiplications and additions of one example's whole step, without what is computed a second time: of a frozen matrix only the gradient of
/// its input is computed, of one that learns its own too. What branches add is a hundredth and not counted.
pub fn step_operations(flux: &FluxConfig, sequence: Sequence, is_frozen: bool) -> f64 {
    let forward = forward_operations(flux, sequence);
    let attention =
        4.0 * (sequence.all() as f64).powi(2) * (flux.hidden_size * (flux.depth + flux.depth_single_blocks)) as f64;
    let backward = if is_frozen { forward + attention } else { 2.0 * forward };
    forward + backward
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_plus::Card;

    #[test]
    fn a_step_is_three_passes_unless_matrices_are_frozen() {
        let flux = Card::builtin("tiny").unwrap().flux;
        let sequence = Sequence { image: 50, text: 50 };
        let (frozen, whole) = (step_operations(&flux, sequence, true), step_operations(&flux, sequence, false));
        assert!((whole - 3.0 * forward_operations(&flux, sequence)).abs() < 1.0 && frozen < whole);
    }
}
