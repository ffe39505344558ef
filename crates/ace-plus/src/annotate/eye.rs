//! Annotators that are networks, in memory: pictures in, maps out.
//!
//! | name | sees | draws |
//! |---|---|---|
//! | `contour` | the picture at its own size, in 0..1 | contours, white on black, ×255 cut to bytes |
//! | `depth` | the picture with one side of about 518 pixels, sides multiples of 14, Pillow's bicubic, ImageNet's mean and deviation | how near, at the picture's size (bicubic), its least black and its most white |
//!
//! Sources: `InfoDrawContourAnnotator` of ACE++'s own program; transformers' `DPTImageProcessor` and its pipeline for depths.

use super::{Annotator, card::check_there};
use crate::{Error, Result, canvas::bicubic};
use ace_nn::{
    contour::{Contour, ContourConfig},
    depth::{Depth, DepthConfig},
};
use ace_weights::WeightFile;
use burn::{
    prelude::*,
    tensor::{
        module,
        ops::{InterpolateMode, InterpolateOptions},
    },
};
use image::{Rgb, RgbImage};
use std::{ops::ControlFlow, path::Path};

/// The side of a picture that the network of depths was trained with, in pixels.
const SIDE: f64 = 518.0;
/// Of ImageNet's pictures, red, green and blue.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Of ImageNet's pictures, red, green and blue.
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// An annotator's network on a device.
#[derive(Debug, Clone)]
pub struct Eye {
    network: Network,
    device: Device,
}

#[derive(Debug, Clone)]
enum Network {
    Contour(Box<Contour>),
    Depth(Box<Depth>),
}

impl Eye {
    /// Reads an annotator's weights, safetensors or what `torch.save` wrote.
    ///
    /// # Errors
    /// If the annotator is no network, or the file cannot be read or does not hold exactly its weights.
    pub fn open(annotator: Annotator, path: &Path, device: &Device) -> Result<Self> {
        check_there(path)?;
        match annotator {
            Annotator::Contour => {
                Ok(Self::contour(WeightFile::open(path)?.contour(&ContourConfig::PUBLISHED, device)?, device))
            }
            Annotator::Depth => Ok(Self::depth(WeightFile::open(path)?.depth(&DepthConfig::SMALL, device)?, device)),
            other => {
                let what = format!("annotator {} needs no weights", other.name());
                Err(Error::input(what, "leave the file out"))
            }
        }
    }

    /// One that draws contours.
    pub fn contour(network: Contour, device: &Device) -> Self {
        Self { network: Network::Contour(Box::new(network)), device: device.clone() }
    }

    /// One that draws depths.
    pub fn depth(network: Depth, device: &Device) -> Self {
        Self { network: Network::Depth(Box::new(network)), device: device.clone() }
    }

    /// What it sees in `image`, in the same size; `poll` is asked now and then whether to go on.
    ///
    /// # Errors
    /// If the picture is too small for the network, or `poll` stops it.
    pub fn draw(&self, image: &RgbImage, poll: &mut dyn FnMut() -> ControlFlow<()>) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        let levels = match &self.network {
            Network::Contour(network) => {
                let least = Contour::LEAST_SIDE as u32;
                if width < least || height < least {
                    let what =
                        format!("the picture is {width}x{height}, contours are drawn from {least} pixels a side");
                    return Err(Error::input(what, "choose a larger picture"));
                }
                if poll().is_break() {
                    return Err(Error::Cancelled);
                }
                let contours = network.forward(pixels(image, [0.0; 3], [1.0; 3], &self.device));
                // Cut to bytes, as the official program does.
                values(contours).into_iter().map(|contour| (contour * 255.0) as u8).collect()
            }
            Network::Depth(network) => {
                if width == 0 || height == 0 {
                    return Err(Error::input("the picture has no pixels", "choose another"));
                }
                let (columns, rows) = seen_size((width, height), network.backbone.patch_size());
                let seen = pixels(&bicubic(image, columns, rows), MEAN, DEVIATION, &self.device);
                let ControlFlow::Continue(near) = network.forward_polled(seen, poll) else {
                    return Err(Error::Cancelled);
                };
                let options = InterpolateOptions::new(InterpolateMode::Bicubic)
                    .with_align_corners(false)
                    .with_output_size([height as usize, width as usize]);
                stretched(&values(module::interpolate(near.unsqueeze_dim::<4>(1), options)))
            }
        };
        let level = |x, y| levels[(y * width + x) as usize];
        Ok(RgbImage::from_fn(width, height, |x, y| Rgb([level(x, y); 3])))
    }
}

