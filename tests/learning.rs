//! What a recipe may ask for, and that it is done: weights of tokens, measuring on held-out examples, stopping early,
//! branches of chosen layers, going on from somebody's LoRA, adapters in the spelling of others.

use crate::{
    support::{self, TestDir},
    train::{FRESH, SHORT, losses, options, write_recipe},
};
use ace_plus::Model;
use ace_train::{
    Error,
    data::shapes::{Split, World, WorldTask},
    learn::{
        Outcome, Recipe, RunEvent, RunOptions, Start, ValidationReport, flow::FlowObjective, train, trainer::Objective,
    },
};
use ace_weights::{WeightFile, adapter};
use burn::prelude::*;
use std::{fs, path::Path};

/// An adapter's recipe on the shipped miniature.
const ADAPTER: &str = "train = [\"flux\"]\n[lora]\nrank = 2\nalpha = 2.0";

#[test]
fn weights_of_one_change_no_bit() {
    let dir = TestDir::new("learning-ones");
    let plain = write_recipe(&dir, "plain", FRESH, "pool = 8", SHORT);
    let ones = "[loss]\nmask_weight = 1.0\nreference_weight = 1.0\n[timesteps]\nlaw = \"logit-normal\"";
    let ones = write_recipe(&dir, "ones", &format!("{FRESH}\n{ones}"), "pool = 8", SHORT);
    assert_eq!(losses(&options(&plain, dir.file("plain"))), losses(&options(&ones, dir.file("ones"))));
}

/// The loss of the first example of a task under a `[loss]` section, and the sums and numbers of its two halves.
fn first_loss(dir: &TestDir, section: &str, task: WorldTask) -> (f32, [(f32, f32); 2]) {
    let top = format!("train = [\"flux\"]\n{section}");
    let path = write_recipe(dir, "run", &top, "pool = 1", "steps = 1\nbatch = 1\nlearning_rate = 1e-3");
    let recipe = Recipe::load(&path).expect("sound");
    let start = Start::of_recipe(&recipe, &path).expect("shipped");
    let (device, learning) = (support::device(), support::device().autodiff());
    let world = World::new(64, &[task], Split::Train).expect("a world");
    let encoders = start.encoders(&recipe, &device).expect("shipped");
    let mut objective = FlowObjective::new(&recipe, &world, encoders, start.flux_dtype(&recipe), &learning);
    let model = start.trained(&recipe, &learning).expect("shipped");
    let micro_batch = objective.micro_batches(0).expect("encoded").swap_remove(0);
    let loss = objective.loss(&model, micro_batch);
    let half = |name| {
        let figure = loss.figures.iter().find(|(known, _, _)| *known == name).expect("a figure");
        (figure.1, figure.2)
    };
    (loss.value.inner().into_scalar::<f32>(), [half("ref"), half("tar")])
}

#[test]
fn references_count_as_much_as_the_recipe_says() {
    let dir = TestDir::new("learning-reference");
    for weight in [1.0f32, 0.0, 0.25, 3.0] {
        let section = format!("[loss]\nreference_weight = {weight:?}");
        let (loss, [(ref_sum, ref_count), (tar_sum, tar_count)]) =
            first_loss(&dir, &section, WorldTask::LocalReference);
        assert!(ref_count > 0.0 && tar_count > 0.0);
        let expected = (weight * ref_sum + tar_sum) / (weight * ref_count + tar_count);
        assert!((loss / expected - 1.0).abs() < 1e-5, "{weight}: {loss} is not {expected}");
    }
}

#[test]
fn what_lies_under_the_mask_counts_as_much_as_the_recipe_says() {
    let dir = TestDir::new("learning-mask");
    let loss = |weight: f32| first_loss(&dir, &format!("[loss]\nmask_weight = {weight:?}"), WorldTask::Recolor).0;
    // A mean of two parts, the masked one weighted by w: (o + w·m) / (a + w·b). Three of them give the fourth.
    let [zero, one, two, four] = [0.0, 1.0, 2.0, 4.0].map(loss);
    assert!(one != zero && one != two && zero.is_finite());
    // With a + b = 1: o/a is the loss at 0, o + m at 1, and a follows from the one at 2.
    let a = f64::from(2.0 * one - 2.0 * two) / f64::from(zero - two);
    let (zero, one) = (f64::from(zero), f64::from(one));
    let (outside, under) = (zero * a, one - zero * a);
    let expected = (outside + 4.0 * under) / (a + 4.0 * (1.0 - a));
    assert!(a > 0.2 && a < 1.0, "{a} of the picture is outside of the mask");
    assert!((f64::from(four) / expected - 1.0).abs() < 1e-3, "{four} is not {expected}");
}

