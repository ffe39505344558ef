//! Networks that look at pictures.

use super::{Findings, recording::Recording};
use ace_nn::{contour::ContourConfig, depth::DepthConfig, vit::VitConfig};
use ace_weights::{
    names::KeyMap,
    network::{annotators, vit},
};
use anyhow::Result;

/// SigLIP's or CLIP's tower.
pub fn tower(recording: &Recording) -> Result<Findings> {
    transformer(recording, &vit::TRANSFORMERS, 2)
}

/// DINOv2.
pub fn dinov2(recording: &Recording) -> Result<Findings> {
    transformer(recording, &vit::DINOV2, 3)
}

/// A whole vision transformer on pictures of several sizes.
fn transformer(recording: &Recording, keys: &KeyMap, sizes: usize) -> Result<Findings> {
    let device = recording.device();
    let config: VitConfig = serde_json::from_value(recording.config()?)?;
    let network = recording.weights(config.init(device), keys, device)?;
    let mut findings = Findings::new();
    for size in 0..sizes {
        let pixels = recording.tensor::<4>(&format!("input.pixels_{size}"))?;
        let hidden = network.hidden(pixels.clone(), &[0, 2]);
        for (what, ours) in ["before", "after"].into_iter().zip(hidden) {
            let what = format!("{what}_{size}");
            findings.push((what.clone(), recording.error(&format!("output.{what}"), ours)?));
        }
        let what = format!("last_{size}");
        findings.push((what.clone(), recording.error(&format!("output.{what}"), network.forward(pixels))?));
    }
    Ok(findings)
}

/// The generator of contours.
pub fn contour(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: ContourConfig = serde_json::from_value(recording.config()?)?;
    let network = recording.weights(config.init(device), &annotators::CONTOUR, device)?;
    let mut findings = Findings::new();
    for size in 0..2 {
        let ours = network.forward(recording.tensor(&format!("input.pixels_{size}"))?);
        findings.push((format!("contours_{size}"), recording.error(&format!("output.contours_{size}"), ours)?));
    }
    Ok(findings)
}

/// Depth Anything.
pub fn depth(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let config: DepthConfig = serde_json::from_value(recording.config()?)?;
    let network = recording.weights(config.init(device), &annotators::DEPTH, device)?;
    let mut findings = Findings::new();
    for size in 0..3 {
        let ours = network.forward(recording.tensor(&format!("input.pixels_{size}"))?);
        findings.push((format!("depth_{size}"), recording.error(&format!("output.depth_{size}"), ours)?));
    }
    Ok(findings)
}
