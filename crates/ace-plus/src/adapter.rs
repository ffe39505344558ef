//! LoRA files: onto the transformer's linear layers, and back to a file.
//!
//! Read are the ACE++ release's own spelling (kohya's, `lora_unet_<path with _>.lora_down.weight`) and files that keep
//! BFL's paths (`<path>.lora_A.weight`, with or without a prefix). Written is the release's spelling, with `alpha`.

use crate::{Error, Result, checkpoint, checkpoint::WeightFile};
use ace_nn::{
    flux::Flux,
    lora::{Linear, LoraBranch},
};
use burn::{prelude::*, tensor::DType};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Prefixes of files that keep BFL's paths.
const PREFIXES: [&str; 4] = ["", "diffusion_model.", "base_model.model.", "transformer."];
/// Names of the down and the up projection.
const FACTORS: [(&str, &str); 2] = [("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight")];

/// Adds the branches of a LoRA file to the transformer, each scaled by `weight · alpha / rank`.
///
/// # Errors
/// If the file has no branch, a branch for a layer that the transformer has not, or one of another shape. The
/// transformer is then as before.
pub fn attach(flux: &mut Flux, file: &WeightFile, weight: f64, device: &Device) -> Result<()> {
    let shapes = file.shapes()?;
    let mut left: BTreeSet<&str> = shapes.keys().map(String::as_str).collect();
    let mut branches: BTreeMap<String, LoraBranch> = BTreeMap::new();
    let mut error = None;
    flux.for_each_linear(&mut |path, linear| {
        let stems = PREFIXES.iter().map(|prefix| format!("{prefix}{path}")).chain([kohya_name(path)]);
        for stem in stems {
            for (down, up) in FACTORS {
                let (down, up) = (format!("{stem}.{down}"), format!("{stem}.{up}"));
                if !left.remove(down.as_str()) {
                    continue;
                }
                left.remove(up.as_str());
                let alpha = format!("{stem}.alpha");
                let alpha = left.remove(alpha.as_str()).then_some(alpha);
                match branch(file, linear, &down, &up, alpha.as_deref(), weight, device) {
                    Ok(branch) => {
                        branches.insert(path.to_owned(), branch);
                    }
                    Err(problem) => {
                        error.get_or_insert(problem);
                    }
                }
            }
        }
    });
    if let Some(error) = error {
        return Err(error);
    }
    if let Some(first) = left.first() {
        return Err(file.misfit(
            format!("{first} has no place in the transformer"),
            "this LoRA belongs to another model or is in a spelling that is not read",
        ));
    }
    flux.for_each_linear(&mut |path, linear| linear.lora.extend(branches.remove(path)));
    Ok(())
}

fn branch(
    file: &WeightFile,
    linear: &Linear,
    down: &str,
    up: &str,
    alpha: Option<&str>,
    weight: f64,
    device: &Device,
) -> Result<LoraBranch> {
    let a = file.tensor::<2>(down, Some(burn::tensor::FloatDType::F32), device)?;
    let b = file.tensor::<2>(up, Some(burn::tensor::FloatDType::F32), device)?;
    let ([rank, input], [output, rank_up]) = (a.dims(), b.dims());
    let [expected_input, expected_output] = linear.features();
    if rank != rank_up || input != expected_input || output != expected_output {
        return Err(file.misfit(
            format!(
                "{down} is [{rank}, {input}] and {up} is [{output}, {rank_up}], the layer takes {expected_input} and \
                 gives {expected_output}"
            ),
            "this LoRA belongs to a model of another size",
        ));
    }
    let alpha = match alpha {
        Some(key) => f64::from(file.data(key)?.convert::<f32>().iter::<f32>().next().unwrap_or(rank as f32)),
        None => rank as f64,
    };
    Ok(LoraBranch::from_factors(a, b, weight * alpha / rank as f64))
}

/// Writes the transformer's branches, one per layer, to a file in the release's spelling.
///
/// # Errors
/// If the file cannot be written, or a layer has several branches.
pub fn write(path: &Path, flux: &Flux, alpha: f64, metadata: &[(&str, &str)]) -> Result<()> {
    let mut tensors = BTreeMap::new();
    let mut crowded = None;
    flux.clone().for_each_linear(&mut |name, linear| {
        if linear.lora.len() > 1 {
            crowded = Some(name.to_owned());
        }
        if let Some(branch) = linear.lora.first() {
            let stem = kohya_name(name);
            tensors.insert(format!("{stem}.lora_down.weight"), branch.lora_a.val().cast(DType::F32).into_data());
            tensors.insert(format!("{stem}.lora_up.weight"), branch.lora_b.val().cast(DType::F32).into_data());
            tensors.insert(format!("{stem}.alpha"), TensorData::new(vec![alpha as f32], [0usize; 0]));
        }
    });
    match crowded {
        Some(name) => Err(Error::input(format!("{name} has several branches"), "one LoRA at a time can be written")),
        None => checkpoint::write(path, &tensors, metadata),
    }
}

/// `double_blocks.0.img_attn.qkv` to `lora_unet_double_blocks_0_img_attn_qkv`.
fn kohya_name(path: &str) -> String {
    format!("lora_unet_{}", path.replace('.', "_"))
}
