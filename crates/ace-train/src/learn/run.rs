//! A whole run: from a recipe to weights, with a log, previews and checkpoints on the way.

use super::{
    autoencoder::AutoEncoderObjective,
    emphasis::Emphasis,
    flow::{FlowObjective, TrainedNetworks},
    params,
    recipe::{NetworkName, Recipe, ValidationRecipe},
    start::{self, Start},
    state::{self, Checkpoint, Damage, Kept, Standing},
    trainer::{Objective, StepReport, Trainer},
    validation::{Validation, ValidationReport},
};
use crate::{
    Error,
    data::{
        Cache, Notice, Notices, OnBadExample, Supply,
        example::{Dataset, Example},
        files::Manifest,
        shapes::{Split, World, WorldTask},
        skipping::Skipping,
    },
    error::{RecipeProblem, StateProblem},
    judge::preview::{self, Previews},
};
use ace_nn::autoencoder::AutoEncoder;
use ace_plus::pixels;
use ace_weights::Network;
use burn::{module::Module, prelude::*};
use image::RgbImage;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// How a run is started.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// A manifest in the place of what the recipe learns from.
    pub manifest: Option<PathBuf>,
    /// Folder for everything that the run writes.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// Steps instead of the recipe's.
    pub steps: Option<u64>,
    /// Examples per step instead of the recipe's.
    pub batch: Option<usize>,
    /// Micro-batches that are measured at the same time: the cores of a CPU, 1 on a GPU.
    pub workers: usize,
}

impl RunOptions {
    /// A run of a recipe as it says, on one core.
    pub fn new(recipe: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        let (recipe, out) = (recipe.into(), out.into());
        Self { recipe, manifest: None, out, resume: false, steps: None, batch: None, workers: 1 }
    }

    /// The recipe, with what these options say instead.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub fn recipe(&self) -> Result<Recipe, Error> {
        let mut recipe = Recipe::load_with(&self.recipe, self.manifest.as_deref())?;
        recipe.optimizer.steps = self.steps.unwrap_or(recipe.optimizer.steps);
        recipe.optimizer.batch = self.batch.unwrap_or(recipe.optimizer.batch);
        Ok(recipe)
    }
}

/// What a run tells its observer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RunEvent {
    /// Examples are encoded, before the network that is trained is loaded.
    Encoding {
        /// Examples done.
        done: u64,
        /// Examples that the run will draw.
        of: u64,
    },
    /// Everything is loaded.
    Started {
        /// The recipe's name.
        name: String,
        /// Steps in all.
        steps: u64,
        /// Steps done before.
        resumed_at: u64,
        /// Parameters that learn.
        learned: usize,
        /// Parameters of the networks that learn, frozen ones included.
        parameters: usize,
    },
    /// A checkpoint is passed over, for it is damaged.
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Steps done at the one that the run goes on from.
        resumed_at: u64,
    },
    /// A step is done.
    Step(StepReport),
    /// An example cannot be used and is left out, as the recipe wants it.
    Skipped {
        /// Its line or file.
        place: String,
        /// What is wrong with it.
        reason: String,
        /// Examples left out so far, this one included.
        count: usize,
    },
    /// Something to know that does not stop the run, such as a file of the cache that cannot be read.
    Note(String),
    /// The loss on held-out examples was measured.
    Validated(ValidationReport),
    /// The loss on held-out examples has not become lower for long, and the run ends. What is written is of its best step.
    StoppedEarly {
        /// Steps done.
        step: u64,
        /// The best step.
        best: u64,
        /// The loss there.
        validation: f32,
    },
    /// A preview was written.
    Preview {
        /// Steps done.
        step: u64,
        /// Its file.
        path: PathBuf,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// What a finished autoencoder's card should say.
    Measured {
        /// Mean of the raw latents.
        shift_factor: f32,
        /// One over their standard deviation.
        scaling_factor: f32,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// Steps done.
        step: u64,
        /// The files that were learned.
        weights: Vec<PathBuf>,
    },
    /// The observer stopped it. There is a checkpoint of this step, if it is not 0.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Who is told about progress; answers whether to go on.
pub type RunObserver<'a> = &'a mut dyn FnMut(RunEvent) -> bool;

/// Trains as the recipe says, on `device` (without gradients; the run adds them where it needs them).
///
/// # Errors
/// If recipe, card, weights, data or output folder are unusable, if `out` holds a run and `resume` is not set, or if
/// the loss diverges.
pub fn train(options: &RunOptions, device: &Device, observer: RunObserver<'_>) -> Result<Outcome, Error> {
    let start = Start::of_recipe(&options.recipe()?, &options.recipe)?;
    train_from(&start, options, device, observer)
}

/// As [`train`], with a model that was found elsewhere, whatever the recipe says.
///
/// # Errors
/// As [`train`].
pub fn train_from(
    start: &Start,
    options: &RunOptions,
    device: &Device,
    observer: RunObserver<'_>,
) -> Result<Outcome, Error> {
    let run = Run::open(start, options, device)?;
    if run.recipe.trains(NetworkName::AutoEncoder) { run.autoencoder(observer) } else { run.flow(observer) }
}

/// What every kind of run needs.
struct Run<'a> {
    start: &'a Start,
    options: &'a RunOptions,
    recipe: Recipe,
    data: Box<dyn Dataset>,
    /// Where it goes on.
    checkpoint: Option<Checkpoint>,
    /// Newer checkpoints that cannot be used.
    damages: Vec<Damage>,
    device: &'a Device,
    notices: Notices,
}

