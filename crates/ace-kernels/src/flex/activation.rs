//! Activations in one pass over all cores; backward, they are computed again from their input.

use super::{
    memory::{GRAIN, New, dense, each, numbers, sizes},
    simd::{exp, normal, sigmoid, wide},
};
use burn_flex::FlexTensor;

/// Which activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`
    Gelu,
    /// Its approximation with a hyperbolic tangent.
    GeluTanh,
    /// `x·σ(1.702·x)`
    QuickGelu,
    /// `x·σ(x)`
    Silu,
}

// √(2/π)·2 and 0.044715 times that: x/2·(1 + tanh u) is x·σ(2u).
const TANH: [f32; 2] = [1.595_769_2, 0.071_354_81];
const QUICK: f32 = 1.702;
/// 1/√(2π)
const NORMAL: f32 = 0.398_942_3;

/// The activation of every number.
pub fn forward(kind: Activation, x: FlexTensor) -> FlexTensor {
    let x = dense(x);
    let (from, mut out) = (numbers(&x), New::of(x.layout().num_elements()));
    let to = out.shared();
    each_part(from.len(), |start, len| row(kind, &from[start..][..len], to.part(start, len)));
    out.tensor(x.layout().shape().clone())
}

/// The gradient of the input.
pub fn backward(kind: Activation, x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
    let (x, gradient) = (dense(x), dense(gradient));
    assert_eq!(sizes(&x), sizes(&gradient), "a gradient of another shape");
    let (from, dy, mut out) = (numbers(&x), numbers(&gradient), New::of(x.layout().num_elements()));
    let to = out.shared();
    each_part(from.len(), |start, len| {
        row_backward(kind, &from[start..][..len], &dy[start..][..len], to.part(start, len));
    });
    out.tensor(x.layout().shape().clone())
}

fn each_part(len: usize, f: impl Fn(usize, usize) + Sync + Send) {
    each(len.div_ceil(GRAIN), len, |task| f(task * GRAIN, GRAIN.min(len - task * GRAIN)));
}

/// The activation of some numbers.
pub fn row(kind: Activation, x: &[f32], out: &mut [f32]) {
    match kind {
        Activation::Gelu => gelu(x, out),
        Activation::GeluTanh => gelu_tanh(x, out),
        Activation::QuickGelu => swish(x, QUICK, out),
        Activation::Silu => swish(x, 1.0, out),
    }
}

/// The gradient of some numbers.
pub fn row_backward(kind: Activation, x: &[f32], dy: &[f32], out: &mut [f32]) {
    match kind {
        Activation::Gelu => gelu_backward(x, dy, out),
        Activation::GeluTanh => gelu_tanh_backward(x, dy, out),
        Activation::QuickGelu => swish_backward(x, QUICK, dy, out),
        Activation::Silu => swish_backward(x, 1.0, dy, out),
    }
}

wide! {
    fn gelu(x: &[f32], out: &mut [f32]) {
        x.iter().zip(out).for_each(|(x, out)| *out = x * normal(*x));
    }

    fn gelu_tanh(x: &[f32], out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            *out = x * sigmoid(x * (x * x * TANH[1] + TANH[0]));
        }
    }

    fn swish(x: &[f32], factor: f32, out: &mut [f32]) {
        x.iter().zip(out).for_each(|(x, out)| *out = x * sigmoid(factor * x));
    }

    fn gelu_backward(x: &[f32], dy: &[f32], out: &mut [f32]) {
        for ((x, dy), out) in x.iter().zip(dy).zip(out) {
            *out = dy * (normal(*x) + x * exp(-0.5 * x * x) * NORMAL);
        }
    }

    fn gelu_tanh_backward(x: &[f32], dy: &[f32], out: &mut [f32]) {
        for ((x, dy), out) in x.iter().zip(dy).zip(out) {
            let square = x * x;
            let s = sigmoid(x * (square * TANH[1] + TANH[0]));
            *out = dy * (s + x * s * (1.0 - s) * (3.0 * TANH[1] * square + TANH[0]));
        }
    }

    fn swish_backward(x: &[f32], factor: f32, dy: &[f32], out: &mut [f32]) {
        for ((x, dy), out) in x.iter().zip(dy).zip(out) {
            let s = sigmoid(factor * x);
            *out = dy * (s + factor * x * s * (1.0 - s));
        }
    }
}
