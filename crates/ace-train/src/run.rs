//! A whole run: from a recipe to weights, with a log, previews and checkpoints on the way.

use crate::{
    Error,
    autoencoder::{self, AutoEncoderObjective},
    batch::Encoder,
    example::{Dataset, Example, Manifest},
    flow::{FlowObjective, Networks},
    networks::{self, Start},
    preview,
    recipe::{Network, Recipe},
    shapes::{Split, Task, World},
    state,
    trainer::{Objective, StepReport, Trainer},
};
use ace_nn::{autoencoder::AutoEncoder, clip, flux, t5};
use ace_plus::{Ace, Card, text::Tokenizers, unit};
use burn::{module::Module, prelude::*, tensor::FloatDType};
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
    /// Folder for everything that the run writes.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// Steps instead of the recipe's.
    pub steps: Option<u64>,
    /// Examples per step instead of the recipe's.
    pub batch: Option<usize>,
    /// Parts of a step that are measured at once: the cores of a CPU, 1 on a GPU.
    pub workers: usize,
}

/// What a run tells its observer.
#[derive(Debug, Clone)]
pub enum Report {
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
        /// Parameters in all.
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
    /// The observer stopped it; a checkpoint was written.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Who is told about progress; answers whether to go on.
pub type Observer<'a> = &'a mut dyn FnMut(Report) -> bool;

/// Trains as the recipe says, on `device` (without gradients; the run adds them where it needs them).
///
/// # Errors
/// If recipe, card, weights, data or output folder are unusable, if `out` holds a run and `resume` is not set, or if
/// the loss diverges.
pub fn train(options: &RunOptions, device: &Device, observer: Observer<'_>) -> Result<Outcome, Error> {
    let run = Run::open(options, device)?;
    if run.recipe.trains(Network::AutoEncoder) { run.autoencoder(observer) } else { run.flow(observer) }
}

/// What every kind of run needs.
struct Run<'a> {
    options: &'a RunOptions,
    recipe: Recipe,
    card: Card,
    card_folder: PathBuf,
    weights: Vec<PathBuf>,
    data: Box<dyn Dataset>,
    device: &'a Device,
}

impl<'a> Run<'a> {
    fn open(options: &'a RunOptions, device: &'a Device) -> Result<Self, Error> {
        let mut recipe = Recipe::load(&options.recipe)?;
        recipe.optimizer.steps = options.steps.unwrap_or(recipe.optimizer.steps);
        recipe.optimizer.batch = options.batch.unwrap_or(recipe.optimizer.batch);
        let folder = options.recipe.parent().unwrap_or(Path::new(""));
        let card_path = folder.join(&recipe.card);
        let card = Card::load(&card_path)?;
        let card_folder = if card_path.is_dir() { &card_path } else { card_path.parent().unwrap_or(folder) };
        let card_folder = card_folder.to_owned();
        let weights = match recipe.weights.is_empty() {
            true => vec![card_folder.clone()],
            false => recipe.weights.iter().map(|weights| folder.join(weights)).collect(),
        };
        let data = open_data(&recipe, folder, &options.recipe)?;
        if !options.resume
            && let Some(checkpoint) = state::newest(&options.out)?
        {
            return Err(Error::state(
                &checkpoint,
                "a run is already here",
                "add --resume to go on with it, or choose another --out",
            ));
        }
        fs::create_dir_all(&options.out).map_err(ace_plus::Error::io(&options.out))?;
        Ok(Self { options, recipe, card, card_folder, weights, data, device })
    }

