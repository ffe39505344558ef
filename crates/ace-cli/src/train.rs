//! `ace train`: a recipe to weights, with a bar, a log, a plot and previews on the way.

use crate::{
    args::TrainArgs,
    device, files, interrupted, memory, miniature,
    model::{self, ModelArgs},
    pace::Pace,
    plot,
    progress::Progress,
    ranks::{Place, Ranks},
    report,
};
use ace_nn::weight::Packing;
use ace_plus::request::ModelRequest;
use ace_train::{
    Outcome, Recipe, RunEvent, RunOptions, Start, StepReport,
    judge::Score,
    learn::{board::Board, recipe::NetworkName},
    plan::{self, Around, Base, Extent},
    train_in,
};
use ace_weights::Network;
use burn::tensor::{Device, FloatDType};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// The recipe that is trained when none is named, and the one for own pictures: where a clone has it, and its text.
const DEMONSTRATION: (&str, &str) = ("models/tiny/lora-restoration.toml", miniature::RECIPE);
const OWN_PICTURES: (&str, &str) = ("models/lora.toml", include_str!("../../../models/lora.toml"));
/// Folder of the runs that are not told where to write.
const RUNS: &str = "out/train";
/// How much a new loss counts in the one that the bar shows.
const SMOOTHING: f32 = 0.05;

/// Trains as a recipe says, alone or together with the processes that a launcher started.
///
/// # Errors
/// If recipe, weights, data or output are unusable, or the loss diverges.
pub fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let ranks = Ranks::find()?;
    ranks.run(|| train(args, &ranks))
}

/// What training starts with.
struct Prepared {
    recipe: Recipe,
    start: Start,
    device: Device,
    options: RunOptions,
}

impl Prepared {
    fn new(args: &TrainArgs, place: Place) -> anyhow::Result<Self> {
        let recipe_path = recipe_file(args.recipe.as_deref(), args.data.is_some())?;
        let manifest = args.data.as_deref().map(|path| std::path::absolute(path).map_err(ace_plus::Error::io(path)));
        let manifest = manifest.transpose()?;
        let recipe = Recipe::load_with(&recipe_path, manifest.as_deref())?;
        let out = args.out.clone().unwrap_or_else(|| Path::new(RUNS).join(&recipe.name));
        files::check_folder(&out)?;
        let start = start(&args.model, (args.dtype, args.quantize), &recipe, &recipe_path)?;
        if recipe.fresh.is_empty() {
            // Whatever is missing is named at once, not when the encoders are done.
            start.model.files()?;
        }
        let device = device::open_nth(args.backend.as_deref(), place.index)?;
        let options = RunOptions {
            manifest,
            resume: args.resume,
            steps: args.steps,
            workers: device::workers(&device, place.sharers),
            ..RunOptions::new(recipe_path, &out)
        };
        Ok(Self { recipe, start, device, options })
    }
}

