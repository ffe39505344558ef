//! One training step: gradients of a batch, clipping, the optimizer, the moving average. An [`Objective`] gives the loss,
//! the recipe says how long and how fast.

use super::{
    adamw8::AdamW8,
    group::{self, Alone, Group, Share},
    params::{self, Ema},
    recipe::{OptimizerRecipe, OptimizerState},
    stages::Stages,
};
use crate::{Error, plan::Extent};
use burn::{
    module::Module,
    optim::{AdamWConfig, GradientsParams, ModuleOptimizer},
    prelude::*,
    tensor::DType,
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What is learned: the loss of every micro-batch of every step. It depends on seed and step alone.
pub trait Objective: Sync {
    /// The module that learns.
    type Model: Module + Sync;
    /// Examples that are measured together: a part of the step's batch.
    type MicroBatch: Send;

    /// The micro-batches of a step, counted from 0; their weights sum to 1.
    ///
    /// # Errors
    /// If an example cannot be read.
    fn micro_batches(&mut self, step: u64) -> Result<Vec<Self::MicroBatch>, Error>;

    /// Those micro-batches of a step that belong to `share`, in their order.
    ///
    /// # Errors
    /// If an example cannot be read.
    fn share_of(&mut self, step: u64, share: Share) -> Result<Vec<Self::MicroBatch>, Error> {
        let all = self.micro_batches(step)?.into_iter().enumerate();
        Ok(all.filter(|(index, _)| share.has(*index)).map(|(_, one)| one).collect())
    }

    /// The loss of a micro-batch.
    fn loss(&self, model: &Self::Model, micro_batch: Self::MicroBatch) -> Loss;

    /// What the examples were so far, if it is known.
    fn extent(&self) -> Option<Extent> {
        None
    }

    /// Loss and gradients of a micro-batch. Several threads may ask at the same time.
    fn measure(&self, model: &Self::Model, micro_batch: Self::MicroBatch) -> Measured {
        // Graphs that share a parameter share its lock, and would wait for each other. So every micro-batch has
        // parameters of its own; they share their memory with the model's.
        let own = model.valid().train();
        Measured::of(self.loss(&own, micro_batch), &own)
    }
}

/// The loss of one micro-batch.
pub struct Loss {
    /// Mean loss of the micro-batch, `[1]`, with a graph.
    pub value: Tensor<1>,
    /// The micro-batch's share of the step.
    pub weight: f64,
    /// Figures for the log: `(name, sum, weight)`. Over a step the sums and the weights are added up and divided.
    pub figures: Vec<(&'static str, f32, f32)>,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean loss of the batch.
    pub loss: f32,
    /// L2 norm of all gradients before clipping.
    pub grad_norm: f32,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Means of the objective's figures, by name.
    pub figures: BTreeMap<String, f32>,
}

/// A module that learns, with everything that the next step needs.
pub struct Trainer<M: Module> {
    /// The module, on a device with gradients.
    pub model: M,
    /// AdamW over the parameters that require gradients.
    pub optimizer: ModuleOptimizer,
    /// Moving average, if the recipe wants one.
    pub ema: Option<Ema>,
    /// Steps done.
    pub step: u64,
    /// Where the time of the last step went.
    pub stages: Stages,
    recipe: OptimizerRecipe,
}

/// AdamW as the recipe says.
pub(super) fn optimizer(recipe: &OptimizerRecipe) -> ModuleOptimizer {
    const EPSILON: f32 = 1e-8;
    match recipe.state {
        OptimizerState::F32 => {
            AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(recipe.weight_decay as f32).init()
        }
        OptimizerState::EightBit => {
            let (epsilon, weight_decay) = (f64::from(EPSILON), recipe.weight_decay);
            AdamW8 { beta_1: 0.9, beta_2: 0.999, epsilon, weight_decay }.into()
        }
    }
}

impl<M: Module + Sync> Trainer<M> {
    /// Starts learning; parameters of `model` that require gradients are those that learn.
    pub fn new(model: M, recipe: &OptimizerRecipe) -> Self {
        let model = params::stable_ids(model);
        let optimizer = optimizer(recipe);
        let ema = recipe.ema.map(|decay| Ema::new(&model, decay));
        Self { model, optimizer, ema, step: 0, stages: Stages::default(), recipe: recipe.clone() }
    }

    /// One optimizer step of a process that is alone. `workers` threads measure micro-batches at the same time. Their
    /// gradients are added up in the order of the micro-batches, so the number of threads changes no bit of the result.
    ///
    /// # Errors
    /// If an example cannot be read, or loss or gradients are no finite numbers; the model is then as before.
    pub fn step<O: Objective<Model = M>>(&mut self, objective: &mut O, workers: usize) -> Result<StepReport, Error> {
        self.step_in(&Alone, objective, workers)
    }

    /// As [`Trainer::step`], together with the other ranks of `group`: each measures its share of the micro-batches. With
    /// [`Reduce::Exact`](super::recipe::Reduce::Exact) the number of ranks changes no bit of the result.
    ///
    /// # Errors
    /// As [`Trainer::step`], on all ranks if it is so on one.
    pub fn step_in<O: Objective<Model = M>>(
        &mut self,
        group: &dyn Group,
        objective: &mut O,
        workers: usize,
    ) -> Result<StepReport, Error> {
        let mut stages = Stages::default();
        let begin = Instant::now();
        let micro_batches = objective.share_of(self.step, Share::of(group));
        stages.data = begin.elapsed();
        let measured = micro_batches.map(|some| measure(&self.model, objective, some, workers, &mut stages));
        let begin = Instant::now();
        let group::Sum { loss, figures, grads } = group::sum(group, self.recipe.reduce, &self.model, measured)?;
        let (step, loss) = (self.step + 1, loss as f32);
        // The sums are the same on all ranks, and so is this.
        let diverged = |what, value| group::agree(group, Err(Error::Diverged { step, what, value }));
        if !loss.is_finite() {
            return diverged("loss", loss);
        }
        let (grads, grad_norm) = params::clip_global_norm(&self.model, grads, self.recipe.clip_norm);
        if !grad_norm.is_finite() {
            return diverged("gradient norm", grad_norm);
        }
        let learning_rate = self.recipe.learning_rate_at(self.step);
        self.model = self.optimizer.step(learning_rate, self.model.clone(), grads);
        self.step += 1;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.model, self.step);
        }
        let figures = figures
            .into_iter()
            .filter(|(_, (_, weight))| *weight > 0.0)
            .map(|(name, (value, weight))| (name, value / weight))
            .collect();
        stages.optimizer = begin.elapsed();
        self.stages = stages;
        Ok(StepReport { step: self.step, loss, grad_norm, learning_rate, figures })
    }

    /// The module to use: averaged if there is an average, without gradients.
    pub fn result(&self) -> M {
        let plain = self.model.valid();
        match &self.ema {
            Some(ema) => ema.apply(plain),
            None => plain,
        }
    }
}

