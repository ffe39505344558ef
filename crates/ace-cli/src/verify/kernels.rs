//! Operations that backends have versions of their own of, beside their formulas in f64 on the CPU.

use super::Case;
use ace_kernels::{
    attention::{self, Stream},
    gate_add, gelu_tanh, modulated_layer_norm,
};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};

/// Largest relative error in f32 where there is no matrix product: a few roundings, and an exponential of few units.
const BOUND: f64 = 1e-5;
/// In f16, of eleven bits.
const HALVES_BOUND: f64 = 2e-3;

/// All of them in f32, and in f16 where the device has it; products of matrices within `products`.
pub fn run(device: &Device, cpu: &Device, products: f64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, name, bound, products) in
        [(FloatDType::F32, "kernels", BOUND, products), (FloatDType::F16, "kernels in f16", HALVES_BOUND, 5e-3)]
    {
        if !device.supports_dtype(dtype) {
            continue;
        }
        let mut add = |what: &str, bound, f: &dyn Fn(&dyn Inputs) -> Tensor<3>| {
            let ours = floats(f(&Rounded { dtype, to: dtype.into(), device }));
            let theirs = floats(f(&Rounded { dtype, to: DType::F64, device: cpu }));
            cases.push(Case { name, what: what.to_owned(), error: error(&ours, &theirs), bound });
        };
        // As wide as FLUX's stream, and a row that is no multiple of anything; parts of wider rows, as modulations are cut.
        for width in [3072, 77] {
            for rows in [1, 5] {
                let part = |x: Tensor<3>, which: usize| x.narrow(2, which * width, width);
                add(&format!("modulated norm of {width}, {rows} told"), bound, &|inputs| {
                    let told = inputs.rows([2, rows, 2 * width], 2);
                    modulated_layer_norm(
                        inputs.rows([2, 5, width], 1) + 3.0,
                        part(told.clone(), 0),
                        part(told, 1),
                        1e-6,
                    )
                });
                add(&format!("gate of {width}, {rows} told"), bound, &|inputs| {
                    let gate = part(inputs.rows([2, rows, 2 * width], 2), 1);
                    gate_add(inputs.rows([2, 5, width], 1), gate, inputs.rows([2, 5, width], 3))
                });
            }
        }
        add("gelu", bound, &|inputs| gelu_tanh((inputs.rows([1, 7, 1001], 1) * 9.0).narrow(2, 3, 900)));
        for (heads, width, rest) in [(3, 128, 40), (2, 6, 0)] {
            add(&format!("attention of heads of {width}"), products, &|inputs| {
                let stream = |seed, len| Stream {
                    rows: inputs.rows([2, len, 3 * heads * width + rest], seed),
                    query_scale: inputs.rows([1, 1, width], seed + 1).flatten(0, 2),
                    key_scale: inputs.rows([1, 1, width], seed + 2).flatten(0, 2),
                };
                let angles = inputs.tables([1, 12, width / 2], 30);
                let [cos, sin] = [angles.clone().cos(), angles.sin()].map(|table| table.unsqueeze_dim(0));
                attention::joint(vec![stream(1, 5), stream(11, 7)], heads, 1e-6, cos, sin)
            });
        }
    }
    cases
}

/// Numbers that depend on a seed alone.
trait Inputs {
    /// In the numbers of a network.
    fn rows(&self, shape: [usize; 3], seed: u32) -> Tensor<3>;

    /// In at least f32, as tables of angles are.
    fn tables(&self, shape: [usize; 3], seed: u32) -> Tensor<3>;
}

/// Rounded to `dtype`, then held in `to`.
struct Rounded<'a> {
    dtype: FloatDType,
    to: DType,
    device: &'a Device,
}

impl Inputs for Rounded<'_> {
    fn rows(&self, shape: [usize; 3], seed: u32) -> Tensor<3> {
        noise(shape, seed, self.device).cast(self.dtype).cast(self.to)
    }

    fn tables(&self, shape: [usize; 3], seed: u32) -> Tensor<3> {
        let wide = if self.to == DType::F64 { DType::F64 } else { DType::F32 };
        noise(shape, seed, self.device).cast(wide)
    }
}

fn noise(shape: [usize; 3], seed: u32, device: &Device) -> Tensor<3> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn floats(tensor: Tensor<3>) -> Vec<f64> {
    tensor.into_data_as::<f64>().iter::<f64>().collect()
}

fn error(ours: &[f64], theirs: &[f64]) -> f64 {
    let (error, norm) = ours
        .iter()
        .zip(theirs)
        .fold((0.0, 0.0), |(error, norm), (ours, theirs)| (error + (ours - theirs).powi(2), norm + theirs * theirs));
    (error / norm).sqrt()
}
