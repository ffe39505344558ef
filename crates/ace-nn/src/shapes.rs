//! Every public forward says which axis of what is wrong.

use crate::{
    attention,
    layers::{Conv2d, GroupNorm, LayerNorm, RmsNorm},
    lora::Linear,
    testing::{autoencoder, clip, device, flux, flux_input, random, t5, token_ids},
};
use burn::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `call` panics with.
fn message<T>(call: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).err().expect("another shape is a mistake");
    panic.downcast_ref::<String>().expect("a panic with numbers in its message").clone()
}

#[test]
fn layers_name_the_axis() {
    let device = device();
    let linear = Linear::new(8, 4, &device);
    for (message, expected) in [
        (
            message(|| linear.forward(random([2, 7], 1))),
            "assert_shape!(x, [.., input]): axis 1 expected 8, got 7 (dims [2, 7])",
        ),
        (
            message(|| linear.forward(random([2, 3, 5, 7], 1))),
            "assert_shape!(x, [.., input]): axis 3 expected 8, got 7 (dims [2, 3, 5, 7])",
        ),
        (
            message(|| RmsNorm::new(8, &device).forward(random([2, 7], 1))),
            "assert_shape!(x, [.., width]): axis 1 expected 8, got 7 (dims [2, 7])",
        ),
        (
            message(|| LayerNorm::new(8, 1e-5, &device).forward(random([2, 3, 7], 1))),
            "assert_shape!(x, [.., width]): axis 2 expected 8, got 7 (dims [2, 3, 7])",
        ),
        (
            message(|| GroupNorm::new(8, 2, &device).forward(random([1, 6, 4, 4], 1))),
            "assert_shape!(x, [_, channels, _, _]): axis 1 expected 8, got 6 (dims [1, 6, 4, 4])",
        ),
        (
            message(|| Conv2d::same([3, 8], 3, &device).forward(random([1, 4, 5, 5], 1))),
            "assert_shape!(x, [_, input, _, _]): axis 1 expected 3, got 4 (dims [1, 4, 5, 5])",
        ),
        (message(|| attention::split_heads(random([1, 2, 7], 1), 2)), "7 features are not a multiple of 2 heads"),
    ] {
        assert_eq!(message, expected);
    }
}

#[test]
fn the_transformer_names_the_axis() {
    let device = device();
    let flux = flux(&device);
    let input = flux_input(&flux, &device);
    let (img, txt, vec) = (random([2, 6, 32], 1), random([2, 5, 32], 2), random([2, 32], 3));
    let with = |change: &dyn Fn(&mut crate::flux::FluxInput)| {
        let mut input = input.clone();
        change(&mut input);
        message(|| flux.forward(input))
    };
    let double = |img: &Tensor<3>, txt: &Tensor<3>, vec: &Tensor<2>| {
        message(|| flux.double_blocks[0].forward(img.clone(), txt.clone(), vec.clone(), &input.rope))
    };
    for (message, expected) in [
        (with(&|input| input.tokens = random([2, 6, 64], 1)), "axis 2 expected 12, got 64"),
        (with(&|input| input.prompt_embeds = random([1, 5, 24], 1)), "axis 0 expected 2, got 1"),
        (with(&|input| input.pooled_prompt_embeds = random([2, 24], 1)), "axis 1 expected 20, got 24"),
        (with(&|input| input.timesteps = random([3], 1)), "assert_shape!(input.timesteps, [batch]): axis 0"),
        (with(&|input| input.guidance = random([1], 1)), "assert_shape!(guidance, [batch]): axis 0"),
        // One text token more than the rotary tables were made for.
        (with(&|input| input.prompt_embeds = random([2, 6, 24], 1)), "axis 2 expected 11, got 12"),
        (double(&random([2, 6, 16], 1), &txt, &vec), "assert_shape!(img, [batch, _, hidden_size]): axis 2"),
        (double(&img, &random([1, 5, 32], 1), &vec), "assert_shape!(txt, [batch, _, hidden_size]): axis 0"),
        (double(&img, &txt, &random([2, 31], 1)), "assert_shape!(vec, [batch, hidden_size]): axis 1"),
        (
            message(|| flux.single_blocks[0].forward(random([2, 11, 33], 1), vec.clone(), &input.rope)),
            "assert_shape!(x, [batch, _, hidden_size]): axis 2 expected 32, got 33",
        ),
        (message(|| flux.project(img.clone(), random([1, 32], 1))), "assert_shape!(vec, [batch, hidden_size]): axis 0"),
        (message(|| flux.time_in.forward(random([2, 255], 1))), "axis 1 expected 256, got 255"),
        (message(|| flux.single_blocks[0].modulation.forward::<2>(vec.clone())), "a modulation for 2 uses"),
    ] {
        assert!(message.contains(expected), "{message} does not say {expected}");
    }
}

#[test]
fn autoencoder_and_text_encoders_name_the_axis() {
    let (autoencoder, t5, clip) = (autoencoder(), t5(), clip());
    let long = Tensor::<2, Int>::zeros([1, 8], &device());
    for (message, expected) in [
        (
            message(|| autoencoder.encode(random([1, 4, 16, 16], 1))),
            "assert_shape!(image, [_, 3, _, _]): axis 1 expected 3, got 4 (dims [1, 4, 16, 16])",
        ),
        (
            message(|| autoencoder.decode(random([1, 3, 4, 4], 1))),
            "assert_shape!(latents, [_, latent_channels, _, _]): axis 1 expected 4, got 3 (dims [1, 3, 4, 4])",
        ),
        (
            message(|| t5.layers[0].attention.forward(random([1, 5, 12], 1), random([1, 2, 4, 5], 2))),
            "assert_shape!(bias, [1, self.num_heads, len, len]): axis 2 expected 5, got 4 (dims [1, 2, 4, 5])",
        ),
        (
            message(|| t5.layers[0].feed_forward.forward(random([1, 5, 11], 1))),
            "assert_shape!(x, [_, _, d_model]): axis 2 expected 12, got 11 (dims [1, 5, 11])",
        ),
        (
            message(|| clip.layers[0].forward(random([1, 5, 11], 1))),
            "assert_shape!(x, [_, _, hidden_size]): axis 2 expected 12, got 11 (dims [1, 5, 11])",
        ),
        (message(|| clip.hidden(long)), "texts of 8 tokens, the longest may have 7"),
        (message(|| clip.forward(token_ids(), &[4, 5])), "ends [4, 5] of texts of 5 tokens"),
    ] {
        assert_eq!(message, expected);
    }
}