/// Measures micro-batches with `workers` threads; the answers are in their order.
fn measure<O: Objective>(
    model: &O::Model,
    objective: &O,
    micro_batches: Vec<O::MicroBatch>,
    workers: usize,
    stages: &mut Stages,
) -> Vec<Measured> {
    let begin = Instant::now();
    let micro_batches: Vec<_> = micro_batches.into_iter().map(|one| Mutex::new(Some(one))).collect();
    let results: Vec<_> = micro_batches.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = micro_batches.get(index) else { break };
            // Only the thread that took this number looks into the slot: it is neither locked nor empty.
            if let (Some(micro_batch), Ok(mut result)) = (take(slot), results[index].lock()) {
                let begin = Instant::now();
                let measured = objective.measure(model, micro_batch);
                let forward = measured.known_at.saturating_duration_since(begin);
                *result = Some((measured, forward, begin.elapsed().saturating_sub(forward)));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(micro_batches.len()) {
            scope.spawn(work);
        }
        work();
    });
    let results: Vec<(Measured, Duration, Duration)> = results.iter().filter_map(take).collect();
    let forward = results.iter().map(|(_, forward, _)| *forward).sum();
    let backward = results.iter().map(|(_, _, backward)| *backward).sum();
    stages.measured(begin, forward, backward);
    results.into_iter().map(|(measured, ..)| measured).collect()
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().ok().and_then(|mut content| content.take())
}

/// What one micro-batch adds to a step.
pub struct Measured {
    /// Its loss times its weight.
    pub loss: f64,
    /// Gradients of that product.
    pub grads: GradientsParams,
    /// As [`Loss::figures`].
    pub figures: Vec<(&'static str, f32, f32)>,
    /// When the loss was known, and the way back began.
    pub known_at: Instant,
}

impl Measured {
    /// Loss and gradients of one graph over everything.
    pub fn of<M: Module>(loss: Loss, model: &M) -> Self {
        // Read before the graph is consumed.
        let value = f64::from(loss.value.clone().inner().into_scalar::<f32>());
        let known_at = Instant::now();
        let mut grads = (loss.value.cast(DType::F32) * loss.weight).backward();
        Self {
            loss: value * loss.weight,
            grads: GradientsParams::from_module(&mut grads, model),
            figures: loss.figures,
            known_at,
        }
    }
}
