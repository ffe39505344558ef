//! CLIP's text tower: token ids to one vector for the whole text, `[B, T]` to `[B, hidden_size]`.
//!
//! FLUX takes the last hidden state, after the final norm, at the end-of-text token; no projection follows. Attention
//! is causal, so what stands behind that token does not matter.

use crate::{
    attention,
    layers::{LayerNorm, empty},
    lora::{Linear, Linears},
    poll::{Poll, to_the_end},
    weight::Weight,
};
use ace_kernels::{gelu, gelu_tanh, quick_gelu};
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::assert_shape,
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Sizes of a [`Clip`], with transformers' names (`num_heads`, `num_layers` as everywhere here).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the stream.
    pub hidden_size: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Heads.
    pub num_heads: usize,
    /// Tokens of the longest text, 77 in CLIP-L.
    pub max_position_embeddings: usize,
    /// Between the two layers of a feed-forward.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Of every norm, 1e-5.
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f64,
}

/// What stands between the two layers of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x·σ(1.702·x)`: OpenAI's CLIP.
    #[default]
    QuickGelu,
    /// `x·Φ(x)`: towers trained by others.
    Gelu,
    /// `x·Φ(x)` by its approximation with a hyperbolic tangent: SigLIP.
    GeluTanh,
}

impl Activation {
    /// Of every number.
    pub fn forward<const N: usize>(self, x: Tensor<N>) -> Tensor<N> {
        match self {
            Self::QuickGelu => quick_gelu(x),
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
        }
    }
}

fn epsilon() -> f64 {
    1e-5
}

/// The attention of one layer.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `[D, D]`
    pub q_proj: Linear,
    /// `[D, D]`
    pub k_proj: Linear,
    /// `[D, D]`
    pub v_proj: Linear,
    /// `[D, D]`
    pub out_proj: Linear,
}

impl SelfAttention {
    /// Four projections with empty weights.
    pub fn new(width: usize, device: &Device) -> Self {
        let project = || Linear::new(width, width, device);
        Self { q_proj: project(), k_proj: project(), v_proj: project(), out_proj: project() }
    }

    pub(crate) fn linears(&mut self) -> [&mut Linear; 4] {
        let Self { q_proj, k_proj, v_proj, out_proj } = self;
        [q_proj, k_proj, v_proj, out_proj]
    }
}

/// Two linear layers with an activation between.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[intermediate_size, D]`
    pub fc1: Linear,
    /// `[D, intermediate_size]`
    pub fc2: Linear,
    #[module(skip)]
    hidden_act: Activation,
}

impl Mlp {
    /// Layers with empty weights: to `inner` features and back.
    pub fn new(width: usize, inner: usize, hidden_act: Activation, device: &Device) -> Self {
        Self { fc1: Linear::new(width, inner, device), fc2: Linear::new(inner, width, device), hidden_act }
    }

    /// # Shapes
    /// - x, output: `[B, T, D]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let hidden = self.fc1.forward(x);
        self.fc2.forward(self.hidden_act.forward(hidden))
    }
}

/// One layer: norm, attention, norm, feed-forward.
#[derive(Module, Debug)]
pub struct Layer {
    /// Before the attention.
    pub layer_norm1: LayerNorm,
    /// Causal.
    pub self_attn: SelfAttention,
    /// Before the feed-forward.
    pub layer_norm2: LayerNorm,
    /// Feed-forward.
    pub mlp: Mlp,
    num_heads: usize,
}

impl Layer {
    /// A layer with empty weights.
    pub fn new(config: &ClipConfig, device: &Device) -> Self {
        let d = config.hidden_size;
        Self {
            layer_norm1: LayerNorm::new(d, config.layer_norm_eps, device),
            self_attn: SelfAttention::new(d, device),
            layer_norm2: LayerNorm::new(d, config.layer_norm_eps, device),
            mlp: Mlp::new(d, config.intermediate_size, config.hidden_act, device),
            num_heads: config.num_heads,
        }
    }

