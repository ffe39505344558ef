//! Blocks for a part of the tokens. The others ask nothing: only their keys and values take part, and these are what
//! they were when all tokens were asked for last.
//!
//! ```text
//! all tokens    Keeping   [txt ; img] ─▶ every block ─▶ [txt ; img]         keys and values of the rest are kept
//! some of them  Among     [txt ; part of img] ─▶ every block ─▶ the same    attention also over what was kept
//! ```
//!
//! Which of the image tokens rest is the caller's choice; text never does. The order of keys does not matter to attention.

use super::{Blocks, DoubleBlock, Flux, Shared, SingleBlock, Walk, block::attend};
use crate::{
    attention::{self, Stream, split_heads},
    poll::Poll,
    rope::Rope,
};
use ace_kernels::{limit::join, rms_norm, rotate_pairs};
use burn::prelude::*;
use std::ops::ControlFlow;

/// Keys and values of some tokens in one block, normed and turned: `[B, heads, rest, d]` each.
pub(super) type KeysValues = [Tensor<4>; 2];

/// Image tokens that rest, and what every block remembers of them.
#[derive(Debug, Clone)]
pub struct Rest {
    /// Their places among the image tokens.
    places: Tensor<1, Int>,
    /// Their positions.
    rope: Rope,
    /// Image tokens in all.
    image_len: usize,
    double: Vec<Option<KeysValues>>,
    single: Vec<Option<KeysValues>>,
}

impl Rest {
    /// The tokens at these places among the image tokens, which lie at `ids`. Nothing is remembered yet.
    ///
    /// # Panics
    /// If a place is none of the image tokens.
    pub fn new(flux: &Flux, places: &[usize], ids: &[[f32; 3]], device: &Device) -> Self {
        let rope = flux.rope(0, &places.iter().map(|place| ids[*place]).collect::<Vec<_>>(), device);
        let places: Vec<i32> = places.iter().map(|place| *place as i32).collect();
        let count = places.len();
        Self {
            places: Tensor::from_data(TensorData::new(places, [count]), device),
            rope,
            image_len: ids.len(),
            double: vec![None; flux.double_blocks.len()],
            single: vec![None; flux.single_blocks.len()],
        }
    }

    /// What a block remembers of the rows of its streams, of which the first `before` tokens are text.
    fn remember(&self, streams: &[Stream], mut before: usize, num_heads: usize, epsilon: f64) -> KeysValues {
        let mut with_image = streams;
        while let [first, rest @ ..] = with_image
            && first.rows.dims()[1] <= before
            && !rest.is_empty()
        {
            before -= first.rows.dims()[1];
            with_image = rest;
        }
        let places = self.places.clone().add_scalar(before as i32);
        let [cos, sin] = self.rope.tables(0);
        let width = 2 * cos.dims()[3] * num_heads;
        let part = |index: usize| {
            let of = |stream: &Stream| stream.rows.clone().narrow(2, index * width, width);
            split_heads(join(with_image.iter().map(of).collect(), 1).select(1, places.clone()), num_heads)
        };
        [rotate_pairs(rms_norm(part(1), with_image[0].key_scale.clone(), epsilon), cos, sin), part(2)]
    }
}

/// Runs every block over all tokens, and keeps keys and values of those that will rest.
pub struct Keeping<'a, 'b> {
    blocks: &'a mut dyn Blocks,
    poll: Poll<'b>,
    rest: &'a mut Rest,
}

impl<'a, 'b> Keeping<'a, 'b> {
    /// Takes blocks from `blocks`; asks `poll` before each.
    pub fn new(blocks: &'a mut dyn Blocks, poll: Poll<'b>, rest: &'a mut Rest) -> Self {
        Self { blocks, poll, rest }
    }
}

impl Walk for Keeping<'_, '_> {
    fn double(
        &mut self,
        index: usize,
        own: &DoubleBlock,
        img: Tensor<3>,
        txt: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), (Tensor<3>, Tensor<3>)> {
        (self.poll)()?;
        let block = self.blocks.double(index, own);
        let (mut kept, rest) = (None, &*self.rest);
        let text_len = txt.dims()[1];
        let both = block.through(img, txt, shared.vec.clone(), &shared.rope, |streams, num_heads, epsilon| {
            kept = Some(rest.remember(&streams, text_len, num_heads, epsilon));
            attend(streams, num_heads, epsilon, &shared.rope)
        });
        self.rest.double[index] = kept;
        ControlFlow::Continue(both)
    }

    fn single(&mut self, index: usize, own: &SingleBlock, x: Tensor<3>, shared: &Shared) -> ControlFlow<(), Tensor<3>> {
        (self.poll)()?;
        let block = self.blocks.single(index, own);
        let (mut kept, rest) = (None, &*self.rest);
        let text_len = x.dims()[1] - rest.image_len;
        let x = block.through(x, shared.vec.clone(), &shared.rope, |streams, num_heads, epsilon| {
            kept = Some(rest.remember(&streams, text_len, num_heads, epsilon));
            attend(streams, num_heads, epsilon, &shared.rope)
        });
        self.rest.single[index] = kept;
        ControlFlow::Continue(x)
    }
}

/// Runs every block over text and those image tokens that do not rest; `Shared::rope` is of these alone.
pub struct Among<'a, 'b> {
    blocks: &'a mut dyn Blocks,
    poll: Poll<'b>,
    rest: &'a Rest,
}