impl From<Notice> for RunEvent {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Skipped { place, reason, count } => Self::Skipped { place: place.to_string(), reason, count },
            Notice::Note(line) => Self::Note(line),
        }
    }
}

impl<'a> Run<'a> {
    fn open(start: &'a Start, options: &'a RunOptions, device: &'a Device) -> Result<Self, Error> {
        let recipe = options.recipe()?;
        let problem = |problem| Error::recipe(&options.recipe, problem);
        Emphasis::check(recipe.loss, start.card()).map_err(problem)?;
        start.check_lora(&recipe, &options.recipe, device)?;
        let data = open_data(&recipe, &options.recipe)?;
        if let (Some(section), Some(of)) = (&recipe.validation, data.len().map(|len| len as u64)) {
            if section.manifest.is_none() && section.examples >= of {
                return Err(problem(RecipeProblem::NothingButHeldOut { examples: section.examples, of }));
            }
        }
        let (checkpoint, damages) = Checkpoint::newest(&options.out)?;
        match &checkpoint {
            Some(checkpoint) if options.resume => checkpoint.check(&recipe)?,
            Some(checkpoint) => return Err(Error::state(&checkpoint.path, StateProblem::RunExists)),
            None => {}
        }
        fs::create_dir_all(&options.out).map_err(ace_plus::Error::io(&options.out))?;
        let notices = Notices::default();
        // The transformer's examples may turn out bad when they are encoded; there it is the supply that skips.
        let data = match (recipe.data.on_bad_example, recipe.trains(NetworkName::AutoEncoder)) {
            (OnBadExample::Skip, true) => Box::new(Skipping::new(data, notices.clone())),
            _ => data,
        };
        Ok(Self { start, options, recipe, data, checkpoint, damages, device, notices })
    }

    fn note(&self) -> String {
        format!("{}, {} steps", self.recipe.name, self.recipe.optimizer.steps)
    }

