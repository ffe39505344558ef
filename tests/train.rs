//! Learning: it learns, it goes on exactly where it stopped, it moves what it should and nothing else.

use crate::{
    convert::{tensors, write_q8},
    support::{self, TestDir, distance, random},
};
use ace_nn::{flux::Own, lora::Linear};
use ace_plus::{Card, Model, model::Component, sample};
use ace_train::{
    Error, StateProblem,
    data::{
        Dataset,
        shapes::{Split, World, WorldTask},
    },
    judge::{
        preview::{self, Previews},
        sheet,
    },
    learn::{
        Outcome, Recipe, RunEvent, RunOptions, Start,
        flow::{FlowObjective, TrainedNetworks},
        group::Share,
        params::clip_global_norm,
        start, train, train_from,
        trainer::{Objective, Trainer},
    },
};
use ace_weights::network::flux::BFL;
use ace_weights::{Network, WeightFile};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    prelude::*,
    tensor::{DType, FloatDType},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A recipe on the miniature's card with fresh networks; `more` replaces or adds lines before the sections.
pub(crate) fn write_recipe(dir: &TestDir, name: &str, top: &str, data: &str, optimizer: &str) -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let tiny = tiny.canonicalize().expect("the miniature is shipped");
    let path = dir.file(&format!("{name}.toml"));
    let text = format!(
        "name = {name:?}\ncard = {tiny:?}\nlog_every = 1\npreview_every = 0\n{top}\n\
         [data]\nworld = 64\n{data}\n[optimizer]\n{optimizer}\n"
    );
    fs::write(&path, text).expect("writable");
    path
}

pub(crate) fn options(recipe: &Path, out: PathBuf) -> RunOptions {
    RunOptions::new(recipe, out)
}

/// Runs to the end and gives the losses.
pub(crate) fn losses(options: &RunOptions) -> Vec<f32> {
    let mut losses = Vec::new();
    let outcome = train(options, &support::device(), &mut |report| {
        if let RunEvent::Step(step) = report {
            losses.push(step.loss);
        }
        true
    });
    assert!(matches!(outcome, Ok(Outcome::Finished { .. })), "{outcome:?}");
    losses
}

pub(crate) const FRESH: &str =
    "train = [\"flux\", \"t5\", \"clip\"]\nfresh = [\"flux\", \"t5\", \"clip\"]\nsave_every = 2";
pub(crate) const SHORT: &str =
    "steps = 4\nbatch = 4\naccumulate = 2\nlearning_rate = 1e-3\nwarmup = 2\nschedule = \"cosine\"\nema = 0.9";

