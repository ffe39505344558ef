//! From tensors to [`Own`] and back; `None` where the operation cannot take them.
//!
//! It takes f32 on burn's CPU backend. Numbers of 16 bits become f32 for it, and its output becomes what they were.

use super::{Activation, Base, Maybe, Own, halves::Halves, tile};
use crate::LowRank;
use burn::{
    backend::{Dispatch, DispatchTensor},
    prelude::*,
    tensor::DType,
};

/// An activation of every number.
pub fn activate<const N: usize>(x: &Tensor<N>, kind: Activation) -> Option<Tensor<N>> {
    takes(x).then(|| output(Dispatch::activate(input(x), kind), x))
}

/// `layer_norm(x)·(1 + scale) + shift`
pub fn modulate([x, shift, scale]: [&Tensor<3>; 3], epsilon: f64) -> Option<Tensor<3>> {
    let all = [x, shift, scale];
    all.into_iter().all(takes).then(|| output(Dispatch::modulate(input(x), input(shift), input(scale), epsilon), x))
}

/// `x/√(mean(x²) + ε)·scale`
pub fn root_norm<const N: usize>(x: &Tensor<N>, scale: &Tensor<1>, epsilon: f64) -> Option<Tensor<N>> {
    (takes(x) && takes(scale)).then(|| output(Dispatch::root_norm(input(x), input(scale), epsilon), x))
}

/// `x + gate·y`
pub fn gate_add([x, gate, y]: [&Tensor<3>; 3]) -> Option<Tensor<3>> {
    [x, gate, y].into_iter().all(takes).then(|| output(Dispatch::gate_add(input(x), input(gate), input(y)), x))
}

/// Pairs turned by the angles of their token.
pub fn turn([x, cos, sin]: [&Tensor<4>; 3]) -> Option<Tensor<4>> {
    [x, cos, sin].into_iter().all(takes).then(|| output(Dispatch::turn(input(x), input(cos), input(sin)), x))
}

/// `softmax(q·kᵀ/√d)·v`
pub fn attend([q, k, v]: [&Tensor<4>; 3]) -> Option<Tensor<4>> {
    [q, k, v].into_iter().all(takes).then(|| output(Dispatch::attend(input(q), input(k), input(v)), q))
}

/// Attention over the rows of one or two streams, each with the scales of its queries and keys.
pub fn attend_rows(
    streams: &[(&Tensor<3>, [&Tensor<1>; 2])],
    [cos, sin]: [&Tensor<4>; 2],
    heads: usize,
    epsilon: f64,
) -> Option<Tensor<3>> {
    let ((first, [query, key]), second) = match streams {
        [first] => (first, None),
        [first, second] => (first, Some(second)),
        _ => return None,
    };
    if !(streams.iter().all(|(rows, scales)| takes(rows) && scales.iter().all(|scale| takes(scale)))
        && takes(cos)
        && takes(sin))
    {
        return None;
    }
    let rows = second.map(|(rows, _)| input(rows));
    let scales = second.map(|(_, scales)| scales.map(input));
    let (query_scale, key_scale) = scales.map_or((None, None), |[query, key]| (Some(query), Some(key)));
    let (rows, query_scale, key_scale) = (Maybe::of(rows), Maybe::of(query_scale), Maybe::of(key_scale));
    let learns =
        streams.iter().any(|(rows, scales)| is_learning(rows) || scales.iter().any(|scale| is_learning(scale)));
    let attend = if in_pairs(first) && !learns && tile::multiplies_pairs() {
        Dispatch::attend_rows_in_halves
    } else {
        Dispatch::attend_rows
    };
    let joined = attend(
        input(first),
        input(query),
        input(key),
        rows,
        query_scale,
        key_scale,
        input(cos),
        input(sin),
        heads,
        epsilon,
    );
    Some(output(joined, first))
}

/// `x·Wᵀ + bias` plus a low-rank branch. A weight of 16 bits stays as it is: a part at a time is widened.
pub fn project<const N: usize>(
    x: &Tensor<N>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    branch: Option<&LowRank>,
) -> Option<Tensor<N>> {
    let low = branch.is_none_or(|LowRank { a, b, .. }| takes(a) && takes(b));
    if !(takes(x) && takes(weight) && bias.is_none_or(takes) && low) {
        return None;
    }
    let learns = bias.is_some_and(is_learning) || branch.is_some_and(|low| is_learning(&low.a) || is_learning(&low.b));
    if in_pairs(x) && in_pairs(weight) && !learns && tile::multiplies_pairs() {
        return Some(Tensor::from_dispatch(Dispatch::project_halves(
            x.clone().into_dispatch(),
            weight.clone().into_dispatch(),
            Maybe::of(bias.map(input)),
            Maybe::of(branch.map(|branch| input(&branch.a))),
            Maybe::of(branch.map(|branch| input(&branch.b))),
            branch.map_or(0.0, |branch| branch.scale),
        )));
    }
    Some(output(based(input(x), weight.clone().into_dispatch(), Base::Weight, bias, branch), x))
}

