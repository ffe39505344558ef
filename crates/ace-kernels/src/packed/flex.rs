//! From tensors to products with packed matrices on burn's CPU backend, and back.

use super::{
    PackedMatrix, Packing,
    codes::Packed,
    float, integer,
    wide::{self, Rounding},
};
use crate::flex::{Maybe, memory};
use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, Flex, backend_extension,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    prelude::*,
    tensor::{DType, FloatDType, Shape, bf16, f16},
};
use burn_flex::FlexTensor;

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

    /// `x·Wᵀ + bias` in eight-bit integers, of what carries no gradient; `[rows, in]` to `[rows, out]`.
    fn packed_project(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        packing: Packing,
    ) -> FloatTensor<Self>;

    /// `y·W`: `[rows, out]` to `[rows, in]`; the gradient of the first.
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

/// Whether [`project`] can take this: nothing learns from it, and the processor has the instructions.
pub(super) fn projects(matrix: &PackedMatrix, x: &Tensor<2>) -> bool {
    !x.device().is_autodiff() && is_flex(&x.device()) && integer::is_possible(matrix.packing)
}

/// `x·Wᵀ + bias` in eight-bit integers.
pub(super) fn project(matrix: &PackedMatrix, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let (words, scales) = (matrix.words.clone().into_dispatch(), matrix.scales.clone().into_dispatch());
    let bias = Maybe::of(bias.map(Tensor::into_dispatch));
    Tensor::from_dispatch(Dispatch::packed_project(x.into_dispatch(), words, scales, bias, matrix.packing))
}

pub(super) fn widen(matrix: &PackedMatrix, dtype: FloatDType) -> Tensor<2> {
    let PackedMatrix { words, scales, packing, .. } = matrix.clone();
    Tensor::from_dispatch(Dispatch::packed_widen(words.into_dispatch(), scales.into_dispatch(), packing, dtype))
}

pub(super) fn multiply(matrix: &PackedMatrix, x: Tensor<2>) -> Tensor<2> {
    let PackedMatrix { words, scales, packing, .. } = matrix.clone();
    let (x, words, scales) = (x.into_dispatch(), words.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::packed_multiply(x, words, scales, packing))
}

impl PackedOps for Flex {
    fn packed_widen(words: FlexTensor, scales: FlexTensor, packing: Packing, dtype: FloatDType) -> FlexTensor {
        let packed = Packed::of(&words, &scales, packing);
        match dtype {
            FloatDType::F64 => wide::all(&packed, f64::from),
            FloatDType::F16 => wide::all(&packed, f16::from_f32),
            FloatDType::BF16 => wide::all(&packed, bf16::from_f32),
            _ => wide::all(&packed, |value| value),
        }
    }

    fn packed_multiply(x: FlexTensor, words: FlexTensor, scales: FlexTensor, packing: Packing) -> FlexTensor {
        product(x, &words, &scales, packing, wide::multiply)
    }

    fn packed_multiply_back(y: FlexTensor, words: FlexTensor, scales: FlexTensor, packing: Packing) -> FlexTensor {
        product(y, &words, &scales, packing, wide::multiply_back)
    }

    fn packed_project(
        x: FlexTensor,
        words: FlexTensor,
        scales: FlexTensor,
        bias: Maybe<Self>,
        packing: Packing,
    ) -> FlexTensor {
        let packed = Packed::of(&words, &scales, packing);
        let (dtype, shape) = (x.dtype(), Shape::new([x.layout().shape()[0], packed.rows]));
        let wide = |tensor| Flex::float_cast(tensor, FloatDType::F32);
        let x = memory::in_rows(wide(x));
        let bias = bias.get().map(|bias| memory::dense(wide(bias)));
        let y = match memory::Rows::of(&x) {
            Some(x) => integer::multiply(x, &packed, bias.as_ref().map(memory::numbers)),
            None => memory::New::of(0),
        };
        Flex::float_cast(y.tensor(shape), float(dtype))
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
    Flex::float_cast(FlexTensor::from_data(TensorData::new(y, [rows, columns])), float(dtype))
}

#[cfg(feature = "autodiff")]
mod autodiff {
    use super::PackedOps;
    use crate::{flex::Maybe, packed::Packing};
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

        fn packed_project(
            _x: FloatTensor<Self>,
            _words: IntTensor<Self>,
            _scales: FloatTensor<Self>,
            _bias: Maybe<Self>,
            _packing: Packing,
        ) -> FloatTensor<Self> {
            panic!("what learns is multiplied with wide numbers");
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
