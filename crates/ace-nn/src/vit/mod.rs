//! A vision transformer: a picture to a sequence, `[B, 3, H, W]` to `[B, L, D]`.
//!
//! One module for the towers that look at pictures here; they differ in what stands around their blocks:
//!
//! | | SigLIP | DINOv2 | CLIP |
//! |---|---|---|---|
//! | a token for the whole picture | no | yes | yes |
//! | bias of the patches | yes | yes | no |
//! | norm before the blocks | no | no | yes |
//! | scales of what a block adds | no | yes | no |
//! | activation | tanh | erf | quick |
//!
//! All have a norm before each attention and each feed-forward, and one after the last block. Positions are learned for
//! one grid of patches; of another grid they are resampled (cubic, `a` = −0.75, as transformers' DINOv2 does).

mod block;

pub use block::{Layer, LayerScale};

use crate::{
    clip::Activation,
    layers::{Conv2d, LayerNorm, empty},
    lora::{Linear, Linears},
    poll::{Poll, to_the_end},
};
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{
        assert_shape, module,
        ops::{InterpolateMode, InterpolateOptions},
    },
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Sizes of a [`Vit`], with transformers' names (`num_heads`, `num_layers` as everywhere here), and which of the parts it
/// has in which these networks differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square pictures whose positions are learned, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the stream.
    pub hidden_size: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Heads.
    pub num_heads: usize,
    /// Between the two layers of a feed-forward.
    pub hidden_act: Activation,
    /// Of every norm.
    pub layer_norm_eps: f64,
    /// Whether a token for the whole picture stands before the patches.
    #[serde(default)]
    pub class_token: bool,
    /// Whether the convolution to patches has a bias.
    #[serde(default)]
    pub patch_bias: bool,
    /// Whether there is a norm before the blocks.
    #[serde(default)]
    pub pre_norm: bool,
    /// Whether what a block adds is scaled, feature by feature.
    #[serde(default)]
    pub layer_scale: bool,
}

impl VitConfig {
    /// SigLIP so400m, patches of 14 pixels, pictures of 384: FLUX.1 Redux's eyes.
    pub const SIGLIP_SO400M: Self = Self {
        image_size: 384,
        patch_size: 14,
        hidden_size: 1152,
        intermediate_size: 4304,
        num_layers: 27,
        num_heads: 16,
        hidden_act: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        class_token: false,
        patch_bias: true,
        pre_norm: false,
        layer_scale: false,
    };

    /// DINOv2 ViT-S/14, positions of pictures of 518 pixels.
    pub const DINOV2_SMALL: Self = Self {
        image_size: 518,
        patch_size: 14,
        hidden_size: 384,
        intermediate_size: 1536,
        num_layers: 12,
        num_heads: 6,
        hidden_act: Activation::Gelu,
        layer_norm_eps: 1e-6,
        class_token: true,
        patch_bias: true,
        pre_norm: false,
        layer_scale: true,
    };

    /// CLIP ViT-L/14, pictures of 224 pixels.
    pub const CLIP_LARGE: Self = Self {
        image_size: 224,
        patch_size: 14,
        hidden_size: 1024,
        intermediate_size: 4096,
        num_layers: 24,
        num_heads: 16,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        class_token: true,
        patch_bias: false,
        pre_norm: true,
        layer_scale: false,
    };

    /// Patches on a side of the grid whose positions are learned; pixels that make no whole patch are not looked at.
    pub const fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// A network with empty weights.
    pub fn init(&self, device: &Device) -> Vit {
        let width = self.hidden_size;
        let (channels, patch) = ([3, width], self.patch_size);
        let norm = || LayerNorm::new(width, self.layer_norm_eps, device);
        Vit {
            patch_embedding: match self.patch_bias {
                true => Conv2d::new(channels, patch, patch, (0, 0), device),
                false => Conv2d::without_bias(channels, patch, patch, (0, 0), device),
            },
            class_embedding: self.class_token.then(|| empty([width], device)),
            position_embedding: empty([self.grid() * self.grid() + usize::from(self.class_token), width], device),
            pre_norm: self.pre_norm.then(norm),
            layers: (0..self.num_layers).map(|_| Layer::new(self, device)).collect(),
            post_norm: norm(),
            patch_size: patch,
            grid: self.grid(),
        }
    }
}

