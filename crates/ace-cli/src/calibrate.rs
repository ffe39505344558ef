//! `ace calibrate`: by how much what the blocks of a model add to the tokens grows from step to step, for its card.

use crate::{args::SampleArgs, device, interrupted, progress::Progress, report, sample};
use ace_plus::{Error, sample::Cache};
use std::{ops::ControlFlow, process::ExitCode};

/// Makes every picture that is asked for, throws it away, and prints what its walk said.
///
/// # Errors
/// If a picture cannot be made, or Ctrl-C stops it.
pub fn run(args: &SampleArgs) -> anyhow::Result<ExitCode> {
    let (model, edits) = sample::edits(args)?;
    let device = device::open(args.backend.as_deref())?;
    let ace = model.load(&device)?;
    crate::listen_to_interrupts("stopping; nothing was measured");
    let mut progress = Progress::new("calibrate", 0, edits.len() as u64);
    let mut sum: Vec<f64> = Vec::new();
    for (done, edit) in edits.iter().enumerate() {
        let edited = ace.run(&edit.clone().cache(Cache::Measure), &mut |_| match interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        sum.resize(edited.mag_ratios.len(), 0.0);
        sum.iter_mut().zip(&edited.mag_ratios).for_each(|(sum, ratio)| *sum += f64::from(*ratio));
        progress.at(done as u64 + 1, "");
    }
    drop(progress);
    if interrupted() {
        return Err(Error::Cancelled.into());
    }
    let ratios: Vec<String> = sum.iter().map(|sum| format!("{:.4}", sum / edits.len() as f64)).collect();
    let pictures = if edits.len() == 1 { "1 picture".to_owned() } else { format!("{} pictures", edits.len()) };
    report::print(&format!(
        "# for the card of {}; measured on {pictures}\n[sampling]\nmag_ratios = [{}]",
        model.card().name,
        ratios.join(", ")
    ));
    Ok(ExitCode::SUCCESS)
}
