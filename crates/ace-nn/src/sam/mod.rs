//! MobileSAM: a picture and a few places in it to masks of what is there.
//!
//! Three networks under SAM's names. [`TinyVit`] looks at the picture once, `[B, 3, S, S]` to `[B, D, S/16, S/16]`.
//! [`PromptEncoder`] makes tokens of clicks and boxes, and [`MaskDecoder`] four masks of these and the picture's
//! embedding (the first where they leave no doubt, the others from part to whole where there is but one click), each
//! with how good it thinks the mask is; both are small, so that every click can be answered anew.
//!
//! Sources: Kirillov et al., "Segment Anything" (2023), appendix A; Wu et al., "TinyViT" (2022); Zhang et al.,
//! "Faster Segment Anything" (2023), where the encoder is a TinyViT with 5 M parameters whose last stage keeps the size.

mod decoder;
mod layers;
mod prompt;
mod tiny_vit;

pub use decoder::{MaskDecoder, MaskDecoderConfig, Masks};
pub use layers::{BatchNorm, ConvNorm, Kernel, PixelNorm};
pub use prompt::{PromptEncoder, Role};
pub use tiny_vit::{TinyVit, TinyVitConfig};

use burn::{module::Module, prelude::*};
use serde::{Deserialize, Serialize};

/// Sizes of a [`Sam`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    /// Of what looks at the picture.
    pub encoder: TinyVitConfig,
    /// Of what makes masks; its width is the embedding's.
    pub decoder: MaskDecoderConfig,
    /// Channels of a mask given as a prompt, on its way to the embedding's.
    pub mask_in_chans: usize,
}

impl SamConfig {
    /// As published: 1024² pixels, 64² cells of 256 features.
    pub fn mobile() -> Self {
        Self { encoder: TinyVitConfig::mobile(), decoder: MaskDecoderConfig::published(), mask_in_chans: 16 }
    }

    /// Cells of the embedding along a side.
    pub fn grid(&self) -> usize {
        self.encoder.grid()
    }

    /// A network with empty weights.
    pub fn init(&self, device: &Device) -> Sam {
        let width = self.decoder.transformer_dim;
        Sam {
            image_encoder: self.encoder.init(width, device),
            prompt_encoder: PromptEncoder::new(width, self.mask_in_chans, self.encoder.img_size, device),
            mask_decoder: self.decoder.init(device),
        }
    }
}

/// MobileSAM.
#[derive(Module, Debug)]
pub struct Sam {
    /// The picture to its embedding.
    pub image_encoder: TinyVit,
    /// Clicks and boxes to tokens.
    pub prompt_encoder: PromptEncoder,
    /// Tokens and embedding to masks.
    pub mask_decoder: MaskDecoder,
}
