//! `x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ`: a linear layer with a low-rank branch.

#[cfg(feature = "flex")]
use crate::flex;
use burn::{
    prelude::*,
    tensor::{assert_shape, module},
};

/// A low-rank branch: `x ↦ scale·(x·Aᵀ)·Bᵀ`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, in]`
    pub a: Tensor<2>,
    /// `[out, rank]`
    pub b: Tensor<2>,
    /// What its output is multiplied with.
    pub scale: f64,
}

/// `x·Wᵀ + bias`, plus a low-rank branch if there is one.
///
/// # Shapes
/// - x: `[.., in]`
/// - weight: `[out, in]`, in the dtype of `x`; bias: `[out]`
/// - output: `[.., out]`
///
/// # Panics
/// If these shapes do not agree.
pub fn linear<const N: usize>(
    x: Tensor<N>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    branch: Option<LowRank>,
) -> Tensor<N> {
    let [output, input] = weight.dims();
    assert_shape!(x, [.., input]);
    check(&x, output, bias.as_ref(), branch.as_ref());
    #[cfg(feature = "flex")]
    if let Some(y) = flex::project(&x, &weight, bias.as_ref(), branch.as_ref()) {
        return y;
    }
    plain(x, weight, bias, branch)
}

/// `y + bias + scale·(x·Aᵀ)·Bᵀ`: the branch of a layer whose product somebody else took.
///
/// # Shapes
/// - y, output: `[.., out]`
/// - x: `[.., in]`; bias: `[out]`
///
/// # Panics
/// If these shapes do not agree.
pub fn add_low_rank<const N: usize>(y: Tensor<N>, x: Tensor<N>, bias: Option<Tensor<1>>, branch: LowRank) -> Tensor<N> {
    let mut expected = x.dims();
    expected[N - 1] = branch.b.dims()[0];
    assert_eq!(y.dims(), expected, "what a branch is added to");
    check(&x, expected[N - 1], bias.as_ref(), Some(&branch));
    #[cfg(feature = "flex")]
    if flex::adds(&y, &x, bias.as_ref(), &branch) {
        return flex::add_low_rank(y, &x, bias.as_ref(), &branch);
    }
    plain_add(y, x, bias, branch)
}

fn check<const N: usize>(x: &Tensor<N>, output: usize, bias: Option<&Tensor<1>>, branch: Option<&LowRank>) {
    let input = x.dims()[N - 1];
    if let Some(bias) = bias {
        assert_shape!(bias, [output]);
    }
    if let Some(LowRank { a, b, .. }) = branch {
        let [rank, _] = a.dims();
        assert_shape!(a, [rank, input]);
        assert_shape!(b, [output, rank]);
    }
}

fn plain<const N: usize>(
    x: Tensor<N>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    branch: Option<LowRank>,
) -> Tensor<N> {
    match branch {
        None => module::linear(x, weight.transpose(), bias),
        Some(branch) => plain_add(module::linear(x.clone(), weight.transpose(), bias), x, None, branch),
    }
}

fn plain_add<const N: usize>(y: Tensor<N>, x: Tensor<N>, bias: Option<Tensor<1>>, branch: LowRank) -> Tensor<N> {
    let LowRank { a, b, scale } = branch;
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y + module::linear(module::linear(x, a.transpose(), None), b.transpose(), None) * scale
}

#[cfg(test)]
mod tests {
    use super::{LowRank, add_low_rank, linear, plain, plain_add};
    use crate::testing::{Inputs, compare, random, relative_error, values};
    use burn::{prelude::*, tensor::DType};

    fn branch(i: &Inputs) -> Option<LowRank> {
        Some(LowRank { a: i.get(3), b: i.get(4), scale: 0.7 })
    }

