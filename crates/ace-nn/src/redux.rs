//! FLUX.1 Redux: what an image encoder sees, as tokens that FLUX reads behind those of the words. Two linear layers with
//! SiLU between, `redux_up` and `redux_down`.
//!
//! Source: <https://github.com/black-forest-labs/flux> (`ReduxImageEncoder`); diffusers' class of that name has the same keys.

use crate::lora::{Linear, Linears};
use ace_kernels::silu;
use burn::{module::Module, prelude::*};
use serde::{Deserialize, Serialize};

/// How much wider the stream between the layers is than FLUX's words.
const WIDER: usize = 3;

/// Sizes of a [`Redux`], with BFL's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReduxConfig {
    /// Width of the image encoder, 1152 in SigLIP so400m.
    pub redux_dim: usize,
    /// Features of a text token, 4096 in FLUX.1.
    pub txt_in_features: usize,
}

impl ReduxConfig {
    /// A network with empty weights.
    pub fn init(&self, device: &Device) -> Redux {
        let between = WIDER * self.txt_in_features;
        Redux {
            redux_up: Linear::new(self.redux_dim, between, device),
            redux_down: Linear::new(between, self.txt_in_features, device),
        }
    }
}

/// From an image encoder's tokens to FLUX's.
#[derive(Module, Debug)]
pub struct Redux {
    /// `[3 · txt_in_features, redux_dim]`
    pub redux_up: Linear,
    /// `[txt_in_features, 3 · txt_in_features]`
    pub redux_down: Linear,
}

impl Linears for Redux {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        f(&mut self.redux_up);
        f(&mut self.redux_down);
    }
}

impl Redux {
    /// # Shapes
    /// - seen: `[B, N, redux_dim]`
    /// - output: `[B, N, txt_in_features]`
    ///
    /// # Panics
    /// If `seen` has another width.
    pub fn forward(&self, seen: Tensor<3>) -> Tensor<3> {
        self.redux_down.forward(silu(self.redux_up.forward(seen)))
    }
}