    fn start(&self) -> Start<'_> {
        Start { recipe: &self.recipe, card: &self.card, weights: &self.weights }
    }

    /// Tokenizers stand beside the card, even when the run starts from other weights.
    fn tokenizers(&self) -> Result<Tokenizers, Error> {
        Ok(Tokenizers::load(&self.card, &self.card_folder)?)
    }

    fn note(&self) -> String {
        format!("{}, {} steps", self.recipe.name, self.recipe.optimizer.steps)
    }

    fn autoencoder(&self, observer: Observer<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let mut model = self.start().autoencoder(&learning)?;
        if self.recipe.autoencoder.as_ref().is_some_and(|section| section.decoder_only) {
            model.encoder = model.encoder.no_grad();
        }
        let mut trainer = Trainer::new(model, &self.recipe.optimizer);
        let mut objective = AutoEncoderObjective::new(&self.recipe, self.data.as_ref(), &self.card, &learning)?;
        let examples = self.previews()?;
        let stopped = self.turn(&mut trainer, &mut objective, observer, &mut |model: &AutoEncoder| {
            let rows = examples.iter().map(|example| {
                let planes = autoencoder::pictures(example, &self.card.canvas)?;
                let decode = |plane| unit::download(model.decode(model.encode(unit::upload(plane, self.device))));
                Ok(planes.iter().flat_map(|plane| [plane.to_rgb(), decode(plane).to_rgb()]).collect())
            });
            Ok(preview::sheet(&rows.collect::<Result<Vec<Vec<_>>, Error>>()?))
        })?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let model = trainer.result();
        let (shift_factor, scaling_factor) = self.measure(&model)?;
        observer(Report::Measured { shift_factor, scaling_factor });
        let file = self.card.weights.autoencoder.first();
        let keys = &ace_nn::autoencoder::keys::BFL;
        let weights = networks::write(&self.options.out, file, &model, keys, &self.note())?;
        Ok(Outcome::Finished { step: trainer.step, weights: vec![weights] })
    }

    /// Mean and one over the standard deviation of raw latents, on answers.
    fn measure(&self, model: &AutoEncoder) -> Result<(f32, f32), Error> {
        let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0.0f64);
        for index in 0..64 {
            let plane = autoencoder::pictures(&self.data.example(index)?, &self.card.canvas)?.swap_remove(0);
            let (mean, _) = model.encode_posterior(unit::upload(&plane, self.device));
            for value in mean.into_data().convert::<f32>().iter::<f32>() {
                sum += f64::from(value);
                squares += f64::from(value).powi(2);
                count += 1.0;
            }
        }
        let mean = sum / count;
        Ok((mean as f32, (squares / count - mean * mean).sqrt().recip() as f32))
    }

    fn flow(&self, observer: Observer<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let start = self.start();
        let (t5, clip) = start.text(&learning)?;
        let text_learns = self.recipe.trains(Network::T5) || self.recipe.trains(Network::Clip);
        let freeze = |network| !self.recipe.trains(network);
        let model = Networks {
            flux: start.flux(&learning)?,
            t5: if freeze(Network::T5) { t5.no_grad() } else { t5 },
            clip: if freeze(Network::Clip) { clip.no_grad() } else { clip },
        };
        let encoder = Encoder {
            card: self.card.clone(),
            autoencoder: start.autoencoder(self.device)?,
            tokenizers: self.tokenizers()?,
            text: if text_learns { None } else { Some(start.text(self.device)?) },
            device: self.device.clone(),
        };
        let mut trainer = Trainer::new(model, &self.recipe.optimizer);
        let mut objective = FlowObjective::new(&self.recipe, self.data.as_ref(), &encoder, &learning);
        let examples = self.previews()?;
        let stopped = self.turn(&mut trainer, &mut objective, observer, &mut |model: &Networks| {
            let ace = self.ace(model, &encoder)?;
            let rows = examples.iter().map(|example| preview::row(&ace, example));
            Ok(preview::sheet(&rows.collect::<Result<Vec<_>, Error>>()?))
        })?;
        if stopped {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        let weights = self.write(&trainer.result())?;
        Ok(Outcome::Finished { step: trainer.step, weights })
    }

    /// Writes what was learned, under the card's names.
    fn write(&self, model: &Networks) -> Result<Vec<PathBuf>, Error> {
        let (out, files, note) = (&self.options.out, &self.card.weights, self.note());
        if let Some(lora) = &self.recipe.lora {
            return Ok(vec![networks::write_lora(out, &self.recipe.name, &model.flux, lora.alpha, &note)?]);
        }
        let mut written = Vec::new();
        if self.recipe.trains(Network::Flux) {
            written.push(networks::write(out, files.flux.first(), &model.flux, &flux::keys::BFL, &note)?);
        }
        if self.recipe.trains(Network::T5) {
            written.push(networks::write(out, files.t5.first(), &model.t5, &t5::keys::TRANSFORMERS, &note)?);
        }
        if self.recipe.trains(Network::Clip) {
            written.push(networks::write(out, files.clip.first(), &model.clip, &clip::keys::TRANSFORMERS, &note)?);
        }
        Ok(written)
    }

    /// The model as `sample` would have it.
    fn ace(&self, model: &Networks, encoder: &Encoder) -> Result<Ace, Error> {
        Ok(Ace {
            card: self.card.clone(),
            flux: model.flux.clone(),
            autoencoder: encoder.autoencoder.clone(),
            t5: model.t5.clone(),
            clip: model.clip.clone(),
            tokenizers: self.tokenizers()?,
            dtype: FloatDType::F32,
            device: self.device.clone(),
        })
    }

    /// The examples that previews show.
    fn previews(&self) -> Result<Vec<Example>, Error> {
        const ROWS: u64 = 6;
        (0..ROWS).map(|index| Ok(self.data.example(index)?)).collect()
    }

    /// The loop: steps, log, previews, checkpoints. Answers whether the observer stopped it.
    fn turn<O: Objective>(
        &self,
        trainer: &mut Trainer<O::Model>,
        objective: &mut O,
        observer: Observer<'_>,
        draw: &mut dyn FnMut(&O::Model) -> Result<RgbImage, Error>,
    ) -> Result<bool, Error> {
        let (recipe, out) = (&self.recipe, &self.options.out);
        if self.options.resume
            && let Some(checkpoint) = state::newest(out)?
        {
            state::resume(&checkpoint, trainer, recipe)?;
        }
        let mut log = Log::open(&out.join("log.jsonl"), trainer.step)?;
        let steps = recipe.optimizer.steps;
        let learned = crate::params::count_learned(&trainer.model);
        let parameters = trainer.model.num_params();
        let mut go_on = observer(Report::Started {
            name: recipe.name.clone(),
            steps,
            resumed_at: trainer.step,
            learned,
            parameters,
        });
        while go_on && trainer.step < steps {
            let report = trainer.step(objective, self.options.workers)?;
            let step = report.step;
            if step.is_multiple_of(recipe.log_every) || step == steps {
                log.write(&report)?;
            }
            go_on = observer(Report::Step(report));
            if recipe.preview_every > 0 && (step.is_multiple_of(recipe.preview_every) || step == steps) {
                let path = out.join(format!("preview-{step:06}.png"));
                let picture = draw(&trainer.result())?;
                ace_plus::picture::write_png(&path, &picture)?;
                go_on &= observer(Report::Preview { step, path });
            }
            if step.is_multiple_of(recipe.save_every) || step == steps || !go_on {
                let path = state::save(out, trainer, recipe)?;
                go_on &= observer(Report::Saved { step, path });
            }
        }
        Ok(trainer.step < steps)
    }
}

