//! Many pictures with one model, made by several threads: `Ace` is shared, not copied.
//!
//! ```text
//! cargo run -p ace-plus --example batch --features burn/flex -- folder
//! ```

use ace_plus::{Edit, Model, Result, burn::tensor::Device, image::RgbImage, picture};
use std::{ops::ControlFlow, path::Path, thread};

/// The shipped miniature.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");

/// What to make.
const INSTRUCTIONS: [&str; 3] = [
    "a small red circle at the top left on a teal background",
    "a large blue star at the center on a yellow background",
    "a small green square at the bottom right on a white background",
];

/// A picture for each instruction, in their order.
pub fn batch() -> Result<Vec<RgbImage>> {
    let ace = Model::find(MODEL)?.load(&Device::default())?;
    let make = |(seed, words): (usize, &&str)| {
        ace.edit(&Edit::new(*words).seed(seed as u64), &mut |_| ControlFlow::Continue(()))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = INSTRUCTIONS.iter().enumerate().map(|job| scope.spawn(move || make(job))).collect();
        // A panic of a thread goes on here.
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[allow(dead_code)] // the tests call `batch`
fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    for (number, image) in batch()?.iter().enumerate() {
        picture::write_png(&Path::new(&folder).join(format!("{number}.png")), image)?;
    }
    Ok(())
}
