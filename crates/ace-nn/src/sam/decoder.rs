//! Tokens and a picture's embedding to masks: both attend to each other, twice, and each mask's token says with which
//! numbers a pixel's features are multiplied.

use super::layers::PixelNorm;
use crate::{
    attention,
    layers::{LayerNorm, empty},
    lora::Linear,
};
use ace_kernels::gelu;
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{activation::relu, assert_shape},
};
use serde::{Deserialize, Serialize};

/// What the norms of tokens add to a variance: torch's default.
const EPSILON: f64 = 1e-5;
/// How much narrower the attention between tokens and picture is.
const DOWNSAMPLE: usize = 2;
/// Masks for every prompt: one where it leaves no doubt, three where it is a single click.
const MASKS: usize = 4;

/// Sizes of a [`MaskDecoder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskDecoderConfig {
    /// Width of tokens and embedding.
    pub transformer_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads.
    pub num_heads: usize,
    /// Width of the feed-forwards.
    pub mlp_dim: usize,
    /// Width of what judges the masks.
    pub iou_head_hidden_dim: usize,
}

impl MaskDecoderConfig {
    /// Of every published SAM.
    pub const fn published() -> Self {
        Self { transformer_dim: 256, depth: 2, num_heads: 8, mlp_dim: 2048, iou_head_hidden_dim: 256 }
    }

    /// A decoder with empty weights.
    ///
    /// # Panics
    /// If the width is not a multiple of 8 and of twice the heads.
    pub fn init(&self, device: &Device) -> MaskDecoder {
        let Self { transformer_dim: width, depth, num_heads, mlp_dim, iou_head_hidden_dim } = *self;
        assert!(width.is_multiple_of(8) && width.is_multiple_of(DOWNSAMPLE * num_heads), "{self:?}");
        MaskDecoder {
            transformer: TwoWayTransformer {
                layers: (0..depth).map(|_| TwoWayBlock::new(width, mlp_dim, num_heads, device)).collect(),
                final_attn_token_to_image: Attention::new(width, width / DOWNSAMPLE, num_heads, device),
                norm_final_attn: LayerNorm::new(width, EPSILON, device),
            },
            iou_token: Tokens { weight: empty([1, width], device) },
            mask_tokens: Tokens { weight: empty([MASKS, width], device) },
            output_upscaling: Upscaling {
                conv1: Doubling::new([width, width / 4], device),
                norm: PixelNorm::new(width / 4, device),
                conv2: Doubling::new([width / 4, width / 8], device),
            },
            output_hypernetworks_mlps: (0..MASKS).map(|_| Mlp::new([width, width, width / 8], device)).collect(),
            iou_prediction_head: Mlp::new([width, iou_head_hidden_dim, MASKS], device),
        }
    }
}

/// Attention whose inside may be narrower.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[inside, D]`
    pub q_proj: Linear,
    /// `[inside, D]`
    pub k_proj: Linear,
    /// `[inside, D]`
    pub v_proj: Linear,
    /// `[D, inside]`
    pub out_proj: Linear,
    num_heads: usize,
}

impl Attention {
    fn new(width: usize, inside: usize, num_heads: usize, device: &Device) -> Self {
        let project = || Linear::new(width, inside, device);
        let out_proj = Linear::new(inside, width, device);
        Self { q_proj: project(), k_proj: project(), v_proj: project(), out_proj, num_heads }
    }

    fn forward(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let heads = |linear: &Linear, x| attention::split_heads(linear.forward(x), self.num_heads);
        let attended = attention::full(heads(&self.q_proj, q), heads(&self.k_proj, k), heads(&self.v_proj, v));
        self.out_proj.forward(attention::join_heads(attended))
    }
}

/// The feed-forward of the tokens.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[mlp_dim, D]`
    pub lin1: Linear,
    /// `[D, mlp_dim]`
    pub lin2: Linear,
}

