//! Examples of different sizes on one sequence: they learn as they would apart.

use crate::{
    support::{self, TestDir},
    train::{gradients, unlearned, write_recipe},
};
use ace_train::{
    Outcome, Recipe, RunEvent, RunOptions, Start,
    data::shapes::{Split, World, WorldTask},
    learn::{flow::FlowObjective, train, trainer::Objective},
};
use burn::optim::{GradientsAccumulator, GradientsParams};
use std::fs;

/// More tokens than a step has.
const ALL: usize = 1_000_000;

/// Number of micro-batches, loss and gradients of a step with these settings.
fn step(start: &Start, recipe: &Recipe, world: &World) -> (usize, f64, Vec<f32>) {
    let (device, learning) = (support::device(), support::device().autodiff());
    let model = unlearned(start.trained(recipe, &learning).expect("shipped"));
    let encoders = start.encoders(recipe, &device).expect("shipped");
    let mut objective = FlowObjective::new(recipe, world, encoders, start.flux_dtype(recipe), &learning);
    let micro_batches = objective.micro_batches(3).expect("encoded");
    let count = micro_batches.len();
    let (mut loss, mut sum) = (0.0, GradientsAccumulator::new());
    for micro_batch in micro_batches {
        let measured = objective.measure(&model, micro_batch);
        loss += measured.loss;
        sum.accumulate(&model, measured.grads);
    }
    let sum: GradientsParams = sum.grads();
    (count, loss, gradients(&model, &sum))
}

#[test]
fn packed_examples_give_the_loss_and_gradients_of_single_ones() {
    let dir = TestDir::new("packing");
    // Pictures alone, beside a reference, and edited: three lengths.
    let tasks = [WorldTask::TextToImage, WorldTask::Subject, WorldTask::Recolor];
    let world = World::new(64, &tasks, Split::Train).expect("64 is a size of the world");
    for (top, recompute) in [
        ("train = [\"flux\"]\ndrop_instruction = 0.5\n[lora]\nrank = 4\nalpha = 4.0", true),
        ("train = [\"flux\"]", false),
        ("train = [\"flux\", \"t5\", \"clip\"]", true),
    ] {
        let optimizer = "steps = 4\nbatch = 6\naccumulate = 6\nlearning_rate = 1e-3";
        let path = write_recipe(&dir, "run", top, "pool = 12", optimizer);
        let recipe = Recipe { recompute, ..Recipe::load(&path).expect("sound") };
        let start = Start::of_recipe(&recipe, &path).expect("shipped");
        let packed = |tokens: usize| {
            let mut recipe = recipe.clone();
            recipe.data.pack_tokens = Some(tokens);
            step(&start, &recipe, &world)
        };
        let (count, loss, expected) = step(&start, &recipe, &world);
        assert_eq!(count, 6, "one by one");
        let (all, two, none) = (packed(ALL), packed(100), packed(1));
        assert_eq!((all.0, none.0), (1, 6));
        assert!(two.0 > 1 && two.0 < 6, "{} sequences", two.0);
        for (count, ours, gradients) in [all, two, none] {
            assert!((ours - loss).abs() <= 1e-6 * loss, "{count} sequences: {ours} and {loss}");
            let error = support::relative_error(&gradients, &expected);
            assert!(error <= 1e-6, "{top}, {count} sequences: {error:e}");
        }
    }
}

#[test]
fn a_packed_run_that_was_killed_goes_on_bit_by_bit_whatever_the_number_of_workers() {
    let dir = TestDir::new("packing-killed");
    let top = "train = [\"flux\"]\ndrop_instruction = 0.5\nsave_every = 1\n[lora]\nrank = 2\nalpha = 2.0";
    let optimizer = "steps = 4\nbatch = 6\nlearning_rate = 1e-3";
    let recipe = write_recipe(&dir, "run", top, "pool = 12\npack_tokens = 100", optimizer);
    let run = |out: &str| RunOptions::new(&recipe, dir.file(out));
    let to_the_end = |options: &RunOptions| {
        let outcome = train(options, &support::device(), &mut |_| true);
        assert!(matches!(outcome, Ok(Outcome::Finished { .. })), "{outcome:?}");
        fs::read(options.out.join("run.safetensors")).expect("written")
    };
    let whole = to_the_end(&run("whole"));
    let mut broken = RunOptions { workers: 2, ..run("broken") };
    let outcome = train(&broken, &support::device(), &mut |event| !matches!(event, RunEvent::Step(s) if s.step == 2));
    assert_eq!(outcome.expect("stops"), Outcome::Stopped { step: 2 });
    broken.resume = true;
    assert!(to_the_end(&broken) == whole, "the adapters differ");
}
