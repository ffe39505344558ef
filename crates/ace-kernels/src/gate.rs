//! `x + gate·y`: how a block adds what it computed to its stream.

#[cfg(feature = "cube")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex;
use burn::{prelude::*, tensor::assert_shape};

/// `x + gate·y` in the dtype of `x`, which may be wider than that of `gate` and `y`.
///
/// # Shapes
/// - x, y, output: `[B, L, width]`
/// - gate: `[B, 1, width]` or `[B, L, width]`
///
/// # Panics
/// If these shapes do not agree.
pub fn gate_add(x: Tensor<3>, gate: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    let ([batch, len, width], [_, rows, _]) = (x.dims(), gate.dims());
    assert!(rows == 1 || rows == len, "the gate has {rows} rows, neither 1 nor {len}");
    assert_shape!(gate, [batch, rows, width]);
    assert_shape!(y, [batch, len, width]);
    #[cfg(feature = "flex")]
    if let Some(sum) = flex::gate_add([&x, &gate, &y]) {
        return sum;
    }
    #[cfg(feature = "cube")]
    if let Some(sum) = cube::gate_add([&x, &gate, &y]) {
        return sum;
    }
    let dtype = x.dtype();
    if dtype == y.dtype() { plain(x, gate, y) } else { plain(x, gate.cast(dtype), y.cast(dtype)) }
}

fn plain(x: Tensor<3>, gate: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    x + gate * y
}

#[cfg(test)]
mod tests {
    use super::{gate_add, plain};
    use crate::testing::{compare, random, relative_error, values};
    use burn::{prelude::*, tensor::DType};

    #[test]
    fn it_follows_the_plain_formula() {
        for ([batch, len, width], rows) in [([1, 70, 64], 1), ([2, 33, 37], 1), ([3, 5, 130], 5)] {
            let shapes: [&[usize]; 3] = [&[batch, len, width], &[batch, rows, 2 * width], &[batch, len, width]];
            compare(
                "a gate that is part of wider rows",
                &shapes,
                [1e-6, 1e-6],
                |i| gate_add(i.get(0), i.get::<3>(1).narrow(2, width, width), i.get(2)),
                |i| plain(i.get(0), i.get::<3>(1).narrow(2, width, width), i.get(2)),
            );
        }
    }

    #[test]
    fn a_wide_stream_stays_wide() {
        let (x, gate, y) = (random([1, 5, 32], 1) * 1e6, random([1, 1, 32], 2), random([1, 5, 32], 3) * 1e4);
        let [narrow_gate, narrow_y] = [&gate, &y].map(|rows: &Tensor<3>| rows.clone().cast(DType::F16));
        let ours = gate_add(x.clone(), narrow_gate, narrow_y);
        assert_eq!(ours.dtype(), DType::F32);
        assert!(relative_error(&values(ours), &values(plain(x, gate, y))) <= 1e-5);
    }

    #[test]
    #[should_panic(expected = "the gate has 2 rows, neither 1 nor 3")]
    fn a_gate_of_another_length_is_a_mistake() {
        gate_add(random([1, 3, 4], 1), random([1, 2, 4], 2), random([1, 3, 4], 3));
    }
}
