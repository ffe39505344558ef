//! From pictures on the host to latents on the device and back, whole or in tiles.
//!
//! In tiles the memory that the autoencoder takes is that of one tile, whatever the picture's size. Tiles overlap by a
//! quarter and fade into each other over the overlap, as in diffusers' `enable_tiling`, whose results these are. A tile does
//! not see what is beyond it: norms and the attention of the middle are its own, so colours may differ a little from those
//! of the whole; the fading leaves no seam.
//!
//! A device that takes no tensor as large as the pictures inside of the autoencoder gets tiles, whether or not they were asked
//! for: the largest that it takes.

use crate::{Card, Error, Result, canvas::Plane};
use ace_nn::{
    autoencoder::AutoEncoder,
    limit,
    poll::{Poll, to_the_end},
};
use burn::prelude::*;
use std::ops::ControlFlow::{self, Continue};

/// A plane on the device, `[1, C, H, W]`.
pub fn upload(plane: &Plane, device: &Device) -> Tensor<4> {
    let [channels, height, width] = plane.shape();
    Tensor::from_data(TensorData::new(plane.data.clone(), [1, channels, height, width]), device)
}

/// A picture on the host, from the first of a batch `[B, C, H, W]`.
pub fn download(tensor: Tensor<4>) -> Plane {
    let [_, channels, height, width] = tensor.dims();
    let data = tensor.narrow(0, 0, 1).into_data_as::<f32>().iter::<f32>().collect();
    Plane { channels, height, width, data }
}

/// Normalized latents of pictures of one size, `[1, 16, H/8, W/8]` each; the posterior's mode.
pub fn encode(autoencoder: &AutoEncoder, planes: &[&Plane], tiling: Option<Tiling>, device: &Device) -> Vec<Tensor<4>> {
    to_the_end(|poll| encode_polled(autoencoder, planes, tiling, device, poll))
}

/// As [`encode`]; breaks off where `poll` does.
pub fn encode_polled(
    autoencoder: &AutoEncoder,
    planes: &[&Plane],
    tiling: Option<Tiling>,
    device: &Device,
    poll: Poll<'_>,
) -> ControlFlow<(), Vec<Tensor<4>>> {
    if planes.is_empty() {
        return Continue(Vec::new());
    }
    let tiling = tiling.or_else(|| {
        let largest = planes.iter().map(|plane| plane.height * plane.width).max().unwrap_or(0);
        Tiling::needed(autoencoder, largest * planes.len(), device)
    });
    if let Some(tiling) = tiling {
        let mut all = Vec::with_capacity(planes.len());
        for plane in planes {
            all.push(tiling.encode(autoencoder, plane, device, poll)?);
        }
        return Continue(all);
    }
    let images = Tensor::cat(planes.iter().map(|plane| upload(plane, device)).collect(), 0);
    Continue(autoencoder.encode_polled(images, poll)?.split(1, 0))
}

/// A picture in −1..1, `[3, 8h, 8w]`, from normalized latents `[1, 16, h, w]`.
pub fn decode(autoencoder: &AutoEncoder, latents: &Tensor<4>, tiling: Option<Tiling>) -> Plane {
    to_the_end(|poll| decode_polled(autoencoder, latents, tiling, poll))
}

/// As [`decode`]; breaks off where `poll` does.
pub fn decode_polled(
    autoencoder: &AutoEncoder,
    latents: &Tensor<4>,
    tiling: Option<Tiling>,
    poll: Poll<'_>,
) -> ControlFlow<(), Plane> {
    let needed = || {
        let [batch, _, height, width] = latents.dims();
        let pixels = batch * height * width * autoencoder.downscale().pow(2);
        Tiling::needed(autoencoder, pixels, &latents.device())
    };
    match tiling.or_else(needed) {
        Some(tiling) => tiling.decode(autoencoder, latents, poll),
        None => Continue(download(autoencoder.decode_polled(latents.clone(), poll)?)),
    }
}

/// Parts into which a tile's side is divided; the last of them lies over the next tile.
const PARTS: usize = 4;

/// The side of tiles, whole in pixels, latent cells and quarters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    cells: usize,
}

impl Tiling {
    /// Tiles of at most so many pixels along a side, for an autoencoder with so many pixels along a cell; `None` if that
    /// is too few.
    pub fn new(pixels: usize, downscale: usize) -> Option<Self> {
        let cells = pixels / downscale / PARTS * PARTS;
        (cells > 0).then_some(Self { cells })
    }

