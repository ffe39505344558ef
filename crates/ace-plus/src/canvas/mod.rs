//! From pixels to the canvas that the networks see, `[reference | image]` within the token budget, and the way back.
//!
//! The steps and their rounding are those of the official processor, because the published weights saw nothing else.
//! Where it fails or loses something we differ: the mask is cropped with the image, a black mask is an error, and the
//! result always comes back in the image's size. All of it is host floats; sampling and training walk the same road.

mod plane;
mod resize;

pub use plane::{MASK_THRESHOLD, Plane};
pub use resize::{bilinear_antialias, nearest_exact};

use crate::error::{Error, Result};
use image::{GrayImage, RgbImage, imageops};
use plane::center_offset;
use serde::Deserialize;

/// Longest side of an input, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Largest canvas before it is fitted to the budget, in pixels (3 GiB as floats).
const MAX_AREA: usize = 1 << 28;

/// How pixels become canvases: a section of the card.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct CanvasPolicy {
    /// Budget of one edit in tokens (of 16×16 px in the published models), references and image together.
    pub max_seq_len: usize,
    /// Longer pictures are cropped to this ratio of the sides, around their middle.
    pub max_aspect_ratio: f32,
    /// How a reference meets the height of the image ([`Layout::Canvas`] only).
    pub reference_fit: ReferenceFit,
    /// Whether what lies under the mask travels in a change image of its own.
    pub change_image: bool,
    /// Columns cut right of the seam from the output, where the reference may bleed in, in pixels; 0 for none.
    pub seam_crop: usize,
    /// One canvas, or one per picture.
    pub layout: Layout,
    /// Pixels along one side of a token: the autoencoder's cell times the patch of 2.
    #[serde(default = "published_token")]
    pub token: usize,
}

fn published_token() -> usize {
    crate::latents::DOWNSCALE * crate::latents::PATCH
}

/// How a reference meets the height of the image.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReferenceFit {
    /// Scaled to the same height.
    Height,
    /// Shrunk to `rate` of the image's height if it is taller than that, otherwise left alone; grey above and below.
    KeepPixels {
        /// Share of the image's height, above 0 and at most 1.
        rate: f64,
    },
}

/// Where references and image meet.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Side by side on one canvas: references in order, then the image.
    Canvas,
    /// Each on its own canvas, concatenated later as tokens: references in order, the image last.
    Sequence,
}

/// The pictures of one edit.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What to edit; `None` to start from nothing.
    pub image: Option<&'a RgbImage>,
    /// What to repaint of it, of the same size (above [`MASK_THRESHOLD`] = repaint); `None` for everything.
    pub mask: Option<&'a GrayImage>,
    /// What the result should resemble.
    pub references: &'a [RgbImage],
    /// Width and height of the result in pixels, when there is no image.
    pub size: (u32, u32),
    /// How much of the masked area is blanked, 0..1: 1 hides it, 0 shows it, 0.5 halves its contrast.
    pub repainting_scale: f32,
}

/// What the networks are conditioned on: one picture whose sides are multiples of 16.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    /// `[3, H, W]` in −1..1; with a change image, zero under the mask.
    pub image: Plane,
    /// `[3, H, W]`: what lies under the mask, zero outside; only if the policy asks for it.
    pub change: Option<Plane>,
    /// `[1, H, W]`: 1 = repaint.
    pub mask: Plane,
    /// How many columns, from the left, belong to references.
    pub split: usize,
    /// Width and height in which the result comes back, in pixels.
    pub output_size: (u32, u32),
}

/// Composes the canvases of an edit: one for [`Layout::Canvas`], one per picture with the image last for
/// [`Layout::Sequence`]. A reference's own canvas has an empty mask and `split` equal to its width.
///
/// # Errors
/// [`Error::Input`] if the pictures do not fit each other, the policy or the budget.
pub fn compose(inputs: &Inputs, policy: &CanvasPolicy) -> Result<Vec<Canvas>> {
    check(inputs, policy)?;
    let (image, mask) = image_and_mask(inputs, policy)?;
    let image = image.weighted(&mask, |mask| 1.0 - mask * inputs.repainting_scale);
    let canvases = arrange(image, mask, inputs.references, policy)?;
    Ok(canvases.into_iter().map(|canvas| if policy.change_image { canvas.with_change() } else { canvas }).collect())
}

