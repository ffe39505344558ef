//! FLUX.1's transformer (MMDiT): from noisy latents, conditions and words to a velocity.
//!
//! ```text
//! tokens [B,L,in_channels] ─ img_in ─▶ img ┐            prompt_embeds [B,T,C] ─ txt_in ─▶ txt ┐
//! timesteps ─ time_in ─┐                   │                                                  │
//! guidance ─ guidance_in ┼─ + ─▶ vec ──▶  double block × depth  (img and txt meet in attention)
//! pooled ─── vector_in ─┘        │         │
//!                                └─────▶  single block × depth_single_blocks  on [txt ; img]
//!                                          │ drop text
//!                                final_layer ─▶ velocity [B,L,out_channels]
//! ```
//!
//! Blocks are values in a `Vec`, each callable, loadable and droppable alone. Who runs them is a [`Walk`]: with all
//! weights at hand the network itself, otherwise whoever fetches, skips or recomputes them.

mod block;
mod embed;
mod modulated;
mod modulation;
mod partial;
mod walk;

pub use block::{BlockSize, DoubleBlock, Mlp, QkNorm, SingleBlock, StreamAttention};
pub use embed::{MlpEmbedder, SINUSOID_DIM, sinusoid};
pub use modulated::{FetchMatrix, Given, Modulated, is_modulation};
pub use modulation::{Modulation, Shift};
pub use partial::{Among, Keeping, Rest};
pub use walk::{Blocks, Fetched, Own, Resident, Shared, Walk};

use crate::{
    halves::{Watch, stream},
    layers::RmsNorm,
    lora::{Linear, Linears},
    poll::{Poll, to_the_end},
    rope::Rope,
    segments::each,
};
use ace_kernels::silu;
use burn::{module::Module, prelude::*, tensor::assert_shape};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Sizes of a [`Flux`], with BFL's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FluxConfig {
    /// Features per token: 64 latents, 384 with FLUX-Fill's conditions, 448 with ACE++'s.
    pub in_channels: usize,
    /// Features per token of the velocity, 64.
    pub out_channels: usize,
    /// `D`, 3072 in FLUX.1.
    pub hidden_size: usize,
    /// Heads; `D / num_heads` features each.
    pub num_heads: usize,
    /// Double blocks.
    pub depth: usize,
    /// Single blocks.
    pub depth_single_blocks: usize,
    /// Features of a head that each axis of the position turns; their sum is the head size.
    pub axes_dim: [usize; 3],
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// Width of the feed-forward over `D`.
    pub mlp_ratio: f64,
    /// Features of a text token (T5's width).
    pub context_in_dim: usize,
    /// Features of the pooled text (CLIP's width).
    pub vec_in_dim: usize,
    /// Whether the guidance scale is embedded; false in FLUX.1-schnell.
    pub guidance_embed: bool,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
}

impl FluxConfig {
    /// A network with empty weights.
    ///
    /// # Panics
    /// If the head size is not the sum of `axes_dim`; [`FluxConfig::check`] says so politely.
    pub fn init(&self, device: &Device) -> Flux {
        if let Err(problem) = self.check() {
            panic!("{problem}");
        }
        let d = self.hidden_size;
        let size = BlockSize {
            hidden_size: d,
            num_heads: self.num_heads,
            mlp_hidden: self.mlp_hidden(),
            qkv_bias: self.qkv_bias,
        };
        Flux {
            img_in: Linear::new(self.in_channels, d, device),
            time_in: MlpEmbedder::new(SINUSOID_DIM, d, device),
            vector_in: MlpEmbedder::new(self.vec_in_dim, d, device),
            guidance_in: self.guidance_embed.then(|| MlpEmbedder::new(SINUSOID_DIM, d, device)),
            txt_in: Linear::new(self.context_in_dim, d, device),
            double_blocks: (0..self.depth).map(|_| DoubleBlock::new(size, device)).collect(),
            single_blocks: (0..self.depth_single_blocks).map(|_| SingleBlock::new(size, device)).collect(),
            final_layer: FinalLayer {
                adaln_modulation: Linear::new(d, 2 * d, device),
                linear: Linear::new(d, self.out_channels, device),
            },
            axes_dim: self.axes_dim,
            theta: self.theta,
        }
    }

