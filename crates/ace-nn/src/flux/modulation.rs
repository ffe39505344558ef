//! Adaptive layer norm: the conditioning vector says how each block shifts, scales and gates.

use crate::{lora::Linear, segments::each};
use ace_kernels::{gate_add, modulated_layer_norm, silu};
use burn::{module::Module, prelude::*, tensor::assert_shape};

/// What FLUX adds to the variance in the norms that have no parameters.
const EPSILON: f64 = 1e-6;

/// `lin(silu(vec))`, cut into shift, scale and gate for each of `parts` uses.
#[derive(Module, Debug)]
pub struct Modulation {
    /// `[3·parts·D, D]`, in the order shift, scale, gate, shift, scale, gate.
    pub lin: Linear,
    /// What `lin` says of the vector that is at hand, `[1, 3·parts·D]`, where it was computed before (see
    /// [`super::Modulated`]); the vector itself is then not read.
    #[module(skip)]
    pub(super) said: Option<Tensor<2>>,
}

/// What one use of a block's norm is told, each `[B, 1, D]`.
#[derive(Debug, Clone)]
pub struct Shift {
    /// Added after scaling.
    pub shift: Tensor<3>,
    /// Multiplies as `1 + scale`.
    pub scale: Tensor<3>,
    /// Multiplies what the block adds to the stream.
    pub gate: Tensor<3>,
    /// Tokens of each of several examples on one sequence, or parts of that several times over; `B` are then the examples.
    parts: Option<Vec<usize>>,
}

impl Shift {
    /// `norm(x)·(1 + scale) + shift`
    ///
    /// # Panics
    /// If `x` has another batch or width.
    pub fn modulate(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(parts) = &self.parts else { return modulate(x, self.shift.clone(), self.scale.clone()) };
        each(parts, &[&x], |part, mut of| {
            modulate(of.remove(0), self.of(&self.shift, part), self.of(&self.scale, part))
        })
    }

    /// The same for examples on one sequence, which have so many tokens each.
    pub(super) fn over(self, parts: Option<&[usize]>) -> Self {
        Self { parts: parts.map(<[usize]>::to_vec), ..self }
    }

    /// The row of the example that a part of the sequence belongs to.
    fn of(&self, rows: &Tensor<3>, part: usize) -> Tensor<3> {
        rows.clone().narrow(0, part % rows.dims()[0], 1)
    }

    /// `x + gate·y`: what a block adds to its stream.
    ///
    /// # Panics
    /// If `x` or `y` has another batch or width, or they have not the same length.
    pub fn add(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let Some(parts) = &self.parts else { return gate_add(x, self.gate.clone(), y) };
        each(parts, &[&x, &y], |part, mut of| {
            let y = of.remove(1);
            gate_add(of.remove(0), self.of(&self.gate, part), y)
        })
    }
}

/// `norm(x)·(1 + scale) + shift` with a norm that has no parameters of its own.
///
/// # Shapes
/// - x, output: `[B, L, D]`
/// - shift, scale: `[B, 1, D]`
///
/// # Panics
/// If these shapes do not agree.
pub fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>) -> Tensor<3> {
    let [batch, _, hidden_size] = x.dims();
    assert_shape!(shift, [batch, 1, hidden_size]);
    assert_shape!(scale, [batch, 1, hidden_size]);
    modulated_layer_norm(x, shift, scale, EPSILON)
}

impl Modulation {
    /// A modulation for `parts` uses: 2 in a double block's stream, 1 in a single block.
    pub fn new(hidden_size: usize, parts: usize, device: &Device) -> Self {
        Self { lin: Linear::new(hidden_size, 3 * parts * hidden_size, device), said: None }
    }

    /// # Shapes
    /// - vec: `[B, D]`
    ///
    /// # Panics
    /// If `vec` has another width, or the modulation was not made for `PARTS` uses.
    pub fn forward<const PARTS: usize>(&self, vec: Tensor<2>) -> [Shift; PARTS] {
        let [hidden_size, outputs] = self.lin.features();
        assert_shape!(vec, [_, hidden_size]);
        assert_eq!(outputs, 3 * PARTS * hidden_size, "a modulation for {PARTS} uses");
        let all = match &self.said {
            Some(said) => said.clone().repeat_dim(0, vec.dims()[0]),
            None => self.lin.forward(silu(vec)),
        };
        let all = all.unsqueeze_dim::<3>(1);
        let width = all.dims()[2] / (3 * PARTS);
        let part = |i: usize| all.clone().narrow(2, i * width, width);
        std::array::from_fn(|use_| Shift {
            shift: part(3 * use_),
            scale: part(3 * use_ + 1),
            gate: part(3 * use_ + 2),
            parts: None,
        })
    }
}
