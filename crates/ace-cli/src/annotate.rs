//! `ace annotate`: what an annotator draws of a picture; and the maps that tasks want of their image.

use crate::{
    args::{AnnotateArgs, SampleArgs},
    device, fetch, files, interrupted,
    report::{self, Failure},
};
use ace_plus::{
    Edit, Error, Hub,
    annotate::{Annotator, AnnotatorCard, Eye},
    picture,
};
use burn::tensor::Device;
use image::RgbImage;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Folder in which the weights of annotators are looked for, in a clone and beside the user.
const FOLDER: &str = "models/annotators";

/// Draws one picture.
///
/// # Errors
/// If there is no such annotator, its weights are missing, or a file cannot be read or written.
pub fn run(args: &AnnotateArgs) -> anyhow::Result<ExitCode> {
    let annotator = Annotator::from_name(&args.name)?;
    if matches!(annotator, Annotator::None | Annotator::Map) {
        let drawing: Vec<_> =
            Annotator::ALL.into_iter().filter(|it| !matches!(it, Annotator::None | Annotator::Map)).collect();
        let names = drawing.into_iter().map(Annotator::name).collect::<Vec<_>>().join(", ");
        let what = format!("annotator {} draws nothing", annotator.name());
        return Err(Failure::misuse(what, format!("known are: {names}")).into());
    }
    files::check_is_png(&args.out)?;
    files::check_writable(&args.out)?;
    let image = picture::read_rgb(&args.image)?;
    let begin = Instant::now();
    let (drawn, with) = match annotator.is_network() {
        true => {
            let path = weights(annotator, args.annotator.as_deref(), args.fetch)?;
            let device = device::open(args.backend.as_deref())?;
            crate::listen_to_interrupts("stopping; nothing will be written");
            (draw(annotator, &path, &image, &device)?, format!(" on {} with {}", device::name(&device), path.display()))
        }
        false => (annotator.draw(&image, None)?, String::new()),
    };
    files::write_png(&args.out, &drawn)?;
    let (width, height) = drawn.dimensions();
    let seconds = begin.elapsed().as_secs_f32();
    report::print(&format!("{}: {width}×{height}{with}: {seconds:.1} s → {}", annotator.name(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Where the weights of an annotator that is a network are.
///
/// # Errors
/// If they are nowhere: one line says where to get them.
fn weights(annotator: Annotator, named: Option<&Path>, is_fetched: bool) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let Some(card) = AnnotatorCard::of(annotator) else { return Err(Error::input("no weights are needed", "").into()) };
    let hub = Hub::from_env().ok();
    let folders = [PathBuf::from(FOLDER)];
    if let Some(path) = card.find(&folders, hub.as_ref())? {
        return Ok(path);
    }
    let is_published = card.hub_files().next().is_some();
    match (&hub, is_fetched) {
        (Some(hub), true) => {
            let mut shown = fetch::Shown::default();
            Ok(card.fetch(hub, &mut |file, step| shown.show(file, step))?)
        }
        _ => {
            let way = match is_published {
                true => format!("--fetch gets them from {} ({})", card.source, card.licence),
                false => format!("get {} ({}) and name the file with --annotator FILE", card.source, card.licence),
            };
            Err(Failure::new(card.missing().to_string(), way).into())
        }
    }
}

/// The card of an annotator that is a network and goes by that name.
pub fn card(name: &str) -> Option<(Annotator, AnnotatorCard)> {
    let annotator = Annotator::from_name(name).ok()?;
    Some((annotator, AnnotatorCard::of(annotator)?))
}

/// `ace fetch` of an annotator.
///
/// # Errors
/// If its weights are published elsewhere, or cannot be fetched.
pub fn get(name: &str, annotator: Annotator) -> anyhow::Result<ExitCode> {
    let path = weights(annotator, None, true)?;
    report::print(&format!("{name} is complete\n  {:<16}{}", "annotator", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// `ace doctor` of an annotator.
///
/// # Errors
/// If the cache cannot be read.
pub fn examine(annotator: Annotator, card: &AnnotatorCard) -> anyhow::Result<ExitCode> {
    report::print(&format!("{}: {}", card.name, card.description));
    let path = match weights(annotator, None, false) {
        Ok(path) => path,
        Err(missing) => {
            report::print(&format!("  BAD {:<16}nowhere", "annotator"));
            report::print(&format!("mend: {}", report::hint(&missing).unwrap_or_default()));
            return Ok(ExitCode::FAILURE);
        }
    };
    let problem = Eye::open(annotator, &path, &Device::default()).err();
    let verdict = if problem.is_some() { "BAD" } else { "ok" };
    report::print(&format!("  {verdict:<4}{:<16}{}", "annotator", path.display()));
    match problem {
        Some(problem) => {
            report::print(&format!("      {problem}"));
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn draw(annotator: Annotator, weights: &Path, image: &RgbImage, device: &Device) -> anyhow::Result<RgbImage> {
    let eye = Eye::open(annotator, weights, device)?;
    let mut poll = || if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    Ok(eye.draw(image, &mut poll)?)
}

/// How a map is drawn, as far as the user said.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// The file of the weights.
    pub weights: Option<PathBuf>,
    /// Whether they may be fetched.
    pub is_fetched: bool,
    /// Where to compute.
    pub backend: Option<String>,
}

impl Way {
    /// What is said on the command line.
    pub fn of(args: &SampleArgs) -> Self {
        Self { weights: args.annotator.clone(), is_fetched: args.fetch, backend: args.backend.clone() }
    }
}

/// A map that the image of an edit is to get from a network.
#[derive(Debug)]
pub struct Wanted {
    annotator: Annotator,
    weights: PathBuf,
    backend: Option<String>,
}

impl Wanted {
    /// Finds what is to draw the map.
    ///
    /// # Errors
    /// If its weights are missing.
    pub fn find(annotator: Annotator, way: &Way) -> anyhow::Result<Self> {
        let weights = weights(annotator, way.weights.as_deref(), way.is_fetched)?;
        Ok(Self { annotator, weights, backend: way.backend.clone() })
    }

    /// The edit with its map.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn draw(&self, edit: Edit) -> anyhow::Result<Edit> {
        let Some(image) = edit.input() else { return Ok(edit) };
        let map = draw(self.annotator, &self.weights, image, &device::open(self.backend.as_deref())?)?;
        report::note(&format!("drew the {} with {}", self.annotator.name(), self.weights.display()));
        Ok(edit.map(map))
    }
}
