//! Masked steps: what lies outside the mask goes from noise to the picture in a straight line, so that its velocity is the
//! same at every step; and what the other tokens see of it, its keys and values, changes little. Every so many-th step asks
//! for all tokens, and keeps the velocity, keys and values of those outside; the steps between ask for text and masked
//! tokens alone.
//!
//! The line could be known beforehand, `x_t = (1−t)·x₀ + t·ε` with `x₀` the encoded image. But the image is encoded with a
//! hole in it, and its latents are off far around the hole: on the miniature edits came out at 34 dB of those of
//! many plain steps, and at 52 dB with the line that the network itself gives.
//!
//! The same holds for references, which no mask covers, on the canvas and on the sequence, and for LCU's condition tokens.

use super::{Denoiser, Work};
use ace_nn::{
    flux::{Among, Blocks, FluxInput, Keeping, Rest},
    poll::Poll,
    rope::Rope,
};
use burn::{prelude::*, tensor::DType};
use std::ops::ControlFlow;

/// What a walk with masked steps keeps.
#[derive(Debug)]
pub(super) struct Masked {
    /// From one step that asks for all tokens to the next.
    every: usize,
    at: usize,
    /// Places of the masked tokens.
    asked: Tensor<1, Int>,
    asked_len: usize,
    /// For every noisy token, its place among the masked ones and then all of them.
    order: Tensor<1, Int>,
    /// Positions of text and masked tokens.
    rope: Rope,
    rest: Rest,
    /// The velocity of all noisy tokens, as the last step knew it: of those outside it holds until the next full one.
    line: Option<Tensor<3>>,
}

impl Masked {
    /// For the walk of a denoiser, with `is_masked` of every noisy token; `None` if there is nothing outside the mask.
    pub(super) fn new(denoiser: &Denoiser<'_>, every: usize, is_masked: &[bool], device: &Device) -> Option<Self> {
        let (flux, ids) = (denoiser.flux, &denoiser.units.ids);
        let asked: Vec<usize> = (0..is_masked.len()).filter(|place| is_masked[*place]).collect();
        let outside: Vec<usize> = (0..ids.len()).filter(|place| !is_masked.get(*place).is_some_and(|is| *is)).collect();
        if outside.is_empty() || asked.is_empty() {
            return None;
        }
        let mut order: Vec<i32> = (0..is_masked.len()).map(|place| (asked.len() + place) as i32).collect();
        for (at, place) in asked.iter().enumerate() {
            order[*place] = at as i32;
        }
        let places = |places: Vec<i32>| {
            let count = places.len();
            Tensor::from_data(TensorData::new(places, [count]), device)
        };
        let asked_ids: Vec<[f32; 3]> = asked.iter().map(|place| ids[*place]).collect();
        Some(Self {
            every,
            at: 0,
            asked: places(asked.iter().map(|place| *place as i32).collect()),
            asked_len: asked.len(),
            order: places(order),
            rope: flux.rope(denoiser.text.prompt_embeds.dims()[1], &asked_ids, device),
            rest: Rest::new(flux, &outside, ids, device),
            line: None,
        })
    }

    /// The velocity of all noisy tokens, in f32.
    pub(super) fn velocity(
        &mut self,
        denoiser: &Denoiser<'_>,
        blocks: &mut dyn Blocks,
        poll: Poll<'_>,
        input: FluxInput,
        work: &mut Work,
    ) -> ControlFlow<(), Tensor<3>> {
        let flux = denoiser.flux;
        let count = (flux.double_blocks.len() + flux.single_blocks.len()) as f64;
        let (text_len, image_len) = (input.prompt_embeds.dims()[1], input.tokens.dims()[1]);
        let is_full = self.at.is_multiple_of(self.every);
        let velocity = match self.line.take().filter(|_| !is_full) {
            Some(line) => {
                let tokens = input.tokens.select(1, self.asked.clone());
                let input = FluxInput { tokens, rope: self.rope.clone(), ..input };
                let asked = flux.forward_with(&mut Among::new(blocks, poll, &self.rest), input)?.cast(DType::F32);
                work.blocks += count * (text_len + self.asked_len) as f64 / (text_len + image_len) as f64;
                Tensor::cat(vec![asked, line], 1).select(1, self.order.clone())
            }
            None => {
                let velocity = flux.forward_with(&mut Keeping::new(blocks, poll, &mut self.rest), input)?;
                work.blocks += count;
                work.computed += 1;
                denoiser.units.of_noisy(velocity).cast(DType::F32)
            }
        };
        self.at += 1;
        work.evaluations += 1;
        self.line = Some(velocity.clone());
        ControlFlow::Continue(velocity)
    }
}
