//! Operations on pictures, on burn's CPU backend without gradients; `None` where they cannot take a tensor.

use super::{Maybe, conv, group_norm};
use crate::conv::Convolution;
use burn::{
    backend::{Backend, Dispatch, DispatchTensor, Flex, backend_extension, tensor::FloatTensor},
    prelude::*,
    tensor::DType,
};
use burn_flex::FlexTensor;

/// The operations. Callers have checked shapes, types and devices.
#[backend_extension(Flex)]
pub trait Pictures: Backend {
    /// A convolution plus a bias plus another picture.
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] plus: Maybe<Self>,
        how: Convolution,
    ) -> FloatTensor<Self>;

    /// Group norm, and SiLU of it if wanted.
    fn group_norm(
        x: FloatTensor<Self>,
        groups: usize,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        silu: bool,
    ) -> FloatTensor<Self>;
}

impl Pictures for Flex {
    fn convolve(
        x: FlexTensor,
        weight: FlexTensor,
        bias: Maybe<Self>,
        plus: Maybe<Self>,
        how: Convolution,
    ) -> FlexTensor {
        conv::forward(x, weight, bias.get(), plus.get(), how)
    }

    fn group_norm(
        x: FlexTensor,
        groups: usize,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
        silu: bool,
    ) -> FlexTensor {
        group_norm::forward(x, groups, weight, bias, epsilon, silu)
    }
}

/// A convolution plus a bias plus another picture.
pub fn convolve(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    plus: Option<&Tensor<4>>,
    how: Convolution,
) -> Option<Tensor<4>> {
    if !(takes(x) && takes(weight) && bias.is_none_or(takes) && plus.is_none_or(takes)) {
        return None;
    }
    let (bias, plus) = (Maybe::of(bias.map(input)), Maybe::of(plus.map(input)));
    Some(Tensor::from_dispatch(Dispatch::convolve(input(x), input(weight), bias, plus, how)))
}

/// Group norm, and SiLU of it if `silu`.
pub fn norm_groups(
    x: &Tensor<4>,
    groups: usize,
    [weight, bias]: [&Tensor<1>; 2],
    epsilon: f64,
    silu: bool,
) -> Option<Tensor<4>> {
    if !(takes(x) && takes(weight) && takes(bias)) {
        return None;
    }
    Some(Tensor::from_dispatch(Dispatch::group_norm(input(x), groups, input(weight), input(bias), epsilon, silu)))
}

fn takes<const N: usize>(x: &Tensor<N>) -> bool {
    x.dtype() == DType::F32 && !x.dims().contains(&0) && x.device() == Device::flex() && !x.is_autodiff()
}

fn input<const N: usize>(x: &Tensor<N>) -> DispatchTensor {
    x.clone().into_dispatch()
}
