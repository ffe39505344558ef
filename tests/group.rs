//! Several ranks that learn together, as threads: the bits of one process, one word about what goes wrong, one end.

use crate::{
    support::{self, TestDir, group::on_all, relative_error},
    train::write_recipe,
};
use ace_train::{
    Error, Group, Outcome, RunEvent, RunOptions, Start,
    learn::{group, train_in},
};
use ace_weights::WeightFile;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Pictures of several sizes, some instructions dropped, an average, a schedule: three micro-batches or more in a step.
const TOP: &str = "train = [\"flux\"]\ndrop_instruction = 0.5\nsave_every = 2\n[lora]\nrank = 2\nalpha = 2.0";
const LAW: &str = "batch = 6\naccumulate = 3\nlearning_rate = 1e-2\nwarmup = 1\nema = 0.9\nsteps = 3";

/// A recipe on the miniature, and `law` on top of [`LAW`].
fn recipe(dir: &TestDir, name: &str, law: &str) -> PathBuf {
    write_recipe(dir, name, TOP, "pool = 12", &format!("{LAW}\n{law}"))
}

/// A run in a group of `size` ranks, or as usual if that is 0. Answers what every rank came to.
fn run(
    size: usize,
    options: &RunOptions,
    go_on: impl Fn(usize, &RunEvent) -> bool + Sync,
) -> Vec<Result<Outcome, Error>> {
    on_all(size.max(1), |rank| {
        let mut start = Start::of_recipe(&options.recipe()?, &options.recipe)?;
        if size == 2 {
            // Two encode all that the run will draw before it begins; others encode when a step draws it.
            start.encoder_budget = 0;
        }
        let observer = &mut |event| go_on(rank.rank(), &event);
        match size {
            0 => ace_train::train_from(&start, options, &support::device(), observer),
            _ => train_in(rank, &start, options, &support::device(), observer),
        }
    })
}

fn always(_rank: usize, _event: &RunEvent) -> bool {
    true
}

/// Everything in a run's folder that must not depend on who computed it.
fn written(out: &Path) -> Vec<(String, Vec<u8>)> {
    let files =
        ["log.jsonl", "run.safetensors", "checkpoint-3/weights.safetensors", "checkpoint-3/average.safetensors"];
    files.map(|file| (file.to_owned(), fs::read(out.join(file)).expect("written"))).into()
}

#[test]
fn ranks_learn_what_one_process_learns_bit_by_bit() {
    let dir = TestDir::new("group-exact");
    let recipe = recipe(&dir, "run", "[validation]\nevery = 2\nexamples = 2");
    let mut expected = None;
    for size in [0, 1, 2, 4] {
        let out = dir.file(&format!("out-{size}"));
        let encoded = Mutex::new(vec![Vec::new(); size.max(1)]);
        let listen = |rank: usize, event: &RunEvent| {
            if let RunEvent::Encoding { done, of } = event
                && done == of
            {
                encoded.lock().expect("no rank panicked")[rank].push(*of);
            }
            true
        };
        let outcomes = run(size, &RunOptions { workers: 2, ..RunOptions::new(&recipe, &out) }, listen);
        for (rank, outcome) in outcomes.into_iter().enumerate() {
            // Rank 0 alone wrote something.
            let weights = if rank == 0 { vec![out.join("run.safetensors")] } else { Vec::new() };
            assert_eq!(outcome.expect("trains"), Outcome::Finished { step: 3, weights });
        }
        let expected = expected.get_or_insert_with(|| written(&out));
        for ((file, bytes), (_, known)) in written(&out).iter().zip(expected) {
            assert!(bytes == known, "{file} of {size} ranks differs");
        }
        if let [one, other] = encoded.into_inner().expect("no rank panicked").as_slice() {
            // Last comes what is drawn: first a share of it, then the rest, which is the other's share.
            let ends = |of: &[u64]| (of[of.len() - 2], of[of.len() - 1]);
            assert_eq!(ends(one).0 + ends(one).1, ends(other).0 + ends(other).1, "{one:?} {other:?}");
            assert!(ends(one).0.abs_diff(ends(other).0) <= 1, "{one:?} {other:?}");
        }
    }
    let log = fs::read_to_string(dir.file("out-4/log.jsonl")).expect("written");
    assert_eq!(log.matches("validation").count(), 3, "{log}");
}

