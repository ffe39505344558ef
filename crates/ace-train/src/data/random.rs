//! Examples of random numbers, for measuring how fast a training goes.

use super::encode::{Encoded, EncodedPictures, EncodedText, Geometry, WordEmbeddings};
use ace_nn::flux::FluxConfig;
use ace_plus::{latents::PATCH, sample, text::TokenIds};
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;

impl Encoded {
    /// An example of `rows` × `columns` picture tokens and `text` text tokens as frozen networks would make it, for a
    /// transformer of these sizes.
    pub fn random(flux: &FluxConfig, [rows, columns]: [usize; 2], text: usize, seed: u64) -> Self {
        let mut rng = sample::rng(seed, 0);
        let mut numbers = |count: usize| StandardNormal.sample_iter(&mut rng).take(count).collect::<Vec<f32>>();
        let len = rows * columns;
        let beside = flux.in_channels - flux.out_channels;
        let ids = (0..len).map(|token| [0.0, (token / columns) as f32, (token % columns) as f32]);
        let pictures = EncodedPictures {
            latents: numbers(len * flux.out_channels),
            beside: (beside > 0).then(|| numbers(len * beside)),
            behind: None,
            geometry: Geometry {
                ids: ids.collect(),
                grids: vec![[rows * PATCH, columns * PATCH]],
                is_reference: vec![false; len],
            },
        };
        let words = WordEmbeddings { sequence: numbers(text * flux.context_in_dim), pooled: numbers(flux.vec_in_dim) };
        let text = EncodedText { embeds: Some(Arc::new(words)), ..EncodedText::blank(flux, text) };
        Self { pictures: Arc::new(pictures), text }
    }

    /// Tokens of the instruction.
    pub fn text_len(&self) -> usize {
        self.text.ids.t5.len()
    }
}

impl EncodedText {
    /// An instruction of `text` tokens whose embeddings are all zero.
    pub fn blank(flux: &FluxConfig, text: usize) -> Self {
        let words =
            WordEmbeddings { sequence: vec![0.0; text * flux.context_in_dim], pooled: vec![0.0; flux.vec_in_dim] };
        Self { ids: TokenIds { t5: vec![0; text], clip: vec![0], clip_end: 0 }, embeds: Some(Arc::new(words)) }
    }
}
