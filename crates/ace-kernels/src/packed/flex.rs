//! Products with packed matrices on burn's CPU backend: widened a few hundred rows at a time, on all cores, and multiplied
//! while they are in the processor's cache.

use super::{NF4, PackedMatrix, Packing, float};
use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, Flex, backend_extension,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    prelude::*,
    tensor::{DType, Element, FloatDType, bf16, f16},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::borrow::Cow;

/// Wide numbers that exist at a time: eight megabytes.
const WIDE: usize = 1 << 21;

/// Fewer rows are not multiplied at a time.
const MIN_ROWS: usize = 64;

/// Products of fewer multiplications are not worth a second core.
const SERIAL: usize = 1 << 18;

/// What is done to packed matrices.
#[backend_extension(Flex, Autodiff: cfg(feature = "autodiff"))]
pub(super) trait PackedOps: Backend {
    /// The numbers of a matrix, `[out, in]`.
    fn packed_widen(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        packing: Packing,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;

    /// `x·Wᵀ`: `[rows, in]` to `[rows, out]`.
    fn packed_multiply(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self>;

    /// `y·W`: `[rows, out]` to `[rows, in]`; the gradient of the other.
    fn packed_multiply_back(
        y: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self>;
}

pub(super) fn is_flex(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "autodiff")]
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

pub(super) fn widen(matrix: &PackedMatrix, dtype: FloatDType) -> Tensor<2> {
    let PackedMatrix { words, scales, packing } = matrix.clone();
    Tensor::from_dispatch(Dispatch::packed_widen(words.into_dispatch(), scales.into_dispatch(), packing, dtype))
}

pub(super) fn multiply(matrix: &PackedMatrix, x: Tensor<2>) -> Tensor<2> {
    let PackedMatrix { words, scales, packing } = matrix.clone();
    let (x, words, scales) = (x.into_dispatch(), words.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::packed_multiply(x, words, scales, packing))
}

impl PackedOps for Flex {
    fn packed_widen(words: FlexTensor, scales: FlexTensor, packing: Packing, dtype: FloatDType) -> FlexTensor {
        let packed = Packed::of(&words, &scales, packing);
        match dtype {
            FloatDType::F64 => packed.all(f64::from),
            FloatDType::F16 => packed.all(f16::from_f32),
            FloatDType::BF16 => packed.all(bf16::from_f32),
            _ => packed.all(|value| value),
        }
    }

    fn packed_multiply(x: FlexTensor, words: FlexTensor, scales: FlexTensor, packing: Packing) -> FlexTensor {
        product(x, &words, &scales, packing, |packed, x, rounding| packed.multiply(x, rounding))
    }

    fn packed_multiply_back(y: FlexTensor, words: FlexTensor, scales: FlexTensor, packing: Packing) -> FlexTensor {
        product(y, &words, &scales, packing, |packed, y, rounding| packed.multiply_back(y, rounding))
    }
}

/// A product in f32, as burn-flex multiplies 16 bits too.
fn product(
    x: FlexTensor,
    words: &FlexTensor,
    scales: &FlexTensor,
    packing: Packing,
    multiply: impl Fn(&Packed<'_>, &[f32], Rounding) -> Vec<f32>,
) -> FlexTensor {
    let dtype = x.dtype();
    let rounding = match dtype {
        DType::BF16 => Rounding::Bf16,
        DType::F16 => Rounding::F16,
        _ => Rounding::None,
    };
    let x = Flex::float_cast(x, FloatDType::F32).to_contiguous();
    let y = multiply(&Packed::of(words, scales, packing), x.storage(), rounding);
    let rows = x.layout().shape()[0];
    let columns = y.len().checked_div(rows).unwrap_or(0);
    Flex::float_cast(tensor(y, [rows, columns]), float(dtype))
}

/// A tensor of numbers.
fn tensor<E: Element>(values: Vec<E>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// What the wide matrix would have been rounded to.
#[derive(Debug, Clone, Copy)]
enum Rounding {
    None,
    Bf16,
    F16,
}

/// The numbers of a packed matrix.
struct Packed<'a> {
    words: Cow<'a, [i32]>,
    scales: Vec<f32>,
    packing: Packing,
    rows: usize,
    columns: usize,
}

impl<'a> Packed<'a> {
    fn of(words: &'a FlexTensor, scales: &FlexTensor, packing: Packing) -> Self {
        let scales = Flex::float_cast(scales.clone(), FloatDType::F32).to_contiguous();
        let [rows, blocks] = scales.layout().shape().dims();
        let words = match words.as_slice() {
            Some(words) => Cow::Borrowed(words),
            None => Cow::Owned(words.to_contiguous().storage().to_vec()),
        };
        Self { words, scales: scales.storage().to_vec(), packing, rows, columns: blocks * packing.block_len() }
    }

    /// Widens one row.
    fn row(&self, row: usize, out: &mut [f32]) {
        let blocks = self.columns / self.packing.block_len();
        let width = blocks * self.packing.block_words();
        let words = &self.words[row * width..(row + 1) * width];
        let scales = &self.scales[row * blocks..(row + 1) * blocks];
        widen_row(self.packing, bytemuck::cast_slice(words), scales, out);
    }

    /// The whole matrix.
    fn all<E: Element>(&self, number: impl Fn(f32) -> E + Sync) -> FlexTensor {
        let mut values = vec![number(0.0); self.rows * self.columns];
        let fill = |buffer: &mut Vec<f32>, (row, out): (usize, &mut [E])| {
            buffer.resize(self.columns, 0.0);
            self.row(row, buffer);
            for (out, value) in out.iter_mut().zip(buffer) {
                *out = number(*value);
            }
        };
        values.par_chunks_mut(self.columns.max(1)).enumerate().for_each_init(Vec::new, fill);
        tensor(values, [self.rows, self.columns])
    }

    /// Calls `f` with the first row and the wide numbers of as many rows as are wide at a time.
    fn each_part(&self, rounding: Rounding, mut f: impl FnMut(usize, &[f32])) {
        let at_once = (WIDE / self.columns.max(1)).max(MIN_ROWS).min(self.rows);
        let mut wide = vec![0.0; at_once * self.columns];
        for first in (0..self.rows).step_by(at_once.max(1)) {
            let wide = &mut wide[..at_once.min(self.rows - first) * self.columns];
            wide.par_chunks_mut(self.columns).enumerate().with_min_len(8).for_each(|(row, out)| {
                self.row(first + row, out);
                match rounding {
                    Rounding::None => (),
                    Rounding::Bf16 => out.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
                    Rounding::F16 => out.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
                }
            });
            f(first, wide);
        }
    }

    /// `x·Wᵀ`
    fn multiply(&self, x: &[f32], rounding: Rounding) -> Vec<f32> {
        let rows = x.len().checked_div(self.columns).unwrap_or(0);
        let mut y = vec![0.0; rows * self.rows];
        self.each_part(rounding, |first, wide| {
            let part = wide.len() / self.columns;
            let x = Matrix { values: x, shape: [rows, self.columns], strides: [self.columns, 1] };
            let wide = Matrix { values: wide, shape: [self.columns, part], strides: [1, self.columns] };
            gemm(x, wide, y.get_mut(first..).unwrap_or_default(), self.rows, false);
        });
        y
    }

    /// `y·W`
    fn multiply_back(&self, y: &[f32], rounding: Rounding) -> Vec<f32> {
        let rows = y.len().checked_div(self.rows).unwrap_or(0);
        let mut x = vec![0.0; rows * self.columns];
        self.each_part(rounding, |first, wide| {
            let part = wide.len() / self.columns;
            let y = y.get(first..).unwrap_or_default();
            let y = Matrix { values: y, shape: [rows, part], strides: [self.rows, 1] };
            let wide = Matrix { values: wide, shape: [part, self.columns], strides: [self.columns, 1] };
            gemm(y, wide, &mut x, self.columns, first > 0);
        });
        x
    }
}

/// Where the numbers of a matrix are.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

/// The place behind the last number of a matrix.
fn end([rows, columns]: [usize; 2], [down, right]: [usize; 2]) -> usize {
    (rows - 1) * down + (columns - 1) * right + 1
}

/// `out = left·right`, or `out += left·right`; `out` has rows of `stride` numbers, of which the first are written.
fn gemm(left: Matrix<'_>, right: Matrix<'_>, out: &mut [f32], stride: usize, adds: bool) {
    let ([rows, inner], [also_inner, columns]) = (left.shape, right.shape);
    assert_eq!(inner, also_inner, "matrices that do not fit");
    if rows * inner * columns == 0 {
        return;
    }
    assert!(end(left.shape, left.strides) <= left.values.len(), "the left matrix is not all there");
    assert!(end(right.shape, right.strides) <= right.values.len(), "the right matrix is not all there");
    assert!(end([rows, columns], [stride, 1]) <= out.len() && columns <= stride, "the product has no room");
    let is_small = rows * inner * columns < SERIAL;
    // SAFETY: the three asserts say that every number that the strides reach is inside its slice; `out` is borrowed
    // alone, and its rows do not overlap.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            stride as isize,
            adds,
            left.values.as_ptr(),
            left.strides[1] as isize,
            left.strides[0] as isize,
            right.values.as_ptr(),
            right.strides[1] as isize,
            right.strides[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            if is_small { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(0) },
        );
    }
}

/// Widens a row of blocks, given their bits in the order of the file.
fn widen_row(packing: Packing, bytes: &[u8], scales: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function asks for.
        #[allow(unsafe_code)]
        return unsafe { widen_row_avx2(packing, bytes, scales, out) };
    }
    widen_row_plainly(packing, bytes, scales, out);
}

/// The same loops, compiled for processors of the last ten years.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_row_avx2(packing: Packing, bytes: &[u8], scales: &[f32], out: &mut [f32]) {
    widen_row_plainly(packing, bytes, scales, out);
}

