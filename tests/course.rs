//! Cheaper steps: what is skipped is exact where nothing is skipped, close where little is, and reads no block.

use crate::support::{device, distance, flux, random, values, words};
use ace_nn::flux::{Blocks, DoubleBlock, Flux, SingleBlock};
use ace_plus::{
    flow, latents,
    sample::{self, Cache, Course, Denoised, Denoiser, MaskedSteps, Sampler, Schedule, Shift},
    text::TextConditioning,
    unit::Units,
};
use burn::{prelude::*, tensor::FloatDType};
use std::ops::ControlFlow;

const ROWS: usize = 3;
const COLUMNS: usize = 4;
const TOKENS: usize = ROWS * COLUMNS;

/// Conditions of FLUX-Fill on a small canvas, of whose tokens those are masked.
fn units(masked: &[usize]) -> Units {
    let mask = (0..TOKENS).flat_map(|token| vec![f32::from(u8::from(masked.contains(&token))); 256]);
    let mask = Tensor::from_data(TensorData::new(mask.collect::<Vec<f32>>(), [1, TOKENS, 256]), &device());
    Units {
        beside: Some(Tensor::cat(vec![random([1, TOKENS, 64], 5), mask], 2)),
        behind: None,
        ids: latents::ids([ROWS, COLUMNS], 0),
        grids: vec![[2 * ROWS, 2 * COLUMNS]],
        is_reference: vec![false; TOKENS],
    }
}

/// A small network and what it is asked.
struct Asked {
    flux: Flux,
    units: Units,
    text: TextConditioning,
}

impl Asked {
    fn of(masked: &[usize]) -> Self {
        Self { flux: flux(384), units: units(masked), text: words() }
    }

    fn walk_with(&self, blocks: &mut dyn Blocks, course: &Course) -> Denoised {
        let (units, text) = (&self.units, &self.text);
        let denoiser = Denoiser { flux: &self.flux, units, text, guidance: 4.0, dtype: FloatDType::F32 };
        let noise = random([1, TOKENS, 64], 6);
        denoiser.denoise_with(blocks, noise, course, &mut |_| ControlFlow::Continue(())).expect("nobody cancels")
    }

    fn walk(&self, course: &Course) -> Denoised {
        self.walk_with(&mut ace_nn::flux::Own, course)
    }
}

/// So many plain steps.
fn plain(steps: usize) -> Course {
    Course::euler(Schedule::Flux.times(steps, TOKENS, &Shift::default()))
}

fn cached(steps: usize, cache: Cache) -> Course {
    Course { cache, mag_ratios: vec![1.0, 1.02, 1.0], ..plain(steps) }
}

fn masked(steps: usize, every: usize) -> Course {
    Course { masked: Some(MaskedSteps { every, columns: 64..320 }), ..plain(steps) }
}

#[test]
fn a_plain_course_is_the_loop_written_out() {
    let asked = Asked::of(&[5]);
    let course = plain(4);
    let mut tokens = random([1, TOKENS, 64], 6);
    for pair in course.times.windows(2) {
        let scalar = |value: f32| Tensor::<1>::from_data([value], &device());
        let (units, text) = (&asked.units, &asked.text);
        let (t, guidance) = (scalar(pair[0]), scalar(4.0));
        let velocity = sample::velocity(&asked.flux, tokens.clone(), units, text, t, guidance, FloatDType::F32);
        tokens = flow::euler(tokens, velocity, pair[0], pair[1]);
    }
    let walked = asked.walk(&course);
    assert_eq!(walked.tokens.into_data(), tokens.into_data());
    assert_eq!((walked.work.steps, walked.work.evaluations, walked.work.computed), (4, 4, 4));
    assert_eq!(walked.work.blocks, 16.0);
}

#[test]
fn a_cache_that_skips_nothing_changes_no_bit() {
    let asked = Asked::of(&[5]);
    let expected = asked.walk(&plain(5));
    for cache in [
        Cache::Off,
        Cache::Measure,
        Cache::FirstBlock { threshold: 0.0 },
        Cache::FirstBlock { threshold: 1e-9 },
        Cache::Mag { threshold: 0.0 },
    ] {
        let course = Course { mag_ratios: vec![1.5], ..cached(5, cache) };
        let walked = asked.walk(&course);
        assert_eq!(walked.tokens.into_data(), expected.tokens.clone().into_data(), "{cache:?}");
        assert_eq!(walked.work, expected.work, "{cache:?}");
        assert_eq!(walked.mag_ratios.len(), if cache == Cache::Measure { 5 } else { 0 }, "{cache:?}");
    }
}

