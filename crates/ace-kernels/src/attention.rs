//! Multi-head attention: `softmax(q·kᵀ/√d)·v`, over burn's fused operation where a device has one.
//!
//! # Precision
//! A row's weights are positive and divided by their own sum, so that its roundings scale the output by a few units of
//! the last place and shift nothing.

use burn::{
    prelude::*,
    tensor::{assert_shape, module::attention, ops::AttentionModuleOptions},
};

/// `softmax(q·kᵀ/√d)·v`, every position sees every other. No scale is passed on: burn's fused kernels are used only
/// with their own default, which is the same 1/√d.
///
/// # Shapes
/// - q, output: `[B, heads, L, d]`
/// - k, v: `[B, heads, M, d]`
///
/// # Panics
/// If these shapes do not agree.
pub fn full(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    check(&q, &k, &v);
    attention(q, k, v, None, None, AttentionModuleOptions::default())
}

/// As [`full`], with each position seeing only itself and what came before.
///
/// # Panics
/// As [`full`].
pub fn causal(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    check(&q, &k, &v);
    attention(q, k, v, None, None, AttentionModuleOptions { is_causal: true, ..Default::default() })
}

/// `softmax(q·kᵀ + bias)·v`: T5's attention, without the 1/√d.
///
/// # Shapes
/// - bias: `[B, heads, L, M]`
///
/// # Panics
/// As [`full`], and if `bias` has another shape.
pub fn biased(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Tensor<4>) -> Tensor<4> {
    check(&q, &k, &v);
    let ([batch, heads, queries, _], [_, _, keys, _]) = (q.dims(), k.dims());
    assert_shape!(bias, [batch, heads, queries, keys]);
    attention(q, k, v, None, Some(bias), AttentionModuleOptions { scale: Some(1.0), ..Default::default() })
}

fn check(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>) {
    let ([batch, heads, _, width], [_, _, keys, _]) = (q.dims(), k.dims());
    assert_shape!(k, [batch, heads, _, width]);
    assert_shape!(v, [batch, heads, keys, _]);
}

#[cfg(test)]
mod tests {
    use super::{biased, causal, full};
    use crate::testing::{random, relative_error, values};
    use burn::prelude::*;

    const SHAPE: [usize; 4] = [2, 3, 5, 8];

    fn inputs() -> [Tensor<4>; 3] {
        [1, 2, 3].map(|seed| random(SHAPE, seed))
    }

    /// The formula in f64; `score(head, query, key, q·k)`, a key with the score −∞ is not seen.
    fn reference(score: impl Fn(usize, usize, usize, f64) -> f64) -> Vec<f64> {
        let [batch, heads, len, width] = SHAPE;
        let [q, k, v] = inputs().map(values);
        let mut output = Vec::new();
        for head in 0..batch * heads {
            let row = |all: &[f64], i: usize| all[(head * len + i) * width..][..width].to_vec();
            for i in 0..len {
                let dot = |j: usize| row(&q, i).iter().zip(row(&k, j)).map(|(q, k)| q * k).sum::<f64>();
                let weights: Vec<f64> = (0..len).map(|j| score(head, i, j, dot(j)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                output.extend((0..width).map(|d| (0..len).map(|j| weights[j] / sum * row(&v, j)[d]).sum::<f64>()));
            }
        }
        output
    }

    #[test]
    fn the_three_kinds_follow_their_formulas() {
        let scale = 8f64.sqrt().recip();
        let [q, k, v] = inputs();
        let bias = random([2, 3, 5, 5], 4);
        let biases = values(bias.clone());
        for (name, ours, expected) in [
            ("full", full(q.clone(), k.clone(), v.clone()), reference(|_, _, _, dot| dot * scale)),
            (
                "causal",
                causal(q.clone(), k.clone(), v.clone()),
                reference(|_, i, j, dot| if j > i { f64::NEG_INFINITY } else { dot * scale }),
            ),
            ("biased", biased(q, k, v, bias), reference(|head, i, j, dot| dot + biases[(head * 5 + i) * 5 + j])),
        ] {
            let error = relative_error(&values(ours), &expected);
            assert!(error <= 1e-6, "{name}: {error:e}");
        }
    }

    #[test]
    fn equal_scores_over_many_keys_give_the_mean() {
        // As many keys as the largest picture has tokens, all with the same score: the longest sum of a softmax.
        let (q, k, v) = (
            random([1, 1, 4, 8], 1),
            Tensor::zeros([1, 1, 8192, 8], &super::super::testing::device()),
            random([1, 1, 8192, 8], 3) + 1.0,
        );
        let all = values(v.clone());
        let means = (0..8).map(|d| all.iter().skip(d).step_by(8).sum::<f64>() / 8192.0);
        let expected: Vec<f64> = means.collect::<Vec<_>>().repeat(4);
        let error = relative_error(&values(full(q, k, v)), &expected);
        assert!(error <= 2e-6, "{error:e}");
    }

    #[test]
    #[should_panic(
        expected = "assert_shape!(k, [batch, heads, _, width]): axis 3 expected 8, got 6 (dims [2, 3, 5, 6])"
    )]
    fn heads_of_another_width_are_a_mistake() {
        let [q, _, v] = inputs();
        full(q, random([2, 3, 5, 6], 2), v);
    }
}
