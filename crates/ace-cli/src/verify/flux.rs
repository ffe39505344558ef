//! The transformer and its two kinds of block; the blocks with gradients, which is what training stands on.

use super::{
    Findings,
    recording::{Distance, Recording},
};
use ace_nn::{
    flux::{BlockSize, DoubleBlock, FluxConfig, FluxInput, SingleBlock, sinusoid},
    rope::Rope,
};
use ace_weights::network::flux as keys;
use anyhow::{Context, Result};
use burn::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// The sizes and the rotary tables of a recorded block.
fn block_size(recording: &Recording, device: &Device) -> Result<(BlockSize, Rope)> {
    let config = recording.config()?;
    let number = |name: &str| config.get(name).and_then(Value::as_f64).with_context(|| format!("no {name}"));
    let hidden_size = recording.size("hidden_size")?;
    let size = BlockSize {
        hidden_size,
        num_heads: recording.size("num_heads")?,
        mlp_hidden: (hidden_size as f64 * number("mlp_ratio")?) as usize,
        qkv_bias: config.get("qkv_bias").and_then(Value::as_bool).context("no qkv_bias")?,
    };
    let axes_dim: [usize; 3] = serde_json::from_value(config.get("axes_dim").context("no axes_dim")?.clone())?;
    Ok((size, Rope::new(&recording.positions("input.ids")?, &axes_dim, number("theta")?, device)))
}

/// Outputs and gradients of a double block.
pub fn double_block(recording: &Recording) -> Result<Findings> {
    let device = recording.autodiff();
    let (size, rope) = block_size(recording, &device)?;
    let block = recording.weights(DoubleBlock::new(size, &device), &keys::BFL, &device)?;
    let (img, txt, vec) =
        (recording.leaf::<3>("input.img")?, recording.leaf::<3>("input.txt")?, recording.leaf::<2>("input.vec")?);
    let (out_img, out_txt) = block.forward(img.clone(), txt.clone(), vec.clone(), &rope);

    let mut outputs = Distance::default();
    recording.add(&mut outputs, "output.img", &out_img.clone().inner().into_data())?;
    recording.add(&mut outputs, "output.txt", &out_txt.clone().inner().into_data())?;

    let loss = (out_img * recording.tensor_on("cotangent.img", &device)?).sum()
        + (out_txt * recording.tensor_on("cotangent.txt", &device)?).sum();
    let gradients = loss.backward();
    let inputs = BTreeMap::from([
        ("img", img.grad(&gradients).map(Tensor::into_data)),
        ("txt", txt.grad(&gradients).map(Tensor::into_data)),
        ("vec", vec.grad(&gradients).map(Tensor::into_data)),
    ]);
    let gradients = recording.gradients_error(&block, &keys::BFL, inputs, &gradients)?;
    Ok(vec![("outputs".into(), outputs.relative()), ("gradients".into(), gradients)])
}

/// Output and gradients of a single block.
pub fn single_block(recording: &Recording) -> Result<Findings> {
    let device = recording.autodiff();
    let (size, rope) = block_size(recording, &device)?;
    let block = recording.weights(SingleBlock::new(size, &device), &keys::BFL, &device)?;
    let (x, vec) = (recording.leaf::<3>("input.x")?, recording.leaf::<2>("input.vec")?);
    let output = block.forward(x.clone(), vec.clone(), &rope);
    let output_error = recording.error("output.x", output.clone().inner())?;

    let gradients = (output * recording.tensor_on("cotangent.x", &device)?).sum().backward();
    let inputs = BTreeMap::from([
        ("x", x.grad(&gradients).map(Tensor::into_data)),
        ("vec", vec.grad(&gradients).map(Tensor::into_data)),
    ]);
    let gradients = recording.gradients_error(&block, &keys::BFL, inputs, &gradients)?;
    Ok(vec![("output".into(), output_error), ("gradients".into(), gradients)])
}

/// A whole transformer: what enters `vec`, and the velocity.
pub fn whole(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: FluxConfig = serde_json::from_value(recording.config()?)?;
    let flux = recording.weights(config.init(device), &keys::BFL, device)?;
    let prompt_embeds = recording.tensor::<3>("input.prompt_embeds")?;
    let timesteps = recording.tensor::<1>("input.timesteps")?;
    let guidance = match config.guidance_embed {
        true => recording.tensor::<1>("input.guidance")?,
        false => timesteps.zeros_like(),
    };
    let [_, text_len, _] = prompt_embeds.dims();
    let input = FluxInput {
        tokens: recording.tensor("input.tokens")?,
        rope: flux.rope(text_len, &recording.positions("input.ids")?, device),
        prompt_embeds,
        pooled_prompt_embeds: recording.tensor("input.pooled_prompt_embeds")?,
        timesteps: timesteps.clone(),
        guidance: guidance.clone(),
    };
    let mut findings = vec![("time sinusoid".into(), recording.error("output.time_sinusoid", sinusoid(timesteps))?)];
    if config.guidance_embed {
        findings.push(("guidance sinusoid".into(), recording.error("output.guidance_sinusoid", sinusoid(guidance))?));
    }
    findings.push(("vec".into(), recording.error("output.vec", flux.embed(input.clone()).vec)?));
    findings.push(("velocity".into(), recording.error("output.velocity", flux.forward(input))?));
    Ok(findings)
}
