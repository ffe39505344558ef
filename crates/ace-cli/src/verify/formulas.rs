//! What has no weights: tokens, masks and positions, and the walk from noise to image.

use super::{Findings, recording::Recording};
use ace_plus::{
    flow, latents,
    sample::{self, Shift},
};
use anyhow::Result;
use burn::prelude::*;

/// The conditions of FLUX-Fill: latents and mask as tokens, and where the tokens lie.
pub fn fill_conditioning(recording: &Recording) -> Result<Findings> {
    let cells = |pixels: &str| Ok::<_, anyhow::Error>(recording.size(pixels)? / latents::DOWNSCALE);
    let grid = [cells("height")?, cells("width")?];
    let mask = latents::pack(latents::fold_mask(recording.tensor("input.mask")?, latents::DOWNSCALE));
    let tokens = latents::pack(recording.tensor("input.latents")?);
    let ids = latents::ids(grid.map(|side| side / latents::PATCH), 0);
    let ids = TensorData::new(ids.concat(), [ids.len(), 3]);
    Ok(vec![
        ("mask tokens".into(), recording.error("output.mask_tokens", mask)?),
        ("tokens".into(), recording.error("output.tokens", tokens.clone())?),
        ("unpacked".into(), recording.error("input.latents", latents::unpack(tokens, grid))?),
        ("ids".into(), recording.error_of("output.ids", &ids)?),
    ])
}

/// Schedules of several lengths, and three steps along one of them.
pub fn schedule(recording: &Recording) -> Result<Findings> {
    let shift = Shift::default();
    let mut findings = Findings::new();
    for (tokens, steps) in [(4096, 28), (1024, 4), (16, 20)] {
        let times = sample::schedule(steps, tokens, &shift);
        let times = TensorData::new(times, [steps + 1]);
        let error = recording.error_of(&format!("output.sigmas_{tokens}_{steps}"), &times)?;
        findings.push((format!("{steps} steps, {tokens} tokens"), error));
    }
    let times = sample::schedule(4, 1024, &shift);
    let mut sample = recording.tensor::<3>("input.sample")?;
    for (step, pair) in times.windows(2).take(3).enumerate() {
        let velocity: Tensor<3> = recording.tensor(&format!("input.velocity_{step}"))?;
        sample = flow::euler(sample, velocity, pair[0], pair[1]);
        let error = recording.error(&format!("output.sample_{step}"), sample.clone())?;
        findings.push((format!("Euler step {}", step + 1), error));
    }
    findings.push(("after three steps".into(), recording.error("output.sample", sample)?));
    Ok(findings)
}