/// A picture as `[1, 3, H, W]`, each channel's mean taken off and divided by its deviation.
fn pixels(image: &RgbImage, mean: [f32; 3], deviation: [f32; 3], device: &Device) -> Tensor<4> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let channel =
        |of: usize| image.pixels().map(move |pixel| (f32::from(pixel.0[of]) / 255.0 - mean[of]) / deviation[of]);
    let values: Vec<f32> = (0..3).flat_map(channel).collect();
    Tensor::from_data(TensorData::new(values, [1, 3, height, width]), device)
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// In which size the network of depths sees a picture of that width and height: that of its sides which is nearer to 518 becomes
/// 518, and both are rounded to whole patches, at least one.
fn seen_size((width, height): (u32, u32), patch: usize) -> (u32, u32) {
    let (across, down) = (SIDE / f64::from(width), SIDE / f64::from(height));
    let scale = if (1.0 - across).abs() < (1.0 - down).abs() { across } else { down };
    let patch = patch as f64;
    let whole = |side: u32| ((scale * f64::from(side) / patch).round_ties_even().max(1.0) * patch) as u32;
    (whole(width), whole(height))
}

/// Grey levels, the least value black and the largest white; of a flat picture all black.
fn stretched(values: &[f32]) -> Vec<u8> {
    let (least, most) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| (value.min(least), value.max(most)));
    let range = if most > least { most - least } else { 1.0 };
    values.iter().map(|value| ((value - least) / range * 255.0) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [((u32, u32), (u32, u32)); 10] = [
        ((518, 518), (518, 518)),
        ((1000, 700), (742, 518)),
        ((700, 1000), (518, 742)),
        ((300, 200), (518, 350)),
        ((640, 480), (686, 518)),
        ((1024, 1024), (518, 518)),
        ((96, 80), (518, 434)),
        ((60, 52), (518, 448)),
        ((2000, 90), (518, 28)),
        ((1920, 1080), (924, 518)),
    ];

    #[test]
    fn the_side_that_is_nearer_to_518_decides() {
        // What transformers' DPTImageProcessor gives.
        for (size, seen) in SIZES {
            assert_eq!(seen_size(size, 14), seen, "{size:?}");
        }
    }

    /// A recorded network with its recorded weights.
    fn recorded<C: serde::de::DeserializeOwned>(name: &str) -> (WeightFile, C) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/data/parity/{name}.safetensors"));
        let file = WeightFile::open(&path).unwrap();
        let config = serde_json::from_str(&file.metadata().unwrap()["config"]).unwrap();
        (file, config)
    }

    fn picture(name: &str) -> RgbImage {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/annotators");
        image::open(folder.join(format!("{name}.png"))).unwrap().into_rgb8()
    }

    /// At most one level, and that rarely: a value that is cut to a byte may lie at its edge.
    fn assert_drawn(eye: &Eye, theirs: &str) {
        let ours = eye.draw(&picture("cat"), &mut || ControlFlow::Continue(())).unwrap();
        let theirs = picture(theirs);
        assert_eq!(ours.dimensions(), theirs.dimensions());
        let wrong = ours.iter().zip(theirs.iter()).map(|(ours, theirs)| ours.abs_diff(*theirs));
        assert!(wrong.clone().all(|levels| levels <= 1));
        let wrong = wrong.filter(|levels| *levels > 0).count();
        assert!(wrong * 200 < ours.len(), "{wrong} of {} levels", ours.len());
    }

    #[test]
    fn contours_are_those_of_the_reference() {
        let device = Device::default();
        let (file, config) = recorded::<ContourConfig>("contour");
        let keys = &ace_weights::network::annotators::CONTOUR;
        let network = file.load(config.init(&device), keys, "weights.", None, &device).unwrap();
        assert_drawn(&Eye::contour(network, &device), "cat-contour");
    }

    #[test]
    fn depths_are_those_of_transformers_from_the_picture_on() {
        let device = Device::default();
        let (file, config) = recorded::<DepthConfig>("depth");
        let keys = &ace_weights::network::annotators::DEPTH;
        let network = file.load(config.init(&device), keys, "weights.", None, &device).unwrap();
        assert_drawn(&Eye::depth(network, &device), "cat-depth");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let device = Device::default();
        let (_, config) = recorded::<ContourConfig>("contour");
        let eye = Eye::contour(config.init(&device), &device);
        let mut go_on = || ControlFlow::Continue(());
        let error = eye.draw(&RgbImage::new(9, 4), &mut go_on).unwrap_err();
        assert_eq!(error.to_string(), "the picture is 9x4, contours are drawn from 5 pixels a side");
        let stopped = eye.draw(&RgbImage::new(9, 9), &mut || ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Error::Cancelled)));
        let error = Eye::open(Annotator::Canny, Path::new(env!("CARGO_MANIFEST_DIR")), &device).unwrap_err();
        assert_eq!(error.to_string(), "annotator canny needs no weights");
    }

    #[test]
    fn levels_go_from_black_to_white() {
        assert_eq!(stretched(&[2.0, 3.0, 2.5, 2.999]), [0, 255, 127, 254]);
        assert_eq!(stretched(&[7.0, 7.0]), [0, 0]);
    }
}
