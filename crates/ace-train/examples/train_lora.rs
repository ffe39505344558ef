//! A LoRA on the miniature: a recipe as text, a model found by name, and the adapter that comes out.
//!
//! ```text
//! cargo run -p ace-train --example train_lora --features burn/flex -- folder
//! ```

#![allow(clippy::print_stderr)]

use ace_plus::{Edit, Model, burn::tensor::Device};
use ace_train::{Error, Outcome, RunEvent, RunOptions, Start, train_from};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// The shipped miniature. A published model is named as for sampling, its frozen weights held in fewer bits:
/// `Model::find("ace-plus-portrait")?.dtype(FloatDType::BF16)`.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");

/// What to learn, on what, how long. With `manifest = "pictures.jsonl"` instead of `world` it is your own pictures.
const RECIPE: &str = r#"
name = "lora"
model = "tiny"
train = ["flux"]
lora = { rank = 8, alpha = 8.0 }
data = { world = 64, tasks = ["subject"], pool = 16 }
"#;

/// Learns for so many steps, uses what was learned once, and answers where it is.
pub fn train_lora(folder: &Path, steps: u64) -> Result<PathBuf, Error> {
    fs::create_dir_all(folder).map_err(ace_plus::Error::io(folder))?;
    let recipe = folder.join("recipe.toml");
    let text = format!("{RECIPE}optimizer = {{ steps = {steps}, batch = 4, learning_rate = 1e-3 }}\n");
    fs::write(&recipe, text).map_err(ace_plus::Error::io(&recipe))?;
    let options = RunOptions::new(recipe, folder);

    let (model, device) = (Model::find(MODEL)?, Device::default());
    let outcome = train_from(&Start::of(model.clone()), &options, &device, &mut |event| {
        if let RunEvent::Step(step) = event {
            eprintln!("step {}: loss {:.4}", step.step, step.loss);
        }
        true
    })?;
    let Outcome::Finished { weights, .. } = outcome else { return Err(ace_plus::Error::Cancelled.into()) };
    let adapter = weights[0].clone();

    let ace = model.lora(&adapter, 1.0).load(&device)?;
    ace.edit(
        &Edit::new("a small red circle at the top left on a teal background"),
        &mut |_| ControlFlow::Continue(()),
    )?;
    Ok(adapter)
}

#[allow(dead_code)] // the tests call `train_lora`
fn main() -> Result<(), Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "out/train/example".to_owned());
    eprintln!("{}", train_lora(Path::new(&folder), 50)?.display());
    Ok(())
}
