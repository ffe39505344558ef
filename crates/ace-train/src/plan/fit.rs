//! Which settings fit into a memory.

use super::{Prediction, Sequence, predict};
use crate::{Recipe, learn::recipe::FrozenDtype};
use ace_plus::Card;

/// Settings, and what they take.
#[derive(Debug, Clone)]
pub struct Fit {
    /// What differs from the recipe: lines for it.
    pub lines: Vec<String>,
    /// What is said about it, in a word.
    pub about: &'static str,
    /// Tokens of an example.
    pub sequence: Sequence,
    /// What it takes.
    pub prediction: Prediction,
}

/// Ways to train in less memory, from the recipe as it is to the one that takes least. What costs nothing comes first: then
/// what costs time, then what costs precision, then smaller pictures.
pub fn fit(card: &Card, recipe: &Recipe, sequence: Sequence, setting: (usize, u64, u64)) -> Vec<Fit> {
    let mut recipe = recipe.clone();
    let mut lines: Vec<String> = Vec::new();
    let mut fits = vec![Fit {
        lines: Vec::new(),
        about: "as the recipe says",
        sequence,
        prediction: predict(card, &recipe, sequence, setting),
    }];
    let mut more = |about, line: &str, recipe: &Recipe, sequence: Sequence| {
        lines.push(line.to_owned());
        let prediction = predict(card, recipe, sequence, setting);
        fits.push(Fit { lines: lines.clone(), about, sequence, prediction });
    };
    if !recipe.recompute {
        recipe.recompute = true;
        more("each block computed twice", "recompute = true", &recipe, sequence);
    }
    if recipe.optimizer.batch > recipe.optimizer.accumulate {
        recipe.optimizer.accumulate = recipe.optimizer.batch;
        let line = format!("optimizer.accumulate = {}", recipe.optimizer.batch);
        more("one example at a time", &line, &recipe, sequence);
    }
    if recipe.lora.is_some() && recipe.frozen_dtype == FrozenDtype::F32 {
        recipe.frozen_dtype = FrozenDtype::Bf16;
        more("base in 16 bits", "frozen_dtype = \"bf16\"", &recipe, sequence);
    }
    fits
}
