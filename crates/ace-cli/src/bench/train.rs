//! `ace bench train`: how fast the trainer is on this machine, beside what its processor can do.

use crate::{args::BenchArgs, device, interrupted, memory, progress::Progress, report};
use ace_plus::Card;
use ace_train::{
    Recipe, Start,
    bench::{Bench, EXAMPLES, Measured, matmul_peak},
    plan::{Around, Base, Prediction, Sequence, longest, predict},
};
use serde_json::json;
use std::process::ExitCode;

/// The card whose sizes are changed.
const CARD: &str = "flux1-fill-dev";
/// A training whose every step is alike.
const RECIPE: &str = "name = \"bench\"\ntrain = [\"flux\"]\nlora = { rank = 16, alpha = 16.0 }\ndata = { world = 64 }\n\
                      optimizer = { steps = 1000000, batch = 1, learning_rate = 1e-4 }\n";
const HIDDEN: usize = 1024;
const BLOCKS: (usize, usize) = (4, 8);
const TOKENS: usize = 1024;

/// Measures, and prints what came out.
///
/// # Errors
/// If the recipe cannot be used, or the device does not compute in its numbers.
pub fn run(args: &BenchArgs, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    let device = device::open(backend)?;
    let bench = bench(args, device::workers(&device, 1))?;
    crate::listen_to_interrupts("stopping after this step");
    let mut bar = Progress::new("bench", 0, bench.warmup + bench.steps);
    let measured = bench.run(&device, &mut |done| {
        bar.at(done, "");
        !interrupted()
    })?;
    drop(bar);
    if measured.steps.is_empty() {
        report::print("stopped before a step was measured");
        return Ok(ExitCode::FAILURE);
    }
    let around = Around { workers: bench.workers, examples: EXAMPLES as u64, encoder_budget: None };
    let prediction = predict(&bench.card, &bench.recipe, Base::of(&bench.recipe), bench.sequence, around);
    // The product of large matrices is no part of a training.
    let peak = memory::peak();
    let matmul = matmul_peak(&bench.recipe, &device);
    let mut json = json(&bench, &measured, &prediction, peak);
    json["device"] = device::name(&device).into();
    json["matmul_flops"] = matmul.into();
    match args.json {
        true => report::print(&serde_json::to_string_pretty(&json)?),
        false => print(&json),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is asked for.
fn bench(args: &BenchArgs, workers: usize) -> anyhow::Result<Bench> {
    let (mut card, mut recipe, is_default) = match &args.recipe {
        Some(path) => {
            let recipe = Recipe::load(path)?;
            (Start::of_recipe(&recipe, path)?.card().clone(), recipe, false)
        }
        None => (Card::builtin(CARD)?, Recipe::parse(RECIPE)?, true),
    };
    args.blocks.apply(&mut card.flux, is_default.then_some((HIDDEN, BLOCKS)))?;
    if let (Some(rank), Some(lora)) = (args.rank, &mut recipe.lora) {
        lora.rank = rank;
    }
    if let Some(batch) = args.batch {
        recipe.optimizer.batch = batch;
        recipe.optimizer.accumulate = 1;
    }
    // Random matrices are wide, and here.
    (recipe.quantize, recipe.placement) = (None, Default::default());
    recipe.recompute = args.recompute || recipe.recompute && !args.plain;
    let most = longest(&card, &recipe);
    let sequence = Sequence {
        image: args.tokens.unwrap_or(if is_default { TOKENS } else { most.image }),
        text: args.text_tokens.unwrap_or(most.text),
    };
    Ok(Bench { card, recipe, sequence, warmup: args.warmup, steps: args.steps, workers })
}

fn json(bench: &Bench, measured: &Measured, prediction: &Prediction, peak: u64) -> serde_json::Value {
    let [median, fastest, slowest] = measured.seconds();
    let (batch, sequence, flux) = (bench.recipe.optimizer.batch, bench.sequence, &bench.card.flux);
    let stages: serde_json::Map<_, _> =
        measured.stages().shares().into_iter().map(|(name, share)| (name.to_owned(), share.into())).collect();
    let parts: serde_json::Map<_, _> =
        prediction.parts.iter().map(|part| (part.name.to_owned(), part.bytes.into())).collect();
    let resident = memory::resident();
    json!({
        "hidden": flux.hidden_size,
        "blocks": [flux.depth, flux.depth_single_blocks],
        "tokens": [sequence.image, sequence.text],
        "batch": batch,
        "recompute": bench.recipe.recompute,
        "parameters": measured.parameters,
        "learned": measured.learned,
        "steps": measured.steps.len(),
        "step_seconds": median,
        "step_seconds_range": [fastest, slowest],
        "samples_per_second": batch as f64 / median,
        "tokens_per_second": (batch * sequence.all()) as f64 / median,
        "flops": measured.operations / median,
        "stages": stages,
        "peak_memory": peak,
        "predicted_memory": prediction.peak(),
        "predicted_parts": parts,
        "peak_resident": resident.map(|resident| resident.peak),
    })
}

fn print(json: &serde_json::Value) {
    let number = |name: &str| json[name].as_f64().unwrap_or_default();
    let of = |name: &str, at: usize| json[name][at].as_f64().unwrap_or_default();
    let line = |name: &str, text: String| report::print(&format!("{name:14} {text}"));
    line("device", json["device"].as_str().unwrap_or_default().to_owned());
    let model = format!(
        "hidden {}, {} double and {} single blocks, {} + {} tokens, batch {}, {}",
        json["hidden"],
        json["blocks"][0],
        json["blocks"][1],
        json["tokens"][0],
        json["tokens"][1],
        json["batch"],
        if json["recompute"] == true { "recomputed" } else { "plain" },
    );
    line("model", model);
    line("parameters", format!("{}, {} learn", json["parameters"], json["learned"]));
    let (fastest, slowest) = (of("step_seconds_range", 0), of("step_seconds_range", 1));
    let spread = format!("{fastest:.3} to {slowest:.3} in {} steps", json["steps"]);
    line("step", format!("{:.3} s ({spread})", number("step_seconds")));
    let (samples, tokens) = (number("samples_per_second"), number("tokens_per_second"));
    line("speed", format!("{samples:.3} samples/s, {tokens:.0} tokens/s"));
    let (flops, peak) = (number("flops") / 1e9, number("matmul_flops") / 1e9);
    let share = 100.0 * flops / peak;
    line("operations", format!("{flops:.1} GFLOP/s, {share:.0} % of a large matrix product's {peak:.1}"));
    let stages = ["data", "forward", "backward", "optimizer"].map(|name| {
        let share = json["stages"][name].as_f64().unwrap_or_default();
        format!("{name} {:.1} %", 100.0 * share)
    });
    line("time", stages.join(", "));
    let bytes = |name: &str| report::bytes(json[name].as_u64().unwrap_or_default());
    line("memory", format!("{} at most (predicted {})", bytes("peak_memory"), bytes("predicted_memory")));
    if json["peak_resident"].is_u64() {
        line("", format!("{} as the system counts", bytes("peak_resident")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchVerb, Cli, Verb};
    use clap::Parser;

    fn asked(words: &[&str]) -> anyhow::Result<Bench> {
        match Cli::try_parse_from([&["ace", "bench", "train"], words].concat()).unwrap().verb {
            Verb::Bench { what: BenchVerb::Train(args), .. } => bench(&args, 2),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_default_is_the_model_that_torch_is_timed_on() {
        let bench = asked(&[]).unwrap();
        let flux = &bench.card.flux;
        assert_eq!((flux.hidden_size, flux.num_heads, flux.depth, flux.depth_single_blocks), (1024, 8, 4, 8));
        assert_eq!((flux.in_channels, flux.context_in_dim), (384, 4096));
        assert_eq!(bench.sequence, Sequence { image: 1024, text: 512 });
        let recipe = &bench.recipe;
        assert_eq!((recipe.optimizer.batch, recipe.lora.as_ref().map(|lora| lora.rank)), (1, Some(16)));
        assert!(recipe.recompute && !asked(&["--plain"]).unwrap().recipe.recompute);
    }

    #[test]
    fn sizes_are_changed_where_they_are_said() {
        let bench = asked(&["--hidden", "256", "--blocks", "1,2", "--tokens", "64", "--batch", "2"]).unwrap();
        let flux = &bench.card.flux;
        assert_eq!((flux.hidden_size, flux.num_heads, flux.depth, flux.depth_single_blocks), (256, 2, 1, 2));
        assert_eq!((bench.sequence.image, bench.recipe.optimizer.batch), (64, 2));
        let error = asked(&["--hidden", "200"]).unwrap_err();
        assert_eq!(report::hint(&error).unwrap(), "128 would do");
    }
}
