//! `ace inspect`: what a weight file is, read off its header alone.

use crate::{args::InspectArgs, report};
use ace_nn::flux::FluxConfig;
use ace_plus::{Card, Error};
use ace_weights::{Sizes, WeightFile, adapter, adapter::Dialect, network::Found};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

/// Longest metadata that is shown, in letters; trainers leave whole diaries.
const MAX_METADATA: usize = 80;
/// Kinds of layers that are named where a LoRA changes more.
const MAX_LAYERS: usize = 4;

/// Says what a file is.
///
/// # Errors
/// If it is no weight file, or holds nothing that is known.
pub fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let file = WeightFile::open(&args.file)?;
    let parts = match adapter::dialect(&file)? {
        Some(dialect) => vec![lora(&file, dialect)?],
        None => networks(&file)?,
    };
    if args.json {
        let value = json!({
            "path": args.file,
            "files": file.files().collect::<Vec<_>>(),
            "container": container(&file),
            "tensors": file.keys().count(),
            "bytes": dtypes(&file, |_| true).values().sum::<u64>(),
            "stored": dtypes(&file, |_| true),
            "metadata": file.metadata()?,
            "holds": parts.into_iter().map(|part| part.0).collect::<Vec<_>>(),
        });
        report::print(&serde_json::to_string_pretty(&value)?);
        return Ok(ExitCode::SUCCESS);
    }
    report::print(&format!("{}: {}, {} tensors", args.file.display(), container(&file), file.keys().count()));
    for Part(fields, lines) in &parts {
        let holds = fields.get("holds").and_then(Value::as_str).unwrap_or_default();
        report::print(&format!("  {holds}"));
        for (name, value) in lines {
            report::print(&format!("    {name:<12}{value}"));
        }
    }
    for (key, value) in file.metadata()? {
        let short: String = value.chars().filter(|letter| !letter.is_control()).take(MAX_METADATA).collect();
        let more = if short.len() < value.len() { "…" } else { "" };
        report::print(&format!("  {:<14}{key} = {short}{more}", "metadata"));
    }
    Ok(ExitCode::SUCCESS)
}