    /// Steps done before.
    fn resumed_at(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step)
    }

    fn autoencoder(&self, observer: RunObserver<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let (recipe, card) = (&self.recipe, &self.start.card());
        let mut model = self.start.autoencoder(recipe, &learning)?;
        if recipe.autoencoder.as_ref().is_some_and(|section| section.decoder_only) {
            model.encoder = model.encoder.no_grad();
        }
        let mut trainer = Trainer::new(model, &recipe.optimizer);
        let mut objective = AutoEncoderObjective::new(recipe, self.data.as_ref(), card, &learning)?;
        let examples = self.preview_examples()?;
        let stopped = self.turn(
            &mut trainer,
            &mut objective,
            observer,
            &mut |model: &AutoEncoder| {
                let rows = examples.iter().map(|(_, example)| {
                    let planes = example.planes(&card.canvas)?;
                    let decode =
                        |plane| pixels::download(model.decode(model.encode(pixels::upload(plane, self.device))));
                    Ok(planes.iter().flat_map(|plane| [plane.to_rgb(), decode(plane).to_rgb()]).collect())
                });
                Ok(preview::sheet(&rows.collect::<Result<Vec<Vec<_>>, Error>>()?))
            },
            &mut |_, _, _| Ok(None),
        )?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let model = trainer.result();
        let (shift_factor, scaling_factor) = self.measure(&model)?;
        observer(RunEvent::Measured { shift_factor, scaling_factor });
        let file = card.weights.autoencoder.first();
        let weights = start::write_network(&self.options.out, file, &model, Network::AutoEncoder, &self.note())?;
        Ok(Outcome::Finished { step: trainer.step, weights: vec![weights] })
    }

    /// Mean and one over the standard deviation of raw latents, on answers.
    fn measure(&self, model: &AutoEncoder) -> Result<(f32, f32), Error> {
        let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0.0f64);
        for index in 0..64 {
            let plane = self.data.example(index)?.planes(&self.start.card().canvas)?.swap_remove(0);
            let (mean, _) = model.encode_posterior(pixels::upload(&plane, self.device));
            for value in mean.into_data().convert::<f32>().iter::<f32>() {
                sum += f64::from(value);
                squares += f64::from(value).powi(2);
                count += 1.0;
            }
        }
        let mean = sum / count;
        Ok((mean as f32, (squares / count - mean * mean).sqrt().recip() as f32))
    }

    fn flow(&self, observer: RunObserver<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let (recipe, start) = (&self.recipe, self.start);
        let dtype = start.flux_dtype(recipe);
        let is_large = start.encoder_bytes(recipe)? > start.encoder_budget;
        let mut validation = None;
        let held_out = match &recipe.validation {
            Some(section) => Some((section, self.held_out(section)?)),
            None => None,
        };
        let mut encode = |section, supply: &mut Supply<'_>, indices: &[u64]| {
            let tell = &mut |done: u64, of: u64| {
                self.tell(observer) & (!is_large || observer(RunEvent::Encoding { done, of }))
            };
            Validation::encode(section, recipe, supply, indices, tell)
        };
        if let Some((section, (Some(data), indices))) = &held_out {
            validation = encode(section, &mut self.supply(data.as_ref())?, indices)?;
            if validation.is_none() {
                return Ok(Outcome::Stopped { step: self.resumed_at() });
            }
        }
        let mut supply = self.supply(self.data.as_ref())?;
        if let Some((section, (None, indices))) = &held_out {
            validation = encode(section, &mut supply, indices)?;
            if validation.is_none() {
                return Ok(Outcome::Stopped { step: self.resumed_at() });
            }
        }
        let previews = match recipe.preview_every {
            0 => None,
            _ => {
                let tell = &mut |done: u64, of: u64| {
                    self.tell(observer) & (!is_large || observer(RunEvent::Encoding { done, of }))
                };
                let Some(previews) = self.previews(&mut supply, tell)? else {
                    return Ok(Outcome::Stopped { step: self.resumed_at() });
                };
                Some(previews)
            }
        };
        let mut objective = FlowObjective::of(recipe, supply, dtype, &learning)?;
        // Without an end to the examples there is no encoding all of them.
        if objective.pool().is_some() && is_large {
            let steps = self.resumed_at()..recipe.optimizer.steps;
            let tell = &mut |done: u64, of: u64| self.tell(observer) & observer(RunEvent::Encoding { done, of });
            if !objective.encode_ahead(steps, tell)? {
                return Ok(Outcome::Stopped { step: self.resumed_at() });
            }
        }
        let mut trainer = Trainer::new(start.trained(recipe, &learning)?, &recipe.optimizer);
        let mut draw = |model: &TrainedNetworks| match &previews {
            Some(previews) => previews.draw(&model.flux, model.text(), dtype),
            None => Ok(preview::sheet(&[])),
        };
        let mut measure = |objective: &FlowObjective<'_>, model: &TrainedNetworks, step| {
            validation.as_ref().map(|validation| validation.measure(objective, model, step)).transpose()
        };
        let stopped = self.turn(&mut trainer, &mut objective, observer, &mut draw, &mut measure)?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let weights = start::write(&self.options.out, start.card(), recipe, &trainer.result(), &self.note())?;
        Ok(Outcome::Finished { step: trainer.step, weights })
    }

    /// The examples of `data` as the transformer sees them: encoded once if there is an end to them.
    fn supply<'b>(&'b self, data: &'b dyn Dataset) -> Result<Supply<'b>, Error> {
        let (recipe, start) = (&self.recipe, self.start);
        let supply = start.supply(recipe, data, self.device)?.on_bad(recipe.data.on_bad_example, self.notices.clone());
        Ok(match supply.pool() {
            Some(_) => supply.cached(Cache::new(self.cache_folder(), start.digests(recipe)?, self.notices.clone())),
            None => supply,
        })
    }

    /// The examples that validation measures on: a dataset of their own, or else a part of what is learned from.
    fn held_out(&self, section: &ValidationRecipe) -> Result<(Option<Box<dyn Dataset>>, Vec<u64>), Error> {
        if let Some(manifest) = &section.manifest {
            let data = open_files(&self.recipe, beside(&self.options.recipe).join(manifest))?;
            let count = data.len().map_or(section.examples, |len| section.examples.min(len as u64));
            return Ok((Some(data), (0..count).collect()));
        }
        match self.data.len() {
            Some(len) => Ok((None, (self.recipe.learned_of(len as u64)..len as u64).collect())),
            None => {
                let world = open_world(&self.recipe, &self.options.recipe, Split::HeldOut)?;
                Ok((Some(Box::new(world)), (0..section.examples).collect()))
            }
        }
    }

    /// Which checkpoints stay.
    fn kept(&self) -> Kept {
        let section = &self.recipe.checkpoints;
        let validation = self.recipe.validation.as_ref();
        let stops = validation.is_some_and(|validation| validation.early_stop.is_some());
        Kept { last: section.keep, best: stops || section.best.unwrap_or(validation.is_some()) }
    }

    /// Previews of the first examples that can be used; `None` if `tell` broke off.
    fn previews(
        &self,
        supply: &mut Supply<'_>,
        tell: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Previews>, Error> {
        let examples = self.preview_examples()?;
        if !supply.ensure_all(&examples.iter().map(|(index, _)| *index).collect(), tell)? {
            return Ok(None);
        }
        let mut encoded = Vec::new();
        for (index, example) in examples {
            // One that turns out bad when it is encoded is not shown.
            if supply.ensure(&[index])? == [index] {
                encoded.push((example, supply.get(index).as_ref().clone()));
            }
        }
        // It stays, to decode.
        let autoencoder = supply.autoencoder()?;
        Previews::of(self.start.card(), autoencoder, self.device, encoded).map(Some)
    }

    /// The examples that previews show, with their indices: the first that can be used.
    fn preview_examples(&self) -> Result<Vec<(u64, Example)>, Error> {
        const ROWS: usize = 6;
        let mut rows = Vec::new();
        for index in 0..self.data.len().map_or(ROWS as u64, |len| len as u64) {
            match self.data.example(index) {
                Ok(example) => rows.push((index, example)),
                Err(_) if self.recipe.data.on_bad_example == OnBadExample::Skip => {}
                Err(error) => return Err(error.into()),
            }
            if rows.len() == ROWS {
                break;
            }
        }
        Ok(rows)
    }

    /// Where encoded examples are kept.
    fn cache_folder(&self) -> PathBuf {
        match &self.recipe.data.cache {
            Some(folder) => self.options.recipe.parent().unwrap_or(Path::new("")).join(folder),
            None => self.options.out.join("cache"),
        }
    }

    /// Passes on what the data had to say; answers whether to go on.
    fn tell(&self, observer: &mut dyn FnMut(RunEvent) -> bool) -> bool {
        self.notices.take().into_iter().fold(true, |go_on, notice| go_on & observer(notice.into()))
    }

    /// The loop: steps, log, measurements, previews, checkpoints. Answers whether the observer stopped it.
    fn turn<O: Objective>(
        &self,
        trainer: &mut Trainer<O::Model>,
        objective: &mut O,
        observer: RunObserver<'_>,
        draw: &mut dyn FnMut(&O::Model) -> Result<RgbImage, Error>,
        measure: &mut dyn FnMut(&O, &O::Model, u64) -> Result<Option<ValidationReport>, Error>,
    ) -> Result<bool, Error> {
        let (recipe, out) = (&self.recipe, &self.options.out);
        let mut standing = Standing::default();
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.restore(trainer)?;
            standing = checkpoint.standing()?;
        }
        let mut log = Log::open(&out.join("log.jsonl"), trainer.step)?;
        let steps = recipe.optimizer.steps;
        let resumed_at = trainer.step;
        let mut go_on = true;
        for Damage { path, reason } in &self.damages {
            go_on &= observer(RunEvent::Damaged { path: path.clone(), reason: reason.clone(), resumed_at });
        }
        go_on &= observer(RunEvent::Started {
            name: recipe.name.clone(),
            steps,
            resumed_at,
            learned: params::count_learned(&trainer.model),
            parameters: trainer.model.num_params(),
        });
        let mut losses = Mean::default();
        while go_on && trainer.step < steps && !self.is_enough(&standing) {
            let report = trainer.step(objective, self.options.workers);
            go_on = self.tell(observer);
            let report = report?;
            let step = report.step;
            losses.add(report.loss);
            if step.is_multiple_of(recipe.log_every) || step == steps {
                log.write(&report)?;
            }
            go_on &= observer(RunEvent::Step(report));
            standing.score = None;
            if recipe.validation.as_ref().is_some_and(|section| step.is_multiple_of(section.every) || step == steps) {
                if let Some(report) = measure(objective, &trainer.result(), step)? {
                    self.compare(&mut standing, &report);
                    log.write(&report)?;
                    go_on &= observer(RunEvent::Validated(report));
                }
            }
            if recipe.preview_every > 0 && (step.is_multiple_of(recipe.preview_every) || step == steps) {
                let path = out.join(format!("preview-{step:06}.png"));
                let picture = draw(&trainer.result())?;
                ace_plus::picture::write_png(&path, &picture)?;
                go_on &= observer(RunEvent::Preview { step, path });
            }
            // The best one can be kept only if it was written.
            let is_best = standing.score.is_some() && standing.since == 0;
            let is_last = step == steps || self.is_enough(&standing);
            if step.is_multiple_of(recipe.save_every) || is_best || is_last || !go_on {
                if recipe.validation.is_none() {
                    standing.score = std::mem::take(&mut losses).value();
                }
                let path = state::save(out, trainer, recipe, standing, self.kept())?;
                go_on &= observer(RunEvent::Saved { step, path });
            }
        }
        if self.is_enough(&standing) {
            if let Some((best, validation)) = Checkpoint::best(out)? {
                observer(RunEvent::StoppedEarly { step: trainer.step, best: best.step, validation });
                best.restore(trainer)?;
            }
            return Ok(false);
        }
        Ok(trainer.step < steps)
    }

    /// Whether the loss on held-out examples has not become lower for long.
    fn is_enough(&self, standing: &Standing) -> bool {
        let section = self.recipe.validation.as_ref().and_then(|section| section.early_stop);
        section.is_some_and(|stop| standing.since >= stop.patience)
    }

    /// Takes a measurement in.
    fn compare(&self, standing: &mut Standing, report: &ValidationReport) {
        let section = self.recipe.validation.as_ref().and_then(|section| section.early_stop);
        let min_delta = section.map_or(0.0, |stop| stop.min_delta);
        standing.score = Some(report.validation);
        match standing.best {
            Some(best) if report.validation >= best - min_delta => standing.since += 1,
            _ => (standing.best, standing.since) = (Some(report.validation), 0),
        }
    }
}