#[test]
fn packed_examples_weigh_as_they_do_alone() {
    let dir = TestDir::new("learning-packed");
    let loss = |more: &str, section: &str| {
        let optimizer = "steps = 1\nbatch = 6\nlearning_rate = 1e-3";
        let top = format!("train = [\"flux\"]\n{section}");
        let path = write_recipe(&dir, "run", &top, &format!("pool = 12\n{more}"), optimizer);
        let recipe = Recipe::load(&path).expect("sound");
        let start = Start::of_recipe(&recipe, &path).expect("shipped");
        let (device, learning) = (support::device(), support::device().autodiff());
        let world = World::new(64, WorldTask::ALL, Split::Train).expect("a world");
        let encoders = start.encoders(&recipe, &device).expect("shipped");
        let mut objective = FlowObjective::new(&recipe, &world, encoders, start.flux_dtype(&recipe), &learning);
        let model = start.trained(&recipe, &learning).expect("shipped");
        let micro_batches = objective.micro_batches(0).expect("encoded");
        let count = micro_batches.len();
        let losses = micro_batches.into_iter().map(|micro_batch| {
            let loss = objective.loss(&model, micro_batch);
            f64::from(loss.value.inner().into_scalar::<f32>()) * loss.weight
        });
        (losses.sum::<f64>(), count)
    };
    let section = "[loss]\nmask_weight = 3.0\nreference_weight = 0.25";
    let ((alone, groups), (packed, packs)) = (loss("", section), loss("pack_tokens = 1000", section));
    assert!(packs < groups, "{packs} sequences instead of {groups}");
    assert!((packed / alone - 1.0).abs() < 1e-5, "{packed} is not {alone}");
    assert!((loss("pack_tokens = 1000", "").0 / packed - 1.0).abs() > 1e-3, "weights weigh");
}

/// Runs to the end and gives what was measured on held-out examples.
fn validated(options: &RunOptions) -> Vec<ValidationReport> {
    let mut reports = Vec::new();
    let outcome = train(options, &support::device(), &mut |event| {
        if let RunEvent::Validated(report) = event {
            reports.push(report);
        }
        true
    });
    assert!(matches!(outcome, Ok(Outcome::Finished { .. })), "{outcome:?}");
    reports
}

#[test]
fn held_out_examples_are_measured_alike_every_time() {
    let dir = TestDir::new("learning-validation");
    let section = "[validation]\nevery = 2\nexamples = 3\ntimesteps = [0.25, 0.75]";
    let optimizer = "steps = 5\nbatch = 2\nlearning_rate = 0.0";
    let still = write_recipe(&dir, "still", &format!("{FRESH}\n{section}"), "pool = 4", optimizer);
    let still = validated(&options(&still, dir.file("still")));
    assert_eq!(still.iter().map(|report| report.step).collect::<Vec<_>>(), [0, 2, 4, 5]);
    // Without learning no measurement differs from another.
    assert!(still.iter().all(|report| report.validation == still[0].validation && report.validation > 0.0));
    assert_eq!(still[0].timesteps.keys().collect::<Vec<_>>(), ["0.25", "0.75"]);
    let mean = still[0].timesteps.values().sum::<f32>() / 2.0;
    assert!((mean / still[0].validation - 1.0).abs() < 1e-6);

    // It changes nothing of what is learned, and goes on exactly.
    let learning = "steps = 4\nbatch = 2\nlearning_rate = 1e-3\nema = 0.9";
    let plain = write_recipe(&dir, "plain", FRESH, "pool = 4", learning);
    let watched = write_recipe(&dir, "watched", &format!("{FRESH}\n{section}"), "pool = 4", learning);
    let expected = losses(&options(&plain, dir.file("plain")));
    let whole = options(&watched, dir.file("whole"));
    assert_eq!(losses(&whole), expected);
    let mut broken = options(&watched, dir.file("broken"));
    let stop_at = |step| move |event: RunEvent| !matches!(event, RunEvent::Step(report) if report.step == step);
    train(&broken, &support::device(), &mut stop_at(3)).expect("stops");
    broken.resume = true;
    assert_eq!(losses(&broken), expected[3..]);
    let log = |out: &Path| fs::read_to_string(out.join("log.jsonl")).expect("written");
    assert_eq!(log(&whole.out), log(&broken.out));
    let lines: Vec<serde_json::Value> =
        log(&whole.out).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let measured = lines.iter().filter(|line| line["validation"].is_f64()).map(|line| line["step"].as_u64());
    assert_eq!(measured.collect::<Vec<_>>(), [Some(0), Some(2), Some(4)]);
    assert_eq!(lines.iter().filter(|line| line["loss"].is_f64()).count(), 4);
}

