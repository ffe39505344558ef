//! The times of a walk from noise to picture, shifted towards noise the more tokens there are.
//!
//! Others that are in use, by the names of ComfyUI and diffusers. ComfyUI reads them off a table of 10000 shifted times
//! (`comfy/samplers.py`), diffusers bends the shifted even times of FLUX (`FlowMatchEulerDiscreteScheduler`). Both end
//! where the table or the even times end and add a last step to 0.

use serde::{Deserialize, Serialize};
use statrs::function::beta::inv_beta_reg;
use std::f64::consts::PI;

/// How far the schedule is shifted towards noise: by the number of tokens: `μ` is linear through two points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shift {
    /// `μ` at `base_len` tokens.
    pub base: f64,
    /// `μ` at `max_len` tokens.
    pub max: f64,
    /// Tokens of the first point.
    pub base_len: f64,
    /// Tokens of the second point.
    pub max_len: f64,
}

impl Default for Shift {
    /// FLUX.1's values.
    fn default() -> Self {
        Self { base: 0.5, max: 1.15, base_len: 256.0, max_len: 4096.0 }
    }
}

impl Shift {
    /// The same factor for any number of tokens.
    pub fn fixed(factor: f64) -> Self {
        Self { base: factor.ln(), max: factor.ln(), ..Self::default() }
    }

    /// `μ` for a number of image tokens; not clamped outside the two points.
    pub fn mu(&self, tokens: usize) -> f64 {
        let slope = (self.max - self.base) / (self.max_len - self.base_len);
        self.base + slope * (tokens as f64 - self.base_len)
    }

    /// What times are shifted by: `t` becomes `f / (f + 1/t − 1)`.
    pub fn factor(&self, tokens: usize) -> f64 {
        self.mu(tokens).exp()
    }
}

/// How times are spread between noise and picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// FLUX's own: even times, shifted.
    #[default]
    Flux,
    /// ComfyUI's: every so many-th time of the table.
    Simple,
    /// ComfyUI's: even times from the table's first to its last, shifted (the last for the second time).
    Normal,
    /// ComfyUI's: as [`Schedule::Normal`] with a time more, whose last is 0.
    SgmUniform,
    /// diffusers': quantiles of the beta distribution with both parameters 0.6: more steps at both ends
    /// ([arXiv:2407.12173](https://arxiv.org/abs/2407.12173)).
    Beta,
    /// ComfyUI's: the same quantiles of the table; so many steps that two would meet in a time are that one.
    BetaComfy,
    /// Mochi's, in ComfyUI: half of the steps down to 0.975 evenly, the others on a parabola. It knows no shift.
    LinearQuadratic,
    /// ComfyUI's: even angles, of which times are the tangents.
    KlOptimal,
    /// diffusers': even seventh roots ([arXiv:2206.00364](https://arxiv.org/abs/2206.00364)).
    Karras,
    /// diffusers': even logarithms.
    Exponential,
}