/// A mean of losses.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f32) {
        self.sum += f64::from(value);
        self.count += 1;
    }

    fn value(self) -> Option<f32> {
        (self.count > 0).then(|| (self.sum / f64::from(self.count)) as f32)
    }
}

/// The folder that a recipe's paths start from.
fn beside(recipe: &Path) -> &Path {
    recipe.parent().unwrap_or(Path::new(""))
}

/// The world or the manifest that the recipe at `path` names.
fn open_data(recipe: &Recipe, path: &Path) -> Result<Box<dyn Dataset>, Error> {
    match &recipe.data.manifest {
        Some(manifest) => open_files(recipe, beside(path).join(manifest)),
        None => Ok(Box::new(open_world(recipe, path, Split::Train)?)),
    }
}

/// Examples in files, as the recipe wants bad ones.
fn open_files(recipe: &Recipe, path: PathBuf) -> Result<Box<dyn Dataset>, Error> {
    Ok(Box::new(match recipe.data.on_bad_example {
        OnBadExample::Stop => Manifest::open(path)?,
        OnBadExample::Skip => Manifest::open_with_bad(path)?,
    }))
}

/// The world that the recipe at `path` names.
fn open_world(recipe: &Recipe, path: &Path, split: Split) -> Result<World, Error> {
    let tasks = match recipe.data.tasks.is_empty() {
        true => WorldTask::ALL.to_vec(),
        false => {
            let find = |name: &String| {
                WorldTask::from_name(name).ok_or_else(|| {
                    let known = WorldTask::ALL.iter().map(|task| task.name()).collect();
                    Error::recipe(path, RecipeProblem::UnknownTask { name: name.clone(), known })
                })
            };
            recipe.data.tasks.iter().map(find).collect::<Result<Vec<_>, _>>()?
        }
    };
    Ok(World::new(recipe.data.world.unwrap_or_default(), &tasks, split)?)
}