impl<'a, 'b> Among<'a, 'b> {
    /// Takes blocks from `blocks`; asks `poll` before each.
    pub fn new(blocks: &'a mut dyn Blocks, poll: Poll<'b>, rest: &'a Rest) -> Self {
        Self { blocks, poll, rest }
    }
}

impl Walk for Among<'_, '_> {
    fn double(
        &mut self,
        index: usize,
        own: &DoubleBlock,
        img: Tensor<3>,
        txt: Tensor<3>,
        shared: &Shared,
    ) -> ControlFlow<(), (Tensor<3>, Tensor<3>)> {
        (self.poll)()?;
        let (block, kept) = (self.blocks.double(index, own), &self.rest.double[index]);
        ControlFlow::Continue(block.through(
            img,
            txt,
            shared.vec.clone(),
            &shared.rope,
            |streams, num_heads, epsilon| attend_among(streams, kept.as_ref(), num_heads, epsilon, &shared.rope),
        ))
    }

    fn single(&mut self, index: usize, own: &SingleBlock, x: Tensor<3>, shared: &Shared) -> ControlFlow<(), Tensor<3>> {
        (self.poll)()?;
        let (block, kept) = (self.blocks.single(index, own), &self.rest.single[index]);
        ControlFlow::Continue(block.through(x, shared.vec.clone(), &shared.rope, |streams, num_heads, epsilon| {
            attend_among(streams, kept.as_ref(), num_heads, epsilon, &shared.rope)
        }))
    }
}

/// Attention also over keys and values of further tokens, `kept`.
fn attend_among(
    streams: Vec<Stream>,
    kept: Option<&KeysValues>,
    num_heads: usize,
    epsilon: f64,
    rope: &Rope,
) -> Vec<Tensor<3>> {
    let [cos, sin] = rope.tables(0);
    attention::apart(streams, kept.cloned(), num_heads, epsilon, cos, sin)
}

#[cfg(test)]
mod tests {
    use super::{Among, Keeping, Rest};
    use crate::{
        flux::{Flux, FluxInput, Own},
        poll::to_the_end,
        testing::{device, flux, flux_input, random, relative_error, values},
    };
    use ace_kernels::limit::within;
    use burn::prelude::*;

    /// What the network says of the tokens at `places`; text is the same.
    fn part_of(flux: &Flux, input: &FluxInput, places: &[i32], ids: &[[f32; 3]]) -> FluxInput {
        let lies_at: Vec<[f32; 3]> = places.iter().map(|place| ids[*place as usize]).collect();
        let places = Tensor::<1, Int>::from_data(places, &device());
        let rope = flux.rope(input.prompt_embeds.dims()[1], &lies_at, &device());
        FluxInput { tokens: input.tokens.clone().select(1, places), rope, ..input.clone() }
    }

    #[test]
    fn a_part_of_the_tokens_is_answered_as_among_all_of_them() {
        let flux = flux(&device());
        let ids: Vec<[f32; 3]> = (0..6).map(|i| [0.0, (i / 3) as f32, (i % 3) as f32]).collect();
        let input = FluxInput { rope: flux.rope(5, &ids, &device()), ..flux_input(&flux, &device()) };
        let whole = flux.forward(input.clone());
        for (asked, resting) in
            [(vec![1, 4], vec![0, 2, 3, 5]), (vec![0, 1, 2, 3, 4, 5], vec![]), (vec![3], vec![5, 0, 1, 2, 4])]
        {
            let mut rest = Rest::new(&flux, &resting, &ids, &device());
            let kept =
                to_the_end(|poll| flux.forward_with(&mut Keeping::new(&mut Own, poll, &mut rest), input.clone()));
            assert_eq!(kept.into_data(), whole.clone().into_data(), "keeping changes nothing");
            let part = part_of(&flux, &input, &asked, &ids);
            let all_at_once = rest;
            let among = |input: FluxInput| {
                let rest = &all_at_once;
                to_the_end(|poll| flux.forward_with(&mut Among::new(&mut Own, poll, rest), input))
            };
            let expected = whole.clone().select(1, Tensor::<1, Int>::from_data(&asked[..], &device()));
            let error = relative_error(&values(among(part.clone())), &values(expected));
            assert!(error < 1e-6, "{asked:?}: {error:e}");
            // Whether or not all tokens are taken at once.
            let mut rest = Rest::new(&flux, &resting, &ids, &device());
            let few = 2 * 2 * 224 * size_of::<f32>();
            let kept = within(few, || {
                to_the_end(|poll| flux.forward_with(&mut Keeping::new(&mut Own, poll, &mut rest), input.clone()))
            });
            assert!(relative_error(&values(kept), &values(whole.clone())) < 1e-6);
            let divided = within(few, || {
                to_the_end(|poll| flux.forward_with(&mut Among::new(&mut Own, poll, &rest), part.clone()))
            });
            assert!(relative_error(&values(divided), &values(among(part.clone()))) < 1e-6, "{asked:?}");
            // A step further on the way keys and values are a little old, and the answer a little off.
            let near = FluxInput { tokens: input.tokens.clone() + random([2, 6, 12], 21) * 0.01, ..input.clone() };
            let expected = flux.forward(near.clone()).select(1, Tensor::<1, Int>::from_data(&asked[..], &device()));
            let error = relative_error(&values(among(part_of(&flux, &near, &asked, &ids))), &values(expected));
            assert!(error < 0.05, "{asked:?}: {error:e}");
            assert_eq!(error > 1e-6, !resting.is_empty(), "{asked:?}: {error:e}");
        }
    }
}
