//! The gradients of a step, from those that every rank measured.

use super::{Failure, Group, Share, exchange};
use crate::{
    Error,
    learn::{recipe::Reduce, trainer::Measured},
};
use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsAccumulator, GradientsParams},
    prelude::*,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A whole step: what all its micro-batches add up to.
pub struct Sum {
    /// Mean loss.
    pub loss: f64,
    /// Sum and weight of every figure.
    pub figures: BTreeMap<String, (f32, f32)>,
    /// Gradients of the mean loss.
    pub grads: GradientsParams,
}

/// What all ranks know of a micro-batch. Numbers travel as their bits.
#[derive(Serialize, Deserialize)]
struct Part {
    loss: u64,
    figures: Vec<(String, u32, u32)>,
    /// Parameters that learn but have no gradient here, counted in the order of the module.
    absent: BTreeSet<usize>,
}

impl Part {
    fn of<M: Module>(measured: &Measured, model: &M) -> Self {
        let figures = measured.figures.iter();
        Self {
            loss: measured.loss.to_bits(),
            figures: figures
                .map(|(name, sum, weight)| (String::from(*name), sum.to_bits(), weight.to_bits()))
                .collect(),
            absent: absent(&measured.grads, model),
        }
    }
}

/// Adds up what the ranks measured: `mine` are the micro-batches of this one. The answer is the same on all ranks.
///
/// [`Reduce::Exact`] adds the gradients in the order of the step's micro-batches, whoever measured them, so that the number of
/// ranks changes no bit. [`Reduce::Fast`] adds them on every rank first.
///
/// # Errors
/// If a rank could not measure its share, or the ranks disagree on what the step is.
pub fn sum<M: Module>(
    group: &dyn Group,
    reduce: Reduce,
    model: &M,
    mine: Result<Vec<Measured>, Error>,
) -> Result<Sum, Error> {
    if group.size() == 1 {
        let mine = mine?;
        let parts: Vec<Part> = mine.iter().map(|one| Part::of(one, model)).collect();
        let (loss, figures) = total(parts.iter());
        return Ok(Sum { loss, figures, grads: in_order(model, mine.into_iter().map(|one| one.grads)) });
    }
    let word = mine.as_ref().map(|mine| mine.iter().map(|one| Part::of(one, model)).collect()).map_err(Failure::of);
    let shares: Vec<Vec<Part>> = exchange(group, &word)?;
    let mut mine: Vec<GradientsParams> = mine?.into_iter().map(|one| one.grads).collect();
    let count = shares.iter().map(Vec::len).sum();
    let size = group.size();
    if let Some(rank) = (0..size).find(|rank| shares[*rank].len() != Share { rank: *rank, size }.count(count)) {
        let message = "it has another share of the step than the other ranks left for it".to_owned();
        return Err(Error::Rank { rank, message, hint: Some("all processes need the same data".to_owned()) });
    }
    let parts = || (0..count).map(|index| &shares[index % size][index / size]);
    let (loss, figures) = total(parts());
    let grads = match reduce {
        Reduce::Exact => {
            let mut own = mine.drain(..);
            in_order(
                model,
                parts().enumerate().map(|(index, part)| {
                    let from = index % size;
                    let own = if from == group.rank() { own.next() } else { None };
                    travel(model, own, &part.absent, &mut |numbers| group.broadcast(from, numbers))
                }),
            )
        }
        Reduce::Fast => {
            let nowhere = parts().map(|part| part.absent.clone()).reduce(|a, b| &a & &b).unwrap_or_default();
            let own = in_order(model, mine.drain(..));
            travel(model, Some(own), &nowhere, &mut |numbers| group.sum(numbers))
        }
    };
    Ok(Sum { loss, figures, grads })
}

