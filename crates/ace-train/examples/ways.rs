//! The table of `docs/sampling.md`: ways from noise to a picture, beside each other on held-out examples of the world.
//!
//! `cargo run --release -p ace-train --features burn/flex --example ways -- models/tiny PER_TASK WAY …`
//!
//! A way is a list of words: a number of steps, a sampler, a schedule, `cache=HOW`, `masked=K`; as in `"3 unipc beta"`. For
//! each it prints how many blocks ran for an edit, the share of edits that succeed (of all tasks, and of those with a mask),
//! and how far its pictures are from those of 48 plain steps, in dB. The first three examples of each task are left to
//! `cache=mag`, whose ratios are measured on them.

use ace_plus::{
    Card, Edit, Model,
    image::RgbImage,
    sample::{Cache, Sampler, Schedule, Work},
};
use ace_train::{
    Example,
    data::shapes::{Split, World, WorldTask},
    judge::{judge, preview::edit_of},
};
use burn::tensor::Device;
use std::{error::Error, ops::ControlFlow, path::PathBuf};

/// Steps of the pictures that others are compared with.
const MANY: usize = 48;
/// Steps and examples of each task by which ratios are measured.
const CALIBRATED: (usize, u64) = (12, 3);

#[expect(clippy::print_stdout, reason = "an example's output")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "give a model folder, a number of examples and ways";
    let model = PathBuf::from(arguments.next().ok_or(usage)?);
    let per_task: u64 = arguments.next().ok_or(usage)?.parse()?;
    let mut card = Card::load(&model)?;
    let world = World::new(64, WorldTask::ALL, Split::HeldOut)?;
    let run = |ace: &ace_plus::Ace, edit: &Edit| ace.run(edit, &mut |_| ControlFlow::Continue(()));

    let ace = Model::of(card.clone(), &model).load(&Device::default())?;
    let mut ratios = vec![0.0; CALIBRATED.0];
    for task in WorldTask::ALL {
        for index in 0..CALIBRATED.1 {
            let edit = edit_of(&world.example_of(*task, index)).seed(index).steps(CALIBRATED.0).cache(Cache::Measure);
            let measured = run(&ace, &edit)?.mag_ratios;
            ratios.iter_mut().zip(measured).for_each(|(sum, ratio)| *sum += ratio);
        }
    }
    let count = WorldTask::ALL.len() as f32 * CALIBRATED.1 as f32;
    card.sampling.mag_ratios = ratios.iter().map(|sum| sum / count).collect();
    println!("mag_ratios = {:.4?}", card.sampling.mag_ratios);

    let ace = Model::of(card, &model).load(&Device::default())?;
    let mut examples: Vec<(Example, Edit, RgbImage)> = Vec::new();
    for task in WorldTask::ALL {
        for index in CALIBRATED.1..CALIBRATED.1 + per_task {
            let example = world.example_of(*task, index);
            let edit = edit_of(&example).seed(index);
            let best = run(&ace, &edit.clone().steps(MANY))?.image;
            examples.push((example, edit, best));
        }
    }
    println!("{:28}      of all tasks, from {MANY} steps       of those with a mask", "");
    println!("{:28} blocks  computed  success     dB    blocks  success     dB", "way");
    for way in arguments {
        let (mut all, mut masked) = (Sum::default(), Sum::default());
        for (example, edit, best) in &examples {
            let edited = run(&ace, &asked(edit.clone(), &way)?)?;
            let succeeds = judge(example, &edited.image).success;
            let sums = [Some(&mut all), example.mask.is_some().then_some(&mut masked)];
            sums.into_iter().flatten().for_each(|sum| sum.add(&edited.image, best, succeeds, edited.work));
        }
        let [(blocks, success, decibel), (masked_blocks, masked_success, masked_decibel)] =
            [&all, &masked].map(Sum::of);
        let computed = all.work.computed as f64 / all.examples as f64;
        println!(
            "{way:28} {blocks:6.1}  {computed:8.1}  {success:5.1} %  {decibel:5.1}    {masked_blocks:6.1}  \
             {masked_success:5.1} %  {masked_decibel:5.1}"
        );
    }
    Ok(())
}

/// An edit with what a way says.
fn asked(edit: Edit, way: &str) -> Result<Edit, Box<dyn Error>> {
    way.split_whitespace().try_fold(edit, |edit, word| {
        let sampler = Sampler::ALL.iter().find(|(name, _)| *name == word);
        let schedule = Schedule::ALL.iter().find(|(name, _)| *name == word);
        Ok(match (word.split_once('='), sampler, schedule) {
            (Some(("cache", how)), ..) => edit.cache(how.parse()?),
            (Some(("masked", every)), ..) => edit.masked_steps(every.parse()?),
            (_, Some((_, sampler)), _) => edit.sampler(*sampler),
            (.., Some((_, schedule))) => edit.schedule(*schedule),
            _ => edit.steps(word.parse()?),
        })
    })
}

/// Sums over examples.
#[derive(Default)]
struct Sum {
    squares: f64,
    values: usize,
    succeeded: usize,
    examples: usize,
    work: Work,
}

impl Sum {
    fn add(&mut self, ours: &RgbImage, best: &RgbImage, succeeds: bool, work: Work) {
        let squares = ours.iter().zip(best.iter()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
        self.squares += squares.sum::<f64>();
        self.values += ours.len();
        self.succeeded += usize::from(succeeds);
        self.examples += 1;
        self.work += work;
    }

    /// Blocks an edit, percent that succeed, dB.
    fn of(&self) -> (f64, f64, f64) {
        let each = |sum: f64| sum / self.examples.max(1) as f64;
        let decibel = 10.0 * (255.0 * 255.0 * self.values as f64 / self.squares).log10();
        (each(self.work.blocks), each(100.0 * self.succeeded as f64), decibel)
    }
}
