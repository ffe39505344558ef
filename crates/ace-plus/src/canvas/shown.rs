//! Canvases of networks that are shown pictures as they are: FLUX.1 Kontext's context, the control image of FLUX.1 Canny
//! and Depth, and none for FLUX.1 itself. Pictures are stretched as diffusers does it, by Pillow's Lanczos kernel.

use super::{
    Canvas, CanvasPolicy, Inputs, Layout, MAX_AREA, Plane, budget_scale, check, check_size, fit_side, lanczos,
};
use crate::{
    error::{Error, Result},
    unit::Shown,
};
use image::{RgbImage, imageops};
use std::borrow::Cow;

/// Whose sizes pictures get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitting {
    /// What is made has the size that is asked for, or else the image's.
    Ours,
    /// What is made has the size that is asked for, or else the card's, as in diffusers' pipelines; with a context brought
    /// to an area of so many pixels, as in its `FluxKontextPipeline`.
    Diffusers {
        /// Width times height, `max_area` there.
        area: u64,
    },
}

/// The canvases of an edit whose network is shown pictures as they are: what it is shown, then one that has only the size
/// of what is made. A control image and what is made share a canvas.
///
/// `size` is what is asked for, width and height in pixels.
///
/// # Errors
/// [`Error::Input`] if there are pictures that the network cannot be shown, or none where it needs one, or they do not fit
/// each other, the policy or the budget.
pub fn compose_shown(
    inputs: &Inputs,
    size: Option<(u32, u32)>,
    shown: Shown,
    policy: &CanvasPolicy,
    fitting: Fitting,
) -> Result<Vec<Canvas>> {
    check(inputs, policy)?;
    if let Some(size) = size {
        check_size("size", size, policy)?;
    }
    refuse(inputs, size, shown, fitting)?;
    let pictures: Vec<&RgbImage> = inputs.image.into_iter().chain(inputs.references).collect();
    let own = if fitting == Fitting::Ours { inputs.image } else { None };
    // In what size the result comes back, and in what size it is made.
    let wanted = size.or(own.map(RgbImage::dimensions)).unwrap_or(inputs.size);
    let made = match (fitting, own.filter(|_| size.is_none() && shown == Shown::Context)) {
        (Fitting::Diffusers { area }, _) if shown == Shown::Context => in_area(wanted, area, policy)?,
        (Fitting::Diffusers { .. }, _) => in_tokens(wanted, policy),
        (Fitting::Ours, Some(image)) => fitted_size(image.dimensions(), policy)?,
        (Fitting::Ours, None) => in_budget(wanted, policy)?,
    };
    let output_size = if fitting == Fitting::Ours { wanted } else { made };
    let canvas = |image: Plane, value| {
        let mask = Plane::filled([1, image.height, image.width], value);
        Canvas { image, change: None, mask, split: 0, cut: 0, output_size }
    };
    let blank = || Plane::zeros([3, made.1 as usize, made.0 as usize]);
    if shown != Shown::Context {
        let image = pictures.first().map_or_else(blank, |image| Plane::from_rgb(&lanczos(image, made.0, made.1)));
        return Ok(vec![canvas(image, 1.0)]);
    }
    let joined = match policy.layout {
        Layout::Canvas if pictures.len() > 1 => vec![Cow::Owned(beside(&pictures)?)],
        _ => pictures.into_iter().map(Cow::Borrowed).collect(),
    };
    let mut canvases = Vec::with_capacity(joined.len() + 1);
    for picture in joined {
        let (width, height) = fitted_size(picture.dimensions(), policy)?;
        canvases.push(canvas(Plane::from_rgb(&lanczos(&picture, width, height)), 0.0));
    }
    canvases.push(canvas(blank(), 1.0));
    Ok(canvases)
}

