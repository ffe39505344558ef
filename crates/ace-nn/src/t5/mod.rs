//! T5 v1.1's encoder: token ids to one vector per token, `[B, T]` to `[B, T, d_model]`.
//!
//! No biases, no absolute positions; a learned bias per bucket of distance, stored once and shared by all layers;
//! scores are not divided by √d. Padding attends and is attended to, as FLUX uses it
//! (diffusers' `FluxPipeline` passes T5 no attention mask).

use crate::{
    attention,
    halves::{Watch, stream},
    layers::{RmsNorm, empty},
    lora::{Linear, Linears},
    poll::{Poll, to_the_end},
    weight::Weight,
};
use ace_kernels::gelu_tanh;
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{DType, assert_shape},
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Buckets of the relative position bias in the published models, and the distance from which all are alike.
pub const BUCKETS: usize = 32;
/// As [`BUCKETS`].
pub const MAX_DISTANCE: usize = 128;

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
    /// Buckets of the relative position bias, 32.
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share a bucket, 128.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    /// Of every norm, 1e-6.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
}

fn buckets() -> usize {
    BUCKETS
}

fn max_distance() -> usize {
    MAX_DISTANCE
}

fn epsilon() -> f64 {
    1e-6
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
            layer_norm: RmsNorm::with_epsilon(config.d_model, config.layer_norm_epsilon, device),
            q: project(),
            k: project(),
            v: project(),
            o: Linear::without_bias(inner, config.d_model, device),
            num_heads: config.num_heads,
        }
    }

    /// `x + o(attention(norm(x)))`
    ///
    /// # Shapes
    /// - x, output: `[B, T, d_model]`
    /// - bias: `[1, heads, T, T]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn forward(&self, x: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let ([_, len, _], [d_model, _]) = (x.dims(), self.q.features());
        assert_shape!(x, [_, len, d_model]);
        assert_shape!(bias, [1, self.num_heads, len, len]);
        let u = self.layer_norm.forward_narrow(x.clone());
        let heads = |linear: &Linear| attention::split_heads(linear.forward(u.clone()), self.num_heads);
        let [batch, ..] = x.dims();
        let attended = attention::biased(heads(&self.q), heads(&self.k), heads(&self.v), bias.repeat_dim(0, batch));
        add(x, self.o.forward(attention::join_heads(attended)))
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
            layer_norm: RmsNorm::with_epsilon(config.d_model, config.layer_norm_epsilon, device),
            wi_0: Linear::without_bias(config.d_model, config.d_ff, device),
            wi_1: Linear::without_bias(config.d_model, config.d_ff, device),
            wo: Linear::without_bias(config.d_ff, config.d_model, device),
        }
    }

    /// `x + wo(gelu(wi_0·norm(x)) · wi_1·norm(x))`
    ///
    /// # Shapes
    /// - x, output: `[B, T, d_model]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [d_model, _] = self.wi_0.features();
        assert_shape!(x, [_, _, d_model]);
        let u = self.layer_norm.forward_narrow(x.clone());
        let (gate, gated) = (gelu_tanh(self.wi_0.forward(u.clone())), self.wi_1.forward(u));
        if gate.dtype() != DType::F16 {
            return add(x, self.wo.forward(gate * gated));
        }
        // The published encoders make products here that f16 does not hold (transformers keeps `wo` in f32 for them). They are
        // taken smaller, by a power of two that loses no bit of the larger ones, and grow again in f32.
        const SMALLER: f64 = 64.0;
        let made = self.wo.forward(gate * (gated / SMALLER));
        add(x, made.cast(DType::F32) * SMALLER)
    }
}

/// A sum in the numbers of the stream.
fn add(x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    let dtype = x.dtype();
    x + y.cast(dtype)
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
    pub shared: Weight,
    /// `[buckets, heads]`, shared by all layers.
    pub relative_attention_bias: Param<Tensor<2>>,
    /// Layers.
    pub layers: Vec<Layer>,
    /// After the last layer.
    pub final_layer_norm: RmsNorm,
    max_distance: usize,
}

impl T5Config {
    /// An encoder with empty weights.
    pub fn init(&self, device: &Device) -> T5 {
        T5 {
            shared: Weight::empty([self.vocab_size, self.d_model], device),
            relative_attention_bias: empty([self.relative_attention_num_buckets, self.num_heads], device),
            layers: (0..self.num_layers)
                .map(|_| Layer {
                    attention: SelfAttention::new(self, device),
                    feed_forward: FeedForward::new(self, device),
                })
                .collect(),
            final_layer_norm: RmsNorm::with_epsilon(self.d_model, self.layer_norm_epsilon, device),
            max_distance: self.relative_attention_max_distance,
        }
    }
}

impl Layer {
    /// Calls `f` with the path and each linear layer.
    pub fn for_each_linear(&mut self, f: &mut dyn FnMut(&str, &mut Linear)) {
        let SelfAttention { q, k, v, o, .. } = &mut self.attention;
        let FeedForward { wi_0, wi_1, wo, .. } = &mut self.feed_forward;
        for (name, linear) in [("q", q), ("k", k), ("v", v), ("o", o)] {
            f(&format!("attention.{name}"), linear);
        }
        for (name, linear) in [("wi_0", wi_0), ("wi_1", wi_1), ("wo", wo)] {
            f(&format!("feed_forward.{name}"), linear);
        }
    }
}

