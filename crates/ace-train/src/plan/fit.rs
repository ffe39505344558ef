//! Which settings fit into a memory.

use super::{Around, Base, Packed, Prediction, Sequence, predict};
use crate::{
    Recipe,
    learn::recipe::{FrozenDtype, OptimizerState},
};
use ace_plus::Card;

/// The shortest sequence that is proposed: a picture of 512 × 512 pixels.
const SHORTEST: usize = 1024;

/// Settings, and what they take.
#[derive(Debug, Clone)]
pub struct Fit {
    /// What is said about it, in a few words.
    pub about: &'static str,
    /// What differs from the recipe: lines for it.
    pub lines: Vec<String>,
    /// Tokens of an example.
    pub sequence: Sequence,
    /// What it takes.
    pub prediction: Prediction,
}

/// Ways to train, from the recipe as it is to the one that takes least, each with what the ones before have. First comes
/// what costs time alone, then what costs precision, then smaller pictures.
pub fn fit(card: &Card, recipe: &Recipe, sequence: Sequence, around: Around) -> Vec<Fit> {
    let (mut recipe, mut base, mut sequence) = (recipe.clone(), Base::of(recipe), sequence);
    let mut lines: Vec<String> = Vec::new();
    let mut fits = Vec::new();
    let mut add = |about, line: Option<String>, recipe: &Recipe, base: Base, sequence: Sequence| {
        if let Some(line) = line {
            // A setting that is changed once more is said once.
            let field = |line: &str| line.split(' ').next().map(ToOwned::to_owned);
            lines.retain(|known| field(known) != field(&line));
            lines.push(line);
        }
        let prediction = predict(card, recipe, base, sequence, around);
        fits.push(Fit { about, lines: lines.clone(), sequence, prediction });
    };
    add("as the recipe says", None, &recipe, base, sequence);
    if !recipe.recompute {
        recipe.recompute = true;
        add("blocks computed twice", Some("recompute = true".to_owned()), &recipe, base, sequence);
    }
    if recipe.optimizer.batch > recipe.optimizer.accumulate {
        recipe.optimizer.accumulate = recipe.optimizer.batch;
        let line = format!("optimizer.accumulate = {}", recipe.optimizer.batch);
        add("one example at a time", Some(line), &recipe, base, sequence);
    }
    // Only what is frozen can be held in fewer bits, or elsewhere.
    if recipe.lora.is_some() {
        if recipe.frozen_dtype == FrozenDtype::F32 {
            recipe.frozen_dtype = FrozenDtype::Bf16;
            base = Base { bytes: Base::of(&recipe).bytes, ..base };
            add("base in 16 bits", Some("frozen_dtype = \"bf16\"".to_owned()), &recipe, base, sequence);
        }
        for (packed, about, name) in [(Packed::Q8_0, "base in 8 bits", "q8_0"), (Packed::Nf4, "base in 4 bits", "nf4")]
        {
            if base.packed == Packed::Wide || packed == Packed::Nf4 && base.packed == Packed::Q8_0 {
                (base.packed, base.encoders) = (packed, packed);
                add(about, Some(format!("quantize = \"{name}\"")), &recipe, base, sequence);
            }
        }
        if !base.streamed {
            base.streamed = true;
            add("blocks fetched when they run", Some("placement = \"streamed\"".to_owned()), &recipe, base, sequence);
        }
    }
    if recipe.optimizer.state == OptimizerState::F32 {
        recipe.optimizer.state = OptimizerState::EightBit;
        add("moments in 8 bits", Some("optimizer.state = \"8bit\"".to_owned()), &recipe, base, sequence);
    }
    while sequence.image > SHORTEST {
        sequence.image = (sequence.image / 2).max(SHORTEST);
        let line = format!("max_seq_len = {}", sequence.image);
        add("smaller pictures", Some(line), &recipe, base, sequence);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Around = Around { workers: 2, examples: 64, encoder_budget: Some(1 << 30) };

    fn fits(more: &str) -> Vec<Fit> {
        let text = format!(
            "name = \"a\"\ntrain = [\"flux\"]\n{more}\ndata = {{ world = 64 }}\n\
             optimizer = {{ steps = 1, batch = 4, learning_rate = 1e-4 }}\n"
        );
        let card = Card::builtin("flux1-fill-dev").unwrap();
        let recipe = Recipe::parse(&text).unwrap();
        fit(&card, &recipe, crate::plan::longest(&card, &recipe), AROUND)
    }

    #[test]
    fn every_way_takes_less_than_the_one_before() {
        let fits = fits("recompute = false\nlora = { rank = 16, alpha = 16.0 }");
        let peaks: Vec<u64> = fits.iter().map(|fit| fit.prediction.parts.iter().map(|part| part.bytes).sum()).collect();
        assert!(peaks.is_sorted_by(|a, b| a > b), "{peaks:?}");
        assert_eq!(fits[0].about, "as the recipe says");
        let last = fits.last().unwrap();
        assert_eq!(last.sequence.image, SHORTEST);
        let expected = [
            "recompute = true",
            "optimizer.accumulate = 4",
            "frozen_dtype = \"bf16\"",
            "quantize = \"nf4\"",
            "placement",
        ];
        for line in expected {
            assert!(last.lines.iter().any(|known| known.starts_with(line)), "{line} is not in {:?}", last.lines);
        }
        assert!(!last.lines.iter().any(|line| line.contains("q8_0")), "one packing: {:?}", last.lines);
    }

    #[test]
    fn what_learns_is_neither_packed_nor_fetched() {
        let fits = fits("");
        let lines = fits.last().map(|fit| fit.lines.join("\n")).unwrap();
        assert!(
            !lines.contains("quantize") && !lines.contains("placement") && !lines.contains("frozen_dtype"),
            "{lines}"
        );
        // Twelve billion numbers, their gradients and both moments.
        assert!(fits[0].prediction.peak() > 4 * 4 * 11_900_000_000);
    }
}
