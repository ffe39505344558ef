//! Caches over the steps: what the blocks add to the image's tokens changes slowly, so not every step needs to compute it.
//!
//! A skipped step takes what the blocks added before, and runs only what comes before and after them. When to skip:
//!
//! * **first block** (ParaAttention, diffusers' `FirstBlockCache`): the first block always runs; if what it adds differs by
//!   no more than a threshold from what it added at the last computed step, the others are skipped;
//! * **magnitudes** ([MagCache](https://arxiv.org/abs/2506.09045)): how much larger or smaller the addition becomes from
//!   step to step is known of a model beforehand; steps are skipped until the accumulated change is too large;
//! * **Taylor** ([TaylorSeer](https://arxiv.org/abs/2503.06923)): every so many-th step is computed, and the addition is led
//!   on in a straight line, or a parabola, between them.

use super::Work;
use ace_nn::flux::{Flux, FluxInput, Shared, Streams, Walk};
use burn::{prelude::*, tensor::DType};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::ControlFlow, str::FromStr};

/// Which steps are computed, and what stands for the others.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cache {
    /// All are computed.
    #[default]
    Off,
    /// All but those at which the first block adds nearly what it added before.
    FirstBlock {
        /// Mean difference over mean magnitude, up to which that is near enough.
        threshold: f32,
    },
    /// All but those at which the model is known to change little.
    Mag {
        /// Up to which accumulated change.
        threshold: f32,
    },
    /// Every so many-th.
    Taylor {
        /// From one that is computed to the next.
        interval: usize,
        /// 1 leads on in a straight line, 2 in a parabola.
        order: usize,
    },
    /// All are computed, and how the additions change is written down for [`Cache::Mag`].
    Measure,
}

/// What can be said.
const FORMS: &str = "0.08 (a threshold), mag, mag:0.06, taylor, taylor:3 or taylor:3:2";
/// diffusers' threshold for magnitudes.
const MAG_THRESHOLD: f32 = 0.06;
/// Steps in a row that magnitudes may skip.
const MAG_MOST_SKIPPED: usize = 3;
/// The share of steps, from the first, that magnitudes never skip.
const MAG_RETAINED: f64 = 0.2;
/// What Taylor does unless said.
const TAYLOR: (usize, usize) = (3, 1);
/// Steps that Taylor computes first.
const TAYLOR_WARMUP: usize = 3;

impl FromStr for Cache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let threshold = |text: &str| text.parse::<f32>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        let parts: Vec<&str> = text.split(':').collect();
        let cache = match parts[..] {
            ["off"] => Some(Self::Off),
            ["mag"] => Some(Self::Mag { threshold: MAG_THRESHOLD }),
            ["mag", value] => threshold(value).map(|threshold| Self::Mag { threshold }),
            ["taylor", ref rest @ ..] if rest.len() < 3 => {
                let number = |at: usize, default: usize| rest.get(at).map_or(Some(default), |text| text.parse().ok());
                let (interval, order) = (number(0, TAYLOR.0), number(1, TAYLOR.1));
                interval.zip(order).map(|(interval, order)| Self::Taylor { interval, order })
            }
            [value] => threshold(value).map(|value| match value {
                0.0 => Self::Off,
                threshold => Self::FirstBlock { threshold },
            }),
            _ => None,
        };
        let is_sound = |cache: &Self| match cache {
            Self::Taylor { interval, order } => *interval > 1 && (1..=2).contains(order),
            _ => true,
        };
        cache.filter(is_sound).ok_or_else(|| format!("a cache is {FORMS}"))
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off | Self::Measure => f.write_str("off"),
            Self::FirstBlock { threshold } => write!(f, "{threshold}"),
            Self::Mag { threshold } => write!(f, "mag:{threshold}"),
            Self::Taylor { interval, order } => write!(f, "taylor:{interval}:{order}"),
        }
    }
}