#[test]
fn of_a_manifest_the_last_lines_are_held_out() {
    let dir = TestDir::new("learning-held-out");
    let manifest = crate::train::write_manifest(&dir, 6);
    let text = |more: &str, manifest: &Path| {
        format!(
            "name = \"run\"\nmodel = \"tiny\"\n{FRESH}\nlog_every = 1\npreview_every = 0\n{more}\n\
             [data]\nmanifest = {manifest:?}\n[optimizer]\n{SHORT}\n"
        )
        .replace("model = \"tiny\"", &format!("card = {:?}", tiny()))
    };
    let write = |name: &str, text: String| {
        let path = dir.file(name);
        fs::write(&path, text).expect("writable");
        path
    };
    let lines = fs::read_to_string(&manifest).expect("written");
    let lines: Vec<&str> = lines.lines().collect();
    let (first, last) = (dir.file("first.jsonl"), dir.file("last.jsonl"));
    fs::write(&first, lines[..4].join("\n")).expect("writable");
    fs::write(&last, lines[4..].join("\n")).expect("writable");

    let inside = write("inside.toml", text("[validation]\nevery = 4\nexamples = 2", &manifest));
    let section = format!("[validation]\nevery = 4\nexamples = 2\nmanifest = {last:?}");
    let beside = write("beside.toml", text(&section, &first));
    let (inside, beside) = (options(&inside, dir.file("inside")), options(&beside, dir.file("beside")));
    assert_eq!(validated(&inside), validated(&beside));
    let log = |out: &Path| fs::read_to_string(out.join("log.jsonl")).expect("written");
    assert_eq!(log(&inside.out), log(&beside.out));

    let all = write("all.toml", text("[validation]\nevery = 4\nexamples = 6", &manifest));
    let refused = train(&options(&all, dir.file("all")), &support::device(), &mut |_| true).expect_err("nothing left");
    assert!(refused.to_string().contains("leaves none of 6 examples"), "{refused}");
}

fn tiny() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny").canonicalize().expect("the miniature is shipped")
}

