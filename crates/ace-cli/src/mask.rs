//! `ace mask`: a mask of what clicks or a box mean.

use crate::{
    args::MaskArgs,
    device, files,
    report::{self, Failure},
};
use ace_plus::{
    image::DynamicImage,
    picture,
    segment::{Click, MOBILE_SAM, Segmenter},
};
use std::{path::Path, process::ExitCode};

/// Makes a mask.
///
/// # Errors
/// If a file cannot be read or written, or a place is outside of the picture.
pub fn run(args: &MaskArgs) -> anyhow::Result<ExitCode> {
    files::check_is_png(&args.out)?;
    files::check_writable(&args.out)?;
    let clicks: Vec<Click> = [(&args.click, true), (&args.click_out, false)]
        .into_iter()
        .flat_map(|(places, is_inside)| places.iter().map(move |&[x, y]| Click { x, y, is_inside }))
        .collect();
    let picture = picture::read_rgb(&args.image)?;
    ace_plus::segment::check([picture.width(), picture.height()], &clicks, args.frame)?;
    let segmenter = open(args.weights.as_deref(), args.backend.as_deref())?;
    let embedding = segmenter.embed(&picture)?;
    let found = segmenter.mask(&embedding, &clicks, args.frame)?;
    let inside = found.mask.pixels().filter(|pixel| pixel.0[0] > 0).count();
    files::write_png(&args.out, &DynamicImage::ImageLuma8(found.mask).to_rgb8())?;
    let share = 100.0 * inside as f64 / (picture.width() as f64 * picture.height() as f64);
    report::print(&format!("{}: {share:.1} % of the picture, score {:.2}", args.out.display(), found.score));
    Ok(ExitCode::SUCCESS)
}

/// MobileSAM from a file.
///
/// # Errors
/// If no file is named, or it is none of MobileSAM's.
pub fn open(weights: Option<&Path>, backend: Option<&str>) -> anyhow::Result<Segmenter> {
    let Some(weights) = weights else {
        let source = &*MOBILE_SAM;
        let what = "a mask is made by MobileSAM, and no file with its weights is named";
        let hint = format!(
            "name it with --weights, as safetensors; {} ({} MB, {}) is published at {}",
            source.file, source.megabytes, source.license, source.url
        );
        return Err(Failure::misuse(what, hint).into());
    };
    Ok(Segmenter::load(weights, &device::open(backend)?)?)
}
