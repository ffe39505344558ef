//! The autoencoder and its parts.

use super::{Findings, recording::Recording};
use ace_nn::autoencoder::{Attention, AutoEncoderConfig, Downsample, ResBlock, Upsample};
use ace_weights::network::autoencoder as keys;
use anyhow::{Context, Result};

/// A residual block with a shortcut.
pub fn resnet(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let channels = [recording.size("in_channels")?, recording.size("out_channels")?];
    let block = ResBlock::new(channels, recording.size("norm_num_groups")?, device);
    let block = recording.weights(block, &keys::BFL, device)?;
    let output = block.forward(recording.tensor("input.x")?);
    Ok(vec![("output".into(), recording.error("output.x", output)?)])
}

/// The attention of the middle.
pub fn attention(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let block = Attention::new(recording.size("channels")?, recording.size("norm_num_groups")?, device);
    let block = recording.weights(block, &keys::BFL, device)?;
    let output = block.forward(recording.tensor("input.x")?);
    Ok(vec![("output".into(), recording.error("output.x", output)?)])
}

/// Halving the resolution, of even and odd sides.
pub fn downsample(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let block = recording.weights(Downsample::new(recording.size("channels")?, device), &keys::BFL, device)?;
    ["x", "y", "z"]
        .into_iter()
        .map(|name| {
            let output = block.forward(recording.tensor(&format!("input.{name}"))?);
            Ok((format!("output {name}"), recording.error(&format!("output.{name}"), output)?))
        })
        .collect()
}

/// Doubling the resolution.
pub fn upsample(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let block = recording.weights(Upsample::new(recording.size("channels")?, device), &keys::BFL, device)?;
    let output = block.forward(recording.tensor("input.x")?);
    Ok(vec![("output".into(), recording.error("output.x", output)?)])
}

/// Both ways of the whole autoencoder.
pub fn whole(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let mut config = recording.config()?;
    // Ours knows only pictures of three channels and has no name for that.
    config.as_object_mut().context("config is no table")?.remove("in_channels");
    let config: AutoEncoderConfig = serde_json::from_value(config)?;
    let autoencoder = recording.weights(config.init(device), &keys::BFL, device)?;

    let (mean, logvar) = autoencoder.encode_posterior(recording.tensor("input.image")?);
    let latents = autoencoder.encode(recording.tensor("input.image")?);
    let image = autoencoder.decode(recording.tensor("input.latents")?);
    Ok(vec![
        ("mean".into(), recording.error("output.mean", mean)?),
        ("log-variance".into(), recording.error("output.logvar", logvar)?),
        ("latents".into(), recording.error("output.latents", latents)?),
        ("image".into(), recording.error("output.image", image)?),
    ])
}