impl TryFrom<String> for Cache {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cache> for String {
    fn from(cache: Cache) -> Self {
        cache.to_string()
    }
}

/// What is remembered from step to step of one walk.
#[derive(Debug)]
pub(super) struct Memory {
    cache: Cache,
    /// How many evaluations came before, and will be in all.
    at: usize,
    of: usize,
    /// By how much the addition grows at each evaluation; of magnitudes alone.
    ratios: Vec<f32>,
    /// What the first block added at the last computed step.
    first: Option<Tensor<3>>,
    /// What the blocks added at the last computed step, and the slopes of it; of the first-block cache all but the first.
    added: Vec<Tensor<3>>,
    /// At which evaluation that was.
    computed_at: usize,
    /// Of magnitudes: the accumulated ratio, error and number of skipped steps.
    accumulated: (f32, f32, usize),
}

/// What the additions of a walk say of a model: by how much each is larger than the one before.
pub(super) type Ratios = Vec<f32>;

impl Memory {
    /// For a walk of so many evaluations; `ratios` are the card's.
    pub(super) fn new(cache: Cache, of: usize, ratios: &[f32]) -> Self {
        let ratios = match cache {
            Cache::Mag { .. } => nearest(ratios, of),
            _ => Vec::new(),
        };
        Self { cache, at: 0, of, ratios, first: None, added: Vec::new(), computed_at: 0, accumulated: (1.0, 0.0, 0) }
    }

    /// What was measured, if it was.
    pub(super) fn into_ratios(self) -> Ratios {
        if self.cache == Cache::Measure { self.ratios } else { Vec::new() }
    }

    /// The network's answer, its blocks run by `walk` where they are not skipped.
    pub(super) fn forward(
        &mut self,
        flux: &Flux,
        walk: &mut dyn Walk,
        input: FluxInput,
        work: &mut Work,
    ) -> ControlFlow<(), Tensor<3>> {
        let rope = input.rope.clone();
        let streams = flux.embed(input);
        let shared = Shared { vec: streams.vec.clone(), rope };
        let blocks = flux.double_blocks.len() + flux.single_blocks.len();
        let img = match (self.cache, flux.double_blocks.first()) {
            (Cache::FirstBlock { threshold }, Some(block)) => {
                let Streams { img, txt, vec } = streams;
                let before = img.clone();
                let (img, txt) = walk.double(0, block, img, txt, &shared)?;
                work.blocks += 1.0;
                let first = img.clone() - before;
                match self.added.first() {
                    Some(added) if self.first.as_ref().is_some_and(|last| differs(&first, last) <= threshold) => {
                        img + added.clone()
                    }
                    _ => {
                        let begun = img.clone();
                        let img = run(flux, walk, 1, Streams { img, txt, vec }, &shared)?;
                        (self.first, self.added) = (Some(first), vec![img.clone() - begun]);
                        work.blocks += (blocks - 1) as f64;
                        work.computed += 1;
                        img
                    }
                }
            }
            _ if self.skips() => streams.img + self.predicted(),
            _ => {
                let begun = (!matches!(self.cache, Cache::Off)).then(|| streams.img.clone());
                let img = run(flux, walk, 0, streams, &shared)?;
                if let Some(begun) = begun {
                    self.remember(img.clone() - begun);
                }
                work.blocks += blocks as f64;
                work.computed += 1;
                img
            }
        };
        self.at += 1;
        work.evaluations += 1;
        ControlFlow::Continue(flux.project_over(img, shared.vec, &shared.rope))
    }

    /// Whether this evaluation is skipped, as far as that is known before it.
    fn skips(&mut self) -> bool {
        match self.cache {
            Cache::Taylor { interval, .. } => {
                // As diffusers counts: the step after the first ones is skipped.
                let is_due = (self.at + interval).wrapping_sub(TAYLOR_WARMUP + 1).is_multiple_of(interval);
                self.at >= TAYLOR_WARMUP && !is_due
            }
            Cache::Mag { threshold } => self.skips_by_magnitude(threshold),
            _ => false,
        }
    }