fn train(args: &TrainArgs, ranks: &Ranks) -> anyhow::Result<ExitCode> {
    let Prepared { recipe, start, device, options } = ranks.agree(Prepared::new(args, ranks.place()))?;
    let (device_name, out) = (device::name(&device), options.out.clone());
    ranks.expect_the_end(&out, &resume_command(args, &options));
    if !ranks.leads() {
        crate::listen_to_interrupts("");
        let outcome = train_in(ranks.group(), &start, &options, &device, &mut |_| !interrupted())?;
        return Ok(exit_code(&outcome));
    }
    crate::listen_to_interrupts("stopping after this step, then saving");

    let mut bar: Option<Progress> = None;
    let mut shown = Shown::default();
    let mut left_out = 0;
    let mut told = Told { every: recipe.log_every, steps: options.recipe()?.optimizer.steps, board: None };
    let mut pace = Pace::new(recipe.optimizer.batch);
    let mut broken = None;
    let mut predicted = None;
    let mut judged: Vec<Score> = Vec::new();
    let outcome = train_in(ranks.group(), &start, &options, &device, &mut |report| {
        if let Err(error) = told.take(&report, &pace, &out) {
            // What was learned so far is saved, then it is said.
            broken = Some(error);
        }
        match report {
            RunEvent::Encoding { done, of } => {
                bar.get_or_insert_with(|| Progress::new("encode", 0, of)).at(done, "");
            }
            RunEvent::Started { name, steps, resumed_at, learned, parameters } => {
                drop(bar.take());
                let from = if resumed_at > 0 { format!(", from step {resumed_at}") } else { String::new() };
                eprintln!("{name} on {device_name}: {steps} steps{from}, {learned} of {parameters} parameters learn");
                if let Some(line) = shares(ranks.place(), options.workers) {
                    eprintln!("{line}");
                }
                eprintln!(
                    "log.jsonl, loss.png, an event file, previews, checkpoints and weights go to {}",
                    out.display()
                );
                bar = Some(Progress::new("train", resumed_at, steps));
                pace = Pace::new(recipe.optimizer.batch);
            }
            RunEvent::Timed(stages) => pace.take(stages),
            RunEvent::Extent(extent) => predicted = predict(&start, &options, extent),
            RunEvent::Step(step) => {
                let message = format!("{}, {}", shown.take(&step), pace.now());
                if let Some(bar) = &mut bar {
                    bar.at(step.step, message);
                }
            }
            RunEvent::Preview { step, path } => say(bar.as_ref(), &format!("step {step}: preview {}", path.display())),
            RunEvent::Validated(report) => {
                say(bar.as_ref(), &format!("step {}: validation loss {:.5}", report.step, report.validation));
            }
            RunEvent::Judged { step, score } => {
                say(
                    bar.as_ref(),
                    &format!("step {step}: {} of {} held-out examples succeed", percent(score), score.count),
                );
                judged.push(score);
            }
            RunEvent::Damaged { path, reason, resumed_at } => {
                let line = format!("{} is damaged ({reason}); going on from step {resumed_at}", path.display());
                say(bar.as_ref(), &line);
            }
            RunEvent::StoppedEarly { step, best, validation } => {
                let line = format!(
                    "step {step}: the validation loss has not become lower; the weights are those of step {best} ({validation:.5})"
                );
                say(bar.as_ref(), &line);
            }
            // Checkpoints are frequent and say little; the plot is as old as the newest of them.
            RunEvent::Saved { .. } => {
                if let Err(error) = draw_plot(&out) {
                    say(bar.as_ref(), &format!("no plot: {error:#}"));
                }
            }
            RunEvent::Skipped { place, reason, count } => {
                left_out = count;
                say(bar.as_ref(), &format!("left out ({count} so far): {place}: {reason}"));
            }
            RunEvent::Note(line) => say(bar.as_ref(), &format!("note: {line}")),
            RunEvent::Measured { shift_factor, scaling_factor } => {
                let line = format!("for the card: shift_factor = {shift_factor}, scaling_factor = {scaling_factor}");
                say(bar.as_ref(), &line);
            }
            _ => {}
        }
        !interrupted() && broken.is_none()
    })?;
    drop(bar);
    if let Some(error) = broken {
        return Err(error);
    }

    if left_out > 0 {
        report::print(&format!("{left_out} examples could not be used and were left out"));
    }
    let plotted = draw_plot(&out)?;
    match &outcome {
        Outcome::Finished { step, weights } => {
            report::print(&format!("{}: step {step}; {}", recipe.name, pace.summary(predicted)));
            if let [before, after] = judged.as_slice() {
                report::print(&format!(
                    "{}: of {} held-out examples {} succeed, {} before",
                    recipe.data.tasks.join(", "),
                    after.count,
                    percent(*after),
                    percent(*before)
                ));
            }
            if let Some(plotted) = plotted {
                report::print(&format!("{}: {plotted}", out.join("loss.png").display()));
            }
            for path in weights {
                report::print(&format!("weights: {}", path.display()));
            }
            if let (Some(_), [lora, ..]) = (&recipe.lora, weights.as_slice()) {
                let model = args.model.model.as_ref().or(recipe.model.as_ref());
                let model = model.map_or(String::new(), |name| format!(" --model {name}"));
                report::print(&format!("use it: ace sample{model} --lora {}", lora.display()));
            }
        }
        Outcome::Stopped { step: 0 } => report::print("stopped before the first step; nothing was saved"),
        Outcome::Stopped { step } => {
            report::print(&format!("stopped and saved at step {step}; go on with: {}", resume_command(args, &options)));
        }
    }
    Ok(exit_code(&outcome))
}

