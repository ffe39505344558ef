//! Caches over the steps: what diffusers' first-block cache and MagCache skip, and where they end.

use super::{Findings, recording::Recording};
use ace_nn::flux::FluxConfig;
use ace_plus::{
    sample::{Cache, Course, Denoiser},
    text::TextConditioning,
    unit::Units,
};
use ace_weights::network::flux::BFL;
use anyhow::{Context, Result, ensure};
use burn::{prelude::*, tensor::FloatDType};
use std::ops::ControlFlow;

/// Plain steps, and steps with each cache at two thresholds.
pub fn walks(recording: &Recording) -> Result<Findings> {
    let device = recording.device();
    let mut config = recording.config()?;
    let computed =
        config.as_object_mut().and_then(|config| config.remove("computed")).context("config has no computed")?;
    let config: FluxConfig = serde_json::from_value(config)?;
    let flux = recording.weights(config.init(device), &BFL, device)?;
    let text = TextConditioning {
        prompt_embeds: recording.tensor("input.prompt_embeds")?,
        pooled_prompt_embeds: recording.tensor("input.pooled_prompt_embeds")?,
    };
    let ids = recording.positions("input.ids")?;
    let units = Units { beside: None, behind: None, grids: Vec::new(), is_reference: vec![false; ids.len()], ids };
    let start = recording.tensor::<3>("input.start")?;
    let numbers = |key: &str| Ok::<Vec<f32>, anyhow::Error>(recording.tensor::<1>(key)?.into_data().iter().collect());
    let (times, mag_ratios) = (numbers("input.times")?, numbers("input.mag_ratios")?);
    let denoiser = Denoiser { flux: &flux, units: &units, text: &text, guidance: 0.0, dtype: FloatDType::F32 };
    let mut findings = Findings::new();
    for (name, cache) in [
        ("plain", Cache::Measure),
        ("first_block_1.0", Cache::FirstBlock { threshold: 1.0 }),
        ("first_block_0.6", Cache::FirstBlock { threshold: 0.6 }),
        ("mag_0.06", Cache::Mag { threshold: 0.06 }),
        ("mag_0.2", Cache::Mag { threshold: 0.2 }),
    ] {
        let course = Course { cache, mag_ratios: mag_ratios.clone(), ..Course::euler(times.clone()) };
        let walked = denoiser.denoise(start.clone(), &course, &mut |_| ControlFlow::Continue(()))?;
        let theirs = computed.get(name).and_then(serde_json::Value::as_u64);
        let ours = walked.work.computed;
        ensure!(theirs == Some(ours as u64), "{name}: {ours} steps were computed, there {theirs:?}");
        findings.push((name.replace('_', " "), recording.error(&format!("output.{name}"), walked.tokens)?));
        if cache == Cache::Measure {
            let ratios = TensorData::new(walked.mag_ratios, [times.len() - 1]);
            findings.push(("ratios".into(), recording.error_of("output.mag_ratios", &ratios)?));
        }
    }
    Ok(findings)
}
