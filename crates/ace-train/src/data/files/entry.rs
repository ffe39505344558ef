//! The files of one example.

use crate::data::example::Example;
use ace_plus::picture;
use image::{GrayImage, ImageBuffer, Pixel};
use std::path::{Path, PathBuf};

/// Task of an example that names none.
const UNNAMED_TASK: &str = "edit";

/// The files and words of one example.
#[derive(Debug, Default)]
pub(in crate::data) struct Entry {
    pub target: PathBuf,
    pub image: Option<PathBuf>,
    pub mask: Option<PathBuf>,
    pub references: Vec<PathBuf>,
    pub instruction: String,
    pub task: Option<String>,
    /// 1 if absent.
    pub repainting_scale: Option<f32>,
    /// Whether image and mask are brought to the target's size instead of being refused if theirs is another.
    pub fits: bool,
}

/// Width and height in pixels.
pub(in crate::data) type Size = (u32, u32);

impl Entry {
    pub fn task(&self) -> &str {
        self.task.as_deref().unwrap_or(UNNAMED_TASK)
    }

    /// Everything that is wrong with it as far as words and the beginnings of files tell.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.instruction.trim().is_empty() {
            faults.push("instruction is empty".to_owned());
        }
        if let Some(scale) = self.repainting_scale.filter(|scale| !(0.0..=1.0).contains(scale)) {
            faults.push(format!("repainting_scale is {scale}, expected 0 to 1"));
        }
        if self.mask.is_some() && self.image.is_none() {
            faults.push("mask without image".to_owned());
        }
        let mut size = |field: &str, path: &Path| match picture::read_size(path) {
            Ok(size) => Some(size),
            Err(error) => {
                faults.push(format!("{field} {error}"));
                None
            }
        };
        let target = size("target", &self.target);
        let image = self.image.as_deref().and_then(|path| size("image", path));
        let mask = self.mask.as_deref().and_then(|path| size("mask", path));
        for reference in &self.references {
            size("references", reference);
        }
        if !self.fits {
            faults.extend(differ(("mask", mask), ("image", image)));
            faults.extend(differ(("target", target), ("image", image)));
        }
        faults
    }

    /// Decodes its pictures.
    pub fn read(&self) -> ace_plus::Result<Example> {
        let target = picture::read_rgb(&self.target)?;
        let mut image = self.image.as_deref().map(picture::read_rgb).transpose()?;
        let mut mask: Option<GrayImage> = self.mask.as_deref().map(picture::read_mask).transpose()?;
        if self.fits {
            image = image.map(|image| fitted(image, target.dimensions()));
            mask = mask.map(|mask| fitted(mask, target.dimensions()));
        }
        Ok(Example {
            task: self.task().to_owned(),
            instruction: self.instruction.trim().to_owned(),
            image,
            mask,
            references: self.references.iter().map(|path| picture::read_rgb(path)).collect::<Result<_, _>>()?,
            target,
            repainting_scale: self.repainting_scale.unwrap_or(1.0),
        })
    }
}

fn differ((one, a): (&str, Option<Size>), (other, b): (&str, Option<Size>)) -> Option<String> {
    let (a, b) = (a?, b?);
    (a != b).then(|| format!("{one} is {}x{} but {other} is {}x{}", a.0, a.1, b.0, b.1))
}

/// The pixels nearest to the middles of those of another size, as ACE++'s own trainer takes them.
fn fitted<P: Pixel<Subpixel = u8>>(picture: ImageBuffer<P, Vec<u8>>, size: Size) -> ImageBuffer<P, Vec<u8>> {
    if picture.dimensions() == size {
        return picture;
    }
    let nearest = |at: u32, from: u32, to: u32| {
        // The middle of a pixel, in units of half a pixel, so that nothing is rounded before the division.
        ((u64::from(2 * at + 1) * u64::from(from)) / u64::from(2 * to)) as u32
    };
    let (width, height) = picture.dimensions();
    ImageBuffer::from_fn(size.0, size.1, |x, y| {
        *picture.get_pixel(nearest(x, width, size.0).min(width - 1), nearest(y, height, size.1).min(height - 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    #[test]
    fn a_fitted_picture_takes_the_pixels_in_the_middle() {
        let row = GrayImage::from_fn(4, 1, |x, _| Luma([x as u8]));
        let of = |width| fitted(row.clone(), (width, 1)).into_raw();
        assert_eq!((of(2), of(8)), (vec![1, 3], vec![0, 0, 1, 1, 2, 2, 3, 3]));
        // torch's `nearest-exact` from 4 to 3.
        assert_eq!(of(3), [0, 2, 3]);
    }
}