/// Losses and figures of all parts, in their order.
fn total<'a>(parts: impl Iterator<Item = &'a Part>) -> (f64, BTreeMap<String, (f32, f32)>) {
    let mut loss = 0.0;
    let mut figures: BTreeMap<String, (f32, f32)> = BTreeMap::new();
    for part in parts {
        loss += f64::from_bits(part.loss);
        for (name, sum, weight) in &part.figures {
            let entry = figures.entry(name.clone()).or_default();
            *entry = (entry.0 + f32::from_bits(*sum), entry.1 + f32::from_bits(*weight));
        }
    }
    (loss, figures)
}

fn in_order<M: Module>(model: &M, parts: impl Iterator<Item = GradientsParams>) -> GradientsParams {
    let mut sum = GradientsAccumulator::new();
    parts.for_each(|part| sum.accumulate(model, part));
    sum.grads()
}

fn absent<M: Module>(grads: &GradientsParams, model: &M) -> BTreeSet<usize> {
    struct Walk<'a> {
        grads: &'a GradientsParams,
        position: usize,
        absent: BTreeSet<usize>,
    }
    impl ModuleVisitor for Walk<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.val().is_require_grad() {
                if self.grads.get::<D>(param.id).is_none() {
                    self.absent.insert(self.position);
                }
                self.position += 1;
            }
        }
    }
    let mut walk = Walk { grads, position: 0, absent: BTreeSet::new() };
    model.visit(&mut walk);
    walk.absent
}

/// Numbers that travel together, 16 MiB: every exchange waits for all ranks, and most parameters are small.
const LOAD: usize = 1 << 22;

/// Sends gradients on their way in the order of the module's parameters, a load after the other, so that no more than a load is
/// held twice. Where this rank has none, zeros go. What is frozen does not travel, nor what is `absent`.
fn travel<M: Module>(
    model: &M,
    own: Option<GradientsParams>,
    absent: &BTreeSet<usize>,
    send: &mut dyn FnMut(&mut [f32]),
) -> GradientsParams {
    /// Takes one parameter's gradient out of a load.
    type Unpack = Box<dyn FnOnce(Vec<f32>, &mut GradientsParams)>;
    struct Walk<'a> {
        own: GradientsParams,
        absent: &'a BTreeSet<usize>,
        position: usize,
        send: &'a mut dyn FnMut(&mut [f32]),
        load: Vec<f32>,
        /// How many numbers of the load belong to which parameter.
        parts: Vec<(usize, Unpack)>,
        arrived: GradientsParams,
    }
    impl Walk<'_> {
        fn leave(&mut self) {
            if self.parts.is_empty() {
                return;
            }
            (self.send)(&mut self.load);
            let mut numbers = std::mem::take(&mut self.load).into_iter();
            for (count, unpack) in self.parts.drain(..) {
                unpack(numbers.by_ref().take(count).collect(), &mut self.arrived);
            }
        }
    }
    impl ModuleVisitor for Walk<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if !value.is_require_grad() {
                return;
            }
            self.position += 1;
            if self.absent.contains(&(self.position - 1)) {
                return;
            }
            let (id, shape, device) = (param.id, value.shape(), value.device().inner());
            let count = shape.num_elements();
            if self.load.len() + count > LOAD {
                self.leave();
            }
            match self.own.remove::<D>(id) {
                Some(own) => self.load.extend(own.into_data().convert::<f32>().iter::<f32>()),
                None => self.load.resize(self.load.len() + count, 0.0),
            }
            let unpack = move |numbers: Vec<f32>, arrived: &mut GradientsParams| {
                arrived.register(id, Tensor::<D>::from_data(TensorData::new(numbers, shape), &device));
            };
            self.parts.push((count, Box::new(unpack)));
        }
    }
    let own = own.unwrap_or_default();
    let (load, parts, arrived) = (Vec::new(), Vec::new(), GradientsParams::new());
    let mut walk = Walk { own, absent, position: 0, send, load, parts, arrived };
    model.visit(&mut walk);
    walk.leave();
    walk.arrived
}
