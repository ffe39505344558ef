//! `ace bench flux|vae|t5|edit`: the parts of an edit on random weights.

use super::spread;
use crate::{
    args::{BlockArgs, EditBenchArgs, FluxBenchArgs, HeldArgs, T5BenchArgs, TimesArgs, VaeBenchArgs, dtype_name},
    device, interrupted, memory, miniature,
    processor::{self, Processor},
    report,
    watch::Watch,
};
use ace_plus::{
    Card, Model,
    bench::{Holding, Work, matmul_peak},
    cost::Sequence,
    model::Component,
    text::Tokenizers,
};
use burn::tensor::{Device, FloatDType};
use serde_json::{Value, json};
use std::{collections::BTreeMap, process::ExitCode, time::Instant};

/// The card whose sizes are taken where none is named.
const CARD: &str = "flux1-fill-dev";
const HIDDEN: usize = 1024;
const BLOCKS: (usize, usize) = (4, 8);
const TOKENS: usize = 1024;
const SIDE: u32 = 512;
/// Layers of the T5 of the published width: one is like another, and all of them in f32 are 19 GB.
const LAYERS: usize = 4;

/// One pass of the transformer.
///
/// # Errors
/// If there are no such sizes, or the device does not compute in these numbers.
pub fn flux(args: &FluxBenchArgs, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    let card = transformer(args.card.as_deref(), &args.blocks)?;
    let of_size = args.size.map(|side| tokens(&card, side)).transpose()?;
    let image = args.tokens.or(of_size).unwrap_or(TOKENS);
    let sequence = Sequence { image, text: args.text_tokens.unwrap_or(card.text.t5_max_length) };
    let device = device::open(backend)?;
    let held = held(&args.held, &device);
    let sizes = json!({
        "hidden": card.flux.hidden_size,
        "blocks": [card.flux.depth, card.flux.depth_single_blocks],
        "tokens": [sequence.image, sequence.text],
    });
    let works = held.flux(&card, sequence)?;
    measure(works, &sizes, &held, &args.times)
}

/// Both ways of the autoencoder.
///
/// # Errors
/// If there is no such card or size.
pub fn vae(args: &VaeBenchArgs, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    let card = Card::builtin(args.card.as_deref().unwrap_or(CARD))?;
    let side = args.size.unwrap_or(SIDE);
    tokens(&card, side)?;
    let device = device::open(backend)?;
    let held = Holding { dtype: FloatDType::F32, packing: None, device };
    let works = held.vae(&card, side as usize);
    measure(works, &json!({ "size": side }), &held, &args.times)
}

/// MobileSAM.
///
/// # Errors
/// If there is no such backend.
pub fn sam(times: &TimesArgs, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    let device = device::open(backend)?;
    let held = Holding { dtype: FloatDType::F32, packing: None, device };
    let works = held.sam()?;
    measure(works, &json!({ "size": [1024, 768] }), &held, times)
}

/// T5.
///
/// # Errors
/// If there is no such card, or the device does not compute in these numbers.
pub fn t5(args: &T5BenchArgs, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut card = Card::builtin(args.card.as_deref().unwrap_or(CARD))?;
    if let Some(layers) = args.layers.or(args.card.is_none().then_some(LAYERS)) {
        card.t5.num_layers = layers;
    }
    let tokens = args.tokens.unwrap_or(card.text.t5_max_length);
    let device = device::open(backend)?;
    let held = held(&args.held, &device);
    let sizes = json!({ "hidden": card.t5.d_model, "layers": card.t5.num_layers, "tokens": tokens });
    let works = held.t5(&card, tokens)?;
    measure(works, &sizes, &held, &args.times)
}

/// A whole edit.
///
/// # Errors
/// If there are no such sizes, or the device does not compute in these numbers.
pub fn edit(args: &EditBenchArgs, backend: Option<&str>) -> anyhow::Result<ExitCode> {
    let card = transformer(args.card.as_deref(), &args.blocks)?;
    let side = args.size.unwrap_or(SIDE);
    tokens(&card, side)?;
    let device = device::open(backend)?;
    let held = held(&args.held, &device);
    let sizes = json!({
        "hidden": card.flux.hidden_size,
        "blocks": [card.flux.depth, card.flux.depth_single_blocks],
        "size": side,
        "steps": args.steps,
    });
    let works = held.edit(&card, shipped_tokenizers(&card)?, side, args.steps)?;
    measure(works, &sizes, &held, &args.times)
}

/// The card whose transformer is measured.
fn transformer(name: Option<&str>, asked: &BlockArgs) -> anyhow::Result<Card> {
    let mut card = Card::builtin(name.unwrap_or(CARD))?;
    let is_default = name.is_none();
    asked.apply(&mut card.flux, is_default.then_some((HIDDEN, BLOCKS)))?;
    Ok(card)
}

