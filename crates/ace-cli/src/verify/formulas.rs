//! What has no weights: tokens, masks and positions, and the walk from noise to image.

use super::{Findings, recording::Recording};
use ace_plus::{
    flow, latents,
    sample::{self, Sampler, Schedule, Shift, Solver},
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

/// Every sampler, driven by a velocity that is a known function: where it is after each step.
pub fn samplers(recording: &Recording) -> Result<Findings> {
    let start = recording.tensor::<3>("input.start")?;
    let fresh = recording.tensor::<4>("input.fresh")?;
    let times = |key: &str| Ok::<Vec<f32>, anyhow::Error>(recording.tensor::<1>(key)?.into_data().iter().collect());
    let [given, own] = [times("input.times")?, times("input.times_own")?];
    let field = |x: &Tensor<3>, t: f32| Ok((x.clone() * 2.0 + t).sin() + t * t);
    let walk = |sampler: Sampler, times: &[f32]| {
        let (mut solver, mut x, mut seen) = (Solver::new(sampler), start.clone(), Vec::new());
        for (step, pair) in times.windows(2).enumerate() {
            let mut fresh = || fresh.clone().narrow(0, step, 1).squeeze_dim(0);
            x = solver.step(&x, [pair[0], pair[1]], &mut |x, t| field(x, t), &mut fresh)?.tokens;
            seen.push(x.clone());
        }
        Ok::<_, anyhow::Error>(Tensor::stack::<4>(seen, 0))
    };
    let mut findings = Findings::new();
    for (name, sampler) in Sampler::ALL {
        let recorded = recording.error(&format!("output.{}", name.replace('-', "_")), walk(sampler, &given)?)?;
        findings.push((name.into(), recorded));
    }
    let recorded = recording.error("output.dpmpp_2m_own", walk(Sampler::Dpmpp2m, &own)?)?;
    findings.push(("dpmpp-2m along diffusers' own times".into(), recorded));
    Ok(findings)
}

/// Every schedule, shifted by the number of tokens and by a fixed factor.
pub fn schedules(recording: &Recording) -> Result<Findings> {
    let mut findings = Findings::new();
    for (name, schedule) in Schedule::ALL {
        let mut worst = 0.0f64;
        for (tokens, steps) in [(4096, 28), (90, 12), (1024, 5)] {
            for (kind, shift) in [(tokens.to_string(), Shift::default()), ("static".to_owned(), Shift::fixed(3.0))] {
                let times = schedule.times(steps, tokens, &shift);
                let times = TensorData::new(times, [steps + 1]);
                let key = format!("output.{}_{kind}_{steps}", name.replace('-', "_"));
                worst = worst.max(recording.error_of(&key, &times)?);
            }
        }
        findings.push((name.into(), worst));
    }
    Ok(findings)
}