#[test]
fn skipped_steps_are_counted_and_the_end_is_near() {
    let asked = Asked::of(&[5]);
    let far = distance(asked.walk(&plain(3)).tokens, asked.walk(&plain(12)).tokens);
    for (cache, computed, blocks) in [
        // The first block always runs, the other three once.
        (Cache::FirstBlock { threshold: 1e9 }, 1, 12.0 + 3.0),
        (Cache::Mag { threshold: 0.2 }, 4, 4.0 * 4.0),
        (Cache::Taylor { interval: 3, order: 1 }, 6, 6.0 * 4.0),
        (Cache::Taylor { interval: 2, order: 2 }, 7, 7.0 * 4.0),
    ] {
        let walked = asked.walk(&cached(12, cache));
        assert_eq!((walked.work.evaluations, walked.work.computed), (12, computed), "{cache:?}");
        assert_eq!(walked.work.blocks, blocks, "{cache:?}");
        let off = distance(walked.tokens, asked.walk(&plain(12)).tokens);
        assert!(off > 0.0 && off < 10.0 * far, "{cache:?}: {off} beside {far}");
    }
    // Every evaluation of a sampler counts, whether it ends a step or not.
    let heun = Course { sampler: Sampler::Heun, ..cached(6, Cache::Taylor { interval: 3, order: 1 }) };
    assert_eq!(asked.walk(&heun).work.evaluations, 11);
}

/// The network's own blocks; counts how often each is asked for.
#[derive(Default)]
struct Counted([usize; 2]);

impl Blocks for Counted {
    fn double(&mut self, _index: usize, own: &DoubleBlock) -> DoubleBlock {
        self.0[0] += 1;
        own.clone()
    }

    fn single(&mut self, _index: usize, own: &SingleBlock) -> SingleBlock {
        self.0[1] += 1;
        own.clone()
    }
}

#[test]
fn a_skipped_step_asks_for_no_block_but_the_first() {
    let asked = Asked::of(&[5]);
    let counted = |course: &Course| {
        let mut blocks = Counted::default();
        let computed = asked.walk_with(&mut blocks, course).work.computed;
        (blocks.0, computed)
    };
    assert_eq!(counted(&plain(6)), ([12, 12], 6));
    assert_eq!(counted(&cached(6, Cache::FirstBlock { threshold: 1e9 })), ([6 + 1, 2], 1));
    assert_eq!(counted(&cached(6, Cache::Taylor { interval: 3, order: 1 })), ([8, 8], 4));
    assert_eq!(counted(&masked(6, 3)), ([12, 12], 2));
}

#[test]
fn masked_steps_of_a_mask_over_everything_are_plain_steps() {
    let everything: Vec<usize> = (0..TOKENS).collect();
    for whole in [Asked::of(&everything), Asked::of(&[])] {
        let (walked, expected) = (whole.walk(&masked(5, 3)), whole.walk(&plain(5)));
        assert_eq!(walked.tokens.into_data(), expected.tokens.into_data());
        assert_eq!(walked.work, expected.work);
    }
}

#[test]
fn masked_steps_that_ask_for_all_every_time_change_no_bit() {
    let asked = Asked::of(&[5, 6]);
    let (walked, expected) = (asked.walk(&masked(5, 1)), asked.walk(&plain(5)));
    assert_eq!(walked.tokens.into_data(), expected.tokens.into_data());
    assert_eq!(walked.work, expected.work);
}

#[test]
fn masked_steps_cost_their_share_and_the_rest_goes_straight_on() {
    let asked = Asked::of(&[5, 6, 9]);
    let walked = asked.walk(&masked(4, 4));
    assert_eq!((walked.work.evaluations, walked.work.computed), (4, 1));
    // Five tokens of text; four blocks.
    let share = (5 + 3) as f64 / (5 + TOKENS) as f64;
    assert!((walked.work.blocks - 4.0 * (1.0 + 3.0 * share)).abs() < 1e-9, "{:?}", walked.work);
    // The first step is full; from there all outside tokens go where a single step would have led them.
    let one = asked.walk(&plain(1)).tokens;
    let of = |tokens: &Tensor<3>, token: usize| values(tokens.clone().narrow(1, token, 1));
    for token in 0..TOKENS {
        let (ours, straight) = (of(&walked.tokens, token), of(&one, token));
        let off = ours.iter().zip(&straight).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!(off < 1e-5, ![5, 6, 9].contains(&token), "token {token} is off by {off}");
    }
}

#[test]
fn condition_tokens_on_the_sequence_rest_too() {
    let behind = random([1, TOKENS, 384], 8) * 0.3;
    let ids = [latents::ids([ROWS, COLUMNS], 0), latents::ids([ROWS, COLUMNS], 1)].concat();
    let units = Units { behind: Some(behind), ids, ..units(&(0..TOKENS).collect::<Vec<_>>()) };
    let asked = Asked { units, ..Asked::of(&[]) };
    let (walked, expected) = (asked.walk(&masked(6, 2)), asked.walk(&plain(6)));
    assert_eq!((walked.work.evaluations, walked.work.computed), (6, 3));
    let share = (5 + TOKENS) as f64 / (5 + 2 * TOKENS) as f64;
    assert!((walked.work.blocks - 4.0 * (3.0 + 3.0 * share)).abs() < 1e-9, "{:?}", walked.work);
    let off = distance(walked.tokens, expected.tokens.clone());
    let scale = distance(expected.tokens.zeros_like(), expected.tokens);
    assert!(off > 0.0 && off < 0.1 * scale, "{off} of {scale}");
}
