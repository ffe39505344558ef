//! A picture as numbers: `[channels, height, width]` floats on the host, and the elementary moves on them.
//!
//! Images live in −1..1 (0 is mid-grey), masks are 0 or 1 (1 = repaint).

use image::{GrayImage, RgbImage};
use serde::{Deserialize, Serialize};

/// Above this grey value an 8-bit mask says *repaint*.
pub const MASK_THRESHOLD: u8 = 128;

/// How an official ACE++ program makes bytes of a decoded picture in −1..1.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OfficialBytes {
    /// To the nearest, as diffusers' `VaeImageProcessor` does, in which the programs for the LoRAs end.
    #[default]
    Rounded,
    /// Cut off, as the program for the fully fine-tuned model does: 254.9 is 254.
    Truncated,
}

/// A channel-major picture; images in −1..1, masks 0/1.
#[derive(Clone, PartialEq)]
pub struct Plane {
    /// 3 for an image, 1 for a mask.
    pub channels: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// `[channels, height, width]`, row-major: `channels · height · width` values.
    pub data: Vec<f32>,
}

impl Plane {
    /// `[channels, height, width]` of one value.
    pub fn filled([channels, height, width]: [usize; 3], value: f32) -> Self {
        Self { channels, height, width, data: vec![value; channels * height * width] }
    }

    /// `[channels, height, width]` of zeros: grey as an image, *keep* as a mask.
    pub fn zeros(shape: [usize; 3]) -> Self {
        Self::filled(shape, 0.0)
    }

    /// An 8-bit picture as `[3, H, W]` in −1..1.
    pub fn from_rgb(image: &RgbImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let mut data = Vec::with_capacity(3 * width * height);
        for channel in 0..3 {
            let bytes = image.as_raw().iter().skip(channel).step_by(3);
            data.extend(bytes.map(|&byte| f32::from(byte) / 127.5 - 1.0));
        }
        Self { channels: 3, height, width, data }
    }

    /// An 8-bit mask as `[1, H, W]`: 1 where the grey value is above [`MASK_THRESHOLD`], else 0.
    pub fn from_mask(mask: &GrayImage) -> Self {
        let data = mask.as_raw().iter().map(|&grey| f32::from(u8::from(grey > MASK_THRESHOLD))).collect();
        Self { channels: 1, height: mask.height() as usize, width: mask.width() as usize, data }
    }

    /// An 8-bit mask as `[1, H, W]`: 1 from one half on, as diffusers cuts it.
    pub fn cut_at_half(mask: &GrayImage) -> Self {
        let data = mask.as_raw().iter().map(|&grey| f32::from(u8::from(grey >= 128))).collect();
        Self { channels: 1, height: mask.height() as usize, width: mask.width() as usize, data }
    }

    /// Back to 8 bits, rounded and clamped; NaN becomes black.
    ///
    /// # Panics
    /// If the plane has not 3 channels.
    pub fn to_rgb(&self) -> RgbImage {
        assert_eq!(self.channels, 3, "to_rgb: channels");
        let area = self.height * self.width;
        RgbImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let at = y as usize * self.width + x as usize;
            // A float to integer cast saturates, which is the clamp.
            image::Rgb([0, 1, 2].map(|channel| ((self.data[channel * area + at] + 1.0) * 127.5).round() as u8))
        })
    }

    /// Back to 8 bits, to the byte as the official programs do it.
    ///
    /// # Panics
    /// If the plane has not 3 channels.
    pub fn to_rgb_official(&self, bytes: OfficialBytes) -> RgbImage {
        assert_eq!(self.channels, 3, "to_rgb_official: channels");
        let area = self.height * self.width;
        // Their own order of f32 operations: another one rounds otherwise where a value lies between two bytes.
        let byte = |value: f32| match bytes {
            OfficialBytes::Rounded => ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8,
            OfficialBytes::Truncated => (((value + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0) as u8,
        };
        RgbImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let at = y as usize * self.width + x as usize;
            image::Rgb([0, 1, 2].map(|channel| byte(self.data[channel * area + at])))
        })
    }

    /// Its `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// The rectangle of `height` by `width` pixels whose upper left corner is at row `top`, column `left`.
    ///
    /// # Panics
    /// If the rectangle leaves the plane.
    pub fn crop(&self, top: usize, left: usize, height: usize, width: usize) -> Self {
        assert!(top + height <= self.height && left + width <= self.width, "crop: the rectangle leaves the plane");
        let mut data = Vec::with_capacity(self.channels * height * width);
        for channel in 0..self.channels {
            for row in top..top + height {
                let start = (channel * self.height + row) * self.width + left;
                data.extend_from_slice(&self.data[start..start + width]);
            }
        }
        Self { channels: self.channels, height, width, data }
    }

    /// Its middle, `height` by `width` pixels.
    ///
    /// # Panics
    /// If that is more than there is.
    pub fn center_crop(&self, height: usize, width: usize) -> Self {
        self.crop(center_offset(self.height, height), center_offset(self.width, width), height, width)
    }

    /// Zeros above and below, as evenly as can be, until it is `height` tall; the odd row goes below.
    ///
    /// # Panics
    /// If the plane is taller than that.
    pub fn pad_to_height(&self, height: usize) -> Self {
        let mut padded = Self::zeros([self.channels, height, self.width]);
        let (size, room) = (self.height * self.width, height * self.width);
        let top = (height - self.height) / 2 * self.width;
        for channel in 0..self.channels {
            let start = channel * room + top;
            padded.data[start..start + size].copy_from_slice(&self.data[channel * size..(channel + 1) * size]);
        }
        padded
    }

    /// Planes side by side, left to right.
    ///
    /// # Panics
    /// If there are none, or their channels or heights differ.
    pub fn beside(planes: &[Self]) -> Self {
        let (channels, height) = (planes[0].channels, planes[0].height);
        assert!(planes.iter().all(|plane| (plane.channels, plane.height) == (channels, height)), "beside: shapes");
        let width = planes.iter().map(|plane| plane.width).sum();
        let mut data = Vec::with_capacity(channels * height * width);
        for row in 0..channels * height {
            for plane in planes {
                data.extend_from_slice(&plane.data[row * plane.width..(row + 1) * plane.width]);
            }
        }
        Self { channels, height, width, data }
    }

    /// Planes below each other, top to bottom.
    ///
    /// # Panics
    /// If there are none, or their channels or widths differ.
    pub fn stacked(planes: &[Self]) -> Self {
        let (channels, width) = (planes[0].channels, planes[0].width);
        assert!(planes.iter().all(|plane| (plane.channels, plane.width) == (channels, width)), "stacked: shapes");
        let height = planes.iter().map(|plane| plane.height).sum();
        let mut data = Vec::with_capacity(channels * height * width);
        for channel in 0..channels {
            for plane in planes {
                let size = plane.height * width;
                data.extend_from_slice(&plane.data[channel * size..(channel + 1) * size]);
            }
        }
        Self { channels, height, width, data }
    }

    /// Every channel times `weight(mask)`, pixel by pixel; `mask` is `[1, H, W]` of the same size.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn weighted(mut self, mask: &Self, weight: impl Fn(f32) -> f32) -> Self {
        assert_eq!(mask.shape(), [1, self.height, self.width], "weighted: mask");
        for channel in self.data.chunks_mut(mask.data.len()) {
            channel.iter_mut().zip(&mask.data).for_each(|(value, &mask)| *value *= weight(mask));
        }
        self
    }
}

