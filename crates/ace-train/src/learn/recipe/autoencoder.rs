//! `[autoencoder]`: how the autoencoder learns.

use serde::{Deserialize, Serialize};

/// How the autoencoder learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoEncoderRecipe {
    /// Side of the random crops in pixels, a multiple of 8; whole pictures if absent. Group norms see all of a picture,
    /// so a network that only ever saw crops is a little off on whole ones.
    #[serde(default)]
    pub crop: Option<usize>,
    /// Weight of the KL divergence beside the mean squared error.
    pub kl_weight: f64,
    /// The encoder stays as it is, and with it the latents that a transformer has learned.
    #[serde(default)]
    pub decoder_only: bool,
    /// Standard deviation of the noise on normalized latents while learning: what a transformer leaves behind is no
    /// exact latent either.
    #[serde(default)]
    pub latent_noise: f64,
}