#[test]
fn a_run_that_was_killed_goes_on_bit_by_bit_whatever_the_number_of_workers() {
    let dir = TestDir::new("train-whole");
    let recipe = write_recipe(&dir, "run", &format!("{FRESH}\ndrop_instruction = 0.5"), "pool = 24", SHORT);
    let whole = options(&recipe, dir.file("whole"));
    let expected = losses(&whole);

    let mut broken = RunOptions { workers: 2, ..options(&recipe, dir.file("broken")) };
    let outcome = train(&broken, &support::device(), &mut |report| !matches!(report, RunEvent::Step(s) if s.step == 2));
    assert_eq!(outcome.expect("stops"), Outcome::Stopped { step: 2 });
    // What a kill leaves behind: half a checkpoint, and a log that is ahead of the whole one.
    fs::create_dir_all(broken.out.join("checkpoint.part")).expect("writable");
    fs::write(broken.out.join("checkpoint.part/weights.safetensors"), b"half").expect("writable");
    let log = broken.out.join("log.jsonl");
    let mut lines = fs::read_to_string(&log).expect("readable");
    lines.push_str("{\"step\":3,\"loss\":0.5,\"grad_no");
    fs::write(&log, lines).expect("writable");

    let refused = train(&broken, &support::device(), &mut |_| true).expect_err("there is a run already");
    assert!(matches!(refused, Error::State { problem: StateProblem::RunExists, .. }), "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("resume")), "{refused}");
    broken.resume = true;
    assert_eq!(losses(&broken), expected[2..], "losses after the break");
    for file in ["flux.safetensors", "t5.safetensors", "clip.safetensors"] {
        let bytes = |out: &Path| fs::read(out.join(file)).expect("written");
        assert!(bytes(&whole.out) == bytes(&broken.out), "{file} differs");
    }
    let log = |out: &Path| fs::read_to_string(out.join("log.jsonl")).expect("written");
    assert_eq!(log(&whole.out), log(&broken.out));
}

/// The pictures of the world's first examples as files, named by a manifest.
pub(crate) fn write_manifest(dir: &TestDir, examples: u64) -> PathBuf {
    let world = World::new(64, WorldTask::ALL, Split::Train).expect("64 is a size of the world");
    let save = |picture: image::DynamicImage, name: String| {
        picture.save(dir.file(&name)).expect("writable");
        name
    };
    let line = |index: u64| {
        let example = world.example(index).expect("drawn");
        let references = example.references.into_iter().enumerate();
        let references: Vec<_> =
            references.map(|(at, reference)| save(reference.into(), format!("{index}-reference-{at}.png"))).collect();
        let line = serde_json::json!({
            "instruction": example.instruction,
            "target": save(example.target.into(), format!("{index}-target.png")),
            "image": example.image.map(|image| save(image.into(), format!("{index}-image.png"))),
            "mask": example.mask.map(|mask| save(mask.into(), format!("{index}-mask.png"))),
            "references": references,
            "repainting_scale": example.repainting_scale,
        });
        format!("{line}\n")
    };
    let path = dir.file("manifest.jsonl");
    fs::write(&path, (0..examples).map(line).collect::<String>()).expect("writable");
    path
}

#[test]
fn a_manifest_of_the_worlds_pictures_is_learned_like_the_world() {
    let dir = TestDir::new("train-manifest");
    let examples = WorldTask::ALL.len() as u64;
    let world = write_recipe(&dir, "world", FRESH, &format!("pool = {examples}"), SHORT);
    let manifest = write_manifest(&dir, examples);
    let text = fs::read_to_string(&world).expect("written");
    let from_files = dir.file("files.toml");
    fs::write(&from_files, text.replace("world = 64", &format!("manifest = {manifest:?}"))).expect("writable");
    let expected = losses(&options(&world, dir.file("world")));
    assert_eq!(losses(&options(&from_files, dir.file("files"))), expected);
}

#[test]
fn a_checkpoint_of_another_recipe_is_refused() {
    let dir = TestDir::new("train-other-recipe");
    let recipe = |rate: &str| {
        let optimizer = format!("steps = 1\nbatch = 1\nlearning_rate = {rate}");
        write_recipe(&dir, "run", FRESH, "pool = 2", &optimizer)
    };
    let mut options = options(&recipe("1e-3"), dir.file("out"));
    losses(&options);
    options.resume = true;
    recipe("2e-3");
    let refused = train(&options, &support::device(), &mut |_| true).expect_err("another recipe");
    assert!(matches!(refused, Error::State { .. }) && refused.to_string().contains("another recipe"), "{refused}");
}

#[test]
fn one_example_is_learned_by_heart() {
    let dir = TestDir::new("train-by-heart");
    let optimizer = "steps = 100\nbatch = 4\naccumulate = 2\nlearning_rate = 3e-3\nwarmup = 5";
    let recipe = write_recipe(&dir, "run", FRESH, "pool = 1\ntasks = [\"recolor\"]", optimizer);
    let losses = losses(&RunOptions { workers: 2, ..options(&recipe, dir.file("out")) });
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&losses[..5]), mean(&losses[95..]));
    assert!(last < 0.5 * first, "the loss went from {first} to {last}");
}