impl Linears for T5 {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        self.layers.iter_mut().for_each(|layer| layer.for_each_linear(&mut |_, linear| f(linear)));
    }

    fn each_weight(&mut self, f: &mut dyn FnMut(&mut Weight)) {
        f(&mut self.shared);
        self.each_linear(&mut |linear| f(&mut linear.weight));
    }
}

/// Where T5's weights come from when they are not in the network: each is asked for when it is needed.
pub trait Layers {
    /// Rows of the table of words, `[ids, d_model]`.
    fn rows(&mut self, ids: &[i64]) -> Tensor<2>;

    /// Layer `index` with all its weights; `own` is the network's.
    fn layer(&mut self, index: usize, own: &Layer) -> Layer;
}

impl T5 {
    /// # Shapes
    /// - ids: `[B, T]`
    /// - output: `[B, T, d_model]`
    ///
    /// # Panics
    /// If an encoder in f16 makes a number that f16 does not hold.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        to_the_end(|poll| self.forward_polled(ids, poll))
    }

    /// [`T5::forward`], left where `poll` breaks; it is asked before every layer.
    pub fn forward_polled(&self, ids: Tensor<2, Int>, poll: Poll<'_>) -> ControlFlow<(), Tensor<3>> {
        let [batch, len] = ids.dims();
        let [_, width] = self.shared.shape();
        let rows = self.shared.select(ids.reshape([batch * len]));
        self.run(rows.reshape([batch, len, width]), &mut |_, own| own.clone(), poll)
    }

    /// As [`T5::forward_polled`], with words and layers that come from elsewhere.
    ///
    /// # Shapes
    /// - ids: as many for each of the batch
    /// - output: `[B, T, d_model]`
    pub fn forward_with(
        &self,
        ids: &[Vec<i64>],
        layers: &mut dyn Layers,
        poll: Poll<'_>,
    ) -> ControlFlow<(), Tensor<3>> {
        let (batch, len) = (ids.len(), ids.first().map_or(0, Vec::len));
        let rows = layers.rows(&ids.concat());
        let [_, width] = rows.dims();
        self.run(rows.reshape([batch, len, width]), &mut |index, own| layers.layer(index, own), poll)
    }

    fn run(
        &self,
        mut x: Tensor<3>,
        layer: &mut dyn FnMut(usize, &Layer) -> Layer,
        poll: Poll<'_>,
    ) -> ControlFlow<(), Tensor<3>> {
        let bias = relative_bias(self.relative_attention_bias.val(), x.dims()[1], self.max_distance);
        let mut watch = Watch::new(x.dtype(), &x.device());
        x = stream(x);
        for (index, own) in self.layers.iter().enumerate() {
            poll()?;
            let layer = layer(index, own);
            x = layer.feed_forward.forward(layer.attention.forward(x, bias.clone()));
            watch.look(|| format!("layer {index} of T5"), &x);
        }
        watch.end();
        ControlFlow::Continue(self.final_layer_norm.forward_narrow(x))
    }
}

/// The bias of every pair of positions, `[1, heads, T, T]` (query, key), from the table `[buckets, heads]`.
pub fn relative_bias(table: Tensor<2>, len: usize, max_distance: usize) -> Tensor<4> {
    let [buckets, heads] = table.dims();
    let of = |query: usize, key: usize| bucket(key as i64 - query as i64, buckets, max_distance) as i32;
    let places: Vec<i32> = (0..len).flat_map(|query| (0..len).map(move |key| of(query, key))).collect();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [len * len]), &table.device());
    table.select(0, places).reshape([len, len, heads]).permute([2, 0, 1]).unsqueeze_dim(0)
}

/// The bucket of a distance `key − query`: half of them for each direction, of these the first half exact, the rest by
/// powers up to `max_distance`, everything further alike.
fn bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    // Where the published buckets begin is written down (computed with transformers' `_relative_position_bucket` in
    // f32): the logarithm of the definition rounds differently there.
    const STARTS: [u64; 7] = [12, 16, 23, 32, 46, 64, 91];
    let (size, half) = (distance.unsigned_abs(), buckets / 2);
    let exact = half / 2;
    let within = match size {
        _ if size < exact as u64 => size as usize,
        _ if (buckets, max_distance) == (BUCKETS, MAX_DISTANCE) => {
            exact + STARTS.iter().filter(|start| size >= **start).count()
        }
        _ => {
            // In f32, as the reference computes it.
            let part = (size as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
            (exact + (part * (half - exact) as f32) as usize).min(half - 1)
        }
    };
    if distance > 0 { half + within } else { within }
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
            assert_eq!(bucket(-size, 32, 128), expected, "key {size} before query");
            if size > 0 {
                assert_eq!(bucket(size, 32, 128), 16 + expected, "key {size} after query");
            }
        }
    }

    #[test]
    fn other_tables_follow_the_definition() {
        // transformers' own answers for 8 buckets over a distance of 20.
        for (size, expected) in [(0, 0), (1, 1), (2, 2), (6, 2), (7, 3), (19, 3), (20, 3), (500, 3)] {
            assert_eq!(bucket(-size, 8, 20), expected, "key {size} before query");
        }
        assert_eq!(bucket(1, 8, 20), 5);
    }
}