fn percent(score: Score) -> String {
    format!("{:.0} %", 100.0 * score.success_rate)
}

fn exit_code(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Finished { .. } => ExitCode::SUCCESS,
        Outcome::Stopped { .. } => ExitCode::FAILURE,
    }
}

/// How the work is shared, if it is.
fn shares(place: Place, workers: usize) -> Option<String> {
    let Place { processes, here, .. } = place;
    let threads = if workers == 1 { "1 thread".to_owned() } else { format!("{workers} threads") };
    let line = || format!("{processes} processes, {here} of them on this machine; this one measures on {threads}");
    (processes > 1).then(line)
}

/// The recipe's file: the one that is named, or a shipped one. Where there is no clone, that is written to a folder of its
/// own, so that it can be read and changed.
fn recipe_file(named: Option<&Path>, has_data: bool) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let (shipped, text) = if has_data { OWN_PICTURES } else { DEMONSTRATION };
    let path = model::shipped(Path::new(shipped));
    if path.is_file() {
        return Ok(path);
    }
    let path = Path::new(RUNS).join(Path::new(shipped).file_name().unwrap_or_default());
    // Its own folder is none of a model there: the model is named instead.
    files::write(&path, text.replace("card = \".\"", "model = \"tiny\"").as_bytes())?;
    Ok(path)
}

/// The model that is trained: what is said on the command line, or else what the recipe says, or else the miniature.
fn start(
    model: &ModelArgs,
    (dtype, quantize): (Option<FloatDType>, Option<Packing>),
    recipe: &Recipe,
    recipe_path: &Path,
) -> anyhow::Result<Start> {
    let asked = model.request();
    let is_said = asked != ModelRequest::default();
    let has_model = recipe.card.is_some() || recipe.model.is_some();
    let beside = recipe_path.parent().unwrap_or(Path::new(""));
    let mut start = match (is_said, has_model) {
        (false, true) => {
            let start = Start::of_recipe(recipe, recipe_path)?;
            // The miniature is part of this program.
            let is_plain = recipe.weights.is_empty() && recipe.card.is_none() && recipe.flux.is_none();
            let is_elsewhere = is_plain && start.model.files().is_err();
            let asked = ModelRequest { name: recipe.model.clone(), ..asked };
            if is_elsewhere { Start::of(model::find(&asked, beside)?) } else { start }
        }
        (true, _) if asked.name.is_none() && recipe.model.is_some() => {
            let named = ModelRequest { name: recipe.model.clone(), ..ModelRequest::default() };
            let mut model = model::find(&named, beside)?;
            if let Some(flux) = &recipe.flux {
                model = model.network(Network::Flux, flux.clone());
            }
            Start::of(asked.apply(model, Path::new(""))?)
        }
        _ => Start::of(model::find(&asked, Path::new(""))?),
    };
    start = start.adjusted(recipe);
    start.model = start.model.dtype(dtype.unwrap_or(recipe.frozen_dtype.into()));
    if let Some(packing) = quantize {
        start.model = start.model.quantize(Some(packing));
    }
    Ok(start)
}

