//! Pictures whose channels lie beside each other: `[batch, height, width, channels]` in memory, whatever the order of a
//! tensor's axes.

use super::super::{
    memory::{GRAIN, New, each},
    transpose::transpose,
};
use burn::tensor::Shape;
use burn_flex::{FlexTensor, Layout};

/// Sizes of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Sizes {
    /// Of a tensor `[batch, channels, height, width]`.
    pub fn of(tensor: &FlexTensor) -> Self {
        let shape = tensor.layout().shape();
        Self { batch: shape[0], channels: shape[1], height: shape[2], width: shape[3] }
    }

    /// All pixels of all pictures.
    pub fn pixels(self) -> usize {
        self.batch * self.height * self.width
    }

    /// Steps along batch, channels, height and width.
    fn strides(self) -> [usize; 4] {
        [self.height * self.width * self.channels, 1, self.width * self.channels, self.channels]
    }
}

/// A tensor `[batch, channels, height, width]` whose channels lie beside each other: itself, or a copy.
pub fn in_pixels(tensor: FlexTensor) -> FlexTensor {
    if numbers_of(&tensor).is_some() {
        return tensor;
    }
    let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
    let sizes = Sizes::of(&tensor);
    let Sizes { batch, height, width, channels } = sizes;
    let pixels = height * width;
    let from = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
    let mut copy = New::of(batch * pixels * channels);
    let to = copy.shared();
    let strip = (GRAIN / channels.max(1)).clamp(16, pixels.max(16));
    let strips = pixels.div_ceil(strip);
    each(batch * strips, batch * pixels * channels, |task| {
        let (picture, first) = (task / strips, task % strips * strip);
        let count = strip.min(pixels - first);
        let start = picture * pixels * channels;
        let to = to.part(start + first * channels, count * channels);
        transpose(&from[start + first..], channels, count, pixels, to, channels);
    });
    tensor_of(copy, sizes)
}

/// The numbers of a tensor that [`in_pixels`] gave, pixel after pixel.
///
/// # Panics
/// If it did not.
pub fn numbers(tensor: &FlexTensor) -> &[f32] {
    let Some(numbers) = numbers_of(tensor) else { panic!("channels beside each other, not {tensor:?}") };
    numbers
}

fn numbers_of(tensor: &FlexTensor) -> Option<&[f32]> {
    let sizes = Sizes::of(tensor);
    let (shape, strides) = (tensor.layout().shape(), tensor.layout().strides());
    let lies = |axis: usize| shape[axis] == 1 || usize::try_from(strides[axis]) == Ok(sizes.strides()[axis]);
    let all = (0..4).all(lies) && !shape.contains(&0);
    all.then(|| &tensor.storage::<f32>()[tensor.layout().start_offset()..][..sizes.pixels() * sizes.channels])
}

/// What was written pixel after pixel, as a tensor `[batch, channels, height, width]`.
pub fn tensor_of(numbers: New, sizes: Sizes) -> FlexTensor {
    let shape = Shape::new([sizes.batch, sizes.channels, sizes.height, sizes.width]);
    numbers.strided(Layout::new(shape, sizes.strides().map(|step| step as isize).to_vec(), 0))
}
