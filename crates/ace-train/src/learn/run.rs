//! A whole run: from a recipe to weights, with a log, previews and checkpoints on the way.

use super::{
    autoencoder::AutoEncoderObjective,
    flow::{FlowObjective, TrainedNetworks},
    group::{self, Alone, Group},
    params,
    recipe::{NetworkName, Recipe},
    start::{self, Start},
    state::{self, Checkpoint},
    trainer::{Objective, StepReport, Trainer},
};
use crate::{
    Error,
    data::{
        example::{Dataset, Example, Manifest},
        shapes::{Split, World, WorldTask},
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
    /// A step is done.
    Step(StepReport),
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
    train_in(&Alone, start, options, device, observer)
}

/// As [`train_from`], together with the other ranks of `group`, which were asked for the same. Rank 0 writes; the others tell
/// their observers of steps alone. All stop if one observer wants to.
///
/// # Errors
/// As [`train`], on all ranks if it is so on one.
pub fn train_in(
    group: &dyn Group,
    start: &Start,
    options: &RunOptions,
    device: &Device,
    observer: RunObserver<'_>,
) -> Result<Outcome, Error> {
    let run = Run::open(group, start, options, device)?;
    if run.recipe.trains(NetworkName::AutoEncoder) { run.autoencoder(observer) } else { run.flow(observer) }
}

/// What every kind of run needs.
struct Run<'a> {
    group: &'a dyn Group,
    start: &'a Start,
    options: &'a RunOptions,
    recipe: Recipe,
    data: Box<dyn Dataset>,
    /// Where it goes on.
    checkpoint: Option<Checkpoint>,
    device: &'a Device,
}

impl<'a> Run<'a> {
    fn open(
        group: &'a dyn Group,
        start: &'a Start,
        options: &'a RunOptions,
        device: &'a Device,
    ) -> Result<Self, Error> {
        let find = || {
            let recipe = options.recipe()?;
            let data = open_data(&recipe, &options.recipe)?;
            let checkpoint = Checkpoint::newest(&options.out)?;
            match &checkpoint {
                Some(checkpoint) if options.resume => checkpoint.check(&recipe)?,
                Some(checkpoint) => return Err(Error::state(&checkpoint.path, StateProblem::RunExists)),
                None => {}
            }
            Ok(Self { group, start, options, recipe, data, checkpoint, device })
        };
        let run = group::agree(group, find())?;
        // A recipe came from text and goes back to it.
        group::same(group, "the recipe", || serde_json::to_vec(&run.recipe).unwrap_or_default())?;
        group::same(group, "the newest checkpoint", || run.resumed_at().to_le_bytes().to_vec())?;
        let make = || Ok(fs::create_dir_all(&options.out).map_err(ace_plus::Error::io(&options.out))?);
        group::lead(group, make)?;
        Ok(run)
    }

    /// Whether this process writes what the run writes.
    fn leads(&self) -> bool {
        self.group.rank() == 0
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
        let mut model = group::agree(self.group, self.start.autoencoder(recipe, &learning))?;
        if recipe.autoencoder.as_ref().is_some_and(|section| section.decoder_only) {
            model.encoder = model.encoder.no_grad();
        }
        let mut trainer = Trainer::new(model, &recipe.optimizer);
        let mut objective = AutoEncoderObjective::new(recipe, self.data.as_ref(), card, &learning)?;
        let examples = group::lead(self.group, || self.preview_examples())?.unwrap_or_default();
        let stopped = self.turn(&mut trainer, &mut objective, observer, &mut |model: &AutoEncoder| {
            let rows = examples.iter().map(|example| {
                let planes = example.planes(&card.canvas)?;
                let decode = |plane| pixels::download(model.decode(model.encode(pixels::upload(plane, self.device))));
                Ok(planes.iter().flat_map(|plane| [plane.to_rgb(), decode(plane).to_rgb()]).collect())
            });
            Ok(preview::sheet(&rows.collect::<Result<Vec<Vec<_>>, Error>>()?))
        })?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let weights = group::lead(self.group, || {
            let model = trainer.result();
            let (shift_factor, scaling_factor) = self.measure(&model)?;
            observer(RunEvent::Measured { shift_factor, scaling_factor });
            let file = card.weights.autoencoder.first();
            start::write_network(&self.options.out, file, &model, Network::AutoEncoder, &self.note())
        })?;
        Ok(Outcome::Finished { step: trainer.step, weights: weights.into_iter().collect() })
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
        let prepare = || {
            let encoders = start.encoders(recipe, self.device)?;
            let is_large = encoders.bytes() > start.encoder_budget;
            let previews = match recipe.preview_every > 0 && self.leads() {
                true => Some(Previews::new(&encoders, self.preview_examples()?)?),
                false => None,
            };
            let objective = FlowObjective::new(recipe, self.data.as_ref(), encoders, dtype, &learning);
            Ok((is_large, previews, objective))
        };
        let (is_large, previews, mut objective) = group::agree(self.group, prepare())?;
        // Without an end to the examples there is no encoding all of them.
        if objective.pool().is_some() && is_large {
            let steps = self.resumed_at()..recipe.optimizer.steps;
            let tell = &mut |done: u64, of: u64| observer(RunEvent::Encoding { done, of });
            if !group::all(self.group, objective.encode_ahead(steps, tell))? {
                return Ok(Outcome::Stopped { step: self.resumed_at() });
            }
        }
        let model = group::agree(self.group, start.trained(recipe, &learning))?;
        let mut trainer = Trainer::new(model, &recipe.optimizer);
        let stopped =
            self.turn(&mut trainer, &mut objective, observer, &mut |model: &TrainedNetworks| match &previews {
                Some(previews) => previews.draw(&model.flux, model.text(), dtype),
                None => Ok(preview::sheet(&[])),
            })?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let weights = group::lead(self.group, || {
            start::write(&self.options.out, start.card(), recipe, &trainer.result(), &self.note())
        })?;
        Ok(Outcome::Finished { step: trainer.step, weights: weights.unwrap_or_default() })
    }