#[test]
fn an_adapter_run_writes_the_branches_alone_and_both_factors_move() {
    let dir = TestDir::new("train-adapter");
    let base = options(
        &write_recipe(&dir, "base", FRESH, "pool = 2", "steps = 1\nbatch = 1\nlearning_rate = 1e-3"),
        dir.file("base"),
    );
    losses(&base);
    let before = fs::read(base.out.join("flux.safetensors")).expect("written");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let top = format!(
        "train = [\"flux\"]\nweights = [{:?}, {:?}]\n[lora]\nrank = 2\nalpha = 2.0",
        base.out,
        tiny.canonicalize().expect("the miniature is shipped")
    );
    let recipe = write_recipe(&dir, "adapter", &top, "pool = 4", "steps = 3\nbatch = 2\nlearning_rate = 1e-2");
    let run = options(&recipe, dir.file("out"));
    losses(&run);

    let file = WeightFile::open(&run.out.join("adapter.safetensors")).expect("written");
    let shapes = file.shapes().expect("readable");
    // Ten layers a double block, three a single one; two factors and alpha each.
    assert_eq!(shapes.len(), 3 * (2 * 10 + 4 * 3));
    for key in shapes.keys().filter(|key| key.ends_with("lora_up.weight")) {
        let moved = support::values(file.tensor::<2>(key, None, &support::device()).expect("readable"));
        assert!(moved.iter().any(|value| *value != 0.0), "{key} is still zero");
    }
    assert!(before == fs::read(base.out.join("flux.safetensors")).expect("there"), "the base moved");
    let checkpoint = run.out.join("checkpoint-3/weights.safetensors");
    let kept = WeightFile::open(&checkpoint).expect("written").shapes().expect("readable");
    assert!(kept.keys().all(|key| key.contains(".lora.")), "a checkpoint holds frozen weights");
}

/// What an adapter's training makes of a base: the first gradients of its factors, the loss of the first step's examples
/// before and after a few steps.
struct Learned {
    gradients: Vec<f32>,
    losses: [f32; 2],
}

/// Trains an adapter on the miniature in the numbers and from the files of `start`.
fn learn_on(start: &Start, recipe: &Recipe) -> Learned {
    let (device, learning) = (support::device(), support::device().autodiff());
    let world = World::new(64, &[WorldTask::Recolor], Split::Train).expect("64 is a size of the world");
    let encoders = start.encoders(recipe, &device).expect("shipped");
    let dtype = start.flux_dtype(recipe);
    let mut objective = FlowObjective::new(recipe, &world, encoders, dtype, &learning);
    let mut trainer = Trainer::new(start.trained(recipe, &learning).expect("shipped"), &recipe.optimizer);
    let frozen = frozen(&trainer.model);
    assert!(frozen.len() > 50);

    let loss = first_loss(&mut objective, &trainer.model);
    let before = loss.clone().inner().into_scalar::<f32>();
    let gradients = gradients(&trainer.model, &GradientsParams::from_module(&mut loss.backward(), &trainer.model));
    for _ in 0..recipe.optimizer.steps {
        trainer.step(&mut objective, 2).expect("finite");
    }
    let after = first_loss(&mut objective, &trainer.model).inner().into_scalar::<f32>();
    assert!(frozen == self::frozen(&trainer.model), "the base moved");
    Learned { gradients, losses: [before, after] }
}

/// The loss of the first step's examples, in f32.
fn first_loss(objective: &mut FlowObjective<'_>, model: &TrainedNetworks) -> Tensor<1> {
    let micro_batch = objective.micro_batches(0).expect("encoded").swap_remove(0);
    let loss = objective.loss(model, micro_batch).value;
    assert_eq!(loss.dtype(), DType::F32);
    loss
}

/// Bytes and dtypes of the parameters that do not learn.
fn frozen(model: &TrainedNetworks) -> Vec<(DType, Vec<u8>)> {
    struct Walk(Vec<(DType, Vec<u8>)>);
    impl ModuleVisitor for Walk {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            match value.is_require_grad() {
                true => assert_eq!(value.dtype(), DType::F32, "what learns is in f32"),
                false => {
                    let data = value.inner().into_data();
                    self.0.push((data.dtype(), data.as_bytes().to_vec()));
                }
            }
        }
    }
    let mut walk = Walk(Vec::new());
    model.visit(&mut walk);
    walk.0
}

/// All gradients behind each other; they are in f32.
pub(crate) fn gradients(model: &TrainedNetworks, gradients: &GradientsParams) -> Vec<f32> {
    struct Walk<'a>(&'a GradientsParams, Vec<f32>);
    impl ModuleVisitor for Walk<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                assert_eq!(gradient.dtype(), DType::F32);
                self.1.extend(support::values(gradient));
            }
        }
    }
    let mut walk = Walk(gradients, Vec::new());
    model.visit(&mut walk);
    walk.1
}

