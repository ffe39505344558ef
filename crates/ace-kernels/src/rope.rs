//! Rotation of pairs of features, for rotary position embeddings.

#[cfg(feature = "flex")]
use crate::flex;
use burn::{prelude::*, tensor::assert_shape};

/// Turns the interleaved pairs `(2p, 2p+1)` of every head by the angles of its token, in the tables' dtype, and returns
/// to the dtype of `x`. No gradient flows to the tables.
///
/// # Shapes
/// - x, output: `[B, heads, L, d]`
/// - cos, sin: `[1, 1, L, d/2]`
///
/// # Panics
/// If these shapes do not agree.
pub fn rotate_pairs(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [_, _, tokens, pairs] = cos.dims();
    assert_shape!(x, [_, _, tokens, 2 * pairs]);
    assert_shape!(cos, [1, 1, tokens, pairs]);
    assert_shape!(sin, [1, 1, tokens, pairs]);
    #[cfg(feature = "flex")]
    if let Some(turned) = flex::turn([&x, &cos, &sin]) {
        return turned;
    }
    plain(x, cos, sin)
}

fn plain(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [batch, heads, len, width] = x.dims();
    let dtype = x.dtype();
    let pairs = x.cast(cos.dtype()).reshape([batch, heads, len, width / 2, 2]);
    let even = pairs.clone().narrow(4, 0, 1).squeeze_dim::<4>(4);
    let odd = pairs.narrow(4, 1, 1).squeeze_dim::<4>(4);
    let turned_even = even.clone() * cos.clone() - odd.clone() * sin.clone();
    let turned_odd = even * sin + odd * cos;
    Tensor::stack::<5>(vec![turned_even, turned_odd], 4).reshape([batch, heads, len, width]).cast(dtype)
}

#[cfg(test)]
mod tests {
    use super::{plain, rotate_pairs};
    use crate::testing::{compare, random, relative_error, values};
    use burn::{prelude::*, tensor::DType};

    /// Angles for `len` tokens: cosines and sines.
    fn tables(len: usize, pairs: usize, like: &Tensor<4>) -> [Tensor<4>; 2] {
        let angles = random([1, 1, len, pairs], 7).cast(like.dtype()) * 5.0;
        [angles.clone().cos(), angles.sin()]
            .map(|table| if like.is_autodiff() { Tensor::from_inner(table) } else { table })
    }

    #[test]
    fn it_follows_the_plain_formula() {
        for [batch, heads, len, width] in [[1, 2, 50, 128], [2, 3, 7, 6], [1, 1, 1, 2]] {
            let x = |i: &crate::testing::Inputs| i.get::<4>(0).swap_dims(1, 2);
            compare(
                "heads beside each other",
                &[&[batch, len, heads, width]],
                [1e-6, 1e-6],
                |i| {
                    let [cos, sin] = tables(len, width / 2, &x(i));
                    rotate_pairs(x(i), cos, sin)
                },
                |i| {
                    let [cos, sin] = tables(len, width / 2, &x(i));
                    plain(x(i), cos, sin)
                },
            );
        }
    }

    #[test]
    fn sixteen_bits_turn_in_f32_and_come_back_as_they_were() {
        let x = random([1, 2, 9, 16], 1).cast(DType::BF16);
        let [cos, sin] = tables(9, 8, &x.clone().cast(DType::F32));
        let turned = rotate_pairs(x.clone(), cos.clone(), sin.clone());
        assert_eq!(turned.dtype(), DType::BF16);
        assert!(relative_error(&values(turned), &values(plain(x, cos, sin))) <= 1e-3);
    }
}
