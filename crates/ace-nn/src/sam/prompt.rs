//! Clicks, boxes and rough masks to what the decoder reads: a place is said by sines of random frequencies, and what it
//! is there for by a vector of its own.

use super::layers::PixelNorm;
use crate::layers::{Conv2d, empty};
use ace_kernels::gelu;
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::assert_shape,
};
use std::f64::consts::TAU;

/// What a place is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A click outside what is meant.
    Out,
    /// A click inside.
    In,
    /// The upper left corner of a box.
    TopLeft,
    /// The lower right corner of a box.
    BottomRight,
    /// No place at all: what follows clicks where there is no box.
    Nothing,
}

/// One learned vector.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[1, D]`
    pub weight: Param<Tensor<2>>,
}

/// Frequencies, drawn once when the network was trained.
#[derive(Module, Debug)]
pub struct Frequencies {
    /// `[2, D/2]`
    pub positional_encoding_gaussian_matrix: Param<Tensor<2>>,
}

impl Frequencies {
    /// # Shapes
    /// - places: `[N, 2]` as (x, y), in 0..1
    /// - output: `[N, D]`
    fn forward(&self, places: Tensor<2>) -> Tensor<2> {
        let angles = (places * 2.0 - 1.0).matmul(self.positional_encoding_gaussian_matrix.val()) * TAU;
        Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
    }
}

/// A mask of four times the embedding's side to its features.
#[derive(Module, Debug)]
pub struct MaskDownscaling {
    /// Half the size.
    pub conv1: Conv2d,
    /// Over channels.
    pub norm1: PixelNorm,
    /// And half again.
    pub conv2: Conv2d,
    /// Over channels.
    pub norm2: PixelNorm,
    /// 1×1.
    pub conv3: Conv2d,
}

/// What makes tokens of prompts.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Frequencies.
    pub pe_layer: Frequencies,
    /// Of a click outside, a click inside, and a box's two corners.
    pub point_embeddings: Vec<Embedding>,
    /// Of no place at all.
    pub not_a_point_embed: Embedding,
    /// Of a mask given as a prompt.
    pub mask_downscaling: MaskDownscaling,
    /// Of no such mask.
    pub no_mask_embed: Embedding,
    img_size: usize,
}

impl PromptEncoder {
    /// An encoder with empty weights, to `width` features, for pictures of `img_size` pixels along a side.
    pub fn new(width: usize, mask_in_chans: usize, img_size: usize, device: &Device) -> Self {
        let embedding = || Embedding { weight: empty([1, width], device) };
        let few = mask_in_chans / 4;
        Self {
            pe_layer: Frequencies { positional_encoding_gaussian_matrix: empty([2, width / 2], device) },
            point_embeddings: (0..4).map(|_| embedding()).collect(),
            not_a_point_embed: embedding(),
            mask_downscaling: MaskDownscaling {
                conv1: Conv2d::new([1, few], 2, 2, (0, 0), device),
                norm1: PixelNorm::new(few, device),
                conv2: Conv2d::new([few, mask_in_chans], 2, 2, (0, 0), device),
                norm2: PixelNorm::new(mask_in_chans, device),
                conv3: Conv2d::new([mask_in_chans, width], 1, 1, (0, 0), device),
            },
            no_mask_embed: embedding(),
            img_size,
        }
    }

    /// Clicks and the corners of a box.
    ///
    /// # Shapes
    /// - places: `[N, 2]` as (x, y), in pixels of the square that the image encoder sees; of [`Role::Nothing`] any
    /// - output: `[1, N, D]`
    ///
    /// # Panics
    /// If there is not one role per place.
    pub fn forward(&self, places: Tensor<2>, roles: &[Role]) -> Tensor<3> {
        let count = roles.len();
        assert_shape!(places, [count, 2]);
        // A pixel is its middle.
        let positions = self.pe_layer.forward((places + 0.5) / self.img_size as f64);
        let there = roles.iter().map(|role| f32::from(*role != Role::Nothing)).collect::<Vec<_>>();
        let there = Tensor::<2>::from_data(TensorData::new(there, [count, 1]), &positions.device());
        let vectors = roles.iter().map(|role| {
            let embedding = match role {
                Role::Out => &self.point_embeddings[0],
                Role::In => &self.point_embeddings[1],
                Role::TopLeft => &self.point_embeddings[2],
                Role::BottomRight => &self.point_embeddings[3],
                Role::Nothing => &self.not_a_point_embed,
            };
            embedding.weight.val()
        });
        (positions * there + Tensor::cat(vectors.collect(), 0)).unsqueeze_dim(0)
    }

    /// The places of an embedding's cells.
    ///
    /// # Shapes
    /// - output: `[1, D, height, width]`
    pub fn grid(&self, height: usize, width: usize) -> Tensor<4> {
        let matrix = &self.pe_layer.positional_encoding_gaussian_matrix;
        let middle = |index: usize, side: usize| (index as f32 + 0.5) / side as f32;
        let places: Vec<f32> = (0..height)
            .flat_map(|row| (0..width).flat_map(move |column| [middle(column, width), middle(row, height)]))
            .collect();
        let data = TensorData::new(places, [height * width, 2]);
        let rows = self.pe_layer.forward(Tensor::from_data(data, &matrix.val().device()));
        let features = rows.dims()[1];
        rows.reshape([1, height, width, features]).permute([0, 3, 1, 2])
    }

    /// What is added to an embedding where there is no mask as a prompt, `[1, D, 1, 1]`.
    pub fn no_mask(&self) -> Tensor<4> {
        let weight = self.no_mask_embed.weight.val();
        let width = weight.dims()[1];
        weight.reshape([1, width, 1, 1])
    }

    /// What is added to an embedding where there is one.
    ///
    /// # Shapes
    /// - mask: `[B, 1, 4h, 4w]`, as numbers that the decoder gave before
    /// - output: `[B, D, h, w]`
    ///
    /// # Panics
    /// If the mask has several channels.
    pub fn mask(&self, mask: Tensor<4>) -> Tensor<4> {
        let MaskDownscaling { conv1, norm1, conv2, norm2, conv3 } = &self.mask_downscaling;
        let x = gelu(norm1.forward(conv1.forward(mask)));
        conv3.forward(gelu(norm2.forward(conv2.forward(x))))
    }
}