    /// The largest tiles that a device takes, if it does not take so many pixels at once.
    fn needed(autoencoder: &AutoEncoder, pixels: usize, device: &Device) -> Option<Self> {
        let bytes_of_a_pixel = autoencoder.numbers_of_a_pixel() * size_of::<f32>();
        let most = limit::most_bytes(device)? / bytes_of_a_pixel.max(1);
        if pixels <= most {
            return None;
        }
        // Where not even the smallest tile fits, the device says so.
        Self::new(most.isqrt(), autoencoder.downscale())
    }

    /// As [`Tiling::new`] for a card's autoencoder.
    ///
    /// # Errors
    /// If tiles of so few pixels are none.
    pub fn of(pixels: u32, card: &Card) -> Result<Self> {
        let cell = card.autoencoder.downscale();
        Self::new(pixels as usize, cell).ok_or_else(|| {
            Error::input(format!("tiles of {pixels} pixels are too small"), format!("choose {} or more", PARTS * cell))
        })
    }

    /// Pictures in −1..1 from normalized latents, on the host.
    ///
    /// # Shapes
    /// - latents: `[1, latent_channels, h, w]`
    /// - output: `[3, 8h, 8w]`
    fn decode(self, autoencoder: &AutoEncoder, latents: &Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Plane> {
        let [_, _, height, width] = latents.dims();
        self.assemble([height, width], self.cells, self.cells * autoencoder.downscale(), &mut |at, size| {
            let rows = latents.clone().narrow(2, at[0], size[0]);
            Continue(download(autoencoder.decode_polled(rows.narrow(3, at[1], size[1]), poll)?))
        })
    }

    /// Normalized latents of a picture, the posterior's mode.
    ///
    /// # Shapes
    /// - image: `[3, H, W]` in −1..1, sides multiples of 8
    /// - output: `[1, latent_channels, H/8, W/8]`
    fn encode(
        self,
        autoencoder: &AutoEncoder,
        image: &Plane,
        device: &Device,
        poll: Poll<'_>,
    ) -> ControlFlow<(), Tensor<4>> {
        let pixels = self.cells * autoencoder.downscale();
        let latents = self.assemble([image.height, image.width], pixels, self.cells, &mut |at, size| {
            let tile = upload(&image.crop(at[0], at[1], size[0], size[1]), device);
            Continue(download(autoencoder.encode_polled(tile, poll)?))
        })?;
        Continue(upload(&latents, device))
    }

    /// Makes tile after tile of an input of `size`, `side` of it at a time, each becoming `made` along its sides, and
    /// puts them together.
    fn assemble(
        self,
        size: [usize; 2],
        side: usize,
        made: usize,
        make: &mut dyn FnMut([usize; 2], [usize; 2]) -> ControlFlow<(), Plane>,
    ) -> ControlFlow<(), Plane> {
        let (step, fade) = (side / PARTS * (PARTS - 1), made / PARTS);
        let kept = made - fade;
        let mut bands = Vec::new();
        let mut above: Vec<Plane> = Vec::new();
        for top in (0..size[0]).step_by(step) {
            let mut row: Vec<Plane> = Vec::new();
            for (column, left) in (0..size[1]).step_by(step).enumerate() {
                let mut tile = make([top, left], [side.min(size[0] - top), side.min(size[1] - left)])?;
                if let Some(above) = above.get(column) {
                    fade_down(above, &mut tile, fade);
                }
                if let Some(before) = row.last() {
                    fade_right(before, &mut tile, fade);
                }
                row.push(tile);
            }
            let cut: Vec<Plane> =
                row.iter().map(|tile| tile.crop(0, 0, tile.height.min(kept), tile.width.min(kept))).collect();
            bands.push(Plane::beside(&cut));
            above = row;
        }
        Continue(Plane::stacked(&bands))
    }
}

/// Fades the end of the tile above into the beginning of this one.
fn fade_down(above: &Plane, tile: &mut Plane, extent: usize) {
    let extent = extent.min(above.height).min(tile.height);
    for channel in 0..tile.channels {
        for y in 0..extent {
            let share = y as f32 / extent as f32;
            let from = (channel * above.height + above.height - extent + y) * above.width;
            let to = (channel * tile.height + y) * tile.width;
            let row = tile.data[to..to + tile.width].iter_mut().zip(&above.data[from..]);
            row.for_each(|(value, above)| *value = above * (1.0 - share) + *value * share);
        }
    }
}

/// Fades the end of the tile to the left into the beginning of this one.
fn fade_right(before: &Plane, tile: &mut Plane, extent: usize) {
    let extent = extent.min(before.width).min(tile.width);
    for row in 0..tile.channels * tile.height {
        for x in 0..extent {
            let share = x as f32 / extent as f32;
            let before = before.data[row * before.width + before.width - extent + x];
            let value = &mut tile.data[row * tile.width + x];
            *value = before * (1.0 - share) + *value * share;
        }
    }
}