/// The canvas of plain FLUX-Fill, as diffusers prepares it: picture and mask as they are, the mask cut at one half (128
/// of 255 and more is repainted), everything under it grey.
///
/// # Errors
/// [`Error::Input`] if there is no image, a side is no multiple of the token, or there are references.
pub fn compose_plain(inputs: &Inputs, policy: &CanvasPolicy) -> Result<Canvas> {
    check(inputs, policy)?;
    let Some(image) = inputs.image else {
        return Err(Error::input("plain FLUX-Fill fills an image, and there is none", "give --image and --mask"));
    };
    if !inputs.references.is_empty() {
        return Err(Error::input("plain FLUX-Fill knows no references", "leave them out, or leave out --compat"));
    }
    let (width, height) = image.dimensions();
    let token = policy.token as u32;
    if !width.is_multiple_of(token) || !height.is_multiple_of(token) {
        return Err(Error::input(
            format!("image is {width}x{height}; plain FLUX-Fill takes multiples of {token}"),
            "crop or resize it first, or leave out --compat",
        ));
    }
    let mask = match inputs.mask {
        Some(mask) => Plane::cut_at_half(mask),
        None => Plane::filled([1, height as usize, width as usize], 1.0),
    };
    let image = Plane::from_rgb(image).weighted(&mask, |mask| 1.0 - mask);
    Ok(Canvas { image, change: None, mask, split: 0, output_size: (width, height) })
}

/// What the model should denoise to, `[3, H, W]` each: `target` in the place of the image, with the geometry of
/// [`compose`] for the same inputs. A target of another size is first resized (nearest-exact) to the image's.
///
/// # Errors
/// As [`compose`].
pub fn compose_target(target: &RgbImage, inputs: &Inputs, policy: &CanvasPolicy) -> Result<Vec<Plane>> {
    check(inputs, policy)?;
    check_size("target", target.dimensions(), policy)?;
    let (width, height) = inputs.image.map_or(inputs.size, RgbImage::dimensions);
    let target = nearest_exact(&Plane::from_rgb(target), height as usize, width as usize);
    // A size without an image is taken as it is, here as in `compose`.
    let target = if inputs.image.is_some() { crop_to_aspect(&target, policy) } else { target };
    let mask = Plane::zeros([1, target.height, target.width]);
    let canvases = arrange(target, mask, inputs.references, policy)?;
    Ok(canvases.into_iter().map(|canvas| canvas.image).collect())
}

/// The edited picture of a decoded canvas, `[3, H, W]`: without the references and `seam_crop` columns right of them,
/// in `output_size` (bicubic, Catmull-Rom, widened when shrinking). A reference's own canvas comes back whole.
///
/// # Panics
/// If `decoded` has not the shape of `canvas`.
pub fn crop_back(decoded: &Plane, canvas: &Canvas, policy: &CanvasPolicy) -> RgbImage {
    assert_eq!(decoded.shape(), canvas.image.shape(), "crop_back: decoded");
    let left = match canvas.split {
        0 => 0,
        split if split >= decoded.width => 0,
        // `arrange` left more columns than the seam takes; a policy of another card must not cut all of them.
        split => (split + policy.seam_crop).min(decoded.width - 1),
    };
    let output = decoded.crop(0, left, decoded.height, decoded.width - left).to_rgb();
    let (width, height) = canvas.output_size;
    if output.dimensions() == (width, height) {
        return output;
    }
    imageops::resize(&output, width, height, imageops::FilterType::CatmullRom)
}

/// `output` with the input's own pixels wherever `mask` is [`MASK_THRESHOLD`] or below. An output smaller than the
/// input is taken for its middle, as [`compose`] crops it; where input and mask do not reach, the output stays.
pub fn keep_outside(output: &RgbImage, input: &RgbImage, mask: &GrayImage) -> RgbImage {
    let offset = |outer: u32, inner: u32| center_offset(outer.max(inner) as usize, inner as usize) as u32;
    let left = offset(input.width(), output.width());
    let top = offset(input.height(), output.height());
    RgbImage::from_fn(output.width(), output.height(), |x, y| {
        let kept = mask.get_pixel_checked(x + left, y + top).is_some_and(|grey| grey.0[0] <= MASK_THRESHOLD);
        let own = input.get_pixel_checked(x + left, y + top).filter(|_| kept);
        *own.unwrap_or_else(|| output.get_pixel(x, y))
    })
}

impl Canvas {
    /// Moves what lies under the mask from the image to the change image.
    fn with_change(self) -> Self {
        let change = self.image.clone().weighted(&self.mask, |mask| mask);
        let image = self.image.weighted(&self.mask, |mask| 1.0 - mask);
        Self { image, change: Some(change), ..self }
    }
}