/// Tokens to themselves, tokens to picture, feed-forward, picture to tokens; a norm behind each.
#[derive(Module, Debug)]
pub struct TwoWayBlock {
    /// Of the tokens.
    pub self_attn: Attention,
    /// Behind it.
    pub norm1: LayerNorm,
    /// Tokens ask the picture.
    pub cross_attn_token_to_image: Attention,
    /// Behind it.
    pub norm2: LayerNorm,
    /// Of the tokens.
    pub mlp: FeedForward,
    /// Behind it.
    pub norm3: LayerNorm,
    /// The picture asks the tokens.
    pub cross_attn_image_to_token: Attention,
    /// Behind it, of the picture.
    pub norm4: LayerNorm,
}

impl TwoWayBlock {
    fn new(width: usize, mlp_dim: usize, heads: usize, device: &Device) -> Self {
        let norm = || LayerNorm::new(width, EPSILON, device);
        let cross = || Attention::new(width, width / DOWNSAMPLE, heads, device);
        Self {
            self_attn: Attention::new(width, width, heads, device),
            norm1: norm(),
            cross_attn_token_to_image: cross(),
            norm2: norm(),
            mlp: FeedForward { lin1: Linear::new(width, mlp_dim, device), lin2: Linear::new(mlp_dim, width, device) },
            norm3: norm(),
            cross_attn_image_to_token: cross(),
            norm4: norm(),
        }
    }

    /// Tokens and picture after it; `prompts` and `positions` say again what they were, save to the first
    /// self-attention.
    fn forward(
        &self,
        first: bool,
        [tokens, image]: [Tensor<3>; 2],
        [prompts, positions]: [&Tensor<3>; 2],
    ) -> [Tensor<3>; 2] {
        let tokens = if first {
            self.self_attn.forward(tokens.clone(), tokens.clone(), tokens)
        } else {
            let q = tokens.clone() + prompts.clone();
            tokens.clone() + self.self_attn.forward(q.clone(), q, tokens)
        };
        let tokens = self.norm1.forward(tokens);
        let (q, k) = (tokens.clone() + prompts.clone(), image.clone() + positions.clone());
        let tokens = tokens + self.cross_attn_token_to_image.forward(q, k.clone(), image.clone());
        let tokens = self.norm2.forward(tokens);
        let tokens = tokens.clone() + self.mlp.lin2.forward(relu(self.mlp.lin1.forward(tokens)));
        let tokens = self.norm3.forward(tokens);
        let q = tokens.clone() + prompts.clone();
        let image = image + self.cross_attn_image_to_token.forward(k, q, tokens.clone());
        [tokens, self.norm4.forward(image)]
    }
}

/// Blocks, and a last look of the tokens at the picture.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    /// Blocks.
    pub layers: Vec<TwoWayBlock>,
    /// The last look.
    pub final_attn_token_to_image: Attention,
    /// Behind it.
    pub norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    fn forward(&self, prompts: Tensor<3>, image: Tensor<3>, positions: Tensor<3>) -> [Tensor<3>; 2] {
        let mut streams = [prompts.clone(), image];
        for (index, layer) in self.layers.iter().enumerate() {
            streams = layer.forward(index == 0, streams, [&prompts, &positions]);
        }
        let [tokens, image] = streams;
        let (q, k) = (tokens.clone() + prompts, image.clone() + positions);
        let tokens = tokens + self.final_attn_token_to_image.forward(q, k, image.clone());
        [self.norm_final_attn.forward(tokens), image]
    }
}

/// Learned tokens.
#[derive(Module, Debug)]
pub struct Tokens {
    /// `[tokens, D]`
    pub weight: Param<Tensor<2>>,
}

/// A transposed convolution with a kernel and a stride of two: every pixel becomes four.
#[derive(Module, Debug)]
pub struct Doubling {
    /// `[in, out, 2, 2]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
}

impl Doubling {
    fn new([input, output]: [usize; 2], device: &Device) -> Self {
        Self { weight: empty([input, output, 2, 2], device), bias: empty([output], device) }
    }