    /// What is contradictory in these sizes, if anything.
    ///
    /// # Errors
    /// A sentence that names the fields.
    pub fn check(&self) -> Result<(), String> {
        let (d, heads) = (self.hidden_size, self.num_heads);
        if heads == 0 || !d.is_multiple_of(heads) {
            return Err(format!("hidden_size {d} is not a multiple of num_heads {heads}"));
        }
        let axes: usize = self.axes_dim.iter().sum();
        if d / heads != axes || self.axes_dim.iter().any(|axis| axis % 2 == 1) {
            return Err(format!("axes_dim {:?} must be even and sum to the head size {}", self.axes_dim, d / heads));
        }
        if self.in_channels < self.out_channels {
            return Err(format!(
                "in_channels {} holds fewer than out_channels {}",
                self.in_channels, self.out_channels
            ));
        }
        Ok(())
    }

    /// Width of the feed-forward.
    pub fn mlp_hidden(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }
}

/// What the transformer is asked: tensors that travel together.
///
/// N examples of any sizes may stand behind each other on one sequence: `tokens` and `prompt_embeds` are then `[1, ΣL, …]`
/// and `[1, ΣT, …]`, the others have N rows, and `rope` is from [`Flux::packed_rope`].
#[derive(Debug, Clone)]
pub struct FluxInput {
    /// `[B, L, in_channels]`: noisy latents, then the unit's conditions on the channels.
    pub tokens: Tensor<3>,
    /// Turning of `[text ; image]` positions, from [`Flux::rope`].
    pub rope: Rope,
    /// `[B, T, context_in_dim]`
    pub prompt_embeds: Tensor<3>,
    /// `[B, vec_in_dim]`
    pub pooled_prompt_embeds: Tensor<2>,
    /// `[B]`, 1 is noise and 0 is image; f32.
    pub timesteps: Tensor<1>,
    /// `[B]`; f32. Not read by a network without guidance embedding.
    pub guidance: Tensor<1>,
}

/// The state between blocks: what [`Flux::embed`] makes and blocks pass on.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Image stream, `[B, L, D]`; of a network in f16 both streams are in f32.
    pub img: Tensor<3>,
    /// Text stream, `[B, T, D]`.
    pub txt: Tensor<3>,
    /// Conditioning vector, `[B, D]`.
    pub vec: Tensor<2>,
}

/// FLUX.1's transformer.
#[derive(Module, Debug)]
pub struct Flux {
    /// `[D, in_channels]`
    pub img_in: Linear,
    /// Timestep to `vec`.
    pub time_in: MlpEmbedder,
    /// Pooled text to `vec`.
    pub vector_in: MlpEmbedder,
    /// Guidance to `vec`; absent in schnell.
    pub guidance_in: Option<MlpEmbedder>,
    /// `[D, context_in_dim]`
    pub txt_in: Linear,
    /// Text and image apart, meeting in the attention.
    pub double_blocks: Vec<DoubleBlock>,
    /// Text and image in one stream.
    pub single_blocks: Vec<SingleBlock>,
    /// Back to latents.
    pub final_layer: FinalLayer,
    axes_dim: [usize; 3],
    theta: f64,
}

impl Flux {
    /// Rotary tables for `text_len` text tokens (all at position 0) followed by image tokens at `ids`.
    pub fn rope(&self, text_len: usize, ids: &[[f32; 3]], device: &Device) -> Rope {
        let all: Vec<[f32; 3]> = std::iter::repeat_n([0.0; 3], text_len).chain(ids.iter().copied()).collect();
        Rope::new(&all, &self.axes_dim, self.theta, device)
    }

    /// Rotary tables for several examples on one sequence: text tokens (all at position 0) and image tokens of each.
    ///
    /// # Panics
    /// If there is no example, or one has no tokens of a kind.
    pub fn packed_rope(&self, examples: &[(usize, &[[f32; 3]])], device: &Device) -> Rope {
        Rope::packed(examples, &self.axes_dim, self.theta, device)
    }

    /// The velocity (`noise − latents`) of every token.
    ///
    /// # Shapes
    /// - output: `[B, L, out_channels]`
    ///
    /// # Panics
    /// If a tensor of `input` has another shape than its field says.
    pub fn forward(&self, input: FluxInput) -> Tensor<3> {
        to_the_end(|poll| self.forward_polled(input, poll))
    }

    /// [`Flux::forward`], left where `poll` breaks; it is asked before every block.
    ///
    /// # Panics
    /// As [`Flux::forward`].
    pub fn forward_polled(&self, input: FluxInput, poll: Poll<'_>) -> ControlFlow<(), Tensor<3>> {
        self.forward_with(&mut Resident::new(poll), input)
    }

