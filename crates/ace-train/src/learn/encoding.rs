//! What a run's examples are encoded with: networks that are loaded when something must be encoded, and the digests by
//! which the cache knows them.

use super::{
    recipe::{NetworkName, Recipe},
    start::{Start, trains_text},
};
use crate::{
    Error,
    data::{
        Dataset, Digests, TextEncoders,
        supply::{Lazy, Supply},
    },
};
use ace_nn::weight::Packing;
use ace_plus::{model::Component, text::Tokenizers};
use ace_weights::{Network, digest};
use burn::tensor::{Device, FloatDType};

/// Bytes of a number in memory.
fn bytes_of(dtype: FloatDType) -> u64 {
    match dtype {
        FloatDType::F64 => 8,
        FloatDType::F32 | FloatDType::Flex32 => 4,
        FloatDType::F16 | FloatDType::BF16 => 2,
    }
}

impl Start {
    /// Examples of `data` as the transformer will see them, encoded on `device` without gradients.
    ///
    /// # Errors
    /// If the tokenizers are missing, or the device does not compute in the frozen numbers.
    pub fn supply<'a>(
        &'a self,
        recipe: &'a Recipe,
        data: &'a dyn Dataset,
        device: &'a Device,
    ) -> Result<Supply<'a>, Error> {
        self.check_dtype(device)?;
        let tokenizers = Tokenizers::read(
            self.card(),
            &self.model.require(Component::T5Tokenizer)?,
            &self.model.require(Component::ClipTokenizer)?,
        )?;
        let text = (!trains_text(recipe))
            .then(|| Lazy::new(|| Ok(TextEncoders { t5: self.t5(recipe, device)?, clip: self.clip(recipe, device)? })));
        let autoencoder = Lazy::new(|| self.autoencoder(recipe, device));
        let pool = recipe.pool_of(data);
        Ok(Supply::new(data, (self.card().clone(), tokenizers), autoencoder, text, pool, device))
    }

    /// What the numbers of encoded examples depend on besides the examples.
    ///
    /// # Errors
    /// If a weight file is missing or cannot be read.
    pub fn digests(&self, recipe: &Recipe) -> Result<Digests, Error> {
        let card = self.card();
        // A card's sections are plain numbers and names.
        let said = |parts: &[serde_json::Result<String>]| {
            parts.iter().filter_map(|part| part.as_deref().ok()).collect::<Vec<_>>().join(" ")
        };
        let weights = |name: NetworkName, network: Network| match recipe.is_fresh(name) {
            true => Ok(format!("fresh {}", recipe.seed)),
            false => self.model.require(Component::of(network))?.fingerprint().map_err(Error::from),
        };
        let pictures = said(&[
            weights(NetworkName::AutoEncoder, Network::AutoEncoder).map(Ok)?,
            serde_json::to_string(&card.autoencoder),
            serde_json::to_string(&card.canvas),
            serde_json::to_string(&card.unit),
        ]);
        let words = match trains_text(recipe) {
            true => None,
            false => Some(said(&[
                weights(NetworkName::T5, Network::T5).map(Ok)?,
                weights(NetworkName::Clip, Network::Clip).map(Ok)?,
                serde_json::to_string(&card.t5),
                serde_json::to_string(&card.clip),
                Ok(format!("{:?}{}", self.model.holds_in(), self.model.packs_to().map_or("", Packing::name))),
            ])),
        };
        let digest = |text: String| digest::of_bytes(text.as_bytes());
        Ok(Digests { pictures: digest(pictures), words: words.map(digest) })
    }

    /// Memory that the encoders will take, in bytes, without loading them.
    ///
    /// # Errors
    /// If a weight file is missing or cannot be read.
    pub fn encoder_bytes(&self, recipe: &Recipe) -> Result<u64, Error> {
        let mut sum = 0;
        let text = [(NetworkName::T5, Network::T5), (NetworkName::Clip, Network::Clip)];
        let text = text.into_iter().filter(|_| !trains_text(recipe));
        for (name, network) in [(NetworkName::AutoEncoder, Network::AutoEncoder)].into_iter().chain(text) {
            if recipe.is_fresh(name) {
                continue;
            }
            let file = self.model.open(network)?;
            let numbers = file.shapes()?.values().map(|shape| shape.iter().product::<usize>() as u64).sum::<u64>();
            let dtype = if network == Network::AutoEncoder { FloatDType::F32 } else { self.model.holds_in() };
            sum += numbers * bytes_of(dtype);
        }
        Ok(sum)
    }
}
