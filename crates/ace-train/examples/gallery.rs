//! Draws one held-out example of each task as the shipped miniature edits it: the picture of the README.
//!
//! `cargo run --release -p ace-train --features burn/flex --example gallery -- models/tiny models/tiny/examples/tasks.png`

use ace_plus::{Card, Model, picture::write_png};
use ace_train::{
    data::shapes::{Split, World, WorldTask},
    judge::{preview, sheet},
};
use burn::tensor::Device;
use std::{error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "give a model folder and a PNG to write";
    let (model, path) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let ace = Model::of(Card::load(&model)?, &model).load(&Device::default())?;
    let world = World::new(64, WorldTask::ALL, Split::HeldOut)?;
    let rows: Vec<_> =
        WorldTask::ALL.iter().map(|task| preview::row(&ace, &world.example_of(*task, 1))).collect::<Result<_, _>>()?;
    // Two columns of rows are easier to look at than one long strip.
    let (left, right) = rows.split_at(rows.len() / 2);
    write_png(&path, &sheet::beside(&[sheet::sheet(left), sheet::sheet(right)]))?;
    Ok(())
}