/// A vision transformer.
#[derive(Module, Debug)]
pub struct Vit {
    /// `[D, 3, patch_size, patch_size]`
    pub patch_embedding: Conv2d,
    /// `[D]`, if there is a token for the whole picture.
    pub class_embedding: Option<Param<Tensor<1>>>,
    /// `[1 + grid², D]` or `[grid², D]`
    pub position_embedding: Param<Tensor<2>>,
    /// Before the first layer.
    pub pre_norm: Option<LayerNorm>,
    /// Layers.
    pub layers: Vec<Layer>,
    /// After the last layer.
    pub post_norm: LayerNorm,
    patch_size: usize,
    grid: usize,
}

impl Linears for Vit {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        self.layers.iter_mut().flat_map(Layer::linears).for_each(f);
    }
}

impl Vit {
    /// Side of a patch, in pixels.
    pub fn patch_size(&self) -> usize {
        self.patch_size
    }

    /// The sequence after the last layer and its norm: the token for the whole picture, if there is one, then the patches
    /// row by row.
    ///
    /// # Shapes
    /// - pixels: `[B, 3, H, W]`, normalized as the network wants them
    /// - output: `[B, L, D]` with `L = (H / patch_size)·(W / patch_size)`, and one more with a token for the whole picture
    ///
    /// # Panics
    /// If `pixels` has not three channels or no whole patch.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        to_the_end(|poll| self.forward_polled(pixels, poll))
    }

    /// [`Vit::forward`], left where `poll` breaks; it is asked before every layer.
    ///
    /// # Panics
    /// As [`Vit::forward`].
    pub fn forward_polled(&self, pixels: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<3>> {
        let mut x = self.embed(pixels);
        for layer in &self.layers {
            poll()?;
            x = layer.forward(x);
        }
        ControlFlow::Continue(self.post_norm.forward(x))
    }

    /// The sequences after so many layers (0: before the first), in that order, without the last norm. Layers behind the
    /// last one asked for are not run.
    ///
    /// # Shapes
    /// - pixels: as [`Vit::forward`]
    /// - output: one `[B, L, D]` per number
    ///
    /// # Panics
    /// As [`Vit::forward`], or if there are not so many layers or the numbers do not grow.
    pub fn hidden(&self, pixels: Tensor<4>, after: &[usize]) -> Vec<Tensor<3>> {
        to_the_end(|poll| self.hidden_polled(pixels, after, poll))
    }

    /// [`Vit::hidden`], left where `poll` breaks; it is asked before every layer.
    ///
    /// # Panics
    /// As [`Vit::hidden`].
    pub fn hidden_polled(&self, pixels: Tensor<4>, after: &[usize], poll: Poll<'_>) -> ControlFlow<(), Vec<Tensor<3>>> {
        let most = self.layers.len();
        assert!(after.is_sorted_by(|one, next| one < next), "layers {after:?} do not grow");
        assert!(after.last().is_none_or(|last| *last <= most), "layers {after:?} of {most}");
        let mut kept = Vec::with_capacity(after.len());
        let mut x = self.embed(pixels);
        for done in 0..=after.last().copied().unwrap_or(0) {
            if done > 0 {
                poll()?;
                x = self.layers[done - 1].forward(x);
            }
            if after.contains(&done) {
                kept.push(x.clone());
            }
        }
        ControlFlow::Continue(kept)
    }

    /// What the first layer is given.
    fn embed(&self, pixels: Tensor<4>) -> Tensor<3> {
        assert_shape!(pixels, [_, 3, _, _]);
        let [batch, _, height, width] = pixels.dims();
        let (rows, columns) = (height / self.patch_size, width / self.patch_size);
        assert!(rows > 0 && columns > 0, "{height}x{width} pixels are no patch of {}", self.patch_size);
        let patches = self.patch_embedding.forward(pixels);
        let features = patches.dims()[1];
        let patches = patches.reshape([batch, features, rows * columns]).swap_dims(1, 2);
        let x = match &self.class_embedding {
            Some(class) => {
                let class = class.val().reshape([1, 1, features]).expand([batch, 1, features]);
                Tensor::cat(vec![class, patches], 1)
            }
            None => patches,
        };
        let x = x + self.positions(rows, columns).unsqueeze_dim::<3>(0);
        match &self.pre_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// The positions of a grid of patches, `[L, D]`.
    fn positions(&self, rows: usize, columns: usize) -> Tensor<2> {
        let learned = self.position_embedding.val();
        if [rows, columns] == [self.grid; 2] {
            return learned;
        }
        let [count, width] = learned.dims();
        let first = count - self.grid * self.grid;
        let grid = learned.clone().narrow(0, first, count - first);
        let grid = grid.reshape([1, self.grid, self.grid, width]).permute([0, 3, 1, 2]);
        let options = InterpolateOptions::new(InterpolateMode::Bicubic)
            .with_align_corners(false)
            .with_output_size([rows, columns]);
        let grid = module::interpolate(grid, options).permute([0, 2, 3, 1]).reshape([rows * columns, width]);
        match first {
            0 => grid,
            _ => Tensor::cat(vec![learned.narrow(0, 0, first), grid], 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VitConfig;
    use crate::{
        poll::to_the_end,
        testing::{device, random, randomize, values},
    };
    use std::ops::ControlFlow;

    fn small(config: VitConfig) -> VitConfig {
        VitConfig {
            image_size: 12,
            patch_size: 4,
            hidden_size: 8,
            intermediate_size: 12,
            num_layers: 3,
            num_heads: 2,
            ..config
        }
    }

    #[test]
    fn chosen_layers_are_those_on_the_way_to_the_last() {
        let vit = randomize(small(VitConfig::DINOV2_SMALL).init(&device()), 1, &device());
        let pixels = random([2, 3, 12, 12], 2);
        let kept = vit.hidden(pixels.clone(), &[0, 1, 3]);
        assert_eq!(kept.iter().map(|x| x.dims()).collect::<Vec<_>>(), [[2, 10, 8]; 3]);
        let again = vit.layers[0].forward(kept[0].clone());
        assert_eq!(values(again), values(kept[1].clone()));
        let last = vit.post_norm.forward(kept[2].clone());
        assert_eq!(values(last), values(vit.forward(pixels)));
    }

    #[test]
    fn pixels_beyond_the_last_patch_are_not_seen() {
        let vit = randomize(small(VitConfig::SIGLIP_SO400M).init(&device()), 3, &device());
        let pixels = random([1, 3, 14, 13], 4);
        let seen = pixels.clone().narrow(2, 0, 12).narrow(3, 0, 12);
        assert_eq!(values(vit.forward(pixels)), values(vit.forward(seen)));
    }

    #[test]
    fn a_poll_leaves_between_layers() {
        let vit = randomize(small(VitConfig::CLIP_LARGE).init(&device()), 5, &device());
        let mut asked = 0;
        let mut poll = || {
            asked += 1;
            if asked == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert!(vit.forward_polled(random([1, 3, 12, 12], 6), &mut poll).is_break());
        assert_eq!(asked, 2);
        let whole = to_the_end(|poll| vit.forward_polled(random([1, 3, 12, 12], 6), poll));
        assert_eq!(whole.dims(), [1, 10, 8]);
    }
}