    /// [`Flux::forward`], the blocks run by `walk`.
    ///
    /// # Panics
    /// As [`Flux::forward`].
    pub fn forward_with(&self, walk: &mut dyn Walk, input: FluxInput) -> ControlFlow<(), Tensor<3>> {
        let rope = input.rope.clone();
        let streams = self.embed(input);
        let (text_len, image_len) = (streams.txt.dims()[1], streams.img.dims()[1]);
        let shared = Shared { vec: streams.vec.clone(), rope };
        let x = self.run(walk, streams, &shared)?;
        ControlFlow::Continue(self.project_over(x.narrow(1, text_len, image_len), shared.vec, &shared.rope))
    }

    /// The blocks alone, run by `walk`: what they make of both streams, `[B, T + L, D]`, text first.
    ///
    /// # Panics
    /// As [`Flux::forward`]; and if a network in f16 makes a number that f16 does not hold.
    pub fn run(&self, walk: &mut dyn Walk, streams: Streams, shared: &Shared) -> ControlFlow<(), Tensor<3>> {
        self.run_from(walk, 0, streams, shared)
    }

    /// As [`Flux::run`], from a double block on.
    ///
    /// # Panics
    /// As [`Flux::forward`].
    pub fn run_from(
        &self,
        walk: &mut dyn Walk,
        first: usize,
        streams: Streams,
        shared: &Shared,
    ) -> ControlFlow<(), Tensor<3>> {
        let Streams { mut img, mut txt, .. } = streams;
        let mut watch = Watch::new(shared.vec.dtype(), &shared.vec.device());
        for (index, block) in self.double_blocks.iter().enumerate().skip(first) {
            (img, txt) = walk.double(index, block, img, txt, shared)?;
            watch.look(|| format!("the image stream of double block {index}"), &img);
            watch.look(|| format!("the text stream of double block {index}"), &txt);
        }
        let mut x = Tensor::cat(vec![txt, img], 1);
        for (index, block) in self.single_blocks.iter().enumerate() {
            x = walk.single(index, block, x, shared)?;
            watch.look(|| format!("single block {index}"), &x);
        }
        watch.end();
        ControlFlow::Continue(x)
    }

    /// The network without its blocks: what comes before and after them, on the same parameters.
    pub fn ends(&self) -> Self {
        Self {
            img_in: self.img_in.clone(),
            time_in: self.time_in.clone(),
            vector_in: self.vector_in.clone(),
            guidance_in: self.guidance_in.clone(),
            txt_in: self.txt_in.clone(),
            double_blocks: Vec::new(),
            single_blocks: Vec::new(),
            final_layer: self.final_layer.clone(),
            axes_dim: self.axes_dim,
            theta: self.theta,
        }
    }

    /// What comes before the blocks.
    ///
    /// # Panics
    /// As [`Flux::forward`].
    pub fn embed(&self, input: FluxInput) -> Streams {
        let [batch, _, _] = input.tokens.dims();
        let [in_channels, _] = self.img_in.features();
        let [context_in_dim, _] = self.txt_in.features();
        let [vec_in_dim, _] = self.vector_in.in_layer.features();
        assert_shape!(input.tokens, [batch, _, in_channels]);
        assert_shape!(input.prompt_embeds, [batch, _, context_in_dim]);
        let batch = input.rope.examples(batch);
        assert_shape!(input.pooled_prompt_embeds, [batch, vec_in_dim]);
        assert_shape!(input.timesteps, [batch]);

        let FluxInput { tokens, prompt_embeds, pooled_prompt_embeds, timesteps, guidance, .. } = input;
        Streams {
            img: stream(self.img_in.forward(tokens)),
            txt: stream(self.txt_in.forward(prompt_embeds)),
            vec: self.conditioning(timesteps, guidance, pooled_prompt_embeds),
        }
    }

