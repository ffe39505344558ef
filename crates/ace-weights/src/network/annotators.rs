//! The networks that draw of a picture what an edit is to keep, as their files name them.
//!
//! Sources: the published `.pth` of informative drawings, whose sequences count their layers; transformers'
//! `DepthAnythingForDepthEstimation`.

use crate::{Result, WeightFile, names::KeyMap};
use ace_nn::{
    contour::{Contour, ContourConfig},
    depth::{Depth, DepthConfig},
};
use burn::{prelude::*, tensor::FloatDType};

/// Module path to the key of informative drawings' file.
pub const CONTOUR: KeyMap = KeyMap::renaming(&[
    ("stem.", "model0.1."),
    ("down.0.", "model1.0."),
    ("down.1.", "model1.3."),
    ("blocks.", "model2."),
    ("conv1.", "conv_block.1."),
    ("conv2.", "conv_block.5."),
    ("up.0.", "model3.0."),
    ("up.1.", "model3.3."),
    ("head.", "model4.1."),
]);

/// Module path to the key of Depth Anything's file.
pub const DEPTH: KeyMap = KeyMap {
    renames: &[
        ("self_attn.q_proj", "attention.attention.query"),
        ("self_attn.k_proj", "attention.attention.key"),
        ("self_attn.v_proj", "attention.attention.value"),
        ("self_attn.out_proj", "attention.output.dense"),
        ("layer_norm", "norm"),
        ("backbone.layers.", "backbone.encoder.layer."),
        ("backbone.patch_embedding.", "backbone.embeddings.patch_embeddings.projection."),
        ("backbone.class_embedding", "backbone.embeddings.cls_token"),
        ("backbone.position_embedding", "backbone.embeddings.position_embeddings"),
        ("backbone.post_norm.", "backbone.layernorm."),
        (".up.", ".resize."),
        (".down.", ".resize."),
        ("reassemble.", "neck.reassemble_stage.layers."),
        ("convs.", "neck.convs."),
        ("fusion.", "neck.fusion_stage.layers."),
    ],
    unused: &["backbone.embeddings.mask_token"],
    ..KeyMap::renaming(&[])
};

impl WeightFile {
    /// The generator of contours, in f32.
    ///
    /// # Errors
    /// If the file does not hold exactly its weights.
    pub fn contour(&self, config: &ContourConfig, device: &Device) -> Result<Contour> {
        self.load(config.init(device), &CONTOUR, "", Some(FloatDType::F32), device)
    }

    /// The network of depths, in f32.
    ///
    /// # Errors
    /// If the file does not hold exactly its weights.
    pub fn depth(&self, config: &DepthConfig, device: &Device) -> Result<Depth> {
        self.load(config.init(device), &DEPTH, "", Some(FloatDType::F32), device)
    }
}
