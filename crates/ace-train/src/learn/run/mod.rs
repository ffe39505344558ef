//! A whole run: from a recipe to weights, with a log, previews and checkpoints on the way.

mod encoders;

use super::{
    emphasis::Emphasis,
    events::{Outcome, RunEvent, RunObserver, RunOptions},
    flow::{FlowObjective, TrainedNetworks},
    group::{self, Alone, Group, Share},
    log::Log,
    params,
    recipe::{NetworkName, Recipe, ValidationRecipe},
    results,
    source::{beside, open_data, open_manifest, open_world},
    start::Start,
    state::{self, Checkpoint, Damage, Kept, Standing},
    trainer::{Objective, Trainer},
    validation::{Validation, ValidationReport},
};
use crate::{
    Error,
    data::{
        Cache, Notices, OnBadExample, Supply,
        example::{Dataset, Example},
        shapes::Split,
        skipping::Skipping,
    },
    error::{RecipeProblem, StateProblem},
    judge::{preview::Previews, sheet},
};
use ace_nn::flux::Own;
use burn::{module::Module, prelude::*};
use image::RgbImage;
use std::{
    fs,
    path::{Path, PathBuf},
};

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

/// As [`train_from`], together with the other ranks of `group`, which were asked for the same. Rank 0 writes. All stop if one
/// observer wants to.
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
    let start = &start.clone().adjusted(&options.recipe()?);
    let run = group::agree(group, Run::open(group, start, options, device))?;
    // A recipe came from text and goes back to it.
    group::same(group, "the recipe", || serde_json::to_vec(&run.recipe).unwrap_or_default())?;
    group::same(group, "the newest checkpoint", || run.resumed_at().to_le_bytes().to_vec())?;
    group::lead(group, || Ok(fs::create_dir_all(&options.out).map_err(ace_plus::Error::io(&options.out))?))?;
    match &run.recipe {
        recipe if recipe.trains(NetworkName::AutoEncoder) => run.autoencoder(observer),
        recipe if recipe.reading => run.reading(observer),
        _ => run.flow(observer),
    }
}

/// Measures a model on held-out examples after a step, if there are any.
type Measure<'a, O> = &'a mut dyn FnMut(&O, &<O as Objective>::Model, u64) -> Result<Option<ValidationReport>, Error>;

/// What every kind of run needs.
struct Run<'a> {
    group: &'a dyn Group,
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

/// What is there before the transformer is.
struct Prepared<'a> {
    objective: FlowObjective<'a>,
    validation: Option<Validation>,
    /// Only where they are drawn.
    previews: Option<Previews>,
    /// Held-out examples that are edited before and after.
    judged: Option<Previews>,
    /// Whether the encoders must go before the transformer comes.
    is_large: bool,
}