/// The image and its mask at their own size, both cropped to the aspect ratio.
fn image_and_mask(inputs: &Inputs, policy: &CanvasPolicy) -> Result<(Plane, Plane)> {
    let Some(image) = inputs.image else {
        let (width, height) = (inputs.size.0 as usize, inputs.size.1 as usize);
        return Ok((Plane::zeros([3, height, width]), Plane::filled([1, height, width], 1.0)));
    };
    let image = crop_to_aspect(&Plane::from_rgb(image), policy);
    let Some(mask) = inputs.mask else {
        let mask = Plane::filled([1, image.height, image.width], 1.0);
        return Ok((image, mask));
    };
    let mask = crop_to_aspect(&Plane::from_mask(mask), policy);
    if mask.data.iter().all(|&value| value == 0.0) {
        return Err(Error::input(
            "the mask is all black: nothing to repaint",
            "paint white what should change; omit the mask to repaint everything",
        ));
    }
    Ok((image, mask))
}

fn crop_to_aspect(plane: &Plane, policy: &CanvasPolicy) -> Plane {
    let longest = |side: usize| (f64::from(policy.max_aspect_ratio) * side as f64) as usize;
    plane.center_crop(plane.height.min(longest(plane.width)), plane.width.min(longest(plane.height)))
}

/// Puts image and references where the layout wants them, within the budget.
fn arrange(image: Plane, mask: Plane, references: &[RgbImage], policy: &CanvasPolicy) -> Result<Vec<Canvas>> {
    let references: Vec<Plane> = references.iter().map(|r| crop_to_aspect(&Plane::from_rgb(r), policy)).collect();
    match policy.layout {
        Layout::Canvas => Ok(vec![side_by_side(image, mask, &references, policy)?]),
        Layout::Sequence => one_each(&image, &mask, &references, policy),
    }
}

fn side_by_side(image: Plane, mask: Plane, references: &[Plane], policy: &CanvasPolicy) -> Result<Canvas> {
    let output_size = (image.width as u32, image.height as u32);
    let sizes: Vec<_> = references.iter().map(|reference| fitted(reference, image.height, policy)).collect();
    let split: usize = sizes.iter().map(|&(_, width)| width).sum();
    let (height, width) = (image.height, split + image.width);
    if height.saturating_mul(width) > MAX_AREA {
        return Err(Error::input(
            format!("the canvas would be {width}x{height} before it is fitted to the budget"),
            "use a smaller image, or fewer or narrower references",
        ));
    }

    let scale = budget_scale(&[(height, width)], policy);
    let [fit_height, fit_width, fit_split] = [height, width, split].map(|side| fit_side(side, scale, policy.token));
    if fit_height == 0 || fit_width == 0 {
        return Err(over_budget(height, width, policy));
    }
    let share = fit_width - fit_split;
    let seam = if references.is_empty() { 0 } else { policy.seam_crop };
    if share <= seam || (fit_split == 0 && !references.is_empty()) {
        return Err(Error::input(
            format!("references take {fit_split} and the image {share} of {fit_width} canvas columns, {seam} cut off"),
            "raise max_seq_len, or choose references and image of more similar shapes",
        ));
    }

    let mut pictures: Vec<Plane> = (references.iter().zip(&sizes))
        .map(|(reference, &(fit, width))| bilinear_antialias(reference, fit, width).pad_to_height(height))
        .collect();
    pictures.push(image);
    let image = Plane::beside(&pictures);
    let mask = Plane::beside(&[Plane::zeros([1, height, split]), mask]);
    Ok(Canvas {
        image: nearest_exact(&image, fit_height, fit_width),
        change: None,
        mask: nearest_exact(&mask, fit_height, fit_width),
        split: fit_split,
        output_size,
    })
}

