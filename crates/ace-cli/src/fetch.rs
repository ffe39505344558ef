//! `ace fetch`: what a card needs, from the Hugging Face Hub into its ordinary cache.

use crate::{
    annotate,
    args::FetchArgs,
    model::{self, ModelArgs},
    progress::Progress,
    report,
};
use ace_plus::Model;
use ace_weights::hub::{HubFile, Progress as Step};
use std::{path::Path, process::ExitCode};

/// Bytes in a unit that people read.
const MEGABYTE: u64 = 1_000_000;

/// Fetches what is missing, and says where everything is.
///
/// # Errors
/// If something cannot be fetched; what has arrived is kept, and the next fetch goes on from there.
pub fn run(args: &FetchArgs) -> anyhow::Result<ExitCode> {
    if let Some((annotator, _)) = annotate::card(&args.card) {
        return annotate::get(&args.card, annotator);
    }
    let named = ModelArgs { model: Some(args.card.clone()), weights: args.weights.clone(), ..ModelArgs::default() };
    let model = model::find(&named.request(), Path::new(""))?;
    if args.verify
        && let Some(hub) = model.cache()
    {
        let mut shown = Shown::default();
        for component in model.card().components() {
            for source in model.card().hub_files(component) {
                if hub.cached(&source)?.is_some() && !hub.verify(&source, &mut |step| shown.show(&source, step))? {
                    report::note(&format!("{} is not what was published, it was removed", source.file));
                }
            }
        }
    }
    fetch(&model)?;
    report::print(&format!("{} is complete", model.card().name));
    for (component, source) in model.files()?.iter() {
        report::print(&format!("  {:<16}{}", component.to_string(), source.path().display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches what is missing of a model.
///
/// # Errors
/// As [`run`].
pub fn fetch(model: &Model) -> anyhow::Result<()> {
    let mut shown = Shown::default();
    Ok(model.fetch(&mut |file, step| shown.show(file, step))?)
}

/// The bar of the file that is on its way.
#[derive(Default)]
pub struct Shown {
    bar: Option<(String, Progress)>,
}

impl Shown {
    /// Shows how far it is.
    pub fn show(&mut self, source: &HubFile, step: Step) {
        let (what, done, total) = match step {
            Step::Downloading { done, total } => ("fetching MB", done, total),
            Step::Verifying { done, total } => ("checking MB", done, total),
            Step::Waiting => return report::note(&format!("{}: another program is fetching it", source.file)),
            Step::Retrying { pause } => {
                let after = pause.as_secs_f32();
                return report::note(&format!("{}: the transfer broke, again after {after:.0} s", source.file));
            }
            // Others may come.
            _ => return,
        };
        let name = format!("{what} {}", source.file);
        if self.bar.as_ref().is_none_or(|(known, _)| *known != name) {
            if what.starts_with("fetching") {
                eprintln!("{} from {}, {}", source.file, source.repo, report::bytes(total));
            }
            self.bar = Some((name, Progress::new(what, done / MEGABYTE, total / MEGABYTE)));
        }
        if let Some((_, bar)) = &mut self.bar {
            bar.at(done / MEGABYTE, "");
        }
    }
}