/// Other numbers for every parameter, which learns or is frozen as before: the gradients of a network that has learned are
/// small differences of large numbers.
pub(crate) fn unlearned(model: TrainedNetworks) -> TrainedNetworks {
    struct Walk(u64);
    impl ModuleMapper for Walk {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let stream = self.0;
            param.map(|old| {
                let shape: [usize; D] = old.dims();
                let noise = sample::gaussian(shape, &mut sample::rng(7, stream), &support::device());
                let new = match D {
                    1 => noise * 0.3 + 0.5,
                    _ => noise / (shape[1..].iter().product::<usize>() as f32).sqrt(),
                };
                let new = Tensor::from_inner(new);
                if old.is_require_grad() { new.require_grad() } else { new }
            })
        }
    }
    model.map(&mut Walk(0))
}

#[test]
fn recomputed_blocks_give_the_gradients_of_one_graph() {
    let dir = TestDir::new("train-recompute");
    let lora = "[lora]\nrank = 4\nalpha = 4.0";
    // Branches alone; the transformer; the text encoders with it, whose gradients pass through every block.
    for top in [format!("train = [\"flux\"]\n{lora}"), "train = [\"flux\"]".into(), "train = [\"flux\", \"t5\"]".into()]
    {
        let path = write_recipe(&dir, "run", &top, "pool = 4", "steps = 1\nbatch = 2\nlearning_rate = 1e-3");
        let recipe = Recipe::load(&path).expect("sound");
        let start = Start::of_recipe(&recipe, &path).expect("shipped");
        let (device, learning) = (support::device(), support::device().autodiff());
        let world = World::new(64, &[WorldTask::Subject], Split::Train).expect("64 is a size of the world");
        let model = unlearned(start.trained(&recipe, &learning).expect("shipped"));
        let mut both = [false, true].map(|recompute| {
            let recipe = Recipe { recompute, ..recipe.clone() };
            let encoders = start.encoders(&recipe, &device).expect("shipped");
            FlowObjective::new(&recipe, &world, encoders, start.flux_dtype(&recipe), &learning)
        });
        let [plain, ours] = both.each_mut().map(|objective| {
            let micro_batch = objective.micro_batches(1).expect("encoded").swap_remove(0);
            let measured = objective.measure(&model, micro_batch);
            (measured.loss, gradients(&model, &measured.grads))
        });
        assert!((plain.0 - ours.0).abs() <= 1e-6 * plain.0, "{} and {}", plain.0, ours.0);
        assert!(plain.1.len() > 1000 && plain.1.len() == ours.1.len());
        let error = support::relative_error(&ours.1, &plain.1);
        assert!(error <= 1e-6, "{top}: {error:e}");
    }
}

#[test]
fn an_adapter_learns_on_a_base_in_16_or_8_bits_which_stays_as_it_was() {
    let dir = TestDir::new("train-frozen");
    let top = "train = [\"flux\"]\n[lora]\nrank = 4\nalpha = 4.0";
    let path = write_recipe(&dir, "run", top, "pool = 4", "steps = 8\nbatch = 4\nlearning_rate = 3e-3");
    let recipe = Recipe::load(&path).expect("sound");
    let start = Start::of_recipe(&recipe, &path).expect("shipped");
    let gguf = dir.file("flux-Q8_0.gguf");
    write_q8(&gguf, &tensors(start.model.require(Component::Flux).expect("shipped").path()));
    let on = |model: Model| Start { model, ..start.clone() };
    let packed = start.model.clone().network(Network::Flux, gguf);

    let plain = learn_on(&start, &recipe);
    assert!(plain.losses[1] < 0.95 * plain.losses[0], "{:?}", plain.losses);
    let distance = |one: &Learned, other: &Learned| {
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let mut difference = one.gradients.iter().zip(&other.gradients).map(|(one, other)| one - other);
        norm(&mut difference) / norm(&mut other.gradients.iter().copied())
    };
    // The miniature is trained, so its gradients are small differences of large numbers. Measured: 0.07, 0.08, 0.11.
    for (name, start, bound) in [
        ("bf16", on(start.model.clone().dtype(FloatDType::BF16)), 0.1),
        ("Q8_0", on(packed.clone()), 0.12),
        ("Q8_0 beside bf16", on(packed.clone().dtype(FloatDType::BF16)), 0.15),
    ] {
        let learned = learn_on(&start, &recipe);
        let distance = distance(&learned, &plain);
        assert!(distance > 0.0 && distance < bound, "{name}: gradients differ by {distance}");
        for (ours, theirs) in learned.losses.iter().zip(plain.losses) {
            assert!((ours / theirs - 1.0).abs() < 0.05, "{name}: {:?} beside {:?}", learned.losses, plain.losses);
        }
    }
    // The packed base is what its numbers say: the same in f32 learns the same.
    let widened = learn_on(&on(packed.clone().widen(true)), &recipe);
    let packed = learn_on(&on(packed), &recipe);
    let distance = distance(&packed, &widened);
    assert!(distance < 1e-5, "packed and widened: gradients differ by {distance}");
    assert_eq!(packed.losses, widened.losses);
}