impl std::fmt::Debug for Plane {
    /// Its shape only: the numbers would fill a log with a million zeros.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane").field("shape", &self.shape()).finish_non_exhaustive()
    }
}

/// Where the middle `inner` of `outer` pixels begins. A half rounds to even, as the official code's crop does.
pub(super) fn center_offset(outer: usize, inner: usize) -> usize {
    let spare = outer - inner;
    spare / 2 + spare % 2 * (spare / 2 % 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Luma, Rgb};

    fn ramp(channels: usize, height: usize, width: usize) -> Plane {
        Plane { channels, height, width, data: (0..channels * height * width).map(|i| i as f32).collect() }
    }

    #[test]
    fn to_rgb_undoes_from_rgb_for_every_byte() {
        let image = RgbImage::from_fn(16, 16, |x, y| {
            let value = (y * 16 + x) as u8;
            Rgb([value, 255 - value, value ^ 0x55])
        });
        let plane = Plane::from_rgb(&image);
        assert_eq!((plane.data[0], plane.data[255], plane.data[256]), (-1.0, 1.0, 1.0));
        assert_eq!(plane.to_rgb(), image);
    }

    #[test]
    fn to_rgb_clamps_and_rounds() {
        let plane = Plane { channels: 3, height: 1, width: 1, data: vec![-3.0, 7.0, 0.0] };
        assert_eq!(plane.to_rgb().get_pixel(0, 0), &Rgb([0, 255, 128]));
    }

    #[test]
    fn official_bytes_are_rounded_or_cut_off() {
        let data = [254.9, 127.5, -3.0].map(|level| level / 127.5 - 1.0).to_vec();
        let plane = Plane { channels: 3, height: 1, width: 1, data };
        assert_eq!(plane.to_rgb_official(OfficialBytes::Rounded).get_pixel(0, 0), &Rgb([255, 128, 0]));
        assert_eq!(plane.to_rgb_official(OfficialBytes::Truncated).get_pixel(0, 0), &Rgb([254, 127, 0]));
    }

    #[test]
    fn a_mask_repaints_above_128() {
        let mask = GrayImage::from_fn(4, 1, |x, _| Luma([[0, 128, 129, 255][x as usize]]));
        assert_eq!(Plane::from_mask(&mask).data, [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn crop_cuts_every_channel() {
        assert_eq!(ramp(2, 3, 4).crop(1, 2, 2, 2).data, [6.0, 7.0, 10.0, 11.0, 18.0, 19.0, 22.0, 23.0]);
    }

    #[test]
    fn the_middle_of_an_odd_rest_rounds_to_even() {
        let offsets = [(4, 4), (5, 4), (6, 4), (7, 4), (9, 4)].map(|(outer, inner)| center_offset(outer, inner));
        assert_eq!(offsets, [0, 0, 1, 2, 2]);
    }

    #[test]
    fn padding_puts_the_odd_row_below() {
        let padded = ramp(1, 1, 2).pad_to_height(4);
        assert_eq!(padded.data, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn planes_beside_each_other_are_cropped_back_out() {
        let (left, right) = (ramp(2, 2, 3), ramp(2, 2, 1));
        let both = Plane::beside(&[left.clone(), right.clone()]);
        assert_eq!(both.shape(), [2, 2, 4]);
        assert_eq!(both.crop(0, 0, 2, 3), left);
        assert_eq!(both.crop(0, 3, 2, 1), right);
    }
}
