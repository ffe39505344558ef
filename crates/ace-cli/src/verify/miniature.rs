//! The shipped miniature's recorded edit: all four networks, tokenizers, canvas, schedule and loop at once.
//!
//! The recording is our own, from the CPU; what it proves is that another device, or a later version, still makes the
//! same picture from the same noise.

use super::recording::Recording;
use crate::miniature;
use ace_plus::{Card, Edit, Model, canvas::Plane, picture, pixels};
use anyhow::Result;
use std::{ops::ControlFlow, path::Path};

/// Runs the recorded edit from the recorded noise.
pub fn edit(recording: &Recording) -> Result<super::Findings> {
    let model = Model::of(Card::builtin("tiny")?, "");
    let model = miniature::files().fold(model, |model, (name, bytes)| model.bytes(name, bytes));
    let ace = model.load(recording.device())?;
    let [(image, image_bytes), (mask, mask_bytes)] = miniature::EXAMPLE;
    let edit = Edit::new(miniature::INSTRUCTION.trim())
        .image(picture::rgb_from_bytes(Path::new(image), image_bytes)?.picture)
        .mask(picture::mask_from_bytes(Path::new(mask), mask_bytes)?.picture)
        .task(miniature::TASK)
        .noise(recording.tensor::<4>("input.noise")?.into_data());
    let edited = ace.run(&edit, &mut |_| ControlFlow::Continue(()))?;
    let picture = pixels::upload(&Plane::from_rgb(&edited.image), recording.device()).squeeze_dim::<3>(0);
    Ok(vec![
        ("latents".to_owned(), recording.error("output.tokens", edited.tokens)?),
        ("picture".to_owned(), recording.error("output.picture", picture)?),
    ])
}
