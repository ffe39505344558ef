//! The times of a walk from noise to picture, shifted towards noise the more tokens there are.

use serde::{Deserialize, Serialize};

/// How far the schedule is shifted towards noise, by the number of tokens: `μ` is linear through two points.
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
    /// `μ` for a number of image tokens; not clamped outside the two points.
    pub fn mu(&self, tokens: usize) -> f64 {
        let slope = (self.max - self.base) / (self.max_len - self.base_len);
        self.base + slope * (tokens as f64 - self.base_len)
    }
}

/// The times of an Euler walk, `num_steps + 1` of them, from 1 down to exactly 0.
pub fn schedule(num_steps: usize, tokens: usize, shift: &Shift) -> Vec<f32> {
    let e_mu = shift.mu(tokens).exp();
    (0..=num_steps)
        .map(|i| match 1.0 - i as f64 / num_steps as f64 {
            s if s <= 0.0 => 0.0,
            s => (e_mu / (e_mu + 1.0 / s - 1.0)) as f32,
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
}
