//! From pixels to the canvas that the networks see, `[reference | image]` within the token budget, and the way back.
//!
//! The steps and their rounding are those of the official processor, because the published weights saw nothing else.
//! Where it fails or loses something we differ: the mask is cropped with the image, a black mask is an error, references
//! and image are shrunk apart so that the seam lies between two tokens, and the result comes back in the image's size and
//! place. [`compose_official`] does not differ. All of it is host floats; sampling and training call the same functions.

mod pillow;
mod plane;
mod region;
mod resize;
mod shown;

pub use pillow::{bicubic, bilinear, lanczos};
pub use plane::{MASK_THRESHOLD, OfficialBytes, Plane};
pub use region::{Region, stitch};
pub use resize::{bilinear_antialias, nearest_exact};
pub use shown::{Fitting, compose_shown, fitted_size};

use crate::error::{Error, Result};
use image::{GrayImage, RgbImage, imageops};
use plane::center_offset;
use serde::{Deserialize, Serialize};

/// Columns right of the seam that the official programs cut off, in pixels.
pub const OFFICIAL_SEAM: usize = 30;
/// Longest side of an input, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Largest canvas before it is fitted to the budget, in pixels (3 GiB as floats).
const MAX_AREA: usize = 1 << 28;

/// How pixels become canvases: a section of the card.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
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
    /// Columns cut right of the seam from a picture that is made from references alone, where they may bleed in, in
    /// pixels; 0 for none. An image's own place is kept.
    pub seam_crop: usize,
    /// Whether what was made under a mask is moved to the colours around it before it is put back.
    #[serde(default = "yes")]
    pub match_colours: bool,
    /// How the model's official program makes bytes of a decoded picture ([`compose_official`] only).
    #[serde(default)]
    pub official_bytes: OfficialBytes,
    /// One canvas, or one per picture.
    pub layout: Layout,
    /// Pixels along one side of a token: the autoencoder's cell times the patch of 2.
    #[serde(default = "published_token")]
    pub token: usize,
    /// Widths and heights to which pictures that are [shown](crate::unit::Shown) as they are get stretched, whichever is
    /// nearest in the ratio of the sides; if there are none, they are only shrunk into the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<(u32, u32)>,
}

fn yes() -> bool {
    true
}

fn published_token() -> usize {
    crate::latents::DOWNSCALE * crate::latents::PATCH
}

/// How a reference meets the height of the image.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
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
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
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
    /// How many columns right of them are not part of the result.
    pub cut: usize,
    /// Width and height in which the result comes back, in pixels.
    pub output_size: (u32, u32),
}

/// Composes the canvases of an edit: one for [`Layout::Canvas`], one per picture with the image last for
/// [`Layout::Sequence`]. A reference's own canvas has an empty mask and `split` equal to its width.
///
/// # Errors
/// [`Error::Input`] if the pictures do not fit each other, the policy or the budget.
pub fn compose(inputs: &Inputs, policy: &CanvasPolicy) -> Result<Vec<Canvas>> {
    compose_at(inputs, policy, Seam::of(inputs, policy))
}

/// The canvas of an edit as the official programs prepare it (`ACEPlusImageProcessor` in
/// <https://github.com/ali-vilab/ACE_plus>): one reference at most, reference and image shrunk together wherever the seam
/// then lies, a black mask taken for a white one.
///
/// # Errors
/// As [`compose`], and if there are several references, or the policy is not that of the official programs.
pub fn compose_official(inputs: &Inputs, policy: &CanvasPolicy) -> Result<Canvas> {
    if inputs.references.len() > 1 {
        let what = format!("there are {} references; the official programs take one", inputs.references.len());
        return Err(Error::input(what, "leave out the others, or prepare it as this project does"));
    }
    if policy.layout != Layout::Canvas {
        return Err(Error::input(
            "the official programs know one canvas, this card several",
            "prepare it as this project does",
        ));
    }
    let is_black = inputs.mask.is_some_and(|mask| mask.as_raw().iter().all(|grey| *grey <= MASK_THRESHOLD));
    let inputs = Inputs { mask: inputs.mask.filter(|_| !is_black), ..*inputs };
    let canvases = compose_at(&inputs, policy, Seam { aligned: false, cut: OFFICIAL_SEAM })?;
    // One for this layout.
    canvases.into_iter().next().ok_or_else(|| Error::input("there is no canvas", "prepare it as this project does"))
}

