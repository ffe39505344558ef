//! The text encoders and their layers.

use super::{Findings, recording::Recording};
use ace_nn::{
    clip::{self, ClipConfig},
    layers::empty,
    t5::{self, BUCKETS, MAX_DISTANCE, T5Config},
};
use ace_weights::names::KeyMap;
use anyhow::{Context, Result};
use burn::{
    module::{Module, Param},
    prelude::*,
};

/// Names of a T5 sublayer recorded alone: it is called by its class, with its norm beside it.
const T5_SUBLAYER: KeyMap = KeyMap::renaming(&[
    ("attention.layer_norm.scale", "layer_norm.weight"),
    ("feed_forward.layer_norm.scale", "layer_norm.weight"),
    ("attention.", "SelfAttention."),
    ("feed_forward.", "DenseReluDense."),
    ("relative_attention_bias", "SelfAttention.relative_attention_bias.weight"),
]);

/// T5's attention with the bias table that the first layer's file holds.
#[derive(Module, Debug)]
struct AttentionAlone {
    attention: t5::SelfAttention,
    relative_attention_bias: Param<Tensor<2>>,
}

/// T5's feed-forward under a name of its own.
#[derive(Module, Debug)]
struct FeedForwardAlone {
    feed_forward: t5::FeedForward,
}

/// Recorded token ids on the device.
fn upload(rows: &[Vec<i32>], device: &Device) -> Tensor<2, Int> {
    let columns = rows.first().map_or(0, Vec::len);
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), columns]), device)
}

/// T5's attention sublayer.
pub fn t5_attention(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: T5Config = serde_json::from_value(recording.config()?)?;
    let alone = AttentionAlone {
        attention: t5::SelfAttention::new(&config, device),
        relative_attention_bias: empty([BUCKETS, config.num_heads], device),
    };
    let alone = recording.weights(alone, &T5_SUBLAYER, device)?;
    let x = recording.tensor::<3>("input.x")?;
    let bias = t5::relative_bias(alone.relative_attention_bias.val(), x.dims()[1], MAX_DISTANCE);
    Ok(vec![("output".into(), recording.error("output.x", alone.attention.forward(x, bias))?)])
}

/// T5's feed-forward sublayer.
pub fn t5_feed_forward(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: T5Config = serde_json::from_value(recording.config()?)?;
    let alone = FeedForwardAlone { feed_forward: t5::FeedForward::new(&config, device) };
    let alone = recording.weights(alone, &T5_SUBLAYER, device)?;
    let output = alone.feed_forward.forward(recording.tensor("input.x")?);
    Ok(vec![("output".into(), recording.error("output.x", output)?)])
}

/// The whole sequence encoder.
pub fn t5(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: T5Config = serde_json::from_value(recording.config()?)?;
    let encoder = recording.weights(config.init(device), &ace_weights::network::t5::TRANSFORMERS, device)?;
    let hidden = encoder.forward(upload(&recording.rows("input.ids")?, device));
    Ok(vec![("hidden".into(), recording.error("output.hidden", hidden)?)])
}

/// One layer of the pooled encoder.
pub fn clip_layer(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: ClipConfig = serde_json::from_value(recording.config()?)?;
    let layer = recording.weights(clip::Layer::new(&config, device), &KeyMap::default(), device)?;
    let output = layer.forward(recording.tensor("input.x")?);
    Ok(vec![("output".into(), recording.error("output.x", output)?)])
}

/// The whole pooled encoder.
pub fn clip(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: ClipConfig = serde_json::from_value(recording.config()?)?;
    let encoder = recording.weights(config.init(device), &ace_weights::network::clip::TRANSFORMERS, device)?;
    let rows = recording.rows("input.ids")?;
    // The end of a text is its first token with the highest number, as the published configuration pools.
    let end_of_text = i32::try_from(config.vocab_size - 1)?;
    let ends: Vec<usize> = rows
        .iter()
        .map(|row| row.iter().position(|id| *id == end_of_text).context("a text without end"))
        .collect::<Result<_>>()?;
    let ids = upload(&rows, device);
    Ok(vec![
        ("hidden".into(), recording.error("output.hidden", encoder.hidden(ids.clone()))?),
        ("pooled".into(), recording.error("output.pooled", encoder.forward(ids, &ends))?),
    ])
}