    fn skips_by_magnitude(&mut self, threshold: f32) -> bool {
        if self.at < (MAG_RETAINED * self.of as f64 + 0.5) as usize {
            return false;
        }
        let (ratio, error, skipped) = &mut self.accumulated;
        *ratio *= self.ratios.get(self.at).copied().unwrap_or(1.0);
        *skipped += 1;
        *error += (1.0 - *ratio).abs();
        let skips = !self.added.is_empty() && *error <= threshold && *skipped <= MAG_MOST_SKIPPED;
        if !skips {
            self.accumulated = (1.0, 0.0, 0);
        }
        skips
    }

    /// What the blocks would have added.
    fn predicted(&self) -> Tensor<3> {
        let distance = (self.at - self.computed_at) as f64;
        let mut orders = self.added.iter().cloned().enumerate();
        // A step is skipped only after one was computed.
        let (_, mut sum) = orders.next().unwrap_or_else(|| unreachable!("nothing was computed before"));
        let mut factor = 1.0;
        for (order, slope) in orders {
            factor *= distance / order as f64;
            sum = sum + slope * factor;
        }
        sum
    }

    /// Takes note of what the blocks have added.
    fn remember(&mut self, added: Tensor<3>) {
        let order = match self.cache {
            Cache::Taylor { order, .. } => order,
            Cache::Measure => {
                self.ratios.push(self.added.first().map_or(1.0, |before| grows(&added, before)));
                0
            }
            _ => 0,
        };
        let distance = self.at.saturating_sub(self.computed_at).max(1) as f64;
        let mut orders = vec![added];
        for (index, before) in self.added.iter().take(order).enumerate() {
            orders.push((orders[index].clone() - before.clone()) / distance);
        }
        (self.added, self.computed_at) = (orders, self.at);
    }
}

/// The image's tokens after double block `first` and all that follow.
fn run(
    flux: &Flux,
    walk: &mut dyn Walk,
    first: usize,
    streams: Streams,
    shared: &Shared,
) -> ControlFlow<(), Tensor<3>> {
    let (text_len, image_len) = (streams.txt.dims()[1], streams.img.dims()[1]);
    let x = flux.run_from(walk, first, streams, shared)?;
    ControlFlow::Continue(x.narrow(1, text_len, image_len))
}

/// Mean magnitude of the difference over the mean magnitude.
fn differs(now: &Tensor<3>, then: &Tensor<3>) -> f32 {
    let [now, then] = [now, then].map(|x| x.clone().cast(DType::F32));
    let mean = |x: Tensor<3>| x.abs().mean().into_scalar::<f32>();
    mean(now - then.clone()) / mean(then)
}

/// The mean over tokens of how much longer they are.
fn grows(now: &Tensor<3>, then: &Tensor<3>) -> f32 {
    let length = |x: &Tensor<3>| x.clone().cast(DType::F32).powi_scalar(2).sum_dim(2).sqrt();
    (length(now) / (length(then) + 1e-8)).mean().into_scalar::<f32>()
}

/// So many of the ratios, spread over all of them.
fn nearest(ratios: &[f32], count: usize) -> Vec<f32> {
    let last = ratios.len().saturating_sub(1);
    if count == 1 {
        return ratios.last().copied().into_iter().collect();
    }
    let scale = last as f32 / (count - 1) as f32;
    (0..count).filter_map(|at| ratios.get((at as f32 * scale).round_ties_even() as usize).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_said_again() {
        for (text, cache) in [
            ("0", Cache::Off),
            ("off", Cache::Off),
            ("0.08", Cache::FirstBlock { threshold: 0.08 }),
            ("mag", Cache::Mag { threshold: 0.06 }),
            ("mag:0.24", Cache::Mag { threshold: 0.24 }),
            ("taylor", Cache::Taylor { interval: 3, order: 1 }),
            ("taylor:4", Cache::Taylor { interval: 4, order: 1 }),
            ("taylor:5:2", Cache::Taylor { interval: 5, order: 2 }),
        ] {
            assert_eq!(text.parse(), Ok(cache));
            assert_eq!(cache.to_string().parse(), Ok(cache));
            let json = serde_json::to_string(&cache).unwrap();
            assert_eq!(serde_json::from_str::<Cache>(&json).unwrap(), cache);
        }
        for wrong in
            ["", "tea", "-1", "nan", "inf", "mag:x", "mag:-1", "taylor:1", "taylor:3:3", "taylor:3:1:1", "0.1:2"]
        {
            assert!(wrong.parse::<Cache>().is_err(), "{wrong}");
        }
    }

    /// Which of so many evaluations are skipped, and what stands for them, if the blocks add `f` of the evaluation.
    fn skipped(mut memory: Memory, f: impl Fn(f32) -> f32) -> Vec<(usize, f32)> {
        let mut all = Vec::new();
        for at in 0..memory.of {
            if memory.skips() {
                all.push((at, memory.predicted().into_scalar::<f32>()));
            } else {
                memory.remember(Tensor::from_data([[[f(at as f32)]]], &Device::default()));
            }
            memory.at += 1;
        }
        all
    }

    #[test]
    fn taylor_computes_every_third_and_leads_lines_and_parabolas_on_exactly() {
        let places = |all: &[(usize, f32)]| all.iter().map(|(at, _)| *at).collect::<Vec<_>>();
        let line = skipped(Memory::new(Cache::Taylor { interval: 3, order: 1 }, 12, &[]), |at| 2.0 + 0.5 * at);
        assert_eq!(places(&line), [3, 5, 6, 8, 9, 11]);
        assert!(line.iter().all(|(at, value)| (value - (2.0 + 0.5 * *at as f32)).abs() < 1e-5), "{line:?}");
        // Divided differences are slopes at the middle of a step, not at its end: a parabola is led on with a small error,
        // but a smaller one than a line's.
        let square = |at: f32| at * at;
        let error = |order| {
            let all = skipped(Memory::new(Cache::Taylor { interval: 3, order }, 24, &[]), square);
            all.iter().map(|(at, value)| (value - square(*at as f32)).abs()).fold(0.0, f32::max)
        };
        assert!(error(2) < 0.8 * error(1), "{} {}", error(2), error(1));
    }

    #[test]
    fn magnitudes_are_skipped_until_they_have_changed() {
        // As diffusers' hook decides for these ratios: the first two are kept, then errors of 0.02, 0.06, … accumulate.
        let ratios = [1.0, 1.3, 1.02, 1.02, 1.02, 1.02, 1.0, 1.0, 1.0, 1.0];
        let all = skipped(Memory::new(Cache::Mag { threshold: 0.065 }, 10, &ratios), |_| 1.0);
        assert_eq!(all.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2, 3, 5, 6, 7, 9]);
        assert_eq!(skipped(Memory::new(Cache::Mag { threshold: 0.0 }, 9, &[1.1]), |_| 1.0), []);
    }

    #[test]
    fn ratios_are_taken_from_the_nearest_step() {
        let ratios: Vec<f32> = (0..28).map(|at| at as f32).collect();
        assert_eq!(nearest(&ratios, 28), ratios);
        assert_eq!(nearest(&ratios, 4), [0.0, 9.0, 18.0, 27.0]);
        assert_eq!(nearest(&ratios, 1), [27.0]);
        assert_eq!(nearest(&[1.0, 2.0], 3), [1.0, 1.0, 2.0]);
    }

    #[test]
    fn measured_ratios_are_those_of_the_additions() {
        let mut memory = Memory::new(Cache::Measure, 3, &[]);
        for value in [2.0f32, 3.0, 1.5] {
            memory.remember(Tensor::from_data([[[value, 0.0], [0.0, -value]]], &Device::default()));
            memory.at += 1;
        }
        let ratios = memory.into_ratios();
        assert!(
            ratios.iter().zip([1.0, 1.5, 0.5]).all(|(ours, expected)| (ours - expected).abs() < 1e-6),
            "{ratios:?}"
        );
    }
}