/// Where reference and image meet on a canvas.
#[derive(Clone, Copy)]
struct Seam {
    /// Whether it lies between two tokens and nowhere else.
    aligned: bool,
    /// Columns right of it that are not part of the result.
    cut: usize,
}

impl Seam {
    fn of(inputs: &Inputs, policy: &CanvasPolicy) -> Self {
        Self { aligned: true, cut: if inputs.image.is_none() { policy.seam_crop } else { 0 } }
    }
}

fn compose_at(inputs: &Inputs, policy: &CanvasPolicy, seam: Seam) -> Result<Vec<Canvas>> {
    check(inputs, policy)?;
    let (image, mask) = image_and_mask(inputs, policy)?;
    let image = image.weighted(&mask, |mask| 1.0 - mask * inputs.repainting_scale);
    let canvases = arrange(image, mask, inputs.references, policy, seam)?;
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
        return Err(Error::input("plain FLUX-Fill fills an image, and there is none", "give an image and a mask"));
    };
    if !inputs.references.is_empty() {
        return Err(Error::input(
            "plain FLUX-Fill knows no references",
            "leave them out, or prepare it as this project does",
        ));
    }
    let (width, height) = image.dimensions();
    let token = policy.token as u32;
    if !width.is_multiple_of(token) || !height.is_multiple_of(token) {
        return Err(Error::input(
            format!("image is {width}x{height}; plain FLUX-Fill takes multiples of {token}"),
            "crop or resize it first, or prepare it as this project does",
        ));
    }
    let mask = match inputs.mask {
        Some(mask) => Plane::cut_at_half(mask),
        None => Plane::filled([1, height as usize, width as usize], 1.0),
    };
    let image = Plane::from_rgb(image).weighted(&mask, |mask| 1.0 - mask);
    Ok(Canvas { image, change: None, mask, split: 0, cut: 0, output_size: (width, height) })
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
    let canvases = arrange(target, mask, inputs.references, policy, Seam::of(inputs, policy))?;
    Ok(canvases.into_iter().map(|canvas| canvas.image).collect())
}

/// The edited picture of a decoded canvas, `[3, H, W]`: without the references and what is cut right of them, in
/// `output_size` (bicubic, Catmull-Rom, widened when shrinking). A reference's own canvas comes back whole.
///
/// # Panics
/// If `decoded` has not the shape of `canvas`.
pub fn crop_back(decoded: &Plane, canvas: &Canvas) -> RgbImage {
    assert_eq!(decoded.shape(), canvas.image.shape(), "crop_back: decoded");
    let left = match canvas.split {
        0 => 0,
        split if split >= decoded.width => 0,
        // `arrange` left more columns than are cut; a canvas of somebody else's must not lose all of them.
        split => (split + canvas.cut).min(decoded.width - 1),
    };
    let output = decoded.crop(0, left, decoded.height, decoded.width - left).to_rgb();
    let (width, height) = canvas.output_size;
    if output.dimensions() == (width, height) {
        return output;
    }
    imageops::resize(&output, width, height, imageops::FilterType::CatmullRom)
}

/// The edited picture of a decoded canvas, `[3, H, W]`, as the official programs cut it out: without the references and
/// [`OFFICIAL_SEAM`] columns right of them, stretched back to `output_size` (Pillow's bicubic); the whole canvas as it is
/// if there is no reference. `bytes` says which of the programs it is.
///
/// # Panics
/// If `decoded` has not the shape of `canvas`.
pub fn crop_back_official(decoded: &Plane, canvas: &Canvas, bytes: OfficialBytes) -> RgbImage {
    assert_eq!(decoded.shape(), canvas.image.shape(), "crop_back_official: decoded");
    if canvas.split == 0 {
        return decoded.to_rgb_official(bytes);
    }
    let left = (canvas.split + canvas.cut).min(decoded.width - 1);
    let output = decoded.crop(0, left, decoded.height, decoded.width - left).to_rgb_official(bytes);
    bicubic(&output, canvas.output_size.0, canvas.output_size.1)
}