    #[test]
    fn it_follows_the_plain_formula() {
        for ([batch, len, input, output], rank) in
            [([1, 70, 64, 96], 16), ([2, 33, 37, 5], 3), ([1, 1, 130, 48], 1), ([3, 200, 16, 7], 4)]
        {
            let shapes: [&[usize]; 5] =
                [&[batch, len, input], &[output, input], &[output], &[rank, input], &[output, rank]];
            let bounds = [1e-6, 2e-6];
            compare(
                "all",
                &shapes,
                bounds,
                |i| linear(i.get::<3>(0), i.get(1), Some(i.get(2)), branch(i)),
                |i| plain(i.get::<3>(0), i.get(1), Some(i.get(2)), branch(i)),
            );
            compare(
                "no branch",
                &shapes[..3],
                bounds,
                |i| linear(i.get::<3>(0), i.get(1), Some(i.get(2)), None),
                |i| plain(i.get::<3>(0), i.get(1), Some(i.get(2)), None),
            );
            // Part of a longer sequence, and a weight that lies the other way round.
            let shapes: [&[usize]; 2] = [&[batch, 2 * len, input], &[input, output]];
            compare(
                "no bias, views",
                &shapes,
                bounds,
                |i| linear(i.get::<3>(0).narrow(1, len, len), i.get::<2>(1).transpose(), None, None),
                |i| plain(i.get::<3>(0).narrow(1, len, len), i.get::<2>(1).transpose(), None, None),
            );
        }
    }

    #[test]
    fn a_branch_without_a_bias_and_a_vector_follow_it_too() {
        let shapes: [&[usize]; 5] = [&[40], &[24, 40], &[24], &[8, 40], &[24, 8]];
        compare(
            "one row",
            &shapes,
            [1e-6, 2e-6],
            |i| linear(i.get::<1>(0), i.get(1), None, branch(i)) + i.get(2),
            |i| plain(i.get::<1>(0), i.get(1), None, branch(i)) + i.get(2),
        );
    }

    #[test]
    fn a_branch_on_another_product_follows_it_too() {
        let shapes: [&[usize]; 5] = [&[2, 50, 40], &[2, 50, 24], &[24], &[8, 40], &[24, 8]];
        let bounds = [1e-6, 2e-6];
        let last = |i: &Inputs| i.get::<1>(2).unsqueeze::<3>();
        let bias = |i: &Inputs, with: bool| with.then(|| i.get::<1>(2));
        for with in [true, false] {
            compare(
                "a fresh sum",
                &shapes,
                bounds,
                |i| {
                    add_low_rank(i.get::<3>(1) * 2.0, i.get(0), bias(i, with), branch(i).expect("it is"))
                        + i.get(1)
                        + last(i)
                },
                |i| {
                    plain_add(i.get::<3>(1) * 2.0, i.get(0), bias(i, with), branch(i).expect("it is"))
                        + i.get(1)
                        + last(i)
                },
            );
        }
        // What is added to stays as it was where others have it too.
        let y = random::<3>([1, 5, 24], 1);
        let one = || LowRank { a: random([8, 40], 2), b: random([24, 8], 3), scale: 1.0 };
        let before = y.clone().into_data();
        add_low_rank(y.clone(), random([1, 5, 40], 4), None, one());
        assert_eq!(y.into_data(), before);
    }

    #[test]
    fn frozen_weights_have_no_gradient_and_the_rest_has_its_own() {
        let device = crate::testing::device().autodiff();
        let leaf = |seed: u64, shape: [usize; 2]| Tensor::from_data(random(shape, seed).into_data(), &device);
        let (x, weight) = (leaf(1, [9, 12]).require_grad(), leaf(2, [10, 12]));
        let (a, b) = (leaf(3, [2, 12]).require_grad(), leaf(4, [10, 2]));
        let y = linear(x.clone(), weight.clone(), None, Some(LowRank { a: a.clone(), b: b.clone(), scale: 2.0 }));
        let gradients = y.sum().backward();
        assert!(weight.grad(&gradients).is_none() && b.grad(&gradients).is_none());
        let sums = |of: Tensor<2>| of.inner().sum_dim(0);
        let low = sums(b.clone()).matmul(a.clone().inner()) * 2.0;
        let expected = (sums(weight) + low).expand([9, 12]);
        let dx = x.grad(&gradients).expect("x is a leaf");
        let error = relative_error(&values(dx), &values(expected));
        assert!(error <= 1e-6, "{error:e}");
        assert!(a.grad(&gradients).is_some());
    }

