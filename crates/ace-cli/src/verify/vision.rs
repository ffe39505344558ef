//! Networks that look at pictures.

use super::{Findings, recording::Recording};
use ace_nn::vit::VitConfig;
use ace_weights::{names::KeyMap, network::vit};
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
