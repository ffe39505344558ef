//! `ace train`: a recipe to weights, with a bar, a log, a plot and previews on the way.

use crate::{
    args::TrainArgs,
    device, files, interrupted, model, plot,
    progress::{Progress, duration},
    report,
};
use ace_train::{Outcome, Recipe, RunEvent, RunOptions, StepReport, train};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// The recipe that is trained when none is named.
const DEFAULT_RECIPE: &str = "models/tiny/lora-subject.toml";
/// Folder of the runs that are not told where to write.
const RUNS: &str = "out/train";
/// How much a new loss counts in the one that the bar shows.
const SMOOTHING: f32 = 0.05;

/// Trains as a recipe says.
///
/// # Errors
/// If recipe, weights, data or output are unusable, or the loss diverges.
pub fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let recipe_path = args.recipe.clone().unwrap_or_else(|| model::shipped(Path::new(DEFAULT_RECIPE)));
    let recipe = Recipe::load(&recipe_path)?;
    let out = args.out.clone().unwrap_or_else(|| Path::new(RUNS).join(&recipe.name));
    files::check_folder(&out)?;
    let device = device::open(args.backend.as_deref())?;
    let device_name = device::name(&device);
    let options = RunOptions {
        recipe: recipe_path,
        out: out.clone(),
        resume: args.resume,
        steps: args.steps,
        batch: None,
        workers: device::workers(&device),
    };
    crate::listen_to_interrupts("stopping after this step, then saving");

    let begin = Instant::now();
    let mut bar: Option<Progress> = None;
    let mut shown = Shown::default();
    let outcome = train(&options, &device, &mut |report| {
        match report {
            RunEvent::Encoding { done, of } => {
                bar.get_or_insert_with(|| Progress::new("encode", 0, of)).at(done, "");
            }
            RunEvent::Started { name, steps, resumed_at, learned, parameters } => {
                drop(bar.take());
                let from = if resumed_at > 0 { format!(", from step {resumed_at}") } else { String::new() };
                eprintln!("{name} on {device_name}: {steps} steps{from}, {learned} of {parameters} parameters learn");
                eprintln!("log.jsonl, loss.png, previews, checkpoints and weights go to {}", out.display());
                bar = Some(Progress::new("train", resumed_at, steps));
            }
            RunEvent::Step(step) => {
                let message = shown.take(&step);
                if let Some(bar) = &mut bar {
                    bar.at(step.step, message);
                }
            }
            RunEvent::Preview { step, path } => say(bar.as_ref(), &format!("step {step}: preview {}", path.display())),
            // Checkpoints are frequent and say little; the plot is as old as the newest of them.
            RunEvent::Saved { .. } => {
                if let Err(error) = draw_plot(&out) {
                    say(bar.as_ref(), &format!("no plot: {error:#}"));
                }
            }
            RunEvent::Measured { shift_factor, scaling_factor } => {
                let line = format!("for the card: shift_factor = {shift_factor}, scaling_factor = {scaling_factor}");
                say(bar.as_ref(), &line);
            }
            _ => {}
        }
        !interrupted()
    })?;
    drop(bar);

    let plotted = draw_plot(&out)?;
    Ok(match outcome {
        Outcome::Finished { step, weights } => {
            report::print(&format!("{}: {step} steps, {} for this part", recipe.name, duration(begin.elapsed())));
            if let Some(plotted) = plotted {
                report::print(&format!("{}: {plotted}", out.join("loss.png").display()));
            }
            for path in &weights {
                report::print(&format!("weights: {}", path.display()));
            }
            if let (Some(_), [lora]) = (&recipe.lora, weights.as_slice()) {
                report::print(&format!("use it: ace sample --lora {}", lora.display()));
            }
            ExitCode::SUCCESS
        }
        Outcome::Stopped { step: 0 } => {
            report::print("stopped before the first step; nothing was saved");
            ExitCode::FAILURE
        }
        Outcome::Stopped { step } => {
            report::print(&format!("stopped and saved at step {step}; go on with: {}", resume_command(args, &options)));
            ExitCode::FAILURE
        }
    })
}

fn say(bar: Option<&Progress>, line: &str) {
    match bar {
        Some(bar) => bar.say(line),
        None => eprintln!("{line}"),
    }
}

fn draw_plot(out: &Path) -> anyhow::Result<Option<String>> {
    plot::draw(&out.join("log.jsonl"), &out.join("loss.png"))
}

/// The losses as the bar shows them: smoothed, because single steps jump with their timesteps.
#[derive(Default)]
struct Shown {
    smooth: Vec<(String, f32)>,
}

impl Shown {
    /// Takes a step in and says where the losses are.
    fn take(&mut self, step: &StepReport) -> String {
        let figures = step.figures.iter().map(|(name, value)| (name.as_str(), *value));
        for (name, value) in [("loss", step.loss)].into_iter().chain(figures) {
            match self.smooth.iter_mut().find(|(known, _)| known == name) {
                Some((_, smooth)) => *smooth += SMOOTHING * (value - *smooth),
                None => self.smooth.push((name.to_owned(), value)),
            }
        }
        let losses = self.smooth.iter().map(|(name, value)| format!("{name} {value:.4}"));
        losses.collect::<Vec<_>>().join(" ")
    }
}

/// The command that goes on where this one stopped, in the words of this one.
fn resume_command(args: &TrainArgs, options: &RunOptions) -> String {
    let mut words = vec!["ace train".to_owned()];
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name} {value}")));
    };
    let path = |path: &PathBuf| path.display().to_string();
    option("recipe", args.recipe.as_ref().map(|_| path(&options.recipe)));
    option("out", args.out.as_ref().map(path));
    option("steps", args.steps.map(|steps| steps.to_string()));
    option("backend", args.backend.clone());
    words.push("--resume".to_owned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_smoothed_under_their_names() {
        let mut shown = Shown::default();
        let step = |loss, tar| StepReport {
            step: 1,
            loss,
            grad_norm: 1.0,
            learning_rate: 1e-3,
            figures: [("tar".to_owned(), tar)].into(),
        };
        assert_eq!(shown.take(&step(1.0, 2.0)), "loss 1.0000 tar 2.0000");
        assert_eq!(shown.take(&step(0.0, 2.0)), "loss 0.9500 tar 2.0000");
    }

    #[test]
    fn the_way_on_repeats_what_was_said() {
        let args = TrainArgs { recipe: Some("a.toml".into()), out: None, resume: false, steps: Some(5), backend: None };
        let options = RunOptions {
            recipe: "a.toml".into(),
            out: "o".into(),
            resume: false,
            steps: Some(5),
            batch: None,
            workers: 1,
        };
        assert_eq!(resume_command(&args, &options), "ace train --recipe a.toml --steps 5 --resume");
    }
}
