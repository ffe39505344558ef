//! A linear layer with low-rank branches: `y = x·Wᵀ + b + Σ sᵢ·(x·Aᵢᵀ)·Bᵢᵀ`.
//!
//! The branches are never multiplied out: `ΔW` of a FLUX layer is as large as the layer, its branch a hundredth. Only
//! [`Linear::fuse`] forms the product, once, for people who keep one adapter for good.

use crate::{
    layers::empty,
    weight::{Weight, change_in_f32},
};
use ace_kernels::{LowRank, add_low_rank, linear};
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{DType, assert_shape},
};
use std::ops::Range;

/// One low-rank branch of a [`Linear`]: `x ↦ scale·(x·Aᵀ)·Bᵀ`.
#[derive(Module, Debug)]
pub struct LoraBranch {
    /// The down projection, `[rank, in]`.
    pub lora_a: Param<Tensor<2>>,
    /// The up projection, `[out, rank]`.
    pub lora_b: Param<Tensor<2>>,
    /// Strength: `weight · alpha / rank`.
    pub scale: f64,
}

impl LoraBranch {
    /// A branch of the given rank whose parameters are zero until filled.
    pub fn new([input, output]: [usize; 2], rank: usize, scale: f64, device: &Device) -> Self {
        Self { lora_a: empty([rank, input], device), lora_b: empty([output, rank], device), scale }
    }

    /// A branch from existing factors, `a: [rank, in]`, `b: [out, rank]`.
    pub fn from_factors(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Self {
        Self { lora_a: Param::from_tensor(a), lora_b: Param::from_tensor(b), scale }
    }

    /// Some rows of `scale·B·A`, `[out, in]`, in f32.
    fn product(&self, rows: Range<usize>) -> Tensor<2> {
        let b = self.lora_b.val().narrow(0, rows.start, rows.len());
        b.cast(DType::F32).matmul(self.lora_a.val().cast(DType::F32)) * self.scale
    }
}

/// A linear layer in the checkpoints' layout, with any number of low-rank branches.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`, dense, packed or elsewhere.
    pub weight: Weight,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Branches that are added to the output, in order; empty for a plain layer.
    pub lora: Vec<LoraBranch>,
}

impl Linear {
    /// A layer with bias.
    pub fn new(input: usize, output: usize, device: &Device) -> Self {
        Self { bias: Some(empty([output], device)), ..Self::without_bias(input, output, device) }
    }

    /// A layer without bias, as T5 has them.
    pub fn without_bias(input: usize, output: usize, device: &Device) -> Self {
        Self { weight: Weight::empty([output, input], device), bias: None, lora: Vec::new() }
    }

    /// `[in, out]`
    pub fn features(&self) -> [usize; 2] {
        let [output, input] = self.weight.shape();
        [input, output]
    }

    /// # Shapes
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    ///
    /// # Panics
    /// If `x` has another number of features, or the weight is absent.
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let [input, _] = self.features();
        assert_shape!(x, [.., input]);
        let bias = self.bias.as_ref().map(|bias| bias.val());
        // Factors stay in f32 while they are trained; the product follows the model's dtype.
        let mut branches = self.lora.iter().map(|branch| LowRank {
            a: branch.lora_a.val().cast(x.dtype()),
            b: branch.lora_b.val().cast(x.dtype()),
            scale: branch.scale,
        });
        let y = match (&self.weight, branches.next()) {
            (Weight::Dense(weight), branch) => linear(x.clone(), weight.val(), bias, branch),
            (weight, None) => return weight.multiply(x, bias),
            (weight, Some(branch)) => add_low_rank(weight.multiply(x.clone(), None), x.clone(), bias, branch),
        };
        branches.fold(y, |y, branch| add_low_rank(y, x.clone(), None, branch))
    }

    /// Adds every branch into the weight (in f32, then back to the weight's dtype) and keeps the branches apart, so
    /// that [`Linear::unfuse`] can take them out again.
    ///
    /// # Panics
    /// If the weight is absent.
    pub fn fuse(mut self) -> (Self, Vec<LoraBranch>) {
        let branches = std::mem::take(&mut self.lora);
        (self.add(&branches, 1.0), branches)
    }

    /// Takes what [`Linear::fuse`] added out of the weight and restores the branches.
    pub fn unfuse(self, branches: Vec<LoraBranch>) -> Self {
        Self { lora: branches.clone(), ..self.add(&branches, -1.0) }
    }

    fn add(mut self, branches: &[LoraBranch], sign: f64) -> Self {
        let product = |branch: &LoraBranch, rows: &Range<usize>| branch.product(rows.clone()) * sign;
        self.weight =
            self.weight.change(|rows, weight| branches.iter().fold(weight, |sum, branch| sum + product(branch, &rows)));
        self
    }

    /// Adds to the weight (in f32, then back to the weight's dtype); nothing remembers it. `by` is asked for some rows of
    /// `[out, in]` at a time, or for all.
    ///
    /// # Panics
    /// If the weight is absent.
    pub fn shift_weight(&mut self, mut by: impl FnMut(Range<usize>) -> Tensor<2>) {
        self.weight = self.weight.clone().change(|rows, weight| weight + by(rows));
    }

    /// Adds `[out]` to the bias, as [`Linear::shift_weight`]; a layer without bias stays as it is.
    pub fn shift_bias(&mut self, by: Tensor<1>) {
        self.bias = self.bias.take().map(|bias| change_in_f32(bias, |bias| bias + by));
    }
}

/// A network whose linear layers can be reached, whatever they are called.
pub trait Linears {
    /// Calls `f` with every linear layer.
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear));

    /// Calls `f` with every matrix that need not be one tensor: those of linear layers, and tables.
    fn each_weight(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        self.each_linear(&mut |linear| f(&mut linear.weight));
    }
}
