//! LoRA files: onto the transformer's layers, and back to a file.
//!
//! Read is what trainers write, each in its own spelling ([`Dialect`]); the layers of all are the same. Written are
//! the ACE++ release's spelling (kohya's, ComfyUI's), diffusers' and PEFT's.
//!
//! ```text
//! key ─ dialect ─▶ stem + role ─ place ─▶ rows of a layer ─ plan ─▶ checked ─ delta ─▶ branch, weight, bias
//! ```

mod alpha;
mod delta;
mod dialect;
mod place;
mod plan;
mod write;
#[cfg(test)]
mod tests;

pub use dialect::Dialect;
pub use write::{Spelling, write, write_as};
pub(crate) use write::{diffusers, released};

use crate::{Result, WeightFile};
use ace_nn::flux::Flux;
use burn::prelude::*;
use delta::Delta;
use dialect::Role;
use place::Places;
use plan::Plan;
use std::{collections::BTreeMap, ops::RangeInclusive};

/// PEFT's configuration, beside the factors.
const CONFIG: &str = "adapter_config.json";

/// What [`attach`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterReport {
    /// Who wrote the file.
    pub dialect: Dialect,
    /// The smallest and the largest rank in the file; `None` if it has no low-rank factors.
    pub ranks: Option<RangeInclusive<usize>>,
    /// Layers that got a branch.
    pub branches: usize,
    /// Weights, biases and norm scales of the model itself that were changed.
    pub parameters: usize,
    /// Keys for the text encoders, which have no place here.
    pub skipped: Vec<String>,
}

/// Adds a LoRA file to the transformer, `weight` times as strong as it was trained: 1 wholly, 0 not at all.
///
/// Branches count `weight · alpha / rank` (alpha is the rank where the file does not say). Files of some dialects also
/// add to biases and weights, `weight` times; the new norm scales of BFL's control adapters replace the model's whatever
/// the weight, as in diffusers and ComfyUI. An adapter of the input layer that knows fewer conditions than the model
/// leaves the others alone.
///
/// Several files add up, branch by branch.
///
/// # Errors
/// If the file has no branch, a key that is not understood or of another kind of adapter (DoRA, LoKr), a branch for a
/// layer that the transformer has not, or one of another shape. The transformer is then as before.
pub fn attach(flux: &mut Flux, file: &WeightFile, weight: f64, device: &Device) -> Result<AdapterReport> {
    let plan = Plan::of(file, &Places::of(flux))?;
    // Everything is read before anything is changed.
    let mut deltas = BTreeMap::new();
    for (path, (layer, parts)) in &plan.layers {
        deltas.insert(path.clone(), Delta::read(file, layer, parts, weight, device)?);
    }
    let mut absent = None;
    flux.for_each_linear(&mut |path, linear| {
        if !linear.weight.is_present() && deltas.get(path).is_some_and(Delta::changes_weight) {
            absent.get_or_insert_with(|| path.to_owned());
        }
    });
    if let Some(path) = absent {
        let reason = format!("it changes the matrix of {path}, which is not in memory");
        return Err(file.misfit(reason, "hold the transformer in memory, or use branches of low rank alone"));
    }
    let report = AdapterReport {
        dialect: plan.dialect,
        ranks: ranks(file)?,
        branches: deltas.values().filter(|delta| delta.branch.is_some()).count(),
        parameters: deltas.values().map(Delta::parameters).sum(),
        skipped: plan.skipped,
    };
    flux.for_each_linear(&mut |path, linear| {
        if let Some(delta) = deltas.remove(path) {
            delta.change(linear, device);
        }
    });
    flux.for_each_norm(&mut |path, norm| {
        if let Some(delta) = deltas.remove(path) {
            delta.change_norm(norm);
        }
    });
    Ok(report)
}

/// Whether [`attach`] would take a file, from its header alone.
///
/// # Errors
/// As [`attach`].
pub fn check(flux: &mut Flux, file: &WeightFile) -> Result<()> {
    Plan::of(file, &Places::of(flux)).map(drop)
}

/// Who wrote a LoRA file; `None` if it is none, or none for a FLUX transformer. Whether it fits a model, [`attach`]
/// finds out.
///
/// # Errors
/// If the file's header cannot be read.
pub fn dialect(file: &WeightFile) -> Result<Option<Dialect>> {
    Ok(Dialect::of(file.shapes()?.keys().map(String::as_str)))
}

/// The smallest and the largest rank of a LoRA file's branches for the transformer; `None` if it has none.
///
/// # Errors
/// If the file's header cannot be read.
pub fn ranks(file: &WeightFile) -> Result<Option<RangeInclusive<usize>>> {
    let shapes = file.shapes()?;
    let is_down = |key: &str| {
        !dialect::is_for_text_encoder(key) && dialect::parse(key).is_some_and(|(_, role)| role == Role::Down)
    };
    let mut all = shapes.iter().filter(|(key, _)| is_down(key)).filter_map(|(_, shape)| shape.first().copied());
    let first = all.next();
    Ok(first.map(|first| all.fold(first..=first, |range, rank| rank.min(*range.start())..=rank.max(*range.end()))))
}

/// Whether a key is of a down projection, or of an up projection.
pub(crate) fn factor(key: &str) -> (bool, bool) {
    let role = dialect::parse(key).map(|(_, role)| role);
    (role == Some(Role::Down), role == Some(Role::Up))
}
