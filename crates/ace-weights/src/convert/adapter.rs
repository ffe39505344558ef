//! LoRA files from any trainer's spelling to the ACE++ release's or diffusers'.
//!
//! The file is put onto a transformer whose weights are never made, and its branches are written down again; so
//! whatever can be attached can be converted, and what could not be said in the other spelling is refused. A LoRA is a
//! fiftieth of the network: its factors are held in memory, in f32.

use super::{Content, Format, Options, Precision, Report};
use crate::{
    Error, Result, Stored, WeightFile,
    adapter::{self, Dialect},
    network::flux as keys,
    replace, store,
};
use ace_nn::flux::FluxConfig;
use burn::{prelude::*, tensor::FloatDType};
use std::{collections::BTreeMap, path::Path};

/// Where diffusers leaves PEFT's configuration; it names layers as diffusers does.
const PEFT_HEADER: &str = "lora_adapter_metadata";

/// Converts a LoRA file.
pub(super) fn convert(
    file: &WeightFile,
    dialect: Dialect,
    output: &Path,
    options: &Options,
    device: &Device,
) -> Result<Report> {
    let own = match dialect {
        Dialect::Diffusers | Dialect::OneTrainer | Dialect::SimpleTuner => Format::Diffusers,
        _ => Format::ComfyUi,
    };
    let format = options.format.unwrap_or(own);
    let dtype = dtype(file, options.precision)?;
    let mut flux = config(file)?.init(device);
    let attached = adapter::attach(&mut flux, file, 1.0, device)?;
    if attached.parameters > 0 {
        let reason = format!("this LoRA also changes {} weights, biases or norms themselves", attached.parameters);
        return Err(file.misfit(reason, "only branches can be written in another spelling; use the file as it is"));
    }
    let tensors = match format {
        Format::Diffusers => adapter::diffusers(&mut flux),
        Format::Bfl | Format::ComfyUi => adapter::released(&mut flux),
    };
    let tensors: BTreeMap<String, TensorData> =
        tensors.into_iter().map(|(key, data)| (key, data.convert_dtype(dtype.into()))).collect();

    let mut metadata = file.metadata()?;
    metadata.remove(PEFT_HEADER);
    if format == Format::Diffusers {
        metadata.insert("format".into(), "pt".into());
    }
    let metadata: Vec<(&str, &str)> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    replace::make_parent(output)?;
    store::write(output, &tensors, &metadata)?;
    Ok(Report {
        content: Content::Lora(dialect),
        format,
        files: vec![output.to_owned()],
        tensors: tensors.len(),
        bytes: tensors.values().map(|data| data.as_bytes().len() as u64).sum(),
        skipped: attached.skipped,
    })
}

/// What to write factors in: the first one's dtype unless another is asked for.
fn dtype(file: &WeightFile, precision: Option<Precision>) -> Result<FloatDType> {
    let first = || file.keys().filter_map(|key| file.stored(key)).find(|stored| stored.is_float());
    Ok(match precision {
        Some(Precision::F32) => FloatDType::F32,
        Some(Precision::BF16) => FloatDType::BF16,
        Some(Precision::F16) => FloatDType::F16,
        Some(Precision::Fp8) => {
            return Err(Error::input("a LoRA in fp8 would lose what it learned", "choose bf16, f16 or f32"));
        }
        Some(Precision::Gguf(kind)) => {
            return Err(Error::input(
                format!("a LoRA in {kind} would lose what it learned"),
                "choose bf16, f16 or f32",
            ));
        }
        None => match first() {
            Some(Stored::F16) => FloatDType::F16,
            Some(Stored::BF16) => FloatDType::BF16,
            _ => FloatDType::F32,
        },
    })
}