/// Both numbers of a byte of NF4, the upper half's first.
const NF4_PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [NF4[byte >> 4], NF4[byte & 15]];
        byte += 1;
    }
    pairs
};

#[inline(always)]
fn widen_row_plainly(packing: Packing, bytes: &[u8], scales: &[f32], out: &mut [f32]) {
    match packing {
        Packing::Q8_0 => {
            for ((block, scale), out) in bytes.as_chunks::<32>().0.iter().zip(scales).zip(out.as_chunks_mut::<32>().0) {
                for (out, byte) in out.iter_mut().zip(block) {
                    *out = scale * f32::from(byte.cast_signed());
                }
            }
        }
        Packing::Q4_0 => {
            for ((block, scale), out) in bytes.as_chunks::<16>().0.iter().zip(scales).zip(out.as_chunks_mut::<32>().0) {
                let (low, high) = out.split_at_mut(16);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(block) {
                    *low = scale * (i32::from(byte & 15) - 8) as f32;
                    *high = scale * (i32::from(byte >> 4) - 8) as f32;
                }
            }
        }
        Packing::Nf4 => {
            for ((block, scale), out) in bytes.as_chunks::<32>().0.iter().zip(scales).zip(out.as_chunks_mut::<64>().0) {
                for (out, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(block) {
                    let [first, second] = NF4_PAIRS[usize::from(*byte)];
                    *out = [scale * first, scale * second];
                }
            }
        }
    }
}

#[cfg(feature = "autodiff")]
mod autodiff {
    use super::PackedOps;
    use crate::packed::Packing;
    use burn::{
        backend::{
            Autodiff,
            autodiff::{
                checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
                grads::Gradients,
                ops::{Backward, Ops, OpsKind},
            },
            tensor::{FloatTensor, IntTensor},
        },
        tensor::FloatDType,
    };

    /// What the gradient needs of a product with a packed matrix: the packed matrix.
    #[derive(Debug)]
    struct Multiply;

    impl<B: PackedOps> Backward<B, 1> for Multiply {
        type State = (IntTensor<B>, FloatTensor<B>, Packing);

        fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
            let (words, scales, packing) = ops.state;
            let gradient = gradients.consume::<B>(&ops.node);
            if let [Some(x)] = ops.parents {
                gradients.register::<B>(x.id, B::packed_multiply_back(gradient, words, scales, packing));
            }
        }
    }

    impl<B: PackedOps, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
        fn packed_widen(
            words: IntTensor<Self>,
            scales: FloatTensor<Self>,
            packing: Packing,
            dtype: FloatDType,
        ) -> FloatTensor<Self> {
            // Nothing learns through the numbers of a packed matrix.
            FloatTensor::<Self>::new(B::packed_widen(words, scales.into_parts().0, packing, dtype))
        }

        fn packed_multiply(
            x: FloatTensor<Self>,
            words: IntTensor<Self>,
            scales: FloatTensor<Self>,
            packing: Packing,
        ) -> FloatTensor<Self> {
            let scales = scales.into_parts().0;
            let (x, node) = x.into_parts();
            match Multiply.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => {
                    let y = B::packed_multiply(x, words.clone(), scales.clone(), packing);
                    prepared.finish((words, scales, packing), y)
                }
                OpsKind::UnTracked(prepared) => prepared.finish(B::packed_multiply(x, words, scales, packing)),
            }
        }

        fn packed_multiply_back(
            _y: FloatTensor<Self>,
            _words: IntTensor<Self>,
            _scales: FloatTensor<Self>,
            _packing: Packing,
        ) -> FloatTensor<Self> {
            panic!("the gradient of a product with a packed matrix has no gradient of its own");
        }
    }
}
