//! Judges a model on examples of the world of shapes that no training saw, beside two others: the input returned
//! unchanged, and the exact answer passed through the autoencoder. No transformer can be better than the latter.

use super::{
    preview::edit_of,
    verdict::{Score, Verdict, judge},
};
use crate::{
    Error,
    data::shapes::{Split, World, WorldTask},
};
use ace_plus::{Ace, Edit, Networks, pixels};
use serde::Serialize;
use std::ops::ControlFlow;

/// How a model does on one task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskScore {
    /// The task.
    pub task: String,
    /// Whether its examples come with references.
    pub has_reference: bool,
    /// What the model gave.
    pub model: Score,
    /// Blocks of the transformer that ran for an edit, on average.
    pub blocks: f64,
    /// The input returned unchanged; `None` where there is no input.
    pub unchanged: Option<Score>,
    /// The exact answer, encoded and decoded.
    pub ceiling: Score,
}

/// Judges `per_task` held-out examples of each task, at `size` pixels, each edited as `asked` makes of it. The observer hears of every example and
/// answers whether to go on.
///
/// # Errors
/// If the world has no such size, an edit fails, or the observer stops it.
pub fn evaluate(
    ace: &Ace,
    size: u32,
    tasks: &[WorldTask],
    per_task: u64,
    asked: &dyn Fn(Edit) -> Edit,
    observer: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Vec<TaskScore>, Error> {
    let world = World::new(size, tasks, Split::HeldOut)?;
    let Some(Networks { autoencoder, .. }) = ace.networks() else {
        let what = "a model is judged with all its networks in memory";
        return Err(ace_plus::Error::input(what, "load it without dropping networks").into());
    };
    let of = per_task * tasks.len() as u64;
    let mut done = 0;
    let mut rows = Vec::with_capacity(tasks.len());
    for task in tasks {
        let mut blocks = 0.0;
        let (mut model, mut unchanged, mut ceiling) = (Vec::new(), Vec::<Verdict>::new(), Vec::new());
        for index in 0..per_task {
            let example = world.example_of(*task, index);
            // A seed of its own for every example, so that one lucky noise does not decide a task.
            let edit = asked(edit_of(&example).seed(index));
            let edited = ace.run(&edit, &mut |_| ControlFlow::Continue(()))?;
            blocks += edited.work.blocks;
            model.push(judge(&example, &edited.image));
            if let Some(image) = &example.image {
                unchanged.push(judge(&example, image));
            }
            let answer = example.planes(&ace.card().canvas)?.swap_remove(0);
            let latents = autoencoder.encode(pixels::upload(&answer, ace.device()));
            let decoded = pixels::download(autoencoder.decode(latents)).to_rgb();
            // References stand left of the answer; the answer is what is judged.
            let (width, height) = example.target.dimensions();
            let left = decoded.width() - width;
            let decoded = image::imageops::crop_imm(&decoded, left, 0, width, height).to_image();
            ceiling.push(judge(&example, &decoded));
            done += 1;
            if !observer(done, of) {
                return Err(ace_plus::Error::Cancelled.into());
            }
        }
        rows.push(TaskScore {
            task: task.name().to_owned(),
            has_reference: task.has_reference(),
            model: Score::of(&model),
            blocks: blocks / per_task.max(1) as f64,
            unchanged: (!unchanged.is_empty()).then(|| Score::of(&unchanged)),
            ceiling: Score::of(&ceiling),
        });
    }
    Ok(rows)
}