    /// # Shapes
    /// - x: `[H, W, in]`; output: `[2H, 2W, out]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let ([height, width, input], [_, output, _, _]) = (x.dims(), self.weight.lazy_shape().dims());
        // No output sees two pixels, so that it is one product.
        let weight = self.weight.val().permute([0, 2, 3, 1]).reshape([input, 4 * output]);
        let rows = x.reshape([height * width, input]).matmul(weight).reshape([height, width, 2, 2, output]);
        let pixels: Tensor<3> = rows.swap_dims(1, 2).reshape([2 * height, 2 * width, output]);
        pixels + self.bias.val().reshape([1, 1, output])
    }
}

/// The embedding to four times its size.
#[derive(Module, Debug)]
pub struct Upscaling {
    /// Twice.
    pub conv1: Doubling,
    /// Over channels.
    pub norm: PixelNorm,
    /// And twice again.
    pub conv2: Doubling,
}

/// Three layers with ReLU between.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Layers.
    pub layers: Vec<Linear>,
}

impl Mlp {
    fn new([input, inside, output]: [usize; 3], device: &Device) -> Self {
        let layer = |[input, output]: [usize; 2]| Linear::new(input, output, device);
        Self { layers: [[input, inside], [inside, inside], [inside, output]].map(layer).into() }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (last, others) = self.layers.split_last().expect("there are three layers");
        last.forward(others.iter().fold(x, |x, layer| relu(layer.forward(x))))
    }
}

/// What a [`MaskDecoder`] says.
#[derive(Debug, Clone)]
pub struct Masks {
    /// `[4, 4h, 4w]`, above zero inside; the first is for prompts that leave no doubt.
    pub logits: Tensor<3>,
    /// `[4]`: how well it thinks each covers what is meant, as intersection over union.
    pub scores: Tensor<1>,
}

/// What makes masks.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    /// Tokens and picture ask each other.
    pub transformer: TwoWayTransformer,
    /// Of what judges the masks.
    pub iou_token: Tokens,
    /// Of the masks.
    pub mask_tokens: Tokens,
    /// To four times the size.
    pub output_upscaling: Upscaling,
    /// From each mask's token to what pixels are multiplied with.
    pub output_hypernetworks_mlps: Vec<Mlp>,
    /// What judges the masks.
    pub iou_prediction_head: Mlp,
}

impl MaskDecoder {
    /// # Shapes
    /// - embedding: `[1, D, h, w]`, with what a mask as a prompt, or none, adds
    /// - positions: `[1, D, h, w]`
    /// - prompts: `[1, N, D]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn forward(&self, embedding: Tensor<4>, positions: Tensor<4>, prompts: Tensor<3>) -> Masks {
        let [_, dim, height, width] = embedding.dims();
        assert_shape!(embedding, [1, dim, height, width]);
        assert_shape!(positions, [1, dim, height, width]);
        assert_shape!(prompts, [1, _, dim]);
        let rows = |x: Tensor<4>| x.permute([0, 2, 3, 1]).reshape([1, height * width, dim]);
        let own = Tensor::cat(vec![self.iou_token.weight.val(), self.mask_tokens.weight.val()], 0);
        let tokens = Tensor::cat(vec![own.unsqueeze_dim(0), prompts], 1);
        let [tokens, image] = self.transformer.forward(tokens, rows(embedding), rows(positions));
        let token = |index: usize| tokens.clone().slice([0..1, index..index + 1, 0..dim]).reshape([1, dim]);

        let Upscaling { conv1, norm, conv2 } = &self.output_upscaling;
        let pixels = conv1.forward(image.reshape([height, width, dim]));
        let pixels = gelu(conv2.forward(gelu(norm.over.forward(pixels))));
        let [height, width, features] = pixels.dims();
        let mlps = self.output_hypernetworks_mlps.iter().enumerate();
        let factors = Tensor::cat(mlps.map(|(index, mlp)| mlp.forward(token(1 + index))).collect(), 0);
        let logits = factors.matmul(pixels.reshape([height * width, features]).transpose());
        Masks {
            logits: logits.reshape([MASKS, height, width]),
            scores: self.iou_prediction_head.forward(token(0)).reshape([MASKS]),
        }
    }
}
