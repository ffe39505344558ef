//! One layer of a vision transformer.

use super::VitConfig;
use crate::{
    attention,
    clip::{Mlp, SelfAttention},
    layers::{LayerNorm, empty},
    lora::Linear,
};
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::assert_shape,
};

/// A factor per feature.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// `[D]`
    pub lambda1: Param<Tensor<1>>,
}

/// One layer: norm, attention, norm, feed-forward; what the two add may be scaled.
#[derive(Module, Debug)]
pub struct Layer {
    /// Before the attention.
    pub layer_norm1: LayerNorm,
    /// Every token sees every other.
    pub self_attn: SelfAttention,
    /// Of what the attention adds.
    pub layer_scale1: Option<LayerScale>,
    /// Before the feed-forward.
    pub layer_norm2: LayerNorm,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Of what the feed-forward adds.
    pub layer_scale2: Option<LayerScale>,
    num_heads: usize,
}

impl Layer {
    /// A layer with empty weights.
    pub fn new(config: &VitConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let norm = || LayerNorm::new(width, config.layer_norm_eps, device);
        let scale = || config.layer_scale.then(|| LayerScale { lambda1: empty([width], device) });
        Self {
            layer_norm1: norm(),
            self_attn: SelfAttention::new(width, device),
            layer_scale1: scale(),
            layer_norm2: norm(),
            mlp: Mlp::new(width, config.intermediate_size, config.hidden_act, device),
            layer_scale2: scale(),
            num_heads: config.num_heads,
        }
    }

    pub(super) fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.self_attn.linears().into_iter().chain([&mut self.mlp.fc1, &mut self.mlp.fc2])
    }

    /// # Shapes
    /// - x, output: `[B, L, D]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [hidden_size, _] = self.mlp.fc1.features();
        assert_shape!(x, [_, _, hidden_size]);
        let u = self.layer_norm1.forward(x.clone());
        let heads = |linear: &Linear| attention::split_heads(linear.forward(u.clone()), self.num_heads);
        let attn = &self.self_attn;
        let attended = attention::full(heads(&attn.q_proj), heads(&attn.k_proj), heads(&attn.v_proj));
        let x = x + scaled(&self.layer_scale1, attn.out_proj.forward(attention::join_heads(attended)));
        let u = self.layer_norm2.forward(x.clone());
        x + scaled(&self.layer_scale2, self.mlp.forward(u))
    }
}

fn scaled(scale: &Option<LayerScale>, x: Tensor<3>) -> Tensor<3> {
    match scale {
        Some(scale) => x * scale.lambda1.val().unsqueeze::<3>(),
        None => x,
    }
}
