//! Low-rank branches on a linear layer: one, two, their gradients, and taken into the weight and out again.

use super::{Findings, recording::Recording};
use ace_nn::lora::{Linear, LoraBranch};
use ace_weights::names::KeyMap;
use anyhow::{Context, Result};
use burn::{module::Param, prelude::*};
use serde_json::Value;
use std::collections::BTreeMap;

/// PEFT writes a branch's factors beside the layer's weight.
const PEFT: KeyMap = KeyMap::renaming(&[("lora.0.lora_a", "lora_A"), ("lora.0.lora_b", "lora_B")]);

/// `weight · alpha / rank` of an adapter.
fn scale(recording: &Recording, adapter: usize) -> Result<f64> {
    let config = recording.config()?;
    let adapter = config.get("adapters").and_then(|all| all.get(adapter)).context("config lacks an adapter")?;
    let number = |name: &str| adapter.get(name).and_then(Value::as_f64).with_context(|| format!("no {name}"));
    Ok(number("weight")? * number("alpha")? / number("rank")?)
}

/// The recorded branch of an adapter, `prefix` before its factors' names.
fn branch(recording: &Recording, prefix: &str, adapter: usize, device: &Device) -> Result<LoraBranch> {
    let factor = |name: &str| recording.tensor_on::<2>(&format!("weights.{prefix}{name}"), device);
    Ok(LoraBranch::from_factors(factor("lora_A")?, factor("lora_B")?, scale(recording, adapter)?))
}

/// A linear layer with branches.
pub fn linear(recording: &Recording) -> Result<Findings> {
    let device = recording.autodiff();
    let plain = Linear {
        weight: recording.tensor_on::<2>("weights.weight", &device)?.into(),
        bias: Some(Param::from_tensor(recording.tensor_on("weights.bias", &device)?)),
        lora: Vec::new(),
    };
    let one = Linear { lora: vec![branch(recording, "", 0, &device)?], ..plain.clone() };
    let both = Linear { lora: [one.lora.clone(), vec![branch(recording, "two.", 1, &device)?]].concat(), ..plain };

    let x = recording.leaf::<3>("input.x")?;
    let output = one.forward(x.clone());
    let gradients = (output.clone() * recording.tensor_on("cotangent.x", &device)?).sum().backward();
    let inputs = BTreeMap::from([("x", x.grad(&gradients).map(Tensor::into_data))]);
    let gradients = recording.gradients_error(&one, &PEFT, inputs, &gradients)?;

    let (fused_one, _) = one.fuse();
    let (fused_both, branches) = both.clone().fuse();
    let through = |layer: &Linear| layer.forward(x.clone()).inner();
    let mut findings = vec![
        ("output".into(), recording.error("output.x", output.inner())?),
        ("two adapters".into(), recording.error("output.two", through(&both))?),
        ("gradients".into(), gradients),
        ("fused weight".into(), recording.error("output.merged", fused_one.weight.val().inner())?),
        ("fused weight of two".into(), recording.error("output.merged_two", fused_both.weight.val().inner())?),
        ("fused".into(), recording.error("output.two", through(&fused_both))?),
    ];
    let unfused = fused_both.unfuse(branches);
    findings.push(("unfused".into(), recording.error("output.two", through(&unfused))?));
    Ok(findings)
}
