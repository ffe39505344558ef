//! The autoencoder in tiles, so that the memory it takes on the device is that of one tile, whatever the picture's size.
//!
//! Tiles overlap by a quarter and fade into each other over the overlap, as in diffusers' `enable_tiling`, whose results
//! these are. A tile does not see what is beyond it: norms and the attention of the middle are its own, so colours may
//! differ a little from those of the whole; the fading leaves no seam.

use crate::{
    canvas::Plane,
    unit::{download, upload},
};
use ace_nn::autoencoder::AutoEncoder;
use burn::prelude::*;

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

    /// Pictures in −1..1 from normalized latents, on the host.
    ///
    /// # Shapes
    /// - latents: `[1, latent_channels, h, w]`
    /// - output: `[3, 8h, 8w]`
    pub fn decode(self, autoencoder: &AutoEncoder, latents: &Tensor<4>) -> Plane {
        let [_, _, height, width] = latents.dims();
        self.assemble([height, width], self.cells, self.cells * autoencoder.downscale(), &mut |at, size| {
            let rows = latents.clone().narrow(2, at[0], size[0]);
            download(autoencoder.decode(rows.narrow(3, at[1], size[1])))
        })
    }

    /// Normalized latents of a picture, the posterior's mode.
    ///
    /// # Shapes
    /// - image: `[3, H, W]` in −1..1, sides multiples of 8
    /// - output: `[1, latent_channels, H/8, W/8]`
    pub fn encode(self, autoencoder: &AutoEncoder, image: &Plane, device: &Device) -> Tensor<4> {
        let pixels = self.cells * autoencoder.downscale();
        let latents = self.assemble([image.height, image.width], pixels, self.cells, &mut |at, size| {
            download(autoencoder.encode(upload(&image.crop(at[0], at[1], size[0], size[1]), device)))
        });
        upload(&latents, device)
    }

    /// Makes tile after tile of an input of `size`, `side` of it at a time, each becoming `made` along its sides, and
    /// puts them together.
    fn assemble(
        self,
        size: [usize; 2],
        side: usize,
        made: usize,
        make: &mut dyn FnMut([usize; 2], [usize; 2]) -> Plane,
    ) -> Plane {
        let (step, fade) = (side / PARTS * (PARTS - 1), made / PARTS);
        let kept = made - fade;
        let mut bands = Vec::new();
        let mut above: Vec<Plane> = Vec::new();
        for top in (0..size[0]).step_by(step) {
            let mut row: Vec<Plane> = Vec::new();
            for (column, left) in (0..size[1]).step_by(step).enumerate() {
                let mut tile = make([top, left], [side.min(size[0] - top), side.min(size[1] - left)]);
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
        Plane::stacked(&bands)
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