#[test]
fn an_adapter_learns_the_same_on_blocks_that_are_fetched_and_on_blocks_in_memory() {
    let dir = TestDir::new("train-streamed");
    let learned = |name: &str, top: &str, placement: &str| {
        let top = format!("train = [\"flux\"]\n{top}placement = {placement:?}\n[lora]\nrank = 2\nalpha = 2.0");
        let optimizer = "steps = 2\nbatch = 2\naccumulate = 2\nlearning_rate = 1e-2";
        let path = write_recipe(&dir, name, &top, "pool = 4", optimizer);
        let text = fs::read_to_string(&path).expect("just written");
        fs::write(&path, text.replace("preview_every = 0", "preview_every = 2")).expect("writable");
        let run = RunOptions { workers: 2, ..options(&path, dir.file(&format!("{name}-{placement}"))) };
        let outcome = train(&run, &support::device(), &mut |_| true);
        let Ok(Outcome::Finished { step: 2, weights }) = outcome else { panic!("{outcome:?}") };
        let read = |path: &Path| fs::read(path).expect("written");
        (read(&weights[0]), read(&run.out.join("preview-000002.png")))
    };
    let mut all = Vec::new();
    for (name, top) in [("plain", ""), ("packed", "quantize = \"nf4\"\n")] {
        let resident = learned(name, top, "resident");
        assert!(resident == learned(name, top, "streamed"), "{name}");
        all.push(resident);
    }
    assert!(all[0] != all[1], "a packed base gives other gradients");
}

#[test]
fn a_folder_as_diffusers_writes_it_is_trained_on_in_its_own_spelling() {
    let dir = TestDir::new("train-diffusers");
    let manifest = write_manifest(&dir, 1);
    let fill = support::data("fill").canonicalize().expect("recorded");
    let path = dir.file("run.toml");
    let text = format!(
        "name = \"run\"\nmodel = {fill:?}\nfrozen_dtype = \"bf16\"\ntrain = [\"flux\"]\npreview_every = 2\n\
         [lora]\nrank = 2\nalpha = 2.0\n[data]\nmanifest = {manifest:?}\n\
         [optimizer]\nsteps = 3\nbatch = 2\nlearning_rate = 1e-2\n"
    );
    fs::write(&path, text).expect("writable");
    let run = options(&path, dir.file("out"));
    let mut start = Start::of_recipe(&Recipe::load(&path).expect("sound"), &path).expect("recorded");
    // As if the encoders were T5-XXL's size: they are dropped before the transformer comes.
    start.encoder_budget = 0;
    let mut encoded = Vec::new();
    let outcome = train_from(&start, &run, &support::device(), &mut |event| {
        match event {
            RunEvent::Encoding { done, of } => encoded.push((done, of)),
            RunEvent::Started { learned, parameters, .. } => assert!(learned < parameters && !encoded.is_empty()),
            _ => {}
        }
        true
    });
    assert_eq!(encoded, [(1, 1)]);
    let Ok(Outcome::Finished { step: 3, weights }) = outcome else { panic!("{outcome:?}") };
    assert!(run.out.join("preview-000002.png").is_file());
    // The adapter is one of the model that sampling loads from the same folder.
    let model = Model::find(fill.to_str().expect("plain")).expect("recorded");
    let mut ace = model.load(&support::device()).expect("recorded");
    let report = ace.add_lora(&weights[0], 1.0).expect("an adapter of this model");
    assert_eq!(report.ranks, Some(2..=2));
    assert!(report.branches > 0);
}

