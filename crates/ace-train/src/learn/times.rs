//! At which times the transformer learns: the recipe's law, drawn from a step's random numbers.

use super::recipe::{ShiftLaw, TimestepLaw, TimestepRecipe, TimestepShift};
use ace_plus::sample::{self, Shift};
use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};

/// Entries of the official table.
const TABLE: usize = 1000;
/// Stream of the seed's random numbers that the table is drawn from; steps have the streams from 0 on.
const TABLE_STREAM: u64 = u64::MAX;

/// The law of a run.
#[derive(Debug, Clone)]
pub struct Times {
    recipe: TimestepRecipe,
    /// For the official law: times that are drawn once for the whole run, falling.
    table: Vec<f32>,
}

impl Times {
    /// The law that a recipe asks for; a table follows from the `seed`.
    pub fn new(recipe: TimestepRecipe, seed: u64) -> Self {
        let mut table = Vec::new();
        if recipe.law == TimestepLaw::Official {
            let rng = &mut sample::rng(seed, TABLE_STREAM);
            table = (0..TABLE).map(|_| 1.0 - sigmoid(StandardNormal.sample(rng))).collect();
            table.sort_by(|one: &f32, other| other.total_cmp(one));
        }
        Self { recipe, table }
    }

    /// A time for a picture of `tokens` noisy tokens, 1 being noise.
    pub fn draw(&self, tokens: usize, rng: &mut impl Rng) -> f32 {
        let time = match self.recipe.law {
            TimestepLaw::LogitNormal => {
                let z: f32 = StandardNormal.sample(rng);
                sigmoid(self.recipe.mean + self.recipe.std * z)
            }
            TimestepLaw::Uniform => rng.random_range(0.0..1.0),
            // Neither the first nor the last of the table.
            TimestepLaw::Official => self.table[rng.random_range(1..TABLE - 1)],
        };
        match self.recipe.shift {
            None => time,
            Some(TimestepShift::Constant(shift)) => shifted(time, shift),
            Some(TimestepShift::Named(ShiftLaw::Dynamic)) => shifted(time, Shift::default().mu(tokens).exp() as f32),
        }
    }
}

fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

/// `s·t / (1 + (s − 1)·t)`.
fn shifted(time: f32, shift: f32) -> f32 {
    shift * time / (1.0 + (shift - 1.0) * time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const MANY: usize = 20_000;

    fn drawn(recipe: TimestepRecipe, tokens: usize) -> Vec<f32> {
        let (times, mut rng) = (Times::new(recipe, 7), sample::rng(7, 0));
        let mut drawn: Vec<f32> = (0..MANY).map(|_| times.draw(tokens, &mut rng)).collect();
        drawn.sort_by(f32::total_cmp);
        assert!(drawn[0] >= 0.0 && drawn[MANY - 1] <= 1.0);
        drawn
    }

    /// The time below which a share of the drawn ones lies.
    fn quantiles(drawn: &[f32]) -> [f32; 3] {
        [1, 2, 3].map(|quarter| drawn[quarter * MANY / 4])
    }

    fn assert_near(found: [f32; 3], expected: [f32; 3], what: &str) {
        let is_near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.02);
        assert!(is_near, "{what}: {found:?} is not {expected:?}");
    }

    #[test]
    fn every_law_has_its_quartiles() {
        let law = |law, shift| TimestepRecipe { law, shift, ..TimestepRecipe::default() };
        // The quartiles of N(0,1) are ±0.6745, of which the sigmoid is 0.3375 and 0.6625.
        let plain = drawn(law(TimestepLaw::LogitNormal, None), 64);
        assert_near(quantiles(&plain), [0.3375, 0.5, 0.6625], "logit-normal");
        let uniform = drawn(law(TimestepLaw::Uniform, None), 64);
        assert_near(quantiles(&uniform), [0.25, 0.5, 0.75], "uniform");
        // A table of a thousand numbers lies as far from its law as a thousand drawn numbers do.
        let table = quantiles(&drawn(law(TimestepLaw::Official, None), 64));
        assert!(table.iter().zip([0.3375, 0.5, 0.6625]).all(|(one, other)| (one - other).abs() < 0.06), "{table:?}");
        // 3t / (1 + 2t) of the uniform quartiles.
        let moved = drawn(law(TimestepLaw::Uniform, Some(TimestepShift::Constant(3.0))), 64);
        assert_near(quantiles(&moved), [0.5, 0.75, 0.9], "uniform, shifted by 3");
        // exp(1.15) = 3.158 at 4096 tokens, as in sampling.
        let dynamic = Some(TimestepShift::Named(ShiftLaw::Dynamic));
        let moved = drawn(law(TimestepLaw::Uniform, dynamic), 4096);
        let expected = sample::schedule(4, 4096, &Shift::default());
        assert_near(quantiles(&moved), [expected[3], expected[2], expected[1]], "uniform, shifted by size");
        assert!(quantiles(&drawn(law(TimestepLaw::Uniform, dynamic), 256))[1] < quantiles(&moved)[1]);
    }

    #[test]
    fn the_official_law_is_a_table_without_its_ends() {
        let recipe = TimestepRecipe { law: TimestepLaw::Official, ..TimestepRecipe::default() };
        let table = Times::new(recipe, 7).table;
        assert_eq!(table.len(), 1000);
        assert!(table.windows(2).all(|pair| pair[0] >= pair[1]));
        let bits = |times: &[f32]| times.iter().map(|time| time.to_bits()).collect::<BTreeSet<u32>>();
        let inner = bits(&table[1..999]);
        // All of them come up, and nothing else.
        assert_eq!(bits(&drawn(recipe, 64)), inner);
        assert_ne!(Times::new(recipe, 8).table, table);
    }

    #[test]
    fn the_default_is_what_it_was() {
        // As runs drew their times before there were other laws: resumed ones go on exactly.
        let (times, mut rng, mut again) =
            (Times::new(TimestepRecipe::default(), 3), sample::rng(3, 5), sample::rng(3, 5));
        for _ in 0..100 {
            let z: f32 = StandardNormal.sample(&mut again);
            let z = 0.0 + 1.0 * z;
            assert_eq!(times.draw(64, &mut rng).to_bits(), (1.0 / (1.0 + (-z).exp())).to_bits());
        }
    }
}
