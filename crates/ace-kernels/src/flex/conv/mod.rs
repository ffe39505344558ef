//! Convolutions of pictures whose channels lie beside each other.
//!
//! A 3×3 convolution that keeps its picture's size takes a quarter of the multiplications ([`winograd`]); every other one
//! is a product of strips of pixels with the weights ([`direct`]), without a copy of each pixel for each weight. Both read
//! a picture of half the size as if each of its pixels stood there four times, so that no larger picture exists before the
//! convolution.

mod direct;
mod pixels;
mod winograd;

pub use pixels::{Sizes, in_pixels, numbers, tensor_of};

use super::memory::{New, dense, numbers as dense_numbers};
use crate::conv::Convolution;
use burn_flex::FlexTensor;

/// Fewer pixels of output are not worth turning the weights.
const FEW_PIXELS: usize = 64;

/// What a convolution reads.
#[derive(Clone, Copy)]
struct Source<'a> {
    numbers: &'a [f32],
    sizes: Sizes,
    /// Every pixel stands there four times.
    doubled: bool,
}

impl<'a> Source<'a> {
    /// Height and width as the convolution sees them.
    fn seen(&self) -> [usize; 2] {
        [self.sizes.height, self.sizes.width].map(|side| if self.doubled { 2 * side } else { side })
    }

    /// The channels of a pixel, or nothing beside the picture.
    fn pixel(&self, picture: usize, y: isize, x: isize) -> Option<&'a [f32]> {
        let [height, width] = self.seen();
        let (y, x) = (usize::try_from(y).ok()?, usize::try_from(x).ok()?);
        if y >= height || x >= width {
            return None;
        }
        let (y, x) = if self.doubled { (y / 2, x / 2) } else { (y, x) };
        let at = ((picture * self.sizes.height + y) * self.sizes.width + x) * self.sizes.channels;
        Some(&self.numbers[at..][..self.sizes.channels])
    }
}

/// What a convolution writes.
struct Target<'a> {
    sizes: Sizes,
    bias: Option<&'a [f32]>,
    /// Another picture of the same sizes that is added.
    plus: Option<&'a [f32]>,
}

/// A convolution, plus a bias, plus another picture.
///
/// # Panics
/// If shapes do not fit.
pub fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    plus: Option<FlexTensor>,
    how: Convolution,
) -> FlexTensor {
    let (x, weight, bias, plus) = (in_pixels(x), dense(weight), bias.map(dense), plus.map(in_pixels));
    let source = Source { numbers: numbers(&x), sizes: Sizes::of(&x), doubled: how.doubled };
    let shape = weight.layout().shape();
    let (output, input, kernel) = (shape[0], shape[1], shape[2]);
    assert_eq!((input, kernel), (source.sizes.channels, shape[3]), "channels and kernel of a convolution");
    let [height, width] = source.seen().map(|side| how.output_side(side, kernel));
    let sizes = Sizes { batch: source.sizes.batch, height, width, channels: output };
    assert!(plus.as_ref().is_none_or(|plus| Sizes::of(plus) == sizes), "what is added has other sizes than {sizes:?}");
    let target = Target { sizes, bias: bias.as_ref().map(dense_numbers), plus: plus.as_ref().map(numbers) };
    let mut out = New::of(sizes.pixels() * output);
    if winograd::takes(kernel, how, input, output) && sizes.pixels() >= FEW_PIXELS {
        winograd::forward(source, dense_numbers(&weight), &target, &mut out);
    } else {
        direct::forward(source, dense_numbers(&weight), kernel, how, &target, &mut out);
    }
    tensor_of(out, sizes)
}