#[test]
fn what_is_encoded_ahead_is_what_would_be_encoded_when_it_is_drawn() {
    let dir = TestDir::new("train-ahead");
    let top = "train = [\"flux\"]\ndrop_instruction = 0.5\n[lora]\nrank = 2\nalpha = 2.0";
    let optimizer = "steps = 3\nbatch = 3\nlearning_rate = 1e-3";
    let path = write_recipe(&dir, "run", top, "pool = 40", optimizer);
    let recipe = Recipe::load(&path).expect("sound");
    let start = Start::of_recipe(&recipe, &path).expect("shipped");
    let (device, learning) = (support::device(), support::device().autodiff());
    let world = World::new(64, WorldTask::ALL, Split::Train).expect("64 is a size of the world");
    let model = start.trained(&recipe, &learning).expect("shipped");
    let losses = |steps: Option<std::ops::Range<u64>>| {
        let encoders = start.encoders(&recipe, &device).expect("shipped");
        let mut objective = FlowObjective::new(&recipe, &world, encoders, start.flux_dtype(&recipe), &learning);
        if let Some(steps) = steps {
            let mut heard = 0;
            let done = objective.encode_ahead(steps, Share::ALL, &mut |done, of| {
                assert!(heard < done && done <= of && of <= 9);
                heard = done;
                true
            });
            assert!(done.expect("encoded"));
        }
        let mut losses = Vec::new();
        for step in 0..3 {
            for micro_batch in objective.micro_batches(step).expect("encoded") {
                losses.push(objective.loss(&model, micro_batch).value.inner().into_scalar::<f32>());
            }
        }
        losses
    };
    assert_eq!(losses(Some(0..3)), losses(None));
}

#[test]
fn previews_are_the_edits_that_sampling_makes() {
    let dir = TestDir::new("train-previews");
    let path = write_recipe(&dir, "run", "train = [\"flux\"]", "", "steps = 1\nbatch = 1\nlearning_rate = 1e-3");
    let recipe = Recipe::load(&path).expect("sound");
    let start = Start::of_recipe(&recipe, &path).expect("shipped");
    let device = support::device();
    let world = World::new(64, &[WorldTask::LocalReference, WorldTask::Move], Split::HeldOut).expect("a world");
    let examples = [0, 1].map(|index| world.example(index).expect("drawn"));

    let ace = start.model.load(&device).expect("shipped");
    let rows = examples.iter().map(|example| preview::row(&ace, example).expect("edits"));
    let expected = sheet::sheet(&rows.collect::<Vec<_>>());
    let encoders = start.encoders(&recipe, &device).expect("shipped");
    // Encoded for the previews, or taken from what training has encoded.
    let encoded = examples.clone().map(|example| (example.clone(), encoders.encode(&example).expect("they fit")));
    let taken = Previews::of(start.card(), &encoders.autoencoder, &device, encoded.into()).expect("they fit");
    let made = Previews::new(&encoders, examples.into()).expect("they fit");
    drop(encoders);
    for previews in [made, taken] {
        let outputs = previews.outputs(&ace.networks().expect("resident").flux, &mut Own, None, FloatDType::F32);
        assert!(previews.sheet(outputs.expect("edits")) == expected);
    }
}

#[test]
fn a_decoder_learns_alone_and_the_encoder_keeps_its_latents() {
    let dir = TestDir::new("train-decoder");
    let section = "steps = 1\nbatch = 2\naccumulate = 2\nlearning_rate = 1e-3\n\
                   [autoencoder]\nkl_weight = 0.0\ndecoder_only = true\nlatent_noise = 0.05";
    let recipe = write_recipe(&dir, "decoder", "train = [\"autoencoder\"]", "", section);
    let run = options(&recipe, dir.file("out"));
    losses(&run);
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let open = |path: &Path| WeightFile::open(&path.join("autoencoder.safetensors")).expect("written");
    let (before, after) = (open(&tiny), open(&run.out));
    for key in before.shapes().expect("readable").keys() {
        let same = before.data(key).expect("readable") == after.data(key).expect("readable");
        assert_eq!(same, key.starts_with("encoder."), "{key}");
    }
}

