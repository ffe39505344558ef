//! T5 v1.1's encoder: token ids to one vector per token, `[B, T]` to `[B, T, d_model]`.
//!
//! No biases, no absolute positions; a learned bias per bucket of distance, stored once and shared by all layers;
//! scores are not divided by √d. Padding attends and is attended to, as FLUX uses it (spec §4.1).

pub mod keys;

use crate::{
    attention,
    layers::{RmsNorm, empty, gelu_tanh},
    lora::Linear,
};
use burn::{
    module::{Module, Param},
    prelude::*,
};
use serde::{Deserialize, Serialize};

/// Buckets of the relative position bias; the published models all have 32 over a distance of 128.
pub const NUM_BUCKETS: usize = 32;

/// Sizes of a [`T5`], with transformers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct T5Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the stream.
    pub d_model: usize,
    /// Features of a head; `num_heads · d_kv` need not be `d_model`.
    pub d_kv: usize,
    /// Width of the feed-forward.
    pub d_ff: usize,
    /// Layers.
    pub num_layers: usize,
    /// Heads.
    pub num_heads: usize,
}

/// The attention of one layer, with its norm.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Over the input.
    pub layer_norm: RmsNorm,
    /// `[heads·d_kv, d_model]`
    pub q: Linear,
    /// `[heads·d_kv, d_model]`
    pub k: Linear,
    /// `[heads·d_kv, d_model]`
    pub v: Linear,
    /// `[d_model, heads·d_kv]`
    pub o: Linear,
    num_heads: usize,
}

impl SelfAttention {
    /// A layer with empty weights.
    pub fn new(config: &T5Config, device: &Device) -> Self {
        let inner = config.num_heads * config.d_kv;
        let project = || Linear::without_bias(config.d_model, inner, device);
        Self {
            layer_norm: RmsNorm::new(config.d_model, device),
            q: project(),
            k: project(),
            v: project(),
            o: Linear::without_bias(inner, config.d_model, device),
            num_heads: config.num_heads,
        }
    }

    /// `x + o(attention(norm(x)))`; `bias` is `[1, heads, T, T]`.
    pub fn forward(&self, x: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let u = self.layer_norm.forward(x.clone());
        let heads = |linear: &Linear| attention::split_heads(linear.forward(u.clone()), self.num_heads);
        let [batch, ..] = x.dims();
        let attended = attention::biased(heads(&self.q), heads(&self.k), heads(&self.v), bias.repeat_dim(0, batch));
        x + self.o.forward(attention::join_heads(attended))
    }
}

/// The gated feed-forward of one layer, with its norm.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// Over the input.
    pub layer_norm: RmsNorm,
    /// The gate, through GELU.
    pub wi_0: Linear,
    /// What is gated.
    pub wi_1: Linear,
    /// Back to `d_model`.
    pub wo: Linear,
}

impl FeedForward {
    /// A layer with empty weights.
    pub fn new(config: &T5Config, device: &Device) -> Self {
        Self {
            layer_norm: RmsNorm::new(config.d_model, device),
            wi_0: Linear::without_bias(config.d_model, config.d_ff, device),
            wi_1: Linear::without_bias(config.d_model, config.d_ff, device),
            wo: Linear::without_bias(config.d_ff, config.d_model, device),
        }
    }

    /// `x + wo(gelu(wi_0·norm(x)) · wi_1·norm(x))`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let u = self.layer_norm.forward(x.clone());
        x + self.wo.forward(gelu_tanh(self.wi_0.forward(u.clone())) * self.wi_1.forward(u))
    }
}

/// Attention, then feed-forward.
#[derive(Module, Debug)]
pub struct Layer {
    /// Attention.
    pub attention: SelfAttention,
    /// Feed-forward.
    pub feed_forward: FeedForward,
}

/// T5's encoder.
#[derive(Module, Debug)]
pub struct T5 {
    /// `[vocab_size, d_model]`
    pub shared: Param<Tensor<2>>,
    /// `[32, heads]`, shared by all layers.
    pub relative_attention_bias: Param<Tensor<2>>,
    /// Layers.
    pub layers: Vec<Layer>,
    /// After the last layer.
    pub final_layer_norm: RmsNorm,
}

impl T5Config {
    /// An encoder with empty weights.
    pub fn init(&self, device: &Device) -> T5 {
        T5 {
            shared: empty([self.vocab_size, self.d_model], device),
            relative_attention_bias: empty([NUM_BUCKETS, self.num_heads], device),
            layers: (0..self.num_layers)
                .map(|_| Layer {
                    attention: SelfAttention::new(self, device),
                    feed_forward: FeedForward::new(self, device),
                })
                .collect(),
            final_layer_norm: RmsNorm::new(self.d_model, device),
        }
    }
}

impl T5 {
    /// # Shapes
    /// - ids: `[B, T]`
    /// - output: `[B, T, d_model]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, len] = ids.dims();
        let [_, width] = self.shared.dims();
        let rows = self.shared.val().select(0, ids.reshape([batch * len]));
        let bias = relative_bias(self.relative_attention_bias.val(), len);
        let mut x = rows.reshape([batch, len, width]);
        for layer in &self.layers {
            x = layer.feed_forward.forward(layer.attention.forward(x, bias.clone()));
        }
        self.final_layer_norm.forward(x)
    }
}

/// The bias of every pair of positions, `[1, heads, T, T]` (query, key), from the table `[32, heads]`.
pub fn relative_bias(table: Tensor<2>, len: usize) -> Tensor<4> {
    let [_, heads] = table.dims();
    let buckets: Vec<i32> =
        (0..len).flat_map(|query| (0..len).map(move |key| bucket(key as i64 - query as i64) as i32)).collect();
    let buckets = Tensor::<1, Int>::from_data(TensorData::new(buckets, [len * len]), &table.device());
    table.select(0, buckets).reshape([len, len, heads]).permute([2, 0, 1]).unsqueeze_dim(0)
}

/// The bucket of a distance `key − query`: exact below 8, then by powers, everything from 91 on alike.
///
/// The limits are written down (spec §11) because the logarithm of the definition rounds differently at them.
fn bucket(distance: i64) -> usize {
    const STARTS: [u64; 7] = [12, 16, 23, 32, 46, 64, 91];
    let size = distance.unsigned_abs();
    let within = match size {
        0..8 => size as usize,
        _ => 8 + STARTS.iter().filter(|start| size >= **start).count(),
    };
    if distance > 0 { NUM_BUCKETS / 2 + within } else { within }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_are_those_of_the_published_table() {
        let limits =
            [(0, 0), (7, 7), (8, 8), (11, 8), (12, 9), (15, 9), (16, 10), (22, 10), (23, 11), (31, 11), (32, 12)];
        let more = [(45, 12), (46, 13), (63, 13), (64, 14), (90, 14), (91, 15), (5000, 15)];
        for (size, expected) in limits.into_iter().chain(more) {
            assert_eq!(bucket(-size), expected, "key {size} before query");
            if size > 0 {
                assert_eq!(bucket(size), 16 + expected, "key {size} after query");
            }
        }
    }
}