    #[test]
    fn weights_of_sixteen_bits_give_what_they_give_widened() {
        let device = crate::testing::device().autodiff();
        let leaf = |seed: u64, shape: [usize; 2]| Tensor::<2>::from_data(random(shape, seed).into_data(), &device);
        // More rows of the weight than are widened at a time; many and few rows of x.
        for (dtype, rows) in [(DType::BF16, 90), (DType::BF16, 3), (DType::F16, 70), (DType::F16, 1)] {
            let weight = leaf(1, [700, 150]).cast(dtype);
            let branch = || LowRank { a: leaf(2, [4, 150]).cast(dtype), b: leaf(3, [700, 4]).cast(dtype), scale: 0.5 };
            let wide =
                |branch: LowRank| LowRank { a: branch.a.cast(DType::F32), b: branch.b.cast(DType::F32), ..branch };
            let gradient = |narrow: bool| {
                let x = leaf(4, [rows, 150]).cast(dtype).detach().require_grad();
                let y = if narrow {
                    linear(x.clone(), weight.clone(), None, Some(branch()))
                } else {
                    linear(x.clone().cast(DType::F32), weight.clone().cast(DType::F32), None, Some(wide(branch())))
                };
                let y = y.cast(DType::F32);
                let gradients = (y.clone() * Tensor::from_inner(random([rows, 700], 5))).sum().backward();
                (values(y), values(x.grad(&gradients).expect("x is a leaf")))
            };
            let ((y, dx), (expected, expected_dx)) = (gradient(true), gradient(false));
            let bound = if dtype == DType::BF16 { 3e-3 } else { 4e-4 };
            assert!(relative_error(&y, &expected) <= bound, "{dtype:?}, {rows} rows");
            assert!(relative_error(&dx, &expected_dx) <= bound, "{dtype:?}, {rows} rows, backward");
        }
    }

    #[test]
    fn a_weight_of_sixteen_bits_may_meet_wide_numbers_and_learn() {
        if !cfg!(feature = "flex") {
            return;
        }
        let device = crate::testing::device().autodiff();
        let leaf = |seed: u64, shape: [usize; 2]| Tensor::<2>::from_data(random(shape, seed).into_data(), &device);
        let narrow = leaf(1, [600, 40]).cast(DType::BF16).detach().require_grad();
        let wide = narrow.clone().cast(DType::F32).detach().require_grad();
        let x = leaf(2, [80, 40]);
        let gradient = |weight: &Tensor<2>| {
            let y = linear(x.clone(), weight.clone(), None, None);
            assert_eq!(y.dtype(), DType::F32);
            let gradients = (y.clone() * Tensor::from_inner(random([80, 600], 5))).sum().backward();
            (values(y), weight.grad(&gradients).expect("it learns"))
        };
        let ((y, dweight), (expected, expected_dweight)) = (gradient(&narrow), gradient(&wide));
        assert!(relative_error(&y, &expected) <= 1e-6);
        assert_eq!(dweight.dtype(), DType::BF16);
        assert!(relative_error(&values(dweight), &values(expected_dweight)) <= 3e-3);
    }

    #[test]
    #[should_panic(expected = "assert_shape!(b, [output, rank]): axis 1 expected 2, got 3 (dims [10, 3])")]
    fn factors_of_different_ranks_are_a_mistake() {
        let branch = LowRank { a: random([2, 12], 1), b: random([10, 3], 2), scale: 1.0 };
        linear(random::<2>([9, 12], 3), random([10, 12], 4), None, Some(branch));
    }

    /// A processor that multiplies pairs of bf16 adds them up in f32; others widen them. Both round once, at the end.
    #[test]
    fn sixteen_bits_are_multiplied_as_they_are() {
        let half = |x: Tensor<2>| x.cast(DType::BF16);
        for (rows, input, output) in [(70, 64, 96), (1, 256, 33), (49, 130, 300), (5, 37, 7), (500, 32, 1040)] {
            let (x, weight) = (half(random([rows, input], 1)), half(random([output, input], 2)));
            let bias = random([output], 3).cast(DType::BF16);
            let low = LowRank {
                a: random([3, input], 4).cast(DType::BF16),
                b: random([output, 3], 5).cast(DType::BF16),
                scale: 0.5,
            };
            let double = |x: &Tensor<2>| x.clone().cast(DType::F64);
            let wide = |low: &LowRank| LowRank { a: double(&low.a), b: double(&low.b), scale: low.scale };
            for low in [None, Some(low)] {
                let ours = linear(x.clone(), weight.clone(), Some(bias.clone()), low.clone());
                assert_eq!(ours.dtype(), DType::BF16);
                let (bias, low) = (bias.clone().cast(DType::F64), low.as_ref().map(wide));
                let expected = plain(double(&x), double(&weight), Some(bias), low);
                let error = relative_error(&values(ours.cast(DType::F64)), &values(expected));
                assert!(error <= 2.5e-3, "{rows} by {input} to {output}: {error:e}");
            }
        }
    }
}