/// Whether [`add_low_rank`] can take these.
pub fn adds<const N: usize>(y: &Tensor<N>, x: &Tensor<N>, bias: Option<&Tensor<1>>, branch: &LowRank) -> bool {
    as_it_is(y) && as_it_is(x) && bias.is_none_or(as_it_is) && as_they_are(branch)
}

/// `y + bias + scale·(x·Aᵀ)·Bᵀ`, in the place of `y` if nobody else has it.
pub fn add_low_rank<const N: usize>(
    y: Tensor<N>,
    x: &Tensor<N>,
    bias: Option<&Tensor<1>>,
    branch: &LowRank,
) -> Tensor<N> {
    Tensor::from_dispatch(based(input(x), y.into_dispatch(), Base::Sum, bias, Some(branch)))
}

fn based(
    x: DispatchTensor,
    base: DispatchTensor,
    kind: Base,
    bias: Option<&Tensor<1>>,
    branch: Option<&LowRank>,
) -> DispatchTensor {
    Dispatch::project(
        x,
        base,
        kind,
        Maybe::of(bias.map(input)),
        Maybe::of(branch.map(|branch| input(&branch.a))),
        Maybe::of(branch.map(|branch| input(&branch.b))),
        branch.map_or(0.0, |branch| branch.scale),
    )
}

/// Taken as it is.
fn as_it_is<const N: usize>(x: &Tensor<N>) -> bool {
    takes(x) && x.dtype() == DType::F32
}

fn as_they_are(branch: &LowRank) -> bool {
    as_it_is(&branch.a) && as_it_is(&branch.b)
}

/// On burn's CPU backend, not empty, and without gradients unless those were compiled in.
fn takes<const N: usize>(x: &Tensor<N>) -> bool {
    let device = x.device();
    matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && !x.dims().contains(&0)
        && device == Device::flex()
        && (cfg!(feature = "autodiff") || !device.is_autodiff())
}

/// Rows of bf16 that are made of pairs, without gradients.
fn in_pairs<const N: usize>(x: &Tensor<N>) -> bool {
    x.dtype() == DType::BF16 && x.dims()[N - 1].is_multiple_of(2) && !is_learning(x)
}

/// Whether a tensor is part of a graph, or may become one.
fn is_learning<const N: usize>(x: &Tensor<N>) -> bool {
    x.device().is_autodiff()
}

fn input<const N: usize>(x: &Tensor<N>) -> DispatchTensor {
    match x.dtype() {
        DType::BF16 if !is_learning(x) => Dispatch::unhalve(x.clone().into_dispatch()),
        _ => x.clone().cast(DType::F32).into_dispatch(),
    }
}

fn output<const N: usize, const M: usize>(y: DispatchTensor, like: &Tensor<M>) -> Tensor<N> {
    let y = Tensor::<N>::from_dispatch(y);
    match like.dtype() {
        DType::BF16 if !is_learning(&y) => Tensor::from_dispatch(Dispatch::halve(y.into_dispatch())),
        dtype => y.cast(dtype),
    }
}

#[cfg(test)]
mod tests {
    use super::{activate, project};
    use crate::{
        flex::Activation,
        testing::{device, random},
    };
    use burn::{prelude::*, tensor::DType};

    #[test]
    fn the_processor_runs_f32_and_sixteen_bits_and_nothing_else() {
        let x = random([3, 4], 1);
        for (dtype, taken) in [(DType::F32, true), (DType::BF16, true), (DType::F16, true), (DType::F64, false)] {
            let y = activate(&x.clone().cast(dtype), Activation::Silu);
            assert_eq!(y.map(|y| y.dtype()), taken.then_some(dtype));
        }
        let none = Tensor::<2>::zeros([0, 4], &device());
        assert!(activate(&none, Activation::Silu).is_none());
    }

    #[test]
    fn weights_of_double_precision_stay_with_burn() {
        let (x, weight) = (random([3, 4], 1), random([2, 4], 2));
        assert!(project(&x, &weight, None, None).is_some());
        assert!(project(&x.cast(DType::F64), &weight.cast(DType::F64), None, None).is_none());
    }

    #[test]
    fn gradients_are_taken_where_they_were_compiled_in() {
        let x = Tensor::from_inner(random([3, 4], 1));
        assert_eq!(activate(&x, Activation::Gelu).is_some(), cfg!(feature = "autodiff"));
    }
}
