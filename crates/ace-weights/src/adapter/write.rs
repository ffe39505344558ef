//! LoRA files that others read: the transformer's branches in the spelling of each.

use super::CONFIG;
use crate::{Error, Result, network::flux as keys, replace, store};
use ace_nn::{flux::Flux, lora::LoraBranch};
use burn::{prelude::*, tensor::DType};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// Who is to read what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// ComfyUI and kohya's scripts: a file as the ACE++ release's.
    Kohya,
    /// diffusers' `load_lora_weights`: a file.
    Diffusers,
    /// PEFT's `from_pretrained` on diffusers' transformer: a folder with factors and configuration.
    Peft,
}

/// Writes the transformer's branches, one per layer, to a file in the release's spelling.
///
/// # Errors
/// If the file cannot be written, or a layer has several branches.
pub fn write(path: &Path, flux: &Flux, metadata: &[(&str, &str)]) -> Result<()> {
    write_as(path, flux, Spelling::Kohya, metadata)
}

/// Writes the transformer's branches, one per layer, for a reader: to a file, or for PEFT to a folder.
///
/// # Errors
/// If it cannot be written, or a layer has several branches.
pub fn write_as(path: &Path, flux: &Flux, spelling: Spelling, metadata: &[(&str, &str)]) -> Result<()> {
    let mut crowded = None;
    let mut flux = flux.clone();
    flux.for_each_linear(&mut |name, linear| {
        if linear.lora.len() > 1 {
            crowded = Some(name.to_owned());
        }
    });
    if let Some(name) = crowded {
        return Err(Error::input(format!("{name} has several branches"), "one LoRA at a time can be written"));
    }
    // Python's readers ask for whose tensors they are.
    let metadata = [metadata, &[("format", "pt")]].concat();
    match spelling {
        Spelling::Kohya => store::write(path, &released(&mut flux), &metadata[..metadata.len() - 1]),
        Spelling::Diffusers => store::write(path, &diffusers(&mut flux), &metadata),
        Spelling::Peft => replace::folder(path, &mut |folder| {
            let factors = cut(&mut flux);
            store::write(&folder.join("adapter_model.safetensors"), &peft(&factors), &metadata)?;
            replace::write(&folder.join(CONFIG), format!("{:#}\n", configuration(&factors)).as_bytes())
        }),
    }
}

/// The transformer's branches in the release's spelling (kohya's): `lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`
/// and its siblings, in f32.
pub(crate) fn released(flux: &mut Flux) -> BTreeMap<String, TensorData> {
    let mut tensors = BTreeMap::new();
    flux.for_each_linear(&mut |path, linear| {
        for branch in &linear.lora {
            let stem = format!("lora_unet_{}", path.replace('.', "_"));
            let [rank, _] = branch.lora_a.dims();
            tensors.insert(format!("{stem}.lora_down.weight"), on_host(branch.lora_a.val()));
            tensors.insert(format!("{stem}.lora_up.weight"), on_host(branch.lora_b.val()));
            tensors.insert(format!("{stem}.alpha"), alpha_of(branch.scale * rank as f64));
        }
    });
    tensors
}

/// A factor on the host, in f32.
fn on_host(factor: Tensor<2>) -> TensorData {
    factor.cast(DType::F32).into_data()
}

/// The number by which a branch counts, times its rank.
fn alpha_of(value: f64) -> TensorData {
    TensorData::new(vec![value as f32], [0_usize; 0])
}

/// diffusers' spelling; alphas only where branches do not count as they are.
pub(crate) fn diffusers(flux: &mut Flux) -> BTreeMap<String, TensorData> {
    let mut tensors = BTreeMap::new();
    for Factors { layer, a, b, scale } in cut(flux) {
        let [rank, _] = a.dims();
        tensors.insert(format!("transformer.{layer}.lora_A.weight"), on_host(a));
        tensors.insert(format!("transformer.{layer}.lora_B.weight"), on_host(b));
        if scale != 1.0 {
            tensors.insert(format!("transformer.{layer}.alpha"), alpha_of(scale * rank as f64));
        }
    }
    tensors
}

/// PEFT's spelling, as it stands in a folder of an adapter.
fn peft(factors: &[Factors]) -> BTreeMap<String, TensorData> {
    let key = |layer: &str, factor: &str| format!("base_model.model.{layer}.{factor}.weight");
    let pair = |one: &Factors| {
        [(key(&one.layer, "lora_A"), on_host(one.a.clone())), (key(&one.layer, "lora_B"), on_host(one.b.clone()))]
    };
    factors.iter().flat_map(pair).collect()
}

