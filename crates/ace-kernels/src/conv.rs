//! A convolution of pictures with a square kernel, plus a bias, plus another picture.

#[cfg(feature = "flex")]
use crate::flex;
use burn::{
    prelude::*,
    tensor::{
        module,
        ops::{ConvOptions, InterpolateMode, InterpolateOptions},
    },
};

/// How a square kernel goes over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Pixels from one place to the next.
    pub stride: usize,
    /// Rows and columns of zeros above and left, below and right.
    pub padding: (usize, usize),
    /// Whether it sees every pixel of the picture four times: the picture in twice its size.
    pub doubled: bool,
}

impl Convolution {
    /// One that keeps the size of a picture.
    pub const fn same(kernel: usize) -> Self {
        Self { stride: 1, padding: (kernel / 2, kernel / 2), doubled: false }
    }

    /// A side of the output for one of what the kernel sees.
    ///
    /// # Panics
    /// If the kernel is larger than the padded side.
    pub fn output_side(self, side: usize, kernel: usize) -> usize {
        let padded = side + self.padding.0 + self.padding.1;
        assert!(kernel <= padded, "a kernel of {kernel} on a side of {padded}");
        (padded - kernel) / self.stride + 1
    }
}

/// `x ∗ weight + bias + plus`
///
/// # Shapes
/// - x: `[B, in, H, W]`; weight: `[out, in, kernel, kernel]`; bias: `[out]`
/// - plus, output: `[B, out, H', W']`
///
/// # Panics
/// If shapes do not fit.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    plus: Option<Tensor<4>>,
    how: Convolution,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = flex::convolve(&x, &weight, bias.as_ref(), plus.as_ref(), how) {
        return y;
    }
    plain(x, weight, bias, plus, how)
}

fn plain(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    plus: Option<Tensor<4>>,
    how: Convolution,
) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let x = if how.doubled {
        let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]);
        module::interpolate(x, options)
    } else {
        x
    };
    let mut options = ConvOptions::new([how.stride; 2], [0; 2], [1; 2], 1);
    options.padding = [how.padding; 2];
    let y = module::conv2d(x, weight, bias, options);
    match plus {
        Some(plus) => plus + y,
        None => y,
    }
}

#[cfg(test)]
mod tests {
    use super::{Convolution, conv2d, plain};
    use crate::testing::{random, relative_error, values};
    use burn::{prelude::*, tensor::DType};

    /// Ours against burn's in f64, with bias and another picture added.
    fn check(shape: [usize; 4], output: usize, kernel: usize, how: Convolution, bound: f64) {
        let [_, input, _, _] = shape;
        let (x, weight) = (random(shape, 1), random([output, input, kernel, kernel], 2));
        let bias = random([output], 3);
        let double = |x: Tensor<4>| x.cast(DType::F64);
        let bare = plain(double(x.clone()), double(weight.clone()), Some(bias.clone().cast(DType::F64)), None, how);
        let plus = random(bare.dims(), 4);
        let expected = bare.clone() + double(plus.clone());
        for (plus, expected) in [(None, bare), (Some(plus), expected)] {
            let ours = conv2d(x.clone(), weight.clone(), Some(bias.clone()), plus, how);
            assert_eq!(ours.dims(), expected.dims());
            let error = relative_error(&values(ours), &values(expected));
            assert!(error <= bound, "{shape:?} to {output}, {kernel}, {how:?}: {error:e}");
        }
        let ours = conv2d(x.clone(), weight.clone(), None, None, how);
        let error = relative_error(&values(ours), &values(plain(double(x), double(weight), None, None, how)));
        assert!(error <= bound, "{shape:?} to {output}, {kernel}, {how:?}, alone: {error:e}");
    }

    #[test]
    fn convolutions_that_keep_the_size_are_those_of_the_formula() {
        // Channels that go in vectors and panels, and tiles that are cut at the borders.
        for (shape, output) in [([1, 64, 16, 16], 64), ([2, 48, 13, 22], 32), ([1, 32, 9, 70], 96)] {
            check(shape, output, 3, Convolution::same(3), 3e-6);
        }
        for (shape, output) in [([1, 3, 12, 20], 32), ([2, 5, 7, 9], 40), ([1, 64, 12, 12], 3), ([1, 32, 3, 3], 32)] {
            check(shape, output, 3, Convolution::same(3), 1e-6);
        }
    }

    #[test]
    fn strides_paddings_and_kernels_are_those_of_the_formula() {
        let halved = Convolution { stride: 2, padding: (0, 1), doubled: false };
        for (shape, output, kernel, how) in [
            ([1, 16, 12, 20], 24, 3, halved),
            ([2, 7, 10, 6], 33, 3, halved),
            ([1, 40, 9, 11], 65, 1, Convolution::same(1)),
            ([2, 6, 9, 11], 5, 5, Convolution::same(5)),
            ([1, 6, 9, 11], 5, 1, Convolution { stride: 2, padding: (1, 0), doubled: false }),
        ] {
            check(shape, output, kernel, how, 1e-6);
        }
    }

    #[test]
    fn a_picture_that_is_seen_in_twice_its_size_was_not_made_larger_first() {
        let how = Convolution { doubled: true, ..Convolution::same(3) };
        check([2, 32, 7, 9], 64, 3, how, 3e-6);
        check([1, 5, 6, 8], 7, 3, how, 1e-6);
        check([1, 5, 6, 8], 7, 1, Convolution { doubled: true, ..Convolution::same(1) }, 1e-6);
    }

    #[test]
    fn outputs_are_inputs() {
        // Channels beside each other on the way from one to the next, in whatever order somebody else takes them.
        let (a, b) = (random([64, 32, 3, 3], 1), random([32, 64, 3, 3], 2));
        let x = random([1, 32, 20, 24], 3);
        let both = |conv: &dyn Fn(Tensor<4>, Tensor<4>) -> Tensor<4>| {
            let y = conv(x.clone(), a.clone());
            let y = conv(y.clone().narrow(2, 3, 12) + 1.0, b.clone())
                + conv(y.swap_dims(2, 3), b.clone()).narrow(2, 0, 12).narrow(3, 0, 1);
            values(y)
        };
        let ours = both(&|x, weight| conv2d(x, weight, None, None, Convolution::same(3)));
        let theirs = both(&|x, weight| plain(x, weight, None, None, Convolution::same(3)));
        assert!(relative_error(&ours, &theirs) <= 5e-6);
    }
}