#[test]
fn a_run_that_learns_nothing_more_ends_with_its_best_weights() {
    let dir = TestDir::new("learning-early");
    // Huge steps: after the first ones it only becomes worse.
    let section = "[validation]\nevery = 1\nexamples = 2\ntimesteps = [0.5]\nearly_stop = { patience = 3 }\n\
                   [checkpoints]\nkeep = 1";
    let top = format!("{}\n{section}", FRESH.replace("save_every = 2", "save_every = 100"));
    let recipe = write_recipe(&dir, "run", &top, "pool = 2", "steps = 100\nbatch = 2\nlearning_rate = 0.05");
    let mut run = options(&recipe, dir.file("out"));
    let (mut reports, mut end) = (Vec::new(), None);
    let outcome = train(&run, &support::device(), &mut |event| {
        match event {
            RunEvent::Validated(report) if report.step > 0 => reports.push(report.validation),
            RunEvent::StoppedEarly { step, best, validation } => end = Some((step, best, validation)),
            _ => {}
        }
        true
    });
    let (step, best, validation) = end.unwrap_or_else(|| panic!("it did not stop early: {reports:?}"));
    assert_eq!(step, reports.len() as u64);
    assert_eq!(step, best + 3);
    assert_eq!(reports.iter().copied().fold(f32::MAX, f32::min), validation);
    assert_eq!(reports[best as usize - 1], validation);
    let Ok(Outcome::Finished { step: written, weights }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(written, best);
    let kept = WeightFile::open(&run.out.join(format!("checkpoint-{best}/weights.safetensors"))).expect("kept");
    let file = WeightFile::open(&weights[0]).expect("written");
    let key = "img_in.weight";
    assert!(file.data(key).expect("there") == kept.data(&format!("flux.{key}")).expect("there"));

    // Nothing is left to be done.
    run.resume = true;
    let again = train(&run, &support::device(), &mut |event| !matches!(event, RunEvent::Step(_)));
    assert!(matches!(again, Ok(Outcome::Finished { step, .. }) if step == best), "{again:?}");
}

#[test]
fn branches_are_where_the_patterns_say_and_of_their_rank() {
    let dir = TestDir::new("learning-modules");
    let lora = "modules = [\"double_blocks.*.img_attn.*\", { pattern = \"single_blocks.*.linear1\", rank = 4 }]\n\
                exclude = [\"double_blocks.0.*\"]";
    let optimizer = "steps = 2\nbatch = 1\nlearning_rate = 1e-2";
    let recipe = write_recipe(&dir, "some", &format!("{ADAPTER}\n{lora}"), "pool = 2", optimizer);
    let run = options(&recipe, dir.file("out"));
    losses(&run);
    let shapes = WeightFile::open(&run.out.join("some.safetensors")).expect("written").shapes().expect("readable");
    let ranks: Vec<(String, usize)> = shapes
        .into_iter()
        .filter_map(|(key, shape)| Some((key.strip_suffix(".lora_down.weight")?.to_owned(), shape[0])))
        .collect();
    let expected = [
        ("lora_unet_double_blocks_1_img_attn_proj", 2),
        ("lora_unet_double_blocks_1_img_attn_qkv", 2),
        ("lora_unet_single_blocks_0_linear1", 4),
        ("lora_unet_single_blocks_1_linear1", 4),
        ("lora_unet_single_blocks_2_linear1", 4),
        ("lora_unet_single_blocks_3_linear1", 4),
    ];
    assert_eq!(ranks, expected.map(|(name, rank)| (name.to_owned(), rank)));

    let wrong = write_recipe(&dir, "wrong", &format!("{ADAPTER}\nmodules = [\"*.attn.*\"]"), "pool = 2", optimizer);
    let refused = train(&options(&wrong, dir.file("wrong")), &support::device(), &mut |_| panic!("it starts"));
    let refused = refused.expect_err("no such layers").to_string();
    assert!(refused.contains("no layer is called \"*.attn.*\"; there are img_in, "), "{refused}");
    assert!(refused.contains("double_blocks.*.img_attn.qkv, "), "{refused}");
}

/// The factors of a LoRA file in the release's spelling.
fn factors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let file = WeightFile::open(path).expect("written");
    file.keys().map(|key| (key.to_owned(), file.data(key).expect("readable").iter::<f32>().collect())).collect()
}

#[test]
fn a_lora_goes_on_learning_or_lies_under_a_new_one() {
    let dir = TestDir::new("learning-from");
    let optimizer = |steps, rate| format!("steps = {steps}\nbatch = 2\nlearning_rate = {rate}\nweight_decay = 0.0");
    let first = write_recipe(&dir, "first", ADAPTER, "pool = 2", &optimizer(3, "1e-2"));
    let run = options(&first, dir.file("first"));
    losses(&run);
    let file = run.out.join("first.safetensors");
    let plain =
        losses(&options(&write_recipe(&dir, "plain", ADAPTER, "pool = 2", &optimizer(1, "0.0")), dir.file("p")));

    // A step of nothing writes what was read.
    let on = write_recipe(&dir, "on", &format!("{ADAPTER}\nfrom = {file:?}"), "pool = 2", &optimizer(1, "0.0"));
    let on = options(&on, dir.file("on"));
    let with = losses(&on);
    assert!((with[0] - plain[0]).abs() > 1e-5, "{with:?} beside {plain:?}");
    assert_eq!(factors(&on.out.join("on.safetensors")), factors(&file));

    // The same under a fresh one, which writes only itself.
    let under = format!("{}\nfrom = {file:?}\nfuse = true", ADAPTER.replace("rank = 2", "rank = 3"));
    let under = options(&write_recipe(&dir, "under", &under, "pool = 2", &optimizer(1, "0.0")), dir.file("under"));
    assert!((losses(&under)[0] / with[0] - 1.0).abs() < 1e-5);
    let fresh = factors(&under.out.join("under.safetensors"));
    let is_zero = |(key, values): &(String, Vec<f32>)| {
        !key.ends_with("lora_up.weight") || values.iter().all(|value| *value == 0.0)
    };
    assert!(fresh.len() == factors(&file).len() && fresh.iter().all(is_zero));

    for (change, reason) in
        [("rank = 4", "has rank 2, not 4"), ("rank = 2\nexclude = [\"single_blocks.*\"]", "which gets none here")]
    {
        let top = format!("{}\nfrom = {file:?}", ADAPTER.replace("rank = 2", change));
        let path = write_recipe(&dir, "not", &top, "pool = 2", &optimizer(1, "0.0"));
        let refused = train(&options(&path, dir.file("not")), &support::device(), &mut |_| panic!("it starts"));
        let refused = refused.expect_err("does not fit");
        assert!(matches!(refused, Error::Recipe { .. }) && refused.to_string().contains(reason), "{refused}");
    }
}

