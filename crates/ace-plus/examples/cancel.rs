//! Stopping an edit in the middle: the observer is asked before every block of a network and after every step.
//!
//! ```text
//! cargo run -p ace-plus --example cancel --features burn/flex
//! ```

#![allow(clippy::print_stderr)]

use ace_plus::{Edit, Error, Event, Model, Result, burn::tensor::Device};
use std::ops::ControlFlow;

/// The shipped miniature.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");

/// Stops an edit inside its second step; answers how many steps were done, and the size of the last preview's latents.
pub fn cancel() -> Result<(usize, Vec<usize>)> {
    let ace = Model::find(MODEL)?.load(&Device::default())?;
    let (mut steps, mut size) = (0, Vec::new());
    let stopped = ace.edit(&Edit::new("a blue star").steps(4), &mut |event| match event {
        Event::Step { done, preview, .. } => {
            steps = done;
            size = preview.latents().map_or(Vec::new(), |latents| latents.dims().to_vec());
            ControlFlow::Continue(())
        }
        Event::Tick if steps == 1 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    match stopped {
        Err(Error::Cancelled) => Ok((steps, size)),
        Err(error) => Err(error),
        Ok(_) => Ok((steps, Vec::new())),
    }
}

#[allow(dead_code)] // the tests call `cancel`
fn main() -> Result<()> {
    let (steps, size) = cancel()?;
    eprintln!("stopped after step {steps}; the preview's latents were {size:?}");
    Ok(())
}
