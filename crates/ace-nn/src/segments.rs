//! Several examples behind each other on one sequence, each attending to itself alone: no padding, whatever their sizes.
//!
//! ```text
//! txt     t₁ t₂ … tₙ                     linear layers see one sequence
//! img     l₁ l₂ … lₙ                     modulations are per example, spread over its tokens
//! single  t₁ t₂ … tₙ l₁ l₂ … lₙ          attention runs over [tᵢ ; lᵢ], example by example
//! ```

use crate::attention::Stream;
use burn::prelude::*;

/// How many tokens each example has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    text: Vec<usize>,
    image: Vec<usize>,
    both: Vec<usize>,
}

impl Segments {
    /// Text and image tokens of each example.
    ///
    /// # Panics
    /// If there is no example, or one has no tokens of a kind.
    pub fn new(lens: &[(usize, usize)]) -> Self {
        assert!(!lens.is_empty() && lens.iter().all(|(text, image)| *text > 0 && *image > 0), "empty segments");
        let (text, image): (Vec<_>, Vec<_>) = lens.iter().copied().unzip();
        let both = text.iter().chain(&image).copied().collect();
        Self { text, image, both }
    }

    /// How many examples there are.
    pub fn count(&self) -> usize {
        self.text.len()
    }

    /// Text tokens of each.
    pub fn text(&self) -> &[usize] {
        &self.text
    }

    /// Image tokens of each.
    pub fn image(&self) -> &[usize] {
        &self.image
    }

    /// The parts of the one stream of single blocks: text of each, then image of each.
    pub fn both(&self) -> &[usize] {
        &self.both
    }

    /// What `attend` makes of each example's text and image, in the order of the one stream. `streams` are text and image,
    /// or the one that holds both.
    pub(crate) fn attend(
        &self,
        streams: &[Stream],
        mut attend: impl FnMut(usize, Vec<Stream>) -> Tensor<3>,
    ) -> Tensor<3> {
        let (text, image) = match streams {
            [both] => (both, both),
            [text, image, ..] => (text, image),
            [] => unreachable!("a block has one stream or two"),
        };
        let part = |stream: &Stream, start: usize, len: usize| Stream {
            rows: stream.rows.clone().narrow(1, start, len),
            query_scale: stream.query_scale.clone(),
            key_scale: stream.key_scale.clone(),
        };
        let before_image = if streams.len() == 1 { self.text.iter().sum() } else { 0 };
        let (mut text_at, mut image_at) = (0, before_image);
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for (index, (text_len, image_len)) in self.text.iter().copied().zip(self.image.iter().copied()).enumerate() {
            let streams = vec![part(text, text_at, text_len), part(image, image_at, image_len)];
            let attended = attend(index, streams);
            texts.push(attended.clone().narrow(1, 0, text_len));
            images.push(attended.narrow(1, text_len, image_len));
            (text_at, image_at) = (text_at + text_len, image_at + image_len);
        }
        texts.extend(images);
        Tensor::cat(texts, 1)
    }
}

/// What `f` makes of each part of a sequence, behind each other again; it is told the part's number.
pub(crate) fn each(
    parts: &[usize],
    sequences: &[&Tensor<3>],
    mut f: impl FnMut(usize, Vec<Tensor<3>>) -> Tensor<3>,
) -> Tensor<3> {
    let mut at = 0;
    let made = parts.iter().enumerate().map(|(index, len)| {
        let of = sequences.iter().map(|x| (*x).clone().narrow(1, at, *len)).collect();
        at += len;
        f(index, of)
    });
    Tensor::cat(made.collect(), 1)
}

#[cfg(test)]
mod tests {
    use super::{Segments, each};
    use crate::{
        flux::{Flux, FluxInput},
        testing::{device, flux, random_on, relative_error, values},
    };
    use burn::{
        module::{Module, ModuleVisitor, Param},
        prelude::*,
        tensor::Gradients,
    };

    /// Text and image tokens of the examples.
    const LENS: [(usize, usize); 4] = [(5, 6), (2, 4), (3, 1), (5, 6)];

