//! Turning the pairs of every head, in one pass.

use super::{
    memory::{New, dense, each_rows, in_rows, numbers, rows, sizes},
    simd::wide,
};
use burn_flex::FlexTensor;

/// `x` is `[.., L, d]`, `cos` and `sin` are `[.., L, d/2]` without another axis of more than one; backward turns back.
pub fn turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, back: bool) -> FlexTensor {
    let (x, cos, sin) = (in_rows(x), dense(cos), dense(sin));
    let (from, half, sizes) = (rows(&x), rows(&cos).width, sizes(&x));
    let len = sizes[sizes.len() - 2];
    let (cos, sin) = (numbers(&cos), numbers(&sin));
    let mut out = New::of(from.count * from.width);
    let to = out.shared();
    each_rows(from.count, from.width, |first, count| {
        for i in first..first + count {
            let at = i % len * half;
            let out = to.part(i * from.width, from.width);
            turn_row(from.row(i), &cos[at..][..half], &sin[at..][..half], if back { -1.0 } else { 1.0 }, out);
        }
    });
    out.tensor(x.layout().shape().clone())
}

wide! {
    fn turn_row(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) {
        for ((out, x), (cos, sin)) in out.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(cos.iter().zip(sin)) {
            let sin = sign * sin;
            out[0] = x[0] * cos - x[1] * sin;
            out[1] = x[0] * sin + x[1] * cos;
        }
    }
}
