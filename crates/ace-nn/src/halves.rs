//! Networks in f16, which ends at 65504: where bf16 does not exist (WGSL), 16 bits are these.
//!
//! What adds up over many blocks is held in f32 between them; norms, softmaxes and sums are in f32 anyway. What a layer makes
//! of its input is in f16, and may be more than that holds: it then becomes infinite, and so does the stream. [`Watch`] finds
//! the first block in which that happened.

use burn::{prelude::*, tensor::DType};

/// A stream that blocks add to, in numbers that hold the sum: f32 instead of f16.
pub(crate) fn stream<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    if x.dtype() == DType::F16 { x.cast(DType::F32) } else { x }
}

/// Looks at a network's stream after every block, and reads what it saw once, at the end.
pub(crate) struct Watch {
    /// Sums are infinite, or no numbers, if one of the summands is.
    sums: Option<Vec<(String, Tensor<1>)>>,
}

impl Watch {
    /// Looks if the network computes in f16 and does not learn.
    pub fn new(dtype: DType, device: &Device) -> Self {
        Self { sums: (dtype == DType::F16 && !device.is_autodiff()).then(Vec::new) }
    }

    /// Looks at what a block made of its stream.
    pub fn look<const N: usize>(&mut self, place: impl FnOnce() -> String, x: &Tensor<N>) {
        if let Some(sums) = &mut self.sums {
            sums.push((place(), x.clone().cast(DType::F32).sum()));
        }
    }

    /// Reads what was seen.
    ///
    /// # Panics
    /// If a stream was infinite or no number; the first place is named.
    pub fn end(self) {
        let Some(sums) = self.sums.filter(|sums| !sums.is_empty()) else { return };
        let (places, sums): (Vec<String>, Vec<Tensor<1>>) = sums.into_iter().unzip();
        let sums = Tensor::cat(sums, 0).into_data();
        if let Some((place, _)) = places.iter().zip(sums.iter::<f32>()).find(|(_, sum)| !sum.is_finite()) {
            panic!("{place} makes a number that f16 does not hold (65504 is its largest): hold this model in f32");
        }
    }
}