#[test]
fn widened_columns_change_nothing_at_first_and_masks_keep_their_columns() {
    for (from, to, kept) in [(64, 448, 64), (384, 448, 128)] {
        let narrow = support::flux(from);
        let wide = start::widen(narrow.clone(), &support::flux_config(from), &support::flux_config(to)).expect("known");
        let (old, new) = (narrow.img_in.weight.val(), wide.img_in.weight.val());
        let moved = to - from;
        assert_eq!(new.dims(), [32, to]);
        assert_eq!(distance(new.clone().narrow(1, 0, kept), old.clone().narrow(1, 0, kept)), 0.0);
        let gap = new.clone().narrow(1, kept, moved);
        assert_eq!(distance(gap.clone(), gap.zeros_like()), 0.0);
        if from > kept {
            assert_eq!(distance(new.narrow(1, kept + moved, from - kept), old.narrow(1, kept, from - kept)), 0.0);
        }
    }
    assert!(start::widen(support::flux(384), &support::flux_config(384), &support::flux_config(512)).is_err());
}

#[test]
fn clipping_looks_at_all_gradients_together_even_where_squares_overflow() {
    #[derive(Module, Debug)]
    struct Pair {
        a: Linear,
        b: Linear,
    }
    let device = support::device().autodiff();
    let linear = |value: Tensor<2>| Linear { weight: Tensor::from_inner(value).into(), bias: None, lora: Vec::new() };
    for size in [1.0f32, 1e25] {
        let pair = Pair { a: linear(random([2, 2], 1)), b: linear(random([2, 2], 2)) };
        // Gradients of 3·size and 4·size in one number each: together 5·size.
        let pick = Tensor::<2>::from_data([[1.0f32, 0.0], [0.0, 0.0]], &device);
        let loss = (pair.a.weight.val() * pick.clone()).sum() * (3.0 * size)
            + (pair.b.weight.val() * pick).sum() * (4.0 * size);
        let mut grads = loss.backward();
        let grads = GradientsParams::from_module(&mut grads, &pair);
        let (clipped, norm) = clip_global_norm(&pair, grads, 1.0);
        assert!((norm / (5.0 * size) - 1.0).abs() < 1e-5, "{norm}");
        let first = |layer: &Linear| {
            let id = layer.weight.id().expect("dense");
            support::values(clipped.get::<2>(id).expect("has a gradient"))[0]
        };
        assert!((first(&pair.a) - 0.6).abs() < 1e-5 && (first(&pair.b) - 0.8).abs() < 1e-5);
    }
}

#[test]
fn the_shipped_card_and_its_base_agree_but_for_the_input() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let (card, base) = (Card::load(&tiny), Card::load(&tiny.join("base-card.toml")));
    let (card, base) = (card.expect("valid"), base.expect("valid"));
    assert_eq!((card.autoencoder, card.t5, card.clip), (base.autoencoder, base.t5, base.clip));
    assert_eq!((card.flux.in_channels, base.flux.in_channels), (448, 64));
    let same_input = ace_nn::flux::FluxConfig { in_channels: 448, ..base.flux };
    assert_eq!(card.flux, same_input);
    // A file of the base does not load as the card's transformer: the one layer that differs is named.
    let dir = TestDir::new("train-card");
    let narrow = support::randomize(
        ace_nn::flux::FluxConfig { in_channels: 64, ..card.flux.clone() }.init(&support::device()),
        1,
    );
    let path = dir.file("flux.safetensors");
    ace_weights::write(&path, &ace_weights::collect(&narrow, &BFL, "", None), &[]).expect("writable");
    let file = WeightFile::open(&path).expect("written");
    let error = file.load(card.flux.init(&support::device()), &BFL, "", None, &support::device()).expect_err("differs");
    assert!(error.to_string().contains("img_in.weight has shape"), "{error}");
}
