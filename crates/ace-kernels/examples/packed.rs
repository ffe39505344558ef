//! How fast a product with a packed matrix is, beside the dense one and burn's own quantized numbers.
//!
//! ```text
//! cargo run --release -p ace-kernels --example packed --features flex,burn/simd,burn/rayon [-- ROWS]
//! ```

#![allow(clippy::print_stdout)]

use ace_kernels::packed::{PackedMatrix, Packing};
use burn::{
    prelude::*,
    tensor::{
        Distribution, FloatDType,
        quantization::{QuantScheme, QuantValue, ScaleDtype},
    },
};
use std::time::Instant;

/// A feed-forward of FLUX.1.
const SHAPE: [usize; 2] = [12_288, 3072];

/// How often each is measured; the least counts.
const ROUNDS: usize = 5;

fn main() {
    let rows = std::env::args().nth(1).and_then(|rows| rows.parse().ok()).unwrap_or(512);
    let device = Device::default();
    let wide = Tensor::<2>::random(SHAPE, Distribution::Normal(0.0, 1.0), &device);
    let x = Tensor::<2>::random([rows, SHAPE[1]], Distribution::Normal(0.0, 1.0), &device);
    let dense = least(|| x.clone().matmul(wide.clone().transpose()));
    println!("{SHAPE:?}, {rows} rows: dense product {dense:.3} s");

    let scheme = QuantScheme::default().with_value(QuantValue::Q8F).per_block([1, 32], ScaleDtype::F32);
    let burns = wide.clone().quantize_dynamic(&scheme);
    let widen = least(|| burns.clone().dequantize());
    let product = least(|| x.clone().matmul(burns.clone().dequantize().transpose()));
    println!("burn's Q8F: widen {widen:.3} s, product {product:.3} s");

    let values: Vec<f32> = wide.into_data_as::<f32>().iter::<f32>().collect();
    for packing in Packing::ALL {
        let begin = Instant::now();
        let packed = PackedMatrix::pack(packing, SHAPE, &values, &device);
        let pack = begin.elapsed().as_secs_f64();
        let widen = least(|| packed.widen(FloatDType::F32));
        let product = least(|| packed.multiply(x.clone()));
        let bits = packed.bytes() as f64 * 8.0 / values.len() as f64;
        println!("{}: {bits} bits, pack {pack:.3} s, widen {widen:.3} s, product {product:.3} s", packing.name());
    }
}

/// The least of several times, in seconds.
fn least(f: impl Fn() -> Tensor<2>) -> f64 {
    let time = || {
        let begin = Instant::now();
        let result = f();
        drop(result.device().sync());
        begin.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| time()).fold(f64::MAX, f64::min)
}