/// JSON lines, one per logged step ([`StepReport`]) or measurement ([`ValidationReport`]). A resumed run removes the lines of
/// steps after its checkpoint.
struct Log {
    path: PathBuf,
    file: fs::File,
    /// Bytes of whole lines.
    len: u64,
}

impl Log {
    fn open(path: &Path, step: u64) -> Result<Self, Error> {
        let io = || ace_plus::Error::io(path);
        let kept: String = match fs::read_to_string(path) {
            Ok(text) if step > 0 => {
                let is_past = |line: &&str| {
                    let line = serde_json::from_str::<serde_json::Value>(line);
                    line.is_ok_and(|line| line["step"].as_u64().is_some_and(|line| line <= step))
                };
                text.lines().filter(is_past).flat_map(|line| [line, "\n"]).collect()
            }
            _ => String::new(),
        };
        ace_weights::replace::write(path, kept.as_bytes())?;
        let file = fs::OpenOptions::new().append(true).open(path).map_err(io())?;
        Ok(Self { path: path.to_owned(), file, len: kept.len() as u64 })
    }

    fn write(&mut self, report: &impl serde::Serialize) -> Result<(), Error> {
        let line = serde_json::to_string(report).unwrap_or_default() + "\n"; // plain numbers always serialize
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => self.len += line.len() as u64,
            Err(source) => {
                // Half a line says nothing. If that cannot be undone either, the first error is the one that matters.
                let _ = self.file.set_len(self.len);
                return Err(ace_plus::Error::io(&self.path)(source).into());
            }
        }
        Ok(())
    }
}
