//! `ace plan train`: what memory a training takes, and which settings of a recipe fit.

use crate::{
    args::PlanArgs,
    device,
    report::{self, bytes},
    train,
};
use ace_train::plan::{Around, Fit, Prediction, Sequence, fit, longest};
use std::process::ExitCode;

/// Prints what the recipe takes, and ways to take less.
///
/// # Errors
/// If recipe or card cannot be used.
pub fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let (recipe, start) = train::planned(args.recipe.as_deref(), &args.model)?;
    let card = start.card();
    let most = longest(card, &recipe);
    let sequence = Sequence { image: args.tokens.unwrap_or(most.image), ..most };
    let encoder_budget = Some(start.encoder_budget);
    let around = Around { workers: device::threads(1), examples: args.examples, encoder_budget };
    let fits = fit(card, &recipe, sequence, around);
    let chosen = args.memory.and_then(|memory| fits.iter().find(|fit| size(&fit.prediction, args.card) <= memory));
    if args.json {
        report::print(&serde_json::to_string_pretty(&json(&fits, chosen))?);
    } else {
        report::print(&format!("{} on {}", recipe.name, card.name));
        print(&fits, chosen, args);
        if recipe.with_adapters && !card.adapter.is_empty() {
            report::print("the card's own adapters lie under it and come on top, as large as their files in f32");
        }
    }
    Ok(if args.memory.is_some() && chosen.is_none() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What counts of it.
fn size(prediction: &Prediction, on_card: bool) -> u64 {
    if on_card { prediction.on_card() } else { prediction.peak() }
}

fn print(fits: &[Fit], chosen: Option<&Fit>, args: &PlanArgs) {
    let memory = args.memory;
    let widest = fits.iter().map(|fit| fit.about.chars().count()).max().unwrap_or_default();
    for fit in fits {
        let peak = size(&fit.prediction, args.card);
        let verdict = match memory {
            Some(memory) if peak <= memory => "fits",
            Some(_) => "does not fit",
            None => "",
        };
        let tokens = format!("{} + {} tokens", fit.sequence.image, fit.sequence.text);
        report::print(format!("  {:widest$}  {tokens:>18}  {:>8}  {verdict}", fit.about, bytes(peak)).trim_end());
    }
    let Some(shown) = chosen.or(fits.first().filter(|_| memory.is_none())) else {
        report::print("none of these fits: smaller pictures (--tokens), or a machine with more memory");
        return;
    };
    report::print(&format!("\nof {}, at the highest point:", bytes(size(&shown.prediction, args.card))));
    parts(&shown.prediction);
    if !shown.lines.is_empty() {
        report::print("\nfor the recipe:");
        for line in &shown.lines {
            report::print(&format!("  {line}"));
        }
    }
}

fn parts(prediction: &Prediction) {
    let widest = prediction.parts.iter().map(|part| part.name.len()).max().unwrap_or_default();
    for part in &prediction.parts {
        let place = if part.on_host { "on the host" } else { "" };
        report::print(format!("  {:widest$}  {:>8}  {place}", part.name, bytes(part.bytes)).trim_end());
    }
    if prediction.encoders_before > 0 {
        let encoders = bytes(prediction.encoders_before);
        report::print(&format!("before that, while examples are encoded, the encoders: {encoders}"));
    }
    let (card, all) = (bytes(prediction.on_card()), bytes(prediction.peak()));
    report::print(&format!("on a graphics card {card}, on a processor {all}"));
}

fn json(fits: &[Fit], chosen: Option<&Fit>) -> serde_json::Value {
    let one = |fit: &Fit| {
        let parts: serde_json::Map<_, _> =
            fit.prediction.parts.iter().map(|part| (part.name.to_owned(), part.bytes.into())).collect();
        serde_json::json!({
            "about": fit.about,
            "recipe": fit.lines,
            "tokens": [fit.sequence.image, fit.sequence.text],
            "peak": fit.prediction.peak(),
            "encoders_before": fit.prediction.encoders_before,
            "on_card": fit.prediction.on_card(),
            "parts": parts,
        })
    };
    serde_json::json!({ "ways": fits.iter().map(one).collect::<Vec<_>>(), "fits": chosen.map(one) })
}