impl Schedule {
    /// Every one of them by name.
    pub const ALL: [(&'static str, Self); 10] = [
        ("flux", Self::Flux),
        ("simple", Self::Simple),
        ("normal", Self::Normal),
        ("sgm-uniform", Self::SgmUniform),
        ("beta", Self::Beta),
        ("beta-comfy", Self::BetaComfy),
        ("linear-quadratic", Self::LinearQuadratic),
        ("kl-optimal", Self::KlOptimal),
        ("karras", Self::Karras),
        ("exponential", Self::Exponential),
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        // Every one is listed.
        Self::ALL.iter().find(|(_, schedule)| *schedule == self).map_or("", |(name, _)| name)
    }
}

/// Times of ComfyUI's table.
const TABLE: usize = 10_000;
/// Both parameters of the beta distribution.
const BETA: f64 = 0.6;
/// How far from noise the even half of [`Schedule::LinearQuadratic`] ends.
const THRESHOLD_NOISE: f64 = 0.025;
/// The root that is even in [`Schedule::Karras`].
const RHO: f64 = 7.0;
/// What ComfyUI takes for 0 at the end of a table.
const NEARLY_ZERO: f64 = 1e-5;

impl Schedule {
    /// The times of a walk, from 1 down to exactly 0: `num_steps + 1` of them.
    ///
    /// ```
    /// use ace_plus::sample::{Schedule, Shift};
    /// let times = Schedule::Karras.times(4, 1024, &Shift::default());
    /// assert_eq!((times.len(), times[0], times[4]), (5, 1.0, 0.0));
    /// ```
    pub fn times(self, num_steps: usize, tokens: usize, shift: &Shift) -> Vec<f32> {
        let factor = shift.factor(tokens);
        let shifted = |t: f64| factor / (factor + 1.0 / t - 1.0);
        // The last of so many even times; the first is 1.
        let last = shifted(1.0 / num_steps as f64);
        let table = |index: usize| shifted((index + 1) as f64 / TABLE as f64);
        let mut times: Vec<f64> = match self {
            Self::Flux => return schedule(num_steps, tokens, shift),
            Self::Simple => {
                let stride = TABLE as f64 / num_steps as f64;
                (0..num_steps).map(|i| table(TABLE - 1 - (i as f64 * stride) as usize)).collect()
            }
            // A table that ends at 0 itself needs no step to it.
            Self::Normal if shifted(table(0)) < NEARLY_ZERO => {
                even(1.0, table(0), num_steps + 1).take(num_steps).map(shifted).collect()
            }
            Self::Normal => even(1.0, table(0), num_steps).map(shifted).collect(),
            Self::SgmUniform => even(1.0, table(0), num_steps + 1).take(num_steps).map(shifted).collect(),
            Self::Beta => even(1.0, 0.0, num_steps).map(|p| last + quantile(p) * (1.0 - last)).collect(),
            Self::BetaComfy => {
                let at = |p: f64| (quantile(p) * (TABLE - 1) as f64).round_ties_even() as usize;
                let mut places: Vec<usize> = even(1.0, 0.0, num_steps + 1).take(num_steps).map(at).collect();
                places.dedup();
                places.into_iter().map(table).collect()
            }
            Self::LinearQuadratic => linear_quadratic(num_steps),
            Self::KlOptimal => even(PI / 4.0, table(0).atan(), num_steps).map(f64::tan).collect(),
            Self::Karras => even(1.0, last.powf(RHO.recip()), num_steps).map(|root| root.powf(RHO)).collect(),
            Self::Exponential => even(0.0, last.ln(), num_steps).map(f64::exp).collect(),
        };
        if let Some(first) = times.first_mut() {
            // The tangent of an eighth of a turn is one bit less than 1.
            *first = 1.0;
        }
        times.into_iter().chain([0.0]).map(|t| t as f32).collect()
    }
}

/// So many numbers from `first` to `last`, as far from each other; the first alone if it is one.
fn even(first: f64, last: f64, count: usize) -> impl Iterator<Item = f64> {
    let gap = (last - first) / count.saturating_sub(1).max(1) as f64;
    (0..count).map(move |i| if i > 0 && i + 1 == count { last } else { first + gap * i as f64 })
}

/// Below which value so large a share of the beta distribution lies.
fn quantile(share: f64) -> f64 {
    // The middle lies between two times of the table, and a last bit would choose.
    if (share - 0.5).abs() < 1e-12 { 0.5 } else { inv_beta_reg(BETA, BETA, share) }
}

/// Half of the steps evenly, the others on the parabola that goes on from there with the same slope and ends at 0.
fn linear_quadratic(num_steps: usize) -> Vec<f64> {
    let half = num_steps / 2;
    if half == 0 {
        return vec![1.0; num_steps];
    }
    let (all, linear, rest) = (num_steps as f64, half as f64, (num_steps - half) as f64);
    let slope = THRESHOLD_NOISE / linear;
    let excess = linear - THRESHOLD_NOISE * all;
    let square = excess / (linear * rest * rest);
    let first = slope - 2.0 * excess / (rest * rest);
    let left = |i: usize| match i as f64 {
        i if i < linear => slope * i,
        i => square * i * i + first * i + square * linear * linear,
    };
    (0..num_steps).map(|i| 1.0 - left(i)).collect()
}

/// The times of an Euler walk in FLUX's own schedule, `num_steps + 1` of them, from 1 down to exactly 0.
pub fn schedule(num_steps: usize, tokens: usize, shift: &Shift) -> Vec<f32> {
    let factor = shift.factor(tokens);
    (0..=num_steps)
        .map(|i| match 1.0 - i as f64 / num_steps as f64 {
            s if s <= 0.0 => 0.0,
            s => (factor / (factor + 1.0 / s - 1.0)) as f32,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mu_has_the_published_values() {
        let golden = [(256, 0.5), (1024, 0.63), (2048, 0.803333), (3072, 0.976667), (4050, 1.142214), (4096, 1.15)];
        for (tokens, mu) in golden.into_iter().chain([(8192, 1.843333)]) {
            assert!((Shift::default().mu(tokens) - mu).abs() < 1e-6, "{tokens} tokens");
        }
    }

    #[test]
    fn the_schedule_of_28_steps_has_the_published_values() {
        let golden = [
            1.0, 0.988409, 0.976222, 0.963394, 0.949873, 0.935599, 0.920509, 0.904531, 0.887583, 0.869576, 0.850406,
            0.829956, 0.808095, 0.784672, 0.759511, 0.732413, 0.703145, 0.671435, 0.636965, 0.599357, 0.558163,
            0.512844, 0.462748, 0.407078, 0.344849, 0.274828, 0.195455, 0.104721, 0.0,
        ];
        let ours = schedule(28, 4096, &Shift::default());
        assert_eq!(ours.len(), golden.len());
        for (ours, golden) in ours.iter().zip(golden) {
            assert!((ours - golden).abs() < 1e-6, "{ours} is not {golden}");
        }
    }

    #[test]
    fn every_schedule_falls_from_one_to_zero() {
        for (steps, tokens) in [(1, 16), (4, 1024), (28, 4050), (50, 9000)] {
            let times = schedule(steps, tokens, &Shift::default());
            assert_eq!((times[0], times[steps]), (1.0, 0.0));
            assert!(times.windows(2).all(|pair| pair[1] < pair[0]));
        }
    }

    #[test]
    fn so_does_every_other_one_with_either_shift() {
        for (name, schedule) in Schedule::ALL {
            for (steps, tokens) in [(1, 16), (2, 90), (3, 300), (12, 90), (28, 4050), (50, 9000), (200, 16)] {
                for shift in [Shift::default(), Shift::fixed(0.2), Shift::fixed(1.0), Shift::fixed(3.0)] {
                    let times = schedule.times(steps, tokens, &shift);
                    assert_eq!((times.len(), times[0], times[steps]), (steps + 1, 1.0, 0.0), "{name}, {steps}");
                    assert!(times.windows(2).all(|pair| pair[1] < pair[0]), "{name}, {steps}: {times:?}");
                }
            }
        }
    }

    #[test]
    fn a_fixed_shift_does_not_know_tokens_and_equals_the_exponential_of_mu() {
        let dynamic = Shift::default();
        let fixed = Shift::fixed(dynamic.mu(1024).exp());
        for (name, schedule) in Schedule::ALL {
            let [dynamic, fixed] = [schedule.times(9, 1024, &dynamic), schedule.times(9, 33, &fixed)];
            assert!(dynamic.iter().zip(&fixed).all(|(a, b)| (a - b).abs() < 1e-6), "{name}: {dynamic:?} {fixed:?}");
        }
        let three = schedule(4, 16, &Shift::fixed(3.0));
        // s·σ / (1 + (s − 1)·σ)
        assert_eq!(three, [1.0, 0.9, 0.75, 0.5, 0.0]);
    }
}