    /// # Shapes
    /// - x, output: `[B, T, D]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [hidden_size, _] = self.mlp.fc1.features();
        assert_shape!(x, [_, _, hidden_size]);
        let u = self.layer_norm1.forward(x.clone());
        let heads = |linear: &Linear| attention::split_heads(linear.forward(u.clone()), self.num_heads);
        let attn = &self.self_attn;
        let attended = attention::causal(heads(&attn.q_proj), heads(&attn.k_proj), heads(&attn.v_proj));
        let x = x + attn.out_proj.forward(attention::join_heads(attended));
        let u = self.layer_norm2.forward(x.clone());
        x + self.mlp.forward(u)
    }
}

/// CLIP's text tower.
#[derive(Module, Debug)]
pub struct Clip {
    /// `[vocab_size, D]`
    pub token_embedding: Weight,
    /// `[max_position_embeddings, D]`
    pub position_embedding: Param<Tensor<2>>,
    /// Layers.
    pub layers: Vec<Layer>,
    /// After the last layer.
    pub final_layer_norm: LayerNorm,
}

impl ClipConfig {
    /// A tower with empty weights.
    pub fn init(&self, device: &Device) -> Clip {
        Clip {
            token_embedding: Weight::empty([self.vocab_size, self.hidden_size], device),
            position_embedding: empty([self.max_position_embeddings, self.hidden_size], device),
            layers: (0..self.num_layers).map(|_| Layer::new(self, device)).collect(),
            final_layer_norm: LayerNorm::new(self.hidden_size, self.layer_norm_eps, device),
        }
    }
}

impl Linears for Clip {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        for Layer { self_attn, mlp, .. } in &mut self.layers {
            self_attn.linears().into_iter().chain([&mut mlp.fc1, &mut mlp.fc2]).for_each(&mut *f);
        }
    }

    fn each_weight(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.token_embedding);
        self.each_linear(&mut |linear| f(&mut linear.weight));
    }
}

impl Clip {
    /// The pooled text.
    ///
    /// # Shapes
    /// - ids: `[B, T]`, `T` at most `max_position_embeddings`
    /// - end: per text, the place of its end-of-text token (the first one)
    /// - output: `[B, D]`
    ///
    /// # Panics
    /// If there is not one end inside each text, or the texts are too long.
    pub fn forward(&self, ids: Tensor<2, Int>, end: &[usize]) -> Tensor<2> {
        to_the_end(|poll| self.forward_polled(ids, end, poll))
    }

    /// [`Clip::forward`], left where `poll` breaks; it is asked before every layer.
    ///
    /// # Panics
    /// As [`Clip::forward`].
    pub fn forward_polled(&self, ids: Tensor<2, Int>, end: &[usize], poll: Poll<'_>) -> ControlFlow<(), Tensor<2>> {
        let [batch, len] = ids.dims();
        assert_eq!(end.len(), batch, "one end of text per text");
        assert!(end.iter().all(|end| *end < len), "ends {end:?} of texts of {len} tokens");
        let hidden = self.hidden_polled(ids, poll)?;
        let [batch, len, width] = hidden.dims();
        let rows: Vec<i32> = end.iter().enumerate().map(|(i, end)| (i * len + end) as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [batch]), &hidden.device());
        ControlFlow::Continue(hidden.reshape([batch * len, width]).select(0, rows))
    }

    /// The last hidden state after the final norm.
    ///
    /// # Shapes
    /// - ids: `[B, T]`, `T` at most `max_position_embeddings`
    /// - output: `[B, T, D]`
    ///
    /// # Panics
    /// If the texts are too long.
    pub fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        to_the_end(|poll| self.hidden_polled(ids, poll))
    }

    /// [`Clip::hidden`], left where `poll` breaks; it is asked before every layer.
    ///
    /// # Panics
    /// As [`Clip::hidden`].
    pub fn hidden_polled(&self, ids: Tensor<2, Int>, poll: Poll<'_>) -> ControlFlow<(), Tensor<3>> {
        let [batch, len] = ids.dims();
        let longest = self.position_embedding.lazy_shape()[0];
        assert!(len <= longest, "texts of {len} tokens, the longest may have {longest}");
        let [_, width] = self.token_embedding.shape();
        let rows = self.token_embedding.select(ids.reshape([batch * len]));
        let positions = self.position_embedding.val().narrow(0, 0, len).unsqueeze_dim::<3>(0);
        let mut x = rows.reshape([batch, len, width]) + positions;
        for layer in &self.layers {
            poll()?;
            x = layer.forward(x);
        }
        ControlFlow::Continue(self.final_layer_norm.forward(x))
    }
}