/// Refuses pictures that the network cannot be shown.
fn refuse(inputs: &Inputs, size: Option<(u32, u32)>, shown: Shown, fitting: Fitting) -> Result<()> {
    let count = usize::from(inputs.image.is_some()) + inputs.references.len();
    match (shown, inputs.image) {
        (Shown::Nothing, _) if count > 0 => Err(Error::input(
            "this model makes pictures from words, it is shown none",
            "leave the pictures out, or use a model that edits",
        )),
        (Shown::Beside, None) => Err(Error::input(
            "this model follows a control image, and there is none",
            "give the control image as the image: edges or depths, as the model wants them",
        )),
        (Shown::Beside, Some(_)) if count > 1 => Err(Error::input(
            "this model is shown its control image alone",
            "leave the references out, or use a model that takes them",
        )),
        (_, Some(image)) if inputs.mask.is_some() && size.is_some_and(|size| size != image.dimensions()) => {
            Err(Error::input("with a mask the result has the image's size", "leave out the size, or the mask"))
        }
        _ if inputs.mask.is_some() && fitting != Fitting::Ours => Err(Error::input(
            "diffusers' pipeline of this model knows no mask",
            "leave it out, or prepare it as this project does",
        )),
        _ => Ok(()),
    }
}

/// Pictures side by side, all of them as tall as the first.
fn beside(pictures: &[&RgbImage]) -> Result<RgbImage> {
    let height = pictures.first().map_or(0, |first| first.height());
    let wide = |picture: &RgbImage| {
        let width = f64::from(picture.width()) * f64::from(height) / f64::from(picture.height());
        (width.round() as u32).max(1)
    };
    let widths: Vec<u32> = pictures.iter().map(|picture| wide(picture)).collect();
    let width = widths.iter().map(|width| *width as usize).sum::<usize>();
    if width.saturating_mul(height as usize) > MAX_AREA {
        return Err(Error::input(
            format!("the pictures side by side would be {width}x{height}"),
            "use smaller or fewer pictures",
        ));
    }
    let mut all = RgbImage::new(width as u32, height);
    let mut left = 0;
    for (picture, width) in pictures.iter().zip(widths) {
        imageops::replace(&mut all, &lanczos(picture, width, height), left, 0);
        left += i64::from(width);
    }
    Ok(all)
}

/// To what size a picture that is shown as it is gets stretched: the policy's nearest in the ratio of the sides, or else its
/// own in the budget. Width and height in pixels.
///
/// # Errors
/// If there are no sizes, and the budget leaves nothing of a side.
pub fn fitted_size(size: (u32, u32), policy: &CanvasPolicy) -> Result<(u32, u32)> {
    // diffusers drops what is no whole token before it takes the ratio.
    let (width, height) = in_tokens(size, policy);
    let ratio = f64::from(width) / f64::from(height);
    let miss = |(width, height): (u32, u32)| (ratio - f64::from(width) / f64::from(height)).abs();
    let nearest = policy.sizes.iter().copied().min_by(|a, b| miss(*a).total_cmp(&miss(*b)).then(a.cmp(b)));
    match nearest {
        Some(size) => Ok(in_tokens(size, policy)),
        None => in_budget(size, policy),
    }
}

/// Sides rounded down to whole tokens.
fn in_tokens((width, height): (u32, u32), policy: &CanvasPolicy) -> (u32, u32) {
    let token = policy.token as u32;
    (width / token * token, height / token * token)
}

/// Sides of the same ratio and of an area, rounded down to whole tokens.
fn in_area((width, height): (u32, u32), area: u64, policy: &CanvasPolicy) -> Result<(u32, u32)> {
    let (ratio, area) = (f64::from(width) / f64::from(height), area as f64);
    let side = |area: f64| area.sqrt().round_ties_even() as u32;
    let made = in_tokens((side(area * ratio), side(area / ratio)), policy);
    no_side_is_none(made, (width, height), policy)
}

/// Sides within the budget, rounded down to whole tokens.
fn in_budget((width, height): (u32, u32), policy: &CanvasPolicy) -> Result<(u32, u32)> {
    let scale = budget_scale(&[(height as usize, width as usize)], policy);
    let side = |side: u32| fit_side(side as usize, scale, policy.token) as u32;
    no_side_is_none((side(width), side(height)), (width, height), policy)
}

fn no_side_is_none(made: (u32, u32), (width, height): (u32, u32), policy: &CanvasPolicy) -> Result<(u32, u32)> {
    match made {
        (0, _) | (_, 0) => Err(super::over_budget(height as usize, width as usize, policy)),
        made => Ok(made),
    }
}