fn one_each(image: &Plane, mask: &Plane, references: &[Plane], policy: &CanvasPolicy) -> Result<Vec<Canvas>> {
    let pictures = || references.iter().chain([image]);
    let sizes: Vec<_> = pictures().map(|picture| (picture.height, picture.width)).collect();
    // One scale for all shares the budget in proportion to their pixels.
    let scale = budget_scale(&sizes, policy);
    let compose = |(at, picture): (usize, &Plane)| {
        let (height, width) =
            (fit_side(picture.height, scale, policy.token), fit_side(picture.width, scale, policy.token));
        if height == 0 || width == 0 {
            return Err(over_budget(picture.height, picture.width, policy));
        }
        let output_size = (picture.width as u32, picture.height as u32);
        Ok(if at < references.len() {
            let image = bilinear_antialias(picture, height, width);
            Canvas { image, change: None, mask: Plane::zeros([1, height, width]), split: width, output_size }
        } else {
            let image = nearest_exact(picture, height, width);
            Canvas { image, change: None, mask: nearest_exact(mask, height, width), split: 0, output_size }
        })
    };
    pictures().enumerate().map(compose).collect()
}

/// Height and width of a reference beside an image of `height` rows.
fn fitted(reference: &Plane, height: usize, policy: &CanvasPolicy) -> (usize, usize) {
    let scaled = |to: usize| {
        let scale = to as f64 / reference.height as f64;
        (to.max(1), ((reference.width as f64 * scale) as usize).max(1))
    };
    match policy.reference_fit {
        ReferenceFit::Height => scaled(height),
        ReferenceFit::KeepPixels { rate } if reference.height as f64 >= rate * height as f64 => {
            scaled((height as f64 * rate) as usize)
        }
        ReferenceFit::KeepPixels { .. } => (reference.height, reference.width),
    }
}

/// By how much pictures of these heights and widths shrink to fit the budget together; at most 1.
fn budget_scale(sizes: &[(usize, usize)], policy: &CanvasPolicy) -> f64 {
    let side = policy.token as f64;
    let tokens = |&(height, width): &(usize, usize)| (height as f64 / side) * (width as f64 / side);
    (policy.max_seq_len as f64 / sizes.iter().map(tokens).sum::<f64>()).sqrt().min(1.0)
}

/// A scaled side, rounded down to whole tokens.
fn fit_side(side: usize, scale: f64, token: usize) -> usize {
    (side as f64 * scale) as usize / token * token
}

fn over_budget(height: usize, width: usize, policy: &CanvasPolicy) -> Error {
    Error::input(
        format!(
            "max_seq_len {} leaves less than {} px of a side of {width}x{height}",
            policy.max_seq_len, policy.token
        ),
        "raise max_seq_len, or use fewer or smaller pictures",
    )
}

/// Refuses what no canvas can be made of, before any work is done.
fn check(inputs: &Inputs, policy: &CanvasPolicy) -> Result<()> {
    if !(0.0..=1.0).contains(&inputs.repainting_scale) {
        return Err(Error::input(
            format!("repainting_scale is {}", inputs.repainting_scale),
            "choose 0..1: 1 hides what is under the mask, 0 shows it",
        ));
    }
    match inputs.image {
        Some(image) => check_size("image", image.dimensions(), policy)?,
        None => check_size("size", inputs.size, policy)?,
    }
    for (at, reference) in inputs.references.iter().enumerate() {
        check_size(&format!("reference {}", at + 1), reference.dimensions(), policy)?;
    }
    if let Some(mask) = inputs.mask {
        let Some(image) = inputs.image else {
            return Err(Error::input("there is a mask but no image", "give the image that the mask belongs to"));
        };
        if mask.dimensions() != image.dimensions() {
            let ((mask_width, mask_height), (width, height)) = (mask.dimensions(), image.dimensions());
            return Err(Error::input(
                format!("mask is {mask_width}x{mask_height} but image is {width}x{height}"),
                "the mask must cover the image exactly; omit it to repaint everything",
            ));
        }
    }
    if policy.max_aspect_ratio.is_nan() || policy.max_aspect_ratio < 1.0 {
        return Err(Error::input(format!("max_aspect_ratio is {}", policy.max_aspect_ratio), "choose 1 or more"));
    }
    match policy.reference_fit {
        ReferenceFit::KeepPixels { rate } if !(rate > 0.0 && rate <= 1.0) => {
            Err(Error::input(format!("the rate of keep-pixels is {rate}"), "choose a share above 0 and at most 1"))
        }
        _ => Ok(()),
    }
}

fn check_size(name: &str, (width, height): (u32, u32), policy: &CanvasPolicy) -> Result<()> {
    let least = policy.token as u32;
    if width < least || height < least {
        let what = format!("{name} is {width}x{height}; the least is {least}x{least}");
        return Err(Error::input(what, "use a larger picture, or scale it up first"));
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        let what = format!("{name} is {width}x{height}; the most is {MAX_SIDE} on a side");
        return Err(Error::input(what, "scale it down first"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