#[test]
fn every_spelling_of_an_adapter_is_the_same_adapter() {
    let dir = TestDir::new("learning-spellings");
    let lora = "rank = 2\nalpha = 3.0\nmodules = [\"double_blocks.*\", \"single_blocks.*\", \"final_layer.*\", \
                { pattern = \"*.linear1\", rank = 3 }]\nsave_as = [\"kohya\", \"diffusers\", \"peft\"]";
    let top = format!("train = [\"flux\"]\n[lora]\n{lora}");
    let recipe = write_recipe(&dir, "run", &top, "pool = 2", "steps = 2\nbatch = 1\nlearning_rate = 1e-2");
    let path = recipe.clone();
    let outcome = train(&options(&recipe, dir.file("out")), &support::device(), &mut |_| true);
    let Ok(Outcome::Finished { weights, .. }) = outcome else { panic!("{outcome:?}") };
    let names: Vec<_> = weights.iter().map(|path| path.file_name().expect("named").to_string_lossy()).collect();
    assert_eq!(names, ["run.safetensors", "run-diffusers.safetensors", "run-peft"]);

    let recipe = Recipe { lora: None, ..Recipe::load(&path).expect("sound") };
    let start = Start::of_recipe(&recipe, &path).expect("shipped");
    // What a file adds to every layer, multiplied out.
    let added = |file: &Path| -> Vec<Tensor<2>> {
        let mut flux = start.flux(&recipe, &support::device()).expect("shipped");
        let file = WeightFile::open(file).expect("written");
        adapter::attach(&mut flux, &file, 1.0, &support::device()).expect("fits");
        let mut added = Vec::new();
        flux.for_each_linear(&mut |_, linear| {
            added.extend(linear.lora.iter().map(|one| one.lora_b.val().matmul(one.lora_a.val()) * one.scale));
        });
        added
    };
    let expected = added(&weights[0]);
    assert_eq!(expected.len(), 2 * 10 + 4 * 3 + 2);
    for other in &weights[1..] {
        let added = added(other);
        assert_eq!(added.len(), expected.len());
        for (ours, expected) in added.into_iter().zip(&expected) {
            assert!(support::distance(expected.clone(), expected.zeros_like()) > 0.0);
            assert!(support::distance(ours, expected.clone()) < 1e-7, "{}", other.display());
        }
    }
}