impl<'a> Run<'a> {
    fn open(
        group: &'a dyn Group,
        start: &'a Start,
        options: &'a RunOptions,
        device: &'a Device,
    ) -> Result<Self, Error> {
        let recipe = options.recipe()?;
        let problem = |problem| Error::recipe(&options.recipe, problem);
        Emphasis::check(recipe.loss, start.card()).map_err(problem)?;
        start.check_lora(&recipe, &options.recipe, device)?;
        let data = open_data(&recipe, &options.recipe)?;
        if let (Some(section), Some(of)) = (&recipe.validation, data.len().map(|len| len as u64))
            && section.manifest.is_none()
            && section.examples >= of
        {
            return Err(problem(RecipeProblem::NothingButHeldOut { examples: section.examples, of }));
        }
        let (checkpoint, damages) = Checkpoint::newest(&options.out)?;
        match &checkpoint {
            Some(checkpoint) if options.resume => checkpoint.check(&recipe)?,
            Some(checkpoint) => return Err(Error::state(&checkpoint.path, StateProblem::RunExists)),
            None => {}
        }
        let notices = Notices::default();
        // The transformer's examples may turn out bad when they are encoded; there it is the supply that skips.
        let data = match (recipe.data.on_bad_example, recipe.trains(NetworkName::AutoEncoder)) {
            (OnBadExample::Skip, true) => Box::new(Skipping::new(data, notices.clone())),
            _ => data,
        };
        Ok(Self { group, start, options, recipe, data, checkpoint, damages, device, notices })
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

    fn flow(&self, observer: RunObserver<'_>) -> Result<Outcome, Error> {
        let learning = self.device.clone().autodiff();
        let (recipe, start, group) = (&self.recipe, self.start, self.group);
        let stopped = Ok(Outcome::Stopped { step: self.resumed_at() });
        let prepared = group::agree(group, self.prepare(&learning, observer))?;
        let go_on = group::all(group, Ok(prepared.is_some()))?;
        let Some(prepared) = prepared.filter(|_| go_on) else { return stopped };
        let Prepared { mut objective, validation, mut previews, judged, is_large } = prepared;
        // Without an end to the examples there is no encoding all of them.
        if objective.pool().is_some() && is_large {
            // Each rank encodes its share. Then it reads what the others have encoded.
            let own = Some(Share::of(group)).filter(|share| *share != Share::ALL);
            for share in own.into_iter().chain([Share::ALL]) {
                let steps = self.resumed_at()..recipe.optimizer.steps;
                let tell = &mut |done: u64, of: u64| self.tell(observer) & observer(RunEvent::Encoding { done, of });
                if !group::all(group, objective.encode_ahead(steps, share, tell))? {
                    return stopped;
                }
            }
        }
        let blocks = group::agree(group, start.blocks(recipe, self.device))?;
        if let Some(blocks) = &blocks {
            objective = objective.with_blocks(Box::new(blocks.clone()));
        }
        let mut trainer = Trainer::new(group::agree(group, start.trained(recipe, &learning))?, &recipe.optimizer);
        let dtype = start.flux_dtype(recipe);
        let edit = |previews: &Previews, model: &TrainedNetworks| match &blocks {
            None => previews.outputs(&model.flux, &mut Own, model.text(), dtype),
            Some(blocks) => previews.outputs(&model.flux, &mut blocks.clone(), model.text(), dtype),
        };
        let judge = |model: &TrainedNetworks, step, observer: RunObserver<'_>| {
            let Some(judged) = &judged else { return Ok(true) };
            let score = judged.score(&edit(judged, model)?);
            Ok::<_, Error>(observer(RunEvent::Judged { step, score }))
        };
        // A run that goes on has not restored yet what it learned before: this is the model that it started from.
        let base = trainer.result();
        let go_on = judge(&base, 0, observer).and_then(|go_on| {
            if let (Some(some), Some(_)) = (previews.take(), &recipe.lora) {
                let outputs = edit(&some, &base)?;
                previews = Some(some.beside(outputs));
            }
            Ok(go_on)
        });
        if !group::all(group, go_on)? {
            return stopped;
        }
        drop(base);
        let mut draw = |model: &TrainedNetworks| match &previews {
            None => Ok(sheet::sheet(&[])),
            Some(previews) => Ok(previews.sheet(edit(previews, model)?)),
        };
        let mut measure = |objective: &FlowObjective<'_>, model: &TrainedNetworks, step| {
            validation.as_ref().map(|validation| validation.measure(objective, model, step)).transpose()
        };
        if self.turn(&mut trainer, &mut objective, observer, &mut draw, &mut measure)? {
            return Ok(Outcome::Stopped { step: trainer.step });
        }
        // Whether the observer wants more does not matter any longer.
        group::all(group, judge(&trainer.result(), trainer.step, observer))?;
        let weights = group::lead(group, || {
            results::write(&self.options.out, start.card(), recipe, &trainer.result(), &self.note())
        })?;
        Ok(Outcome::Finished { step: trainer.step, weights: weights.unwrap_or_default() })
    }

    /// What the transformer learns from, and all else that must be encoded before it is loaded. `None` if the observer stopped
    /// it.
    fn prepare(&self, learning: &Device, observer: RunObserver<'_>) -> Result<Option<Prepared<'_>>, Error> {
        let (recipe, start) = (&self.recipe, self.start);
        let is_large = start.encoder_bytes(recipe)? > start.encoder_budget;
        let mut supply = self.supply(self.data.as_ref())?;
        let mut tell =
            |done: u64, of: u64| self.tell(observer) & (!is_large || observer(RunEvent::Encoding { done, of }));
        let previews = match recipe.preview_every > 0 && self.leads() {
            false => None,
            true => match self.previews(&mut supply, self.preview_examples()?, &mut tell)? {
                Some(previews) => Some(previews),
                None => return Ok(None),
            },
        };
        let judged = match recipe.judge.filter(|_| self.leads()) {
            None => None,
            Some(section) => match self.judged(section.examples, &mut tell)? {
                Some(judged) => Some(judged),
                None => return Ok(None),
            },
        };
        let validation = match &recipe.validation {
            None => None,
            Some(section) => match self.validation(section, &mut supply, &mut tell)? {
                Some(validation) => Some(validation),
                None => return Ok(None),
            },
        };
        let objective = FlowObjective::of(recipe, supply, start.flux_dtype(recipe), learning)?;
        Ok(Some(Prepared { objective, validation, previews, judged, is_large }))
    }

    /// What is measured on held-out examples: a dataset of their own, or else a part of what is learned from. `None` if
    /// `tell` wants no more.
    fn validation(
        &self,
        section: &ValidationRecipe,
        supply: &mut Supply<'_>,
        tell: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Validation>, Error> {
        let data: Box<dyn Dataset> = match (&section.manifest, self.data.len()) {
            (Some(manifest), _) => open_manifest(&self.recipe, &beside(&self.options.recipe).join(manifest))?,
            (None, Some(len)) => {
                let indices = self.recipe.learned_of(len as u64)..len as u64;
                return Validation::take(section, &self.recipe, supply, indices, tell);
            }
            (None, None) => Box::new(open_world(&self.recipe, &self.options.recipe, Split::HeldOut)?),
        };
        let count = data.len().map_or(section.examples, |len| section.examples.min(len as u64));
        let mut own = self.supply(data.as_ref())?;
        Validation::take(section, &self.recipe, &mut own, 0..count, tell)
    }

    /// Which checkpoints stay.
    fn kept(&self) -> Kept {
        let section = &self.recipe.checkpoints;
        let validation = self.recipe.validation.as_ref();
        let stops = validation.is_some_and(|validation| validation.early_stop.is_some());
        Kept { last: section.keep, best: stops || section.best.unwrap_or(validation.is_some()) }
    }

    /// Held-out examples of the world to be edited; `None` if `tell` broke off.
    fn judged(&self, count: u64, tell: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<Previews>, Error> {
        let world = open_world(&self.recipe, &self.options.recipe, Split::HeldOut)?;
        let examples = (0..count).map(|index| Ok((index, world.example(index)?))).collect::<Result<_, Error>>()?;
        self.previews(&mut self.supply(&world)?, examples, tell)
    }

    /// Edits of those examples that can be used; `None` if `tell` broke off.
    fn previews(
        &self,
        supply: &mut Supply<'_>,
        examples: Vec<(u64, Example)>,
        tell: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Previews>, Error> {
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

    /// The examples of `data` as the transformer sees them, with what is kept of them.
    fn supply<'b>(&'b self, data: &'b dyn Dataset) -> Result<Supply<'b>, Error> {
        let (recipe, notices) = (&self.recipe, || self.notices.clone());
        let supply = self.start.supply(recipe, data, self.device)?.on_bad(recipe.data.on_bad_example, notices());
        match supply.pool() {
            Some(_) => Ok(supply.cached(Cache::new(self.cache_folder(), self.start.digests(recipe)?, notices()))),
            None => Ok(supply),
        }
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
        measure: Measure<'_, O>,
    ) -> Result<bool, Error> {
        let (recipe, out, group) = (&self.recipe, &self.options.out, self.group);
        let mut standing = Standing::default();
        if let Some(checkpoint) = &self.checkpoint {
            let restored = checkpoint.restore(trainer).and_then(|()| checkpoint.standing());
            standing = group::agree(group, restored)?;
        }
        let mut log = group::lead(group, || Log::open(&out.join("log.jsonl"), trainer.step))?;
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
        // Where the loss begins.
        if trainer.step == 0
            && let Some(report) = group::lead(group, || measure(objective, &trainer.result(), 0))?.flatten()
        {
            log.as_mut().map_or(Ok(()), |log| log.write(&report))?;
            go_on &= observer(RunEvent::Validated(report));
        }
        go_on = group::all(group, Ok(go_on))?;
        let mut losses = Mean::default();
        while go_on && trainer.step < steps && !self.is_enough(&standing) {
            let report = trainer.step_in(group, objective, self.options.workers);
            let mut mine = self.tell(observer);
            let report = report?;
            let step = report.step;
            losses.add(report.loss);
            standing.score = None;
            // What a rank does alone, and may fail in alone.
            let tell = || {
                if let Some(log) = log.as_mut().filter(|_| step.is_multiple_of(recipe.log_every) || step == steps) {
                    log.write(&report)?;
                }
                mine &= observer(RunEvent::Timed(trainer.stages));
                mine &= observer(RunEvent::Step(report));
                if recipe.validation.as_ref().is_some_and(|section| step.is_multiple_of(section.every) || step == steps)
                    && let Some(report) = measure(objective, &trainer.result(), step)?
                {
                    self.compare(&mut standing, &report);
                    log.as_mut().map_or(Ok(()), |log| log.write(&report))?;
                    mine &= observer(RunEvent::Validated(report));
                }
                if self.leads()
                    && recipe.preview_every > 0
                    && (step.is_multiple_of(recipe.preview_every) || step == steps)
                {
                    let path = out.join(format!("preview-{step:06}.png"));
                    let picture = draw(&trainer.result())?;
                    ace_plus::picture::write_png(&path, &picture)?;
                    mine &= observer(RunEvent::Preview { step, path });
                }
                Ok(mine)
            };
            go_on = group::all(group, tell())?;
            // The best one can be kept only if it was written.
            let is_best = standing.score.is_some() && standing.since == 0;
            let is_last = step == steps || self.is_enough(&standing);
            if step.is_multiple_of(recipe.save_every) || is_best || is_last || !go_on {
                if recipe.validation.is_none() {
                    standing.score = std::mem::take(&mut losses).value();
                }
                group::same(group, "what was learned", || params::fingerprint(&trainer.model).to_le_bytes().to_vec())?;
                let saved = group::lead(group, || state::save(out, trainer, recipe, standing, self.kept()))?;
                let mine = saved.is_none_or(|path| observer(RunEvent::Saved { step, path }));
                go_on &= group::all(group, Ok(mine))?;
            }
        }
        if let Some(extent) = objective.extent() {
            observer(RunEvent::Extent(extent));
        }
        if self.is_enough(&standing) {
            if let Some((best, validation)) = group::agree(group, Checkpoint::best(out))? {
                observer(RunEvent::StoppedEarly { step: trainer.step, best: best.step, validation });
                group::agree(group, best.restore(trainer))?;
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