/// Tokens of a square picture.
fn tokens(card: &Card, side: u32) -> anyhow::Result<usize> {
    let cell = 2 * card.autoencoder.downscale() as u32;
    if !side.is_multiple_of(cell) || side == 0 {
        let hint = format!("{} would do", (side / cell).max(1) * cell);
        return Err(report::Failure::misuse(format!("--size {side} is not a multiple of {cell}"), hint).into());
    }
    Ok((side / cell).pow(2) as usize)
}

fn held(args: &HeldArgs, device: &Device) -> Holding {
    let dtype = args.dtype.unwrap_or(FloatDType::F32);
    Holding { dtype, packing: args.quantize, device: device.clone() }
}

/// Tokenizers of the miniature: a model has some, and here they are asked nothing.
fn shipped_tokenizers(card: &Card) -> anyhow::Result<Tokenizers> {
    let model = miniature::files().fold(Model::find("tiny")?, |model, (name, bytes)| model.bytes(name, bytes));
    let read = |component| model.require(component);
    Ok(Tokenizers::read(card, &read(Component::T5Tokenizer)?, &read(Component::ClipTokenizer)?)?)
}

/// What one time took.
struct Time {
    seconds: f64,
    processor: Option<Processor>,
    laps: Vec<(&'static str, f64)>,
}

fn once(work: &mut Work) -> anyhow::Result<Time> {
    let (before, begin) = (processor::used(), Instant::now());
    let (mut last, mut laps) = (begin, Vec::new());
    work.run(&mut |name| {
        let now = Instant::now();
        laps.push((name, (now - last).as_secs_f64()));
        last = now;
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let processor = processor::used().zip(before).map(|(now, before)| now - before);
    Ok(Time { seconds, processor, laps })
}

fn measure(works: Vec<Work>, sizes: &Value, held: &Holding, asked: &TimesArgs) -> anyhow::Result<ExitCode> {
    crate::listen_to_interrupts("stopping after this time");
    let mut results = Vec::new();
    for mut work in works {
        let watch = Watch::start();
        for _ in 0..asked.warmup {
            once(&mut work)?;
        }
        let mut times = Vec::new();
        for _ in 0..asked.repeat {
            if interrupted() {
                report::print("stopped");
                return Ok(ExitCode::FAILURE);
            }
            times.push(once(&mut work)?);
        }
        results.push(result(&work, &times, watch.stop()));
    }
    // The product of large matrices is no part of it.
    let resident = memory::resident().map(|resident| resident.peak);
    let mut matmul = BTreeMap::new();
    for dtype in [FloatDType::F32, held.dtype] {
        matmul.entry(dtype_name(dtype)).or_insert_with(|| matmul_peak(dtype, &held.device) / 1e9);
    }
    let limit = matmul.get(dtype_name(held.dtype)).copied().unwrap_or_default();
    for result in &mut results {
        result["share"] = (result["gflops"].as_f64().unwrap_or_default() / limit).into();
    }
    let json = json!({
        "device": device::name(&held.device),
        "dtype": dtype_name(held.dtype),
        "quantize": held.packing.map(|packing| packing.name()),
        "sizes": sizes,
        "results": results,
        "matmul_gflops": matmul,
        "peak_resident": resident,
    });
    match asked.json {
        true => report::print(&serde_json::to_string_pretty(&json)?),
        false => print(&json),
    }
    Ok(ExitCode::SUCCESS)
}

fn result(work: &Work, times: &[Time], peak: u64) -> Value {
    let [seconds, fastest, slowest] = spread(times.iter().map(|time| time.seconds));
    let processor = |of: fn(&Processor) -> f64| {
        let all: Vec<f64> = times.iter().filter_map(|time| time.processor.as_ref().map(of)).collect();
        (!all.is_empty()).then(|| spread(all)[0])
    };
    let mut laps: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, seconds) in times.iter().flat_map(|time| &time.laps) {
        laps.entry(name).or_default().push(*seconds);
    }
    let laps: BTreeMap<_, _> = laps.into_iter().map(|(name, seconds)| (name, spread(seconds)[0])).collect();
    json!({
        "what": work.name,
        "parameters": work.parameters,
        "times": times.len(),
        "seconds": seconds,
        "seconds_range": [fastest, slowest],
        "processor_seconds": processor(|used| used.all()),
        "kernel_seconds": processor(|used| used.kernel),
        "laps": laps,
        "gflop": work.operations / 1e9,
        "gflops": work.operations / 1e9 / seconds,
        "peak_memory": peak,
    })
}

fn print(json: &Value) {
    let line = |name: &str, text: String| report::print(format!("{name:11} {text}").trim_end());
    line("device", json["device"].as_str().unwrap_or_default().to_owned());
    let held = [&json["dtype"], &json["quantize"]].into_iter().filter_map(Value::as_str);
    let sizes = json["sizes"].as_object().into_iter().flatten().map(|(name, value)| format!("{name} {value}"));
    line("model", sizes.chain(held.map(ToOwned::to_owned)).collect::<Vec<_>>().join(", "));
    for (dtype, gflops) in json["matmul_gflops"].as_object().into_iter().flatten() {
        line("limit", format!("{:.1} GFLOP/s, a large matrix product in {dtype}", gflops.as_f64().unwrap_or_default()));
    }
    for result in json["results"].as_array().into_iter().flatten() {
        let number = |name: &str| result[name].as_f64().unwrap_or_default();
        let range = |at: usize| result["seconds_range"][at].as_f64().unwrap_or_default();
        let seconds = format!("{:.3} s ({:.3} to {:.3} in {})", number("seconds"), range(0), range(1), result["times"]);
        line(result["what"].as_str().unwrap_or_default(), seconds);
        let laps = result["laps"].as_object().into_iter().flatten();
        let laps: Vec<_> =
            laps.map(|(name, lap)| format!("{name} {:.3} s", lap.as_f64().unwrap_or_default())).collect();
        if laps.len() > 1 {
            line("", laps.join(", "));
        }
        let (gflop, gflops, share) = (number("gflop"), number("gflops"), 100.0 * number("share"));
        line("", format!("{gflop:.1} GFLOP, {gflops:.1} GFLOP/s, {share:.0} % of the limit"));
        if result["processor_seconds"].is_number() {
            let (all, kernel) = (number("processor_seconds"), number("kernel_seconds"));
            line("", format!("{all:.2} processor seconds, {kernel:.2} of them in the kernel"));
        }
        let peak = report::bytes(result["peak_memory"].as_u64().unwrap_or_default());
        line("", format!("{peak} at most, {} parameters", result["parameters"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchVerb, Cli, Verb};
    use clap::Parser;

    fn asked(words: &[&str]) -> BenchVerb {
        match Cli::try_parse_from([&["ace", "bench"], words].concat()).unwrap().verb {
            Verb::Bench { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }

    fn flux_card(words: &[&str]) -> anyhow::Result<Card> {
        match asked(&[&["flux"], words].concat()) {
            BenchVerb::Flux(args) => transformer(args.card.as_deref(), &args.blocks),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_default_is_the_model_that_torch_is_timed_on() {
        let flux = flux_card(&[]).unwrap().flux;
        assert_eq!((flux.hidden_size, flux.num_heads, flux.depth, flux.depth_single_blocks), (1024, 8, 4, 8));
        assert_eq!((flux.in_channels, flux.context_in_dim), (384, 4096));
        let whole = flux_card(&["--card", CARD]).unwrap().flux;
        assert_eq!((whole.hidden_size, whole.depth), (3072, 19));
        let less = flux_card(&["--card", "tiny", "--blocks", "1,2"]).unwrap().flux;
        assert_eq!((less.hidden_size, less.depth, less.depth_single_blocks), (128, 1, 2));
    }

    #[test]
    fn a_size_fills_whole_tokens() {
        let card = flux_card(&[]).unwrap();
        assert_eq!(tokens(&card, 512).unwrap(), 1024);
        assert_eq!(report::hint(&tokens(&card, 500).unwrap_err()).unwrap(), "496 would do");
    }

    #[test]
    fn a_measurement_has_all_that_a_comparison_needs() {
        let time = |seconds: f64| Time {
            seconds,
            processor: Some(Processor { user: 2.0 * seconds, kernel: 0.5 }),
            laps: vec![("step", seconds / 2.0), ("step", seconds / 4.0)],
        };
        let held = Holding { dtype: FloatDType::F32, packing: None, device: Device::default() };
        let work = held.flux(&Card::builtin("tiny").unwrap(), Sequence { image: 4, text: 4 }).unwrap().remove(0);
        let result = result(&work, &[time(2.0), time(4.0)], 7);
        assert_eq!(result["seconds"], 3.0);
        assert_eq!(result["seconds_range"], json!([2.0, 4.0]));
        assert_eq!((&result["processor_seconds"], &result["kernel_seconds"]), (&json!(6.5), &json!(0.5)));
        assert_eq!(result["laps"], json!({ "step": 1.0 }));
        assert_eq!(result["gflops"].as_f64().unwrap() * 3.0, result["gflop"].as_f64().unwrap());
    }
}