    /// The conditioning vector of each example.
    ///
    /// # Shapes
    /// - timesteps, guidance: `[B]`; pooled: `[B, vec_in_dim]`, in the network's dtype
    /// - output: `[B, D]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn conditioning(&self, timesteps: Tensor<1>, guidance: Tensor<1>, pooled: Tensor<2>) -> Tensor<2> {
        // The sinusoid is computed in f32 and meets the network in the network's dtype.
        let (dtype, batch) = (pooled.dtype(), timesteps.dims()[0]);
        let mut vec = self.time_in.forward(sinusoid(timesteps).cast(dtype));
        if let Some(guidance_in) = &self.guidance_in {
            assert_shape!(guidance, [batch]);
            vec = vec + guidance_in.forward(sinusoid(guidance).cast(dtype));
        }
        vec + self.vector_in.forward(pooled)
    }

    /// What comes after the blocks: from the image stream to the velocity.
    ///
    /// # Shapes
    /// - img: `[B, L, D]`, vec: `[B, D]`
    /// - output: `[B, L, out_channels]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn project(&self, img: Tensor<3>, vec: Tensor<2>) -> Tensor<3> {
        self.final_layer.forward(img, vec)
    }

    /// As [`Flux::project`], for all examples of a sequence as `rope` divides it.
    ///
    /// # Shapes
    /// - of N packed examples: img `[1, ΣL, D]`, vec `[N, D]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn project_over(&self, img: Tensor<3>, vec: Tensor<2>, rope: &Rope) -> Tensor<3> {
        let Some(segments) = rope.segments() else { return self.project(img, vec) };
        each(segments.image(), &[&img], |example, mut of| self.project(of.remove(0), vec.clone().narrow(0, example, 1)))
    }

    /// Gives the input layer columns of zeros on the right until it takes `features` a token: the network stays what it
    /// was, and an adapter may fill them.
    ///
    /// # Panics
    /// If it takes more already, or its matrix is absent.
    pub fn widen_input(&mut self, features: usize) {
        let weight = self.img_in.weight.val();
        let [rows, columns] = weight.dims();
        assert!(features >= columns, "widen_input: {columns} features are more than {features}");
        let zeros = Tensor::<2>::zeros([rows, features - columns], &weight.device()).cast(weight.dtype());
        self.img_in.weight = Tensor::cat(vec![weight, zeros], 1).into();
    }

    /// Calls `f` with the BFL path (`double_blocks.3.img_attn.qkv`) and each linear layer, for LoRA.
    pub fn for_each_linear(&mut self, f: &mut dyn FnMut(&str, &mut Linear)) {
        f("img_in", &mut self.img_in);
        f("time_in.in_layer", &mut self.time_in.in_layer);
        f("time_in.out_layer", &mut self.time_in.out_layer);
        f("vector_in.in_layer", &mut self.vector_in.in_layer);
        f("vector_in.out_layer", &mut self.vector_in.out_layer);
        if let Some(guidance_in) = &mut self.guidance_in {
            f("guidance_in.in_layer", &mut guidance_in.in_layer);
            f("guidance_in.out_layer", &mut guidance_in.out_layer);
        }
        f("txt_in", &mut self.txt_in);
        for (i, block) in self.double_blocks.iter_mut().enumerate() {
            block.for_each_linear(&mut |name, linear| f(&format!("double_blocks.{i}.{name}"), linear));
        }
        for (i, block) in self.single_blocks.iter_mut().enumerate() {
            block.for_each_linear(&mut |name, linear| f(&format!("single_blocks.{i}.{name}"), linear));
        }
        f("final_layer.adaLN_modulation.1", &mut self.final_layer.adaln_modulation);
        f("final_layer.linear", &mut self.final_layer.linear);
    }

    /// Calls `f` with the BFL path (`double_blocks.3.img_attn.norm.query_norm`) and each norm that has a scale, for
    /// adapters that bring their own.
    pub fn for_each_norm(&mut self, f: &mut dyn FnMut(&str, &mut RmsNorm)) {
        for (i, block) in self.double_blocks.iter_mut().enumerate() {
            block.for_each_norm(&mut |name, norm| f(&format!("double_blocks.{i}.{name}"), norm));
        }
        for (i, block) in self.single_blocks.iter_mut().enumerate() {
            block.for_each_norm(&mut |name, norm| f(&format!("single_blocks.{i}.{name}"), norm));
        }
    }
}

impl Linears for Flux {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        self.for_each_linear(&mut |_, linear| f(linear));
    }
}

/// `linear(norm(x)·(1 + scale) + shift)`; BFL's files hold shift first (diffusers' scale first).
#[derive(Module, Debug)]
pub struct FinalLayer {
    /// `[2·D, D]`
    pub adaln_modulation: Linear,
    /// `[out_channels, D]`
    pub linear: Linear,
}

impl FinalLayer {
    /// # Shapes
    /// - x: `[B, L, D]`, vec: `[B, D]`
    /// - output: `[B, L, out_channels]`
    ///
    /// # Panics
    /// If these shapes do not agree.
    pub fn forward(&self, x: Tensor<3>, vec: Tensor<2>) -> Tensor<3> {
        let [hidden_size, _] = self.linear.features();
        let [batch, ..] = x.dims();
        assert_shape!(x, [batch, _, hidden_size]);
        assert_shape!(vec, [batch, hidden_size]);
        let both = self.adaln_modulation.forward(silu(vec)).unsqueeze_dim::<3>(1);
        let width = both.dims()[2] / 2;
        let (shift, scale) = (both.clone().narrow(2, 0, width), both.narrow(2, width, width));
        self.linear.forward(modulation::modulate(x, shift, scale))
    }
}
