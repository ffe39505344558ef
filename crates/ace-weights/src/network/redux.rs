//! FLUX.1 Redux's two layers as the world outside knows them: `flux1-redux-dev.safetensors` and diffusers'
//! `ReduxImageEncoder` call them alike.

use crate::{
    Result, WeightFile,
    load::{Origins, Without},
    names::KeyMap,
};
use ace_nn::redux::{Redux, ReduxConfig};
use burn::{prelude::*, tensor::FloatDType};

/// Module path to key.
const KEYS: KeyMap = KeyMap::renaming(&[]);

impl WeightFile {
    /// Redux's layers.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn redux(&self, config: &ReduxConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Redux> {
        let module = config.init(device);
        let origins = self.redux_origins(&module)?;
        self.load_network(module, &origins, dtype, Without::Nothing, device)
    }

    /// Whether [`WeightFile::redux`] would take the file, from its header alone.
    ///
    /// # Errors
    /// As [`WeightFile::redux`].
    pub fn check_redux(&self, config: &ReduxConfig, device: &Device) -> Result<()> {
        self.redux_origins(&config.init(device)).map(drop)
    }

    fn redux_origins(&self, module: &Redux) -> Result<Origins> {
        self.origins(module, &KEYS, "")
    }
}
