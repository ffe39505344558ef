//! `ace fetch`: what a card needs, from the Hugging Face Hub into its ordinary cache.

use crate::{
    args::FetchArgs,
    model::{Model, ModelArgs},
    progress::Progress,
    report,
};
use ace_plus::fetch::{Progress as Step, Source};
use std::process::ExitCode;

/// Bytes in a unit that people read.
const MEGABYTE: u64 = 1_000_000;

/// Fetches what is missing, and says where everything is.
///
/// # Errors
/// If something cannot be fetched; what has arrived is kept, and the next fetch goes on from there.
pub fn run(args: &FetchArgs) -> anyhow::Result<ExitCode> {
    let named = ModelArgs { model: Some(args.card.clone()), weights: args.weights.clone(), ..ModelArgs::default() };
    let model = Model::find(&named)?;
    if args.verify
        && let Some(hub) = &model.hub
    {
        let mut shown = Shown::default();
        for part in model.card.parts() {
            for source in model.card.sources(part) {
                if hub.cached(&source)?.is_some() && !hub.verify(&source, &mut |step| shown.show(&source, step))? {
                    report::note(&format!("{} is not what was published, it was removed", source.file));
                }
            }
        }
    }
    fetch(&model)?;
    report::print(&format!("{} is complete", model.card.name));
    for (part, path) in model.locate()?.iter() {
        report::print(&format!("  {:<16}{}", part.to_string(), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches what is missing of a model.
///
/// # Errors
/// As [`run`].
pub fn fetch(model: &Model) -> anyhow::Result<()> {
    let Some(hub) = &model.hub else { return Ok(()) };
    let mut shown = Shown::default();
    model.card.fetch(&model.weights, hub, &mut |source, step| shown.show(source, step))?;
    Ok(())
}

/// The bar of the file that is on its way.
#[derive(Default)]
struct Shown {
    bar: Option<(String, Progress)>,
}

impl Shown {
    fn show(&mut self, source: &Source, step: Step) {
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