/// The world or the manifest that a recipe names.
fn open_data(recipe: &Recipe, folder: &Path, path: &Path) -> Result<Box<dyn Dataset>, Error> {
    if let Some(manifest) = &recipe.data.manifest {
        return Ok(Box::new(Manifest::open(folder.join(manifest))?));
    }
    let tasks = match recipe.data.tasks.is_empty() {
        true => Task::ALL.to_vec(),
        false => {
            let find = |name: &String| {
                let known = || Task::ALL.iter().map(|task| task.name()).collect::<Vec<_>>().join(", ");
                Task::from_name(name)
                    .ok_or_else(|| Error::recipe(path, format!("there is no task {name:?}; the world has {}", known())))
            };
            recipe.data.tasks.iter().map(find).collect::<Result<Vec<_>, _>>()?
        }
    };
    Ok(Box::new(World::new(recipe.data.world.unwrap_or_default(), &tasks, Split::Train)?))
}

/// JSON lines, one per logged step. A resumed run drops the lines that its checkpoint had not seen yet.
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
        ace_plus::checkpoint::write_atomically(path, kept.as_bytes())?;
        let file = fs::OpenOptions::new().append(true).open(path).map_err(io())?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn write(&mut self, report: &StepReport) -> Result<(), Error> {
        let line = serde_json::to_string(report).unwrap_or_default(); // plain numbers always serialize
        Ok(writeln!(self.file, "{line}").map_err(ace_plus::Error::io(&self.path))?)
    }
}