/// `output` with the input's own pixels wherever `mask` is [`MASK_THRESHOLD`] or below. An output smaller than the
/// input is taken to show its middle, which is what [`compose`] leaves of it; of a larger one, what lies outside the
/// input stays as it is.
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
    let (height, width) = in_aspect((plane.height, plane.width), policy);
    plane.center_crop(height, width)
}

/// Height and width of what is left of a picture within the aspect ratio.
fn in_aspect((height, width): (usize, usize), policy: &CanvasPolicy) -> (usize, usize) {
    let longest = |side: usize| (f64::from(policy.max_aspect_ratio) * side as f64) as usize;
    (height.min(longest(width)), width.min(longest(height)))
}

/// Puts image and references where the layout wants them, within the budget.
fn arrange(
    image: Plane,
    mask: Plane,
    references: &[RgbImage],
    policy: &CanvasPolicy,
    seam: Seam,
) -> Result<Vec<Canvas>> {
    let references: Vec<Plane> = references.iter().map(|r| crop_to_aspect(&Plane::from_rgb(r), policy)).collect();
    match policy.layout {
        Layout::Canvas => Ok(vec![side_by_side(image, mask, &references, policy, seam)?]),
        Layout::Sequence => one_each(&image, &mask, &references, policy),
    }
}

fn side_by_side(image: Plane, mask: Plane, references: &[Plane], policy: &CanvasPolicy, seam: Seam) -> Result<Canvas> {
    let output_size = (image.width as u32, image.height as u32);
    let sizes: Vec<_> =
        references.iter().map(|reference| fitted((reference.height, reference.width), image.height, policy)).collect();
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
    let cut = if references.is_empty() { 0 } else { seam.cut };
    if share <= cut || (fit_split == 0 && !references.is_empty()) {
        return Err(Error::input(
            format!("references take {fit_split} and the image {share} of {fit_width} canvas columns, {cut} cut off"),
            "raise max_seq_len, or choose references and image of more similar shapes",
        ));
    }

    let mut pictures: Vec<Plane> = (references.iter().zip(&sizes))
        .map(|(reference, &(fit, width))| bilinear_antialias(reference, fit, width).pad_to_height(height))
        .collect();
    let (image, mask) = if seam.aligned && !references.is_empty() {
        let image = nearest_exact(&image, fit_height, share);
        let mask = nearest_exact(&mask, fit_height, share);
        let references = nearest_exact(&Plane::beside(&pictures), fit_height, fit_split);
        let kept = Plane::zeros([1, fit_height, fit_split]);
        (Plane::beside(&[references, image]), Plane::beside(&[kept, mask]))
    } else {
        pictures.push(image);
        let image = nearest_exact(&Plane::beside(&pictures), fit_height, fit_width);
        let mask = Plane::beside(&[Plane::zeros([1, height, split]), mask]);
        (image, nearest_exact(&mask, fit_height, fit_width))
    };
    Ok(Canvas { image, change: None, mask, split: fit_split, cut, output_size })
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
            Canvas { image, change: None, mask: Plane::zeros([1, height, width]), split: width, cut: 0, output_size }
        } else {
            let image = nearest_exact(picture, height, width);
            Canvas { image, change: None, mask: nearest_exact(mask, height, width), split: 0, cut: 0, output_size }
        })
    };
    pictures().enumerate().map(compose).collect()
}

/// Height and width of a reference beside an image of `height` rows.
fn fitted((own_height, own_width): (usize, usize), height: usize, policy: &CanvasPolicy) -> (usize, usize) {
    let scaled = |to: usize| {
        let scale = to as f64 / own_height as f64;
        (to.max(1), ((own_width as f64 * scale) as usize).max(1))
    };
    match policy.reference_fit {
        ReferenceFit::Height => scaled(height),
        ReferenceFit::KeepPixels { rate } if own_height as f64 >= rate * height as f64 => {
            scaled((height as f64 * rate) as usize)
        }
        ReferenceFit::KeepPixels { .. } => (own_height, own_width),
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