    /// The examples that previews show.
    fn preview_examples(&self) -> Result<Vec<Example>, Error> {
        const ROWS: u64 = 6;
        let rows = self.data.len().map_or(ROWS, |len| ROWS.min(len as u64));
        (0..rows).map(|index| Ok(self.data.example(index)?)).collect()
    }

    /// The loop: steps, log, previews, checkpoints. Answers whether an observer stopped it.
    fn turn<O: Objective>(
        &self,
        trainer: &mut Trainer<O::Model>,
        objective: &mut O,
        observer: RunObserver<'_>,
        draw: &mut dyn FnMut(&O::Model) -> Result<RgbImage, Error>,
    ) -> Result<bool, Error> {
        let (recipe, out, group) = (&self.recipe, &self.options.out, self.group);
        if let Some(checkpoint) = &self.checkpoint {
            group::agree(group, checkpoint.restore(trainer))?;
        }
        let mut log = group::lead(group, || Log::open(&out.join("log.jsonl"), trainer.step))?;
        let steps = recipe.optimizer.steps;
        let learned = params::count_learned(&trainer.model);
        let parameters = trainer.model.num_params();
        let started = observer(RunEvent::Started {
            name: recipe.name.clone(),
            steps,
            resumed_at: trainer.step,
            learned,
            parameters,
        });
        let mut go_on = group::all(group, Ok(started))?;
        while go_on && trainer.step < steps {
            let report = trainer.step_in(group, objective, self.options.workers)?;
            let step = report.step;
            let is_due = |every: u64| step.is_multiple_of(every) || step == steps;
            let tell = || {
                if let Some(log) = log.as_mut().filter(|_| is_due(recipe.log_every)) {
                    log.write(&report)?;
                }
                let mut go_on = observer(RunEvent::Step(report));
                if self.leads() && recipe.preview_every > 0 && is_due(recipe.preview_every) {
                    let path = out.join(format!("preview-{step:06}.png"));
                    let picture = draw(&trainer.result())?;
                    ace_plus::picture::write_png(&path, &picture)?;
                    go_on &= observer(RunEvent::Preview { step, path });
                }
                Ok(go_on)
            };
            go_on = group::all(group, tell())?;
            if is_due(recipe.save_every) || !go_on {
                group::same(group, "what was learned", || params::fingerprint(&trainer.model).to_le_bytes().to_vec())?;
                let saved = group::lead(group, || state::save(out, trainer, recipe))?;
                let wanted = saved.is_none_or(|path| observer(RunEvent::Saved { step, path }));
                go_on &= group::all(group, Ok(wanted))?;
            }
        }
        Ok(trainer.step < steps)
    }
}

/// The world or the manifest that the recipe at `path` names.
fn open_data(recipe: &Recipe, path: &Path) -> Result<Box<dyn Dataset>, Error> {
    if let Some(manifest) = &recipe.data.manifest {
        return Ok(Box::new(Manifest::open(path.parent().unwrap_or(Path::new("")).join(manifest))?));
    }
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
    Ok(Box::new(World::new(recipe.data.world.unwrap_or_default(), &tasks, Split::Train)?))
}

/// JSON lines, one per logged step. A resumed run removes the lines of steps after its checkpoint.
struct Log {
    path: PathBuf,
    file: fs::File,
}

impl Log {
    fn open(path: &Path, step: u64) -> Result<Self, Error> {
        let io = || ace_plus::Error::io(path);
        let kept: String = match fs::read_to_string(path) {
            Ok(text) if step > 0 => {
                let is_past =
                    |line: &&str| serde_json::from_str::<StepReport>(line).is_ok_and(|line| line.step <= step);
                text.lines().filter(is_past).flat_map(|line| [line, "\n"]).collect()
            }
            _ => String::new(),
        };
        ace_weights::replace::write(path, kept.as_bytes())?;
        let file = fs::OpenOptions::new().append(true).open(path).map_err(io())?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn write(&mut self, report: &StepReport) -> Result<(), Error> {
        let line = serde_json::to_string(report).unwrap_or_default(); // plain numbers always serialize
        Ok(writeln!(self.file, "{line}").map_err(ace_plus::Error::io(&self.path))?)
    }
}