/// The recipe and the model of a training that is planned; nothing of the model needs to be there.
///
/// # Errors
/// If recipe or card cannot be used.
pub fn planned(recipe: Option<&Path>, model: &ModelArgs) -> anyhow::Result<(Recipe, Start)> {
    let path = recipe_file(recipe, true)?;
    // What a recipe learns from does not matter here.
    let text = fs::read_to_string(&path).map_err(ace_plus::Error::io(&path))?;
    let has_data = text.lines().any(|line| line.trim_start().starts_with("[data]") || line.contains("data ="));
    let recipe = Recipe::load_with(&path, (!has_data).then_some(Path::new("pictures.jsonl")))?;
    let start = start(model, (None, None), &recipe, &path)?;
    Ok((recipe, start))
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

/// What the planner says of a run with such examples, in bytes; nothing if it cannot say.
fn predict(start: &Start, options: &RunOptions, extent: Extent) -> Option<u64> {
    let recipe = options.recipe().ok()?;
    let Extent { sequence, examples } = extent;
    let around = Around { workers: options.workers, examples, encoder_budget: Some(start.encoder_budget) };
    // A transformer that starts from random numbers has no file.
    let file = start.model.open(Network::Flux).ok().filter(|_| !recipe.is_fresh(NetworkName::Flux));
    let base = file.map_or_else(|| Base::of(&recipe), |file| Base::on(&file, &recipe));
    Some(plan::predict(start.card(), &recipe, base, sequence, around).peak())
}

/// What TensorBoard is told.
struct Told {
    /// Steps between two numbers, as in the log.
    every: u64,
    /// The last step.
    steps: u64,
    board: Option<Board>,
}

impl Told {
    fn take(&mut self, event: &RunEvent, pace: &Pace, out: &Path) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        if let RunEvent::Started { resumed_at, .. } = event {
            self.board = Some(Board::open(out, *resumed_at, now)?);
        }
        let Some(board) = &mut self.board else { return Ok(()) };
        match event {
            RunEvent::Step(report) if report.step.is_multiple_of(self.every) || report.step == self.steps => {
                let mut values = vec![
                    ("loss", report.loss),
                    ("learning_rate", report.learning_rate as f32),
                    ("grad_norm", report.grad_norm),
                    ("samples_per_second", pace.samples_per_second() as f32),
                    ("memory_gb", memory::allocated() as f32 / 1e9),
                    ("peak_memory_gb", memory::peak() as f32 / 1e9),
                ];
                values.extend(report.figures.iter().map(|(name, value)| (name.as_str(), *value)));
                board.scalars(report.step, now, &values)?;
            }
            RunEvent::Validated(report) => {
                board.scalars(report.step, now, &[("validation", report.validation)])?;
            }
            RunEvent::Preview { step, path } => {
                let size = image::image_dimensions(path)?;
                board.picture(*step, now, "preview", fs::read(path).map_err(ace_plus::Error::io(path))?, size)?;
            }
            _ => {}
        }
        Ok(())
    }
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
    option("data", args.data.as_ref().map(path));
    option("model", args.model.model.clone());
    option("weights", args.model.weights.as_ref().map(path));
    for (word, place) in args.model.request().networks {
        option(&word, Some(path(&place)));
    }
    option("dtype", args.dtype.map(|dtype| crate::args::dtype_name(dtype).to_owned()));
    option("quantize", args.quantize.map(|packing| packing.name().to_owned()));
    option("out", args.out.as_ref().map(path));
    option("steps", args.steps.map(|steps| steps.to_string()));
    option("backend", args.backend.clone());
    words.push("--resume".to_owned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;

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
        let args = |words: &[&str]| match Cli::try_parse_from([&["ace", "train"], words].concat()).unwrap().verb {
            Verb::Train(args) => *args,
            other => panic!("{other:?}"),
        };
        let options = RunOptions { steps: Some(5), ..RunOptions::new("a.toml", "o") };
        let way_on = |words: &[&str]| resume_command(&args(words), &options);
        assert_eq!(way_on(&["--recipe", "a.toml", "--steps", "5"]), "ace train --recipe a.toml --steps 5 --resume");
        let words = ["--data", "p.jsonl", "--model", "m", "--flux", "f.gguf", "--dtype", "bf16"];
        assert_eq!(way_on(&words), format!("ace train {} --resume", words.join(" ")));
    }
}
