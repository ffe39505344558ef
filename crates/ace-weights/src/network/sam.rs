//! MobileSAM as the world outside knows it: the keys of its own checkpoint, `mobile_sam.pt`, in whatever container.
//!
//! Source: `mobile_sam/modeling` of the authors.

use crate::{Result, WeightFile, names::KeyMap};
use ace_nn::sam::{Sam, SamConfig};
use burn::{prelude::*, tensor::FloatDType};

/// Module path to the checkpoint's key.
pub const SAM: KeyMap = KeyMap {
    renames: &[
        // Lists of layers and activations, where a field cannot be called by a number.
        ("patch_embed.conv1.", "patch_embed.seq.0."),
        ("patch_embed.conv2.", "patch_embed.seq.2."),
        ("neck.conv1.", "neck.0."),
        ("neck.norm1.", "neck.1."),
        ("neck.conv2.", "neck.2."),
        ("neck.norm2.", "neck.3."),
        ("mask_downscaling.conv1.", "mask_downscaling.0."),
        ("mask_downscaling.norm1.", "mask_downscaling.1."),
        ("mask_downscaling.conv2.", "mask_downscaling.3."),
        ("mask_downscaling.norm2.", "mask_downscaling.4."),
        ("mask_downscaling.conv3.", "mask_downscaling.6."),
        ("output_upscaling.conv1.", "output_upscaling.0."),
        ("output_upscaling.norm.", "output_upscaling.1."),
        ("output_upscaling.conv2.", "output_upscaling.3."),
        (".over.", "."),
        (".convolutions.", ".blocks."),
    ],
    // What sorts pictures into a thousand kinds; how many batches training saw; tables that follow from sizes.
    unused: &[
        "image_encoder.norm_head.",
        "image_encoder.head.",
        ".num_batches_tracked",
        ".attention_bias_idxs",
        ".attn.ab",
    ],
    ..KeyMap::renaming(&[])
};

/// The entry of a header that holds the sizes of a network that is not of the published ones.
const CONFIG: &str = "config";

impl WeightFile {
    /// Sizes of the MobileSAM in this file: the published ones, unless the header says others.
    ///
    /// # Errors
    /// If what the header says are no sizes.
    pub fn sam_config(&self) -> Result<SamConfig> {
        let Some(text) = self.metadata()?.remove(CONFIG) else { return Ok(SamConfig::mobile()) };
        serde_json::from_str(&text)
            .map_err(|source| self.misfit(format!("its sizes cannot be read: {source}"), "it is another network's"))
    }

    /// MobileSAM, in its own names, in f32.
    ///
    /// # Errors
    /// If the file does not hold exactly its weights.
    pub fn sam(&self, config: &SamConfig, device: &Device) -> Result<Sam> {
        self.load(config.init(device), &SAM, "", Some(FloatDType::F32), device)
    }
}