#[test]
fn every_shipped_recipe_can_be_read_and_fits_its_card() {
    let models = tiny().parent().expect("a folder of models").to_owned();
    let folders = fs::read_dir(&models).expect("shipped").map(|entry| entry.expect("readable").path());
    let files = folders.flat_map(|folder| match folder.is_dir() {
        true => fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()).collect(),
        false => vec![folder],
    });
    let is_recipe = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|ending| ending == "toml")
            && fs::read_to_string(path).expect("readable").contains("[optimizer]")
    };
    let mut published = Vec::new();
    for path in files.filter(is_recipe) {
        let own = Recipe::load(&path).ok();
        let recipe = own.map_or_else(|| Recipe::load_with(&path, Some(Path::new("data.jsonl"))), Ok);
        let recipe = recipe.unwrap_or_else(|error| panic!("{error}"));
        let Some(name) = recipe.model.clone() else { continue };
        let start = Start::of(Model::find(&name).expect("built in")).adjusted(&recipe);
        start.check_lora(&recipe, &path, &support::device()).expect("its layers are the card's");
        assert_eq!(start.card().canvas.max_seq_len, recipe.max_seq_len.expect("said"));
        let channels = recipe.widen_from.unwrap_or(start.card().flux.in_channels);
        let folder = path.parent().and_then(Path::file_name).expect("in a folder").to_string_lossy().into_owned();
        let rank = recipe.lora.as_ref().map(|lora| (lora.rank, lora.alpha as usize));
        published.push((
            folder,
            recipe.name,
            start.card().adapter.len(),
            channels,
            rank,
            recipe.optimizer.learning_rate,
        ));
    }
    published.sort_by(|one, other| one.1.cmp(&other.1));
    let names = |folder: &str, name: &str| (folder.to_owned(), name.to_owned());
    let expected = [
        (names("ace-plus-fft", "ace-plus-fft-stage1"), 64, None, 5e-5),
        (names("ace-plus-fft", "ace-plus-fft-stage2"), 448, None, 5e-5),
        (names("ace-plus-local-editing", "ace-plus-local-editing-lora"), 384, Some((16, 16)), 1e-3),
        (names("ace-plus-portrait", "ace-plus-portrait-lora"), 384, Some((64, 64)), 1e-3),
        (names("ace-plus-subject", "ace-plus-subject-lora"), 384, Some((16, 16)), 1e-3),
    ];
    assert_eq!(
        published,
        expected.map(|((folder, name), channels, rank, rate)| (folder, name, 0, channels, rank, rate))
    );
}

#[test]
fn an_encoder_learns_to_read_before_a_transformer_listens() {
    let dir = TestDir::new("learning-reading");
    let top = "train = [\"t5\"]\nfresh = [\"t5\"]\nreading = true";
    let optimizer = "steps = 40\nbatch = 16\nlearning_rate = 3e-3";
    let path = write_recipe(&dir, "reading", top, "tasks = [\"recolor\"]", optimizer);
    let run = options(&path, dir.file("out"));
    let (mut losses, mut read) = (Vec::new(), Vec::new());
    let outcome = train(&run, &support::device(), &mut |event| {
        if let RunEvent::Step(step) = event {
            losses.push(step.loss);
            read.push(step.figures["sentences read"]);
        }
        true
    });
    let Ok(Outcome::Finished { step: 40, weights }) = outcome else { panic!("{outcome:?}") };
    assert!(losses[39] < losses[0] / 3.0, "{losses:?}");
    assert!(read.iter().all(|share| (0.0..=1.0).contains(share)) && read[0] < 0.1, "{read:?}");
    // The head is thrown away: what is written is a T5 that the card takes.
    assert_eq!(weights, [run.out.join("t5.safetensors")]);
    let recipe = Recipe::load(&path).expect("sound");
    let start = Start::of_recipe(&recipe, &path).expect("shipped");
    let file = WeightFile::open(&weights[0]).expect("written");
    file.t5(&start.card().t5, None, &support::device()).expect("it fits the card");
}

#[test]
fn held_out_edits_are_judged_before_and_after() {
    let dir = TestDir::new("learning-judge");
    let judge = format!("{ADAPTER}\n[judge]\nexamples = 2");
    let data = "tasks = [\"remove\"]\npool = 2";
    let path = write_recipe(&dir, "still", &judge, data, "steps = 1\nbatch = 1\nlearning_rate = 0.0");
    let mut scores = Vec::new();
    let outcome = train(&options(&path, dir.file("out")), &support::device(), &mut |event| {
        if let RunEvent::Judged { step, score } = event {
            scores.push((step, score));
        }
        true
    });
    assert!(matches!(outcome, Ok(Outcome::Finished { .. })), "{outcome:?}");
    let [(0, before), (1, after)] = scores.as_slice() else { panic!("{scores:?}") };
    // Nothing was learned, and the noise is the same.
    assert_eq!(before, after);
    assert_eq!(before.count, 2);
    assert!(before.success_rate > 0.0, "the miniature knows how to remove: {before:?}");
}
