//! Latents of pictures of one colour. Where there is nothing to edit, or everything is hidden, canvases are such pictures,
//! the same for every example of a size: each is encoded once.

use super::encode::on_host;
use ace_nn::autoencoder::AutoEncoder;
use ace_plus::{canvas::Plane, pixels};
use burn::prelude::*;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Height, width, and the bits of the colour.
type Key = ([usize; 2], Vec<u32>);

/// What is known of pictures of one colour.
#[derive(Debug, Default)]
pub struct Plain(Mutex<HashMap<Key, Vec<f32>>>);

impl Plain {
    fn key(plane: &Plane) -> Option<Key> {
        let [_, height, width] = plane.shape();
        let channels = plane.data.chunks(height * width);
        let colour = channels.map(|values| values.iter().all(|value| *value == values[0]).then(|| values[0].to_bits()));
        Some(([height, width], colour.collect::<Option<_>>()?))
    }

    /// Normalized latents of a picture, `[1, 16, H/8, W/8]`.
    pub fn encode(&self, autoencoder: &AutoEncoder, plane: &Plane, device: &Device) -> Tensor<4> {
        let key = Self::key(plane);
        let cell = autoencoder.downscale();
        let [_, height, width] = plane.shape();
        if let Some(known) = key.as_ref().and_then(|key| self.known().get(key).cloned()) {
            let channels = known.len() / (height / cell * (width / cell));
            return Tensor::from_data(TensorData::new(known, [1, channels, height / cell, width / cell]), device);
        }
        let latents = pixels::encode(autoencoder, &[plane], None, device).swap_remove(0);
        if let Some(key) = key {
            self.known().insert(key, on_host(latents.clone()));
        }
        latents
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Vec<f32>>> {
        // A thread that panicked while it looked has left whole entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Plain;
    use ace_plus::canvas::Plane;

    #[test]
    fn only_pictures_of_one_colour_are_known_by_it() {
        let of = |data: &[f32]| Plain::key(&Plane { channels: 2, height: 1, width: 2, data: data.to_vec() });
        assert_eq!(of(&[1.0, 1.0, 0.5, 0.5]), of(&[1.0, 1.0, 0.5, 0.5]));
        assert!(of(&[1.0, 1.0, 0.5, 0.5]).is_some());
        assert_ne!(of(&[1.0, 1.0, 0.5, 0.5]), of(&[0.5, 0.5, 1.0, 1.0]));
        assert_eq!(of(&[1.0, 1.0, 0.5, 0.25]), None);
    }
}