/// One thing that a file holds: its fields for programs, its lines for people.
struct Part(Map<String, Value>, Vec<(&'static str, String)>);

impl Part {
    fn new(holds: &str) -> Self {
        Self(Map::from_iter([("holds".to_owned(), json!(holds))]), Vec::new())
    }

    fn field(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn line(&mut self, name: &'static str, text: impl Into<String>) {
        self.1.push((name, text.into()));
    }
}

fn lora(file: &WeightFile, dialect: Dialect) -> anyhow::Result<Part> {
    let mut part = Part::new("LoRA for a FLUX transformer");
    let range = |least: String, most: String| if least == most { least } else { format!("{least} to {most}") };
    part.field("keys", dialect.name());
    part.line("keys", dialect.name());
    if let Some(ranks) = adapter::ranks(file)? {
        part.field("ranks", json!([ranks.start(), ranks.end()]));
        part.line("rank", range(ranks.start().to_string(), ranks.end().to_string()));
    }
    let mut alphas = Vec::new();
    for key in file.keys().filter(|key| key.ends_with(".alpha")) {
        alphas.extend(file.data(key)?.try_into_vec_as::<f32>().into_iter().flatten());
    }
    alphas.sort_by(f32::total_cmp);
    match &alphas[..] {
        [least, .., most] => part.line("alpha", range(least.to_string(), most.to_string())),
        [one] => part.line("alpha", one.to_string()),
        [] => part.line("alpha", "as the header says, or else the rank"),
    }
    part.field("alphas", json!(alphas.first().zip(alphas.last()).map(|(least, most)| [least, most])));
    let (count, kinds) = targets(file);
    part.field("layers", count);
    part.field("targets", json!(kinds));
    let named: Vec<&str> = kinds.iter().take(MAX_LAYERS).map(String::as_str).collect();
    let more = if kinds.len() > MAX_LAYERS { format!(" and {} more", kinds.len() - MAX_LAYERS) } else { String::new() };
    part.line("layers", format!("{count}: {}{more}", named.join(", ")));
    weights(&mut part, file, |_| true);
    part.line("use", "ace sample --lora FILE[:WEIGHT], as it is");
    Ok(part)
}

/// How many layers a LoRA names, and their names with `*` for numbers.
fn targets(file: &WeightFile) -> (usize, BTreeSet<String>) {
    const DOWN: [&str; 4] = [".lora_down.", ".lora_A.", ".lora.down.", ".down."];
    let stems: BTreeSet<&str> =
        file.keys().filter_map(|key| DOWN.iter().find_map(|end| Some(&key[..key.find(end)?]))).collect();
    let kind = |stem: &&str| {
        let words = stem.split_inclusive(['.', '_']).map(|word| match word.trim_end_matches(['.', '_']) {
            number if number.parse::<usize>().is_ok() => word.replace(number, "*"),
            _ => word.to_owned(),
        });
        words.collect()
    };
    (stems.len(), stems.iter().map(kind).collect())
}

fn networks(file: &WeightFile) -> anyhow::Result<Vec<Part>> {
    let networks = file.networks();
    if networks.is_empty() {
        let first = file.keys().next().map_or("nothing".to_owned(), |key| format!("{key} and others"));
        let reason = format!("nothing that is known is in this file, only {first}");
        let hint = "known are FLUX transformers, their autoencoder, T5 and CLIP text encoders, and LoRAs";
        return Err(Error::format(file.path(), reason, hint).into());
    }
    networks.iter().map(|found| network(file, found, &networks)).collect()
}

fn network(file: &WeightFile, found: &Found, all: &[Found]) -> anyhow::Result<Part> {
    let mut part = Part::new(found.network.title());
    part.field("keys", found.names.name());
    part.field("prefix", found.prefix.as_str());
    part.line(
        "keys",
        match found.prefix.as_str() {
            "" => found.names.name().to_owned(),
            prefix => format!("{} behind {prefix}", found.names.name()),
        },
    );
    let sizes = Sizes::of(file, found)?;
    describe(&mut part, &sizes)?;
    // A network without a prefix would claim what stands behind the others'.
    let others: Vec<&str> =
        all.iter().map(|other| other.prefix.as_str()).filter(|prefix| prefix.len() > found.prefix.len()).collect();
    weights(&mut part, file, |key| {
        key.starts_with(&found.prefix) && !others.iter().any(|other| key.starts_with(other))
    });
    let cards = Card::builtins()
        .filter(|name| Card::builtin(name).is_ok_and(|card| sizes.completed(&card.sizes(found.network)).is_some()));
    let cards: Vec<&str> = cards.collect();
    part.field("cards", json!(cards));
    if !cards.is_empty() {
        part.line("fits", format!("built-in card {}", cards.join(", ")));
    }
    Ok(part)
}

fn describe(part: &mut Part, sizes: &Sizes) -> anyhow::Result<()> {
    match sizes {
        Sizes::Flux(config) => {
            part.field("sizes", serde_json::to_value(config)?);
            part.field("variant", variant(config));
            part.line("variant", format!("{} input features: {}", config.in_channels, variant(config)));
            let (width, heads) = (config.hidden_size, config.num_heads);
            let (double, single) = (config.depth, config.depth_single_blocks);
            part.line("sizes", format!("{width} wide, {heads} heads, {double} double and {single} single blocks"));
        }
        Sizes::AutoEncoder(config) => {
            part.field("sizes", serde_json::to_value(config)?);
            let (channels, latent) = (&config.block_out_channels, config.latent_channels);
            let blocks = config.layers_per_block;
            part.line("sizes", format!("{latent} latent channels, {channels:?} wide, {blocks} blocks a level"));
        }
        Sizes::T5(config) => {
            part.field("sizes", serde_json::to_value(config)?);
            let (width, heads, layers) = (config.d_model, config.num_heads, config.num_layers);
            part.line("sizes", format!("{width} wide, {heads} heads, {layers} layers, {} words", config.vocab_size));
        }
        Sizes::Clip(config) => {
            part.field("sizes", serde_json::to_value(config)?);
            let (width, layers) = (config.hidden_size, config.num_layers);
            part.line("sizes", format!("{width} wide, {layers} layers, {} words", config.vocab_size));
        }
    }
    Ok(())
}

/// What people call a transformer of this input.
fn variant(config: &FluxConfig) -> &'static str {
    match (config.in_channels / config.out_channels, config.in_channels % config.out_channels) {
        (1, 0) if config.guidance_embed => "text to image, as FLUX.1-dev",
        (1, 0) => "text to image without guidance, as FLUX.1-schnell",
        (2, 0) => "an image beside the noise, as FLUX.1-Canny and -Depth",
        (6, 0) => "masked image and mask beside the noise, as FLUX.1-Fill, base of the ACE++ LoRAs",
        (7, 0) => "masked image, change image and mask beside the noise, as ACE++ FFT",
        _ => "of a kind that is not known",
    }
}

fn container(file: &WeightFile) -> String {
    let count = file.files().count();
    match (file.is_gguf(), count) {
        (true, _) => "GGUF".to_owned(),
        (false, 1) => "safetensors".to_owned(),
        (false, count) => format!("safetensors in {count} files"),
    }
}

/// Says how many numbers there are under these keys, and how they are stored.
fn weights(part: &mut Part, file: &WeightFile, is_meant: impl Fn(&str) -> bool + Copy) {
    let own = file.keys().filter(|key| is_meant(key)).filter_map(|key| file.shape(key));
    let parameters: usize = own.map(|shape| shape.iter().product::<usize>()).sum();
    part.field("parameters", parameters);
    part.line("parameters", parameters.to_string());
    let mut all: Vec<(String, u64)> = dtypes(file, is_meant).into_iter().collect();
    part.field("bytes", all.iter().map(|(_, bytes)| bytes).sum::<u64>());
    part.field("stored", all.iter().map(|(name, bytes)| (name.clone(), json!(bytes))).collect::<Map<_, _>>());
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let stored: Vec<_> = all.iter().map(|(name, bytes)| format!("{name} {}", report::bytes(*bytes))).collect();
    part.line("stored", stored.join(", "));
}

/// Bytes by how they are stored.
fn dtypes(file: &WeightFile, is_meant: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for key in file.keys().filter(|key| is_meant(key)) {
        if let (Some(stored), Some(len)) = (file.stored(key), file.len_of(key)) {
            let scaled = if file.is_scaled(key) { " with scales" } else { "" };
            *bytes.entry(format!("{stored}{scaled}")).or_default() += len as u64;
        }
    }
    bytes
}