/// PEFT's configuration: rank and alpha that most layers have, and those of the others by name.
fn configuration(factors: &[Factors]) -> Value {
    let ranks = factors.iter().map(|one| one.a.dims()[0]);
    let mut counts = BTreeMap::<usize, usize>::new();
    for rank in ranks {
        *counts.entry(rank).or_default() += 1;
    }
    let rank = counts.into_iter().max_by_key(|(_, count)| *count).map_or(1, |(rank, _)| rank);
    let alpha = |one: &Factors| one.scale * one.a.dims()[0] as f64;
    let common = factors.iter().find(|one| one.a.dims()[0] == rank).map_or(rank as f64, alpha);
    // A pattern is of all layers that end so: a layer at the root, `proj_out`, must not be taken for one in a block.
    let pattern = |layer: &str| if layer.contains('.') { layer.to_owned() } else { format!("^{layer}") };
    let others = |differs: &dyn Fn(&Factors) -> Option<Value>| -> Map<String, Value> {
        factors.iter().filter_map(|one| Some((pattern(&one.layer), differs(one)?))).collect()
    };
    let layers: Vec<&str> = factors.iter().map(|one| one.layer.as_str()).collect();
    // Names are endings there too; where one is at the root, the whole name must be said as a regular expression.
    let targets = match layers.iter().any(|layer| !layer.contains('.')) {
        true => json!(layers.join("|").replace('.', "\\.")),
        false => json!(layers),
    };
    json!({
        "peft_type": "LORA",
        "base_model_name_or_path": null,
        "inference_mode": true,
        "bias": "none",
        "r": rank,
        "lora_alpha": common,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "rank_pattern": others(&|one| (one.a.dims()[0] != rank).then(|| json!(one.a.dims()[0]))),
        "alpha_pattern": others(&|one| (alpha(one) != common).then(|| json!(alpha(one)))),
    })
}

/// A branch of one of diffusers' layers.
struct Factors {
    /// diffusers' name of the layer.
    layer: String,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
}

/// The branches as diffusers has layers: queries, keys and values apart.
fn cut(flux: &mut Flux) -> Vec<Factors> {
    let mut factors = Vec::new();
    flux.for_each_linear(&mut |path, linear| {
        let target = keys::DIFFUSERS.rows(&keys::BFL.path(&format!("{path}.weight")));
        let [width, height] = linear.features();
        for branch in &linear.lora {
            let mut at = 0;
            let mut parts = Vec::new();
            for (key, height) in target.keys.iter().zip(target.heights(height, width)) {
                let used = used(branch, at, height);
                parts.push((key, Part { at, height, swapped: target.swapped, used }));
                at += height;
            }
            // Rows that the branch leaves alone have no part, unless it is one that has learned nothing yet.
            if parts.iter().any(|(_, part)| !part.used.is_empty()) {
                parts.retain(|(_, part)| !part.used.is_empty());
            }
            let is_cut = target.keys.len() > 1;
            for (key, part) in parts {
                let layer = key.trim_end_matches(".weight").to_owned();
                let (a, b) = part.factors(branch, is_cut);
                factors.push(Factors { layer, a, b, scale: branch.scale });
            }
        }
    });
    factors
}

/// Rows of a branch that stand under one name.
struct Part {
    at: usize,
    height: usize,
    swapped: bool,
    /// Directions of the rank that reach these rows.
    used: Vec<i32>,
}

impl Part {
    /// Its factors. Where a layer is cut, whole directions of the rank may be for other rows only, as when the file was
    /// made of such parts: those are left out.
    fn factors(&self, branch: &LoraBranch, is_cut: bool) -> (Tensor<2>, Tensor<2>) {
        let (a, b) = (branch.lora_a.val(), branch.lora_b.val().narrow(0, self.at, self.height));
        let half = self.height / 2;
        let b = match self.swapped {
            true => Tensor::cat(vec![b.clone().narrow(0, half, self.height - half), b.narrow(0, 0, half)], 0),
            false => b,
        };
        let [rank, _] = a.dims();
        if !is_cut || self.used.is_empty() || self.used.len() == rank {
            return (a, b);
        }
        let indices = TensorData::new(self.used.clone(), [self.used.len()]);
        let indices = Tensor::<1, Int>::from_data(indices, &a.device());
        (a.select(0, indices.clone()), b.select(1, indices))
    }
}

/// Directions of the rank that change any of `height` rows from row `at` on.
fn used(branch: &LoraBranch, at: usize, height: usize) -> Vec<i32> {
    let [_, rank] = branch.lora_b.dims();
    let rows: Vec<f32> = on_host(branch.lora_b.val().narrow(0, at, height)).iter::<f32>().collect();
    let is_used = |column: &i32| rows.iter().skip(*column as usize).step_by(rank).any(|value| *value != 0.0);
    (0..rank as i32).filter(is_used).collect()
}
