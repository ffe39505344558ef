//! `ace plan sample`, and what `ace sample` does with it: how a model is held so that an edit fits, and what was predicted
//! beside what is measured.

use crate::{
    args::PlanSampleArgs,
    model,
    report::{self, Failure, bytes},
    watch::Watch,
};
use ace_plus::{
    Edit, Model, Placement, Stage,
    plan::{Extent, Part, Plan, Weights, ways},
};
use burn::tensor::DType;
use std::{path::Path, process::ExitCode};

/// Prints what an edit takes, part by part, and every way to hold the model.
///
/// # Errors
/// If the model's files are missing or do not fit its card, or a picture cannot be read.
pub fn run(args: &PlanSampleArgs) -> anyhow::Result<ExitCode> {
    let base = Path::new("");
    let request = args.sample.request();
    let model = model::find(&request.model, base)?;
    let edit = request.edit(base, &mut |note| report::note(note))?;
    let (ways, extent) = all(&model, &edit)?;
    let memory = args.sample.memory;
    let is_said = request.model.placement.is_some();
    let chosen = match memory {
        Some(memory) => ways.iter().find(|plan| plan.peak() <= memory),
        None => ways.iter().find(|plan| !is_said || is_placed(plan, model.placed())),
    };
    match args.json {
        true => report::print(&serde_json::to_string_pretty(&json(&ways, chosen, &extent))?),
        false => print(&ways, chosen, memory, &extent),
    }
    Ok(if chosen.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_placed(plan: &Plan, placement: Placement) -> bool {
    plan.placement == placement && plan.text_placement == placement
}

/// Every way to hold the model for an edit.
fn all(model: &Model, edit: &Edit) -> anyhow::Result<(Vec<Plan>, Extent)> {
    let extent = Extent::of(edit, model.card())?;
    let dtype = DType::from(model.holds_in());
    Ok((ways(model.card(), &Weights::of(model)?, dtype, &extent), extent))
}

/// How a model is to be held for an edit: so that it fits into `memory`, or as it was told, unless everything stays.
///
/// # Errors
/// If nothing fits, or as [`run`].
pub fn plan(model: &Model, edit: &Edit, memory: Option<u64>) -> anyhow::Result<Option<Plan>> {
    let Some(memory) = memory else {
        let placement = model.placed();
        if placement == Placement::Resident {
            return Ok(None);
        }
        return Ok(all(model, edit)?.0.into_iter().find(|plan| is_placed(plan, placement)));
    };
    let (ways, _) = all(model, edit)?;
    if let Some(fits) = ways.iter().find(|plan| plan.peak() <= memory) {
        return Ok(Some(fits.clone()));
    }
    let least = ways.iter().map(Plan::peak).min().unwrap_or_default();
    let what = format!("nothing fits into {}: the least that this edit takes is {}", bytes(memory), bytes(least));
    let hint = "smaller pictures, or weights of fewer bits (--quantize, a GGUF file)";
    Err(Failure::new(what, hint).into())
}

fn print(ways: &[Plan], chosen: Option<&Plan>, memory: Option<u64>, extent: &Extent) {
    let [height, width] = extent.canvas;
    let (image, text) = (extent.sequence.image, extent.sequence.text);
    report::print(&format!("{width} x {height} pixels, {image} + {text} tokens, {} steps", extent.num_steps));
    let widest = ways.iter().map(|plan| plan.about().len()).max().unwrap_or_default();
    for plan in ways {
        let verdict = match memory {
            Some(memory) if plan.peak() <= memory => "fits",
            Some(_) => "does not fit",
            None => "",
        };
        report::print(format!("  {:widest$}  {:>8}  {verdict}", plan.about(), bytes(plan.peak())).trim_end());
    }
    let Some(plan) = chosen else {
        report::print("none of these fits: smaller pictures, or weights of fewer bits (--quantize, a GGUF file)");
        return;
    };
    report::print(&format!("\n{}, {} at most:", plan.about(), bytes(plan.peak())));
    for part in &plan.parts {
        let Part { name, how, held, work } = *part;
        let (held, work, peak) = (bytes(held), bytes(work), bytes(part.peak()));
        report::print(&format!("  {name:8} {how:19} {held:>8} of weights, {work:>8} of numbers, {peak:>8} at most"));
    }
}

fn json(ways: &[Plan], chosen: Option<&Plan>, extent: &Extent) -> serde_json::Value {
    let part = |part: &Part| {
        let Part { name, how, held, work } = *part;
        serde_json::json!({ "name": name, "how": how, "held": held, "work": work, "peak": part.peak() })
    };
    let one = |plan: &Plan| {
        serde_json::json!({
            "about": plan.about(),
            "placement": plan.placement,
            "text_placement": plan.text_placement,
            "tile": plan.tile,
            "peak": plan.peak(),
            "parts": plan.parts.iter().map(part).collect::<Vec<_>>(),
        })
    };
    serde_json::json!({
        "canvas": extent.canvas,
        "tokens": [extent.sequence.image, extent.sequence.text],
        "steps": extent.num_steps,
        "ways": ways.iter().map(one).collect::<Vec<_>>(),
        "fits": chosen.map(one),
    })
}

/// A plan beside what comes of it.
pub struct Compared {
    plan: Plan,
    watch: Watch,
    /// The part that runs.
    running: Option<usize>,
    /// The most memory of each part, of all pictures so far.
    measured: [u64; 4],
}

impl Compared {
    /// Begins to measure.
    pub fn with(plan: Plan) -> Self {
        Self { plan, watch: Watch::start(), running: None, measured: [0; 4] }
    }

    /// A stage begins, and the one before ends.
    pub fn begin(&mut self, stage: Stage) {
        self.end();
        self.running = Some(match stage {
            Stage::Text => 0,
            Stage::Encode => 1,
            Stage::Denoise => 2,
            Stage::Decode => 3,
        });
    }

    /// The last stage ends.
    pub fn end(&mut self) {
        let most = self.watch.lap();
        if let Some(part) = self.running.take() {
            self.measured[part] = self.measured[part].max(most);
        }
    }

    /// `memory: words 0.7 GB (predicted 0.8), …`
    pub fn line(&self) -> String {
        let beside = |measured: u64, predicted: u64| format!("{} (predicted {})", bytes(measured), bytes(predicted));
        let parts = self.plan.parts.iter().zip(self.measured);
        let mut words: Vec<String> =
            parts.map(|(part, measured)| format!("{} {}", part.name, beside(measured, part.peak()))).collect();
        let most = self.measured.iter().copied().max().unwrap_or_default();
        words.push(format!("at most {}", beside(most, self.plan.peak())));
        format!("memory, {}: {}", self.plan.about(), words.join(", "))
    }
}