#[test]
fn a_fast_sum_differs_in_its_last_bits_only() {
    let dir = TestDir::new("group-fast");
    let exact = RunOptions::new(recipe(&dir, "run", ""), dir.file("exact"));
    let fast = RunOptions::new(recipe(&dir, "fast", "reduce = \"fast\""), dir.file("fast"));
    run(0, &exact, always).into_iter().for_each(|outcome| drop(outcome.expect("trains")));
    run(2, &fast, always).into_iter().for_each(|outcome| drop(outcome.expect("trains")));
    let values = |path: PathBuf| {
        let file = WeightFile::open(&path).expect("written");
        let keys: Vec<String> =
            file.shapes().expect("readable").into_keys().filter(|key| !key.ends_with("alpha")).collect();
        let value = |key: &String| support::values(file.tensor::<2>(key, None, &support::device()).expect("a matrix"));
        keys.iter().flat_map(value).collect::<Vec<f32>>()
    };
    let error = relative_error(&values(fast.out.join("fast.safetensors")), &values(exact.out.join("run.safetensors")));
    assert!(error < 1e-4, "{error}");
}

#[test]
fn what_fails_on_one_rank_ends_all_of_them_with_its_word() {
    let dir = TestDir::new("group-error");
    // The only example whose picture is missing is measured by rank 1 or 0, and all hear of it.
    let recipe = recipe(&dir, "run", "");
    fs::write(dir.file("m.jsonl"), "{\"target\": \"gone.png\", \"instruction\": \"a\"}\n").expect("writable");
    let options = RunOptions { manifest: Some(dir.file("m.jsonl")), ..RunOptions::new(&recipe, dir.file("out")) };
    for outcome in run(2, &options, always) {
        let error = outcome.expect_err("the picture is missing");
        assert!(matches!(error, Error::Rank { .. }) && error.to_string().contains("gone.png"), "{error}");
    }
    let failed = on_all(3, |rank| {
        let mine = if rank.rank() == 1 { Err(Error::Widening { from: 1, to: 2 }) } else { Ok(()) };
        group::agree(rank, mine).expect_err("one failed").to_string()
    });
    assert!(failed.iter().all(|text| text.starts_with("rank 1: it is not known where")), "{failed:?}");
    let differ = on_all(3, |rank| {
        group::same(rank, "the weather", || vec![u8::from(rank.rank() == 2)]).map_err(|e| e.to_string())
    });
    assert!(
        differ.iter().all(|said| said == &Err("rank 2: the weather differs from that of rank 0".to_owned())),
        "{differ:?}"
    );
}

#[test]
fn all_stop_at_the_step_where_one_was_asked_to_and_go_on_in_another_number() {
    let dir = TestDir::new("group-stop");
    let recipe = recipe(&dir, "run", "");
    let whole = RunOptions::new(&recipe, dir.file("whole"));
    run(0, &whole, always).into_iter().for_each(|outcome| drop(outcome.expect("trains")));

    let mut broken = RunOptions::new(&recipe, dir.file("broken"));
    let asked = |rank: usize, event: &RunEvent| !matches!(event, RunEvent::Step(step) if rank == 1 && step.step == 1);
    for outcome in run(2, &broken, asked) {
        assert_eq!(outcome.expect("stops"), Outcome::Stopped { step: 1 });
    }
    for outcome in run(2, &broken, always) {
        let error = outcome.expect_err("there is a run");
        assert!(error.to_string().contains("a run is already here"), "{error}");
    }
    broken.resume = true;
    run(3, &broken, always).into_iter().for_each(|outcome| drop(outcome.expect("goes on")));
    assert!(written(&whole.out) == written(&broken.out), "another number of ranks learned something else");
}

/// Otherwise every process of the launcher would write the same folder.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_does_not_train_under_a_launcher() {
    let dir = TestDir::new("group-launcher");
    let recipe = recipe(&dir, "run", "");
    let out = dir.file("out");
    let train = |launcher: &str, count: &str| {
        let mut ace = support::ace();
        ace.args(["train", "--steps", "1"]).arg("--recipe").arg(&recipe).arg("--out").arg(&out).env(launcher, count);
        ace.output().expect("it runs")
    };
    for launcher in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
        let refused = train(launcher, "2");
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            said.starts_with("error: a launcher started 2 processes, and this build trains in one\nhint: "),
            "{said}"
        );
        assert!(!out.exists(), "it wrote something");
    }
    assert!(train("OMPI_COMM_WORLD_SIZE", "1").status.success(), "one process is no group");
}