    /// What each example asks, and what all ask on one sequence.
    fn inputs(flux: &Flux, device: &Device) -> (Vec<FluxInput>, FluxInput) {
        let ids: Vec<Vec<[f32; 3]>> =
            LENS.iter().map(|(_, len)| (0..*len).map(|i| [0.0, (i / 3) as f32, (i % 3) as f32]).collect()).collect();
        let one = |(index, (text, image)): (usize, &(usize, usize))| {
            let seed = 20 + index as u64;
            FluxInput {
                tokens: random_on([1, *image, 12], seed, device),
                rope: flux.rope(*text, &ids[index], device),
                prompt_embeds: random_on([1, *text, 24], 10 * seed, device),
                pooled_prompt_embeds: random_on([1, 20], 20 * seed, device),
                timesteps: Tensor::from_data([0.1 + 0.2 * index as f32], device),
                guidance: Tensor::from_data([1.0 + index as f32], device),
            }
        };
        let apart: Vec<FluxInput> = LENS.iter().enumerate().map(one).collect();
        let cat = |part: fn(&FluxInput) -> Tensor<3>| Tensor::cat(apart.iter().map(part).collect(), 1);
        let rows = |part: fn(&FluxInput) -> Tensor<1>| Tensor::cat(apart.iter().map(part).collect(), 0);
        let positions: Vec<_> = LENS.iter().zip(&ids).map(|((text, _), ids)| (*text, ids.as_slice())).collect();
        let packed = FluxInput {
            tokens: cat(|input| input.tokens.clone()),
            rope: flux.packed_rope(&positions, device),
            prompt_embeds: cat(|input| input.prompt_embeds.clone()),
            pooled_prompt_embeds: Tensor::cat(
                apart.iter().map(|input| input.pooled_prompt_embeds.clone()).collect(),
                0,
            ),
            timesteps: rows(|input| input.timesteps.clone()),
            guidance: rows(|input| input.guidance.clone()),
        };
        (apart, packed)
    }

    /// All gradients behind each other.
    fn gradients(flux: &Flux, gradients: &Gradients) -> Vec<f64> {
        struct Walk<'a>(&'a Gradients, Vec<f64>);
        impl ModuleVisitor for Walk<'_> {
            fn visit_float<const N: usize>(&mut self, param: &Param<Tensor<N>>) {
                self.1.extend(values(param.val().grad(self.0).expect("every parameter is reached")));
            }
        }
        let mut walk = Walk(gradients, Vec::new());
        flux.visit(&mut walk);
        walk.1
    }

    #[test]
    fn a_packed_sequence_answers_and_learns_as_its_examples_do_apart() {
        let learning = device().autodiff();
        let flux = flux(&learning).train();
        let (apart, packed) = inputs(&flux, &learning);
        let together = flux.forward(packed);
        let alone = Tensor::cat(apart.into_iter().map(|input| flux.forward(input)).collect(), 1);
        let error = relative_error(&values(together.clone().inner()), &values(alone.clone().inner()));
        assert!(error <= 1e-6, "answers differ by {error:e}");
        let loss = |answer: Tensor<3>| (answer.clone() * answer).mean().backward();
        let [ours, expected] = [together, alone].map(|answer| gradients(&flux, &loss(answer)));
        assert!(ours.len() > 10_000);
        let error = relative_error(&ours, &expected);
        assert!(error <= 1e-6, "gradients differ by {error:e}");
    }

    #[test]
    fn parts_are_worked_on_apart_and_come_back_in_their_order() {
        let x = Tensor::<3>::from_data([[[1.0f32], [2.0], [3.0], [4.0]]], &Device::default());
        let seen = each(&[1, 3], &[&x], |index, parts| parts[0].clone() * (index as f32 + 1.0));
        assert_eq!(seen.into_data_as::<f32>().iter::<f32>().collect::<Vec<_>>(), [1.0, 4.0, 6.0, 8.0]);
        let segments = Segments::new(&[(2, 5), (3, 7)]);
        assert_eq!((segments.count(), segments.both()), (2, &[2, 3, 5, 7][..]));
    }
}