/// Sizes of a transformer that the file fits: those that its factors tell, FLUX.1's where it has none.
fn config(file: &WeightFile) -> Result<FluxConfig> {
    let shapes = file.shapes()?;
    let is_down = |key: &str| adapter::factor(key).0;
    let is_up = |key: &str| adapter::factor(key).1;
    // Dots and `_` are told apart nowhere below.
    let plain: Vec<(String, &str, &[usize])> =
        shapes.iter().map(|(key, shape)| (key.replace('.', "_"), key.as_str(), shape.as_slice())).collect();
    let columns = |names: &[&str]| {
        let named = plain.iter().filter(|(name, key, _)| is_down(key) && names.iter().any(|part| name.contains(part)));
        named.filter_map(|(_, _, shape)| shape.get(1).copied()).min()
    };
    let rows = |names: &[&str]| {
        let named = plain.iter().filter(|(name, key, _)| is_up(key) && names.iter().any(|part| name.contains(part)));
        named.filter_map(|(_, _, shape)| shape.first().copied()).max()
    };
    let blocks = |names: &[&str]| {
        let index = |name: &str| {
            let rest = names.iter().find_map(|part| Some(&name[name.find(part)? + part.len()..]))?;
            rest.split('_').next()?.parse::<usize>().ok()
        };
        plain.iter().filter_map(|(name, _, _)| index(name)).max().map_or(0, |last| last + 1)
    };
    let published = keys::PUBLISHED;
    // Every layer of a block reads the stream, or something wider.
    let hidden_size = columns(&["_blocks_"]).unwrap_or(published.hidden_size);
    if hidden_size == 0 || !hidden_size.is_multiple_of(2) {
        let reason = format!("a factor with {hidden_size} columns is not for a transformer");
        return Err(file.misfit(reason, "the file is broken"));
    }
    let mlp = rows(&["img_mlp_0", "txt_mlp_0", "ff_net_0_proj", "ff_context_net_0_proj", "proj_mlp"]);
    let mlp = mlp.or_else(|| rows(&["linear1"]).and_then(|rows| rows.checked_sub(3 * hidden_size)));
    let single = blocks(&["single_blocks_", "single_transformer_blocks_"]);
    let double = plain.iter().any(|(name, _, _)| name.contains("double_blocks_"));
    let double = if double { blocks(&["double_blocks_"]) } else { doubles(&plain) };
    // diffusers calls the last layer as it calls one of each single block.
    let last = plain.iter().find(|(name, key, _)| is_up(key) && name.contains("transformer_proj_out"));
    let last = last.and_then(|(_, _, shape)| shape.first().copied());
    let out_channels = rows(&["final_layer_linear"]).or(last).unwrap_or(published.out_channels);
    let config = FluxConfig {
        in_channels: columns(&["img_in", "x_embedder"]).unwrap_or(out_channels).max(out_channels),
        out_channels,
        hidden_size,
        // Heads matter to attention alone, and nothing is computed.
        num_heads: 1,
        depth: double.min(MOST_BLOCKS),
        depth_single_blocks: single.min(MOST_BLOCKS),
        axes_dim: [hidden_size, 0, 0],
        mlp_ratio: mlp.map_or(published.mlp_ratio, |rows| rows as f64 / hidden_size as f64),
        context_in_dim: columns(&["txt_in", "context_embedder"]).unwrap_or(published.context_in_dim),
        vec_in_dim: columns(&["vector_in_in_layer", "text_embedder_linear_1"]).unwrap_or(published.vec_in_dim),
        ..published
    };
    config.check().map_err(|problem| file.misfit(problem, "the factors do not belong to one transformer"))?;
    Ok(config)
}

/// FLUX.1 has 57 blocks; a number in a key makes no network that fills the memory.
const MOST_BLOCKS: usize = 1000;

/// Double blocks by diffusers' name, which is the end of the single ones' too.
fn doubles(names: &[(String, &str, &[usize])]) -> usize {
    let index = |name: &str| {
        let at = name.find("transformer_blocks_")?;
        if name[..at].ends_with("single_") {
            return None;
        }
        name[at + "transformer_blocks_".len()..].split('_').next()?.parse::<usize>().ok()
    };
    names.iter().filter_map(|(name, _, _)| index(name)).max().map_or(0, |last| last + 1)
}
