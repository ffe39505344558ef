//! One edit: a picture, what to repaint of it, and the words.
//!
//! ```text
//! cargo run -p ace-plus --example edit --features burn/flex -- out.png
//! ```

#![allow(clippy::print_stderr)]

use ace_plus::{Edit, Event, Model, Result, burn::tensor::Device, image::RgbImage, picture};
use std::{ops::ControlFlow, path::Path};

/// The shipped miniature; for a published model its name is enough: `Model::find("ace-plus-portrait")`.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");

/// Makes the circle of the shipped scene green.
pub fn edit() -> Result<RgbImage> {
    let ace = Model::find(MODEL)?.load(&Device::default())?;
    let examples = Path::new(MODEL).join("examples");
    let edit = Edit::new("make the circle green")
        .task("recolor")
        .image(picture::read_rgb(&examples.join("image.png"))?)
        .mask(picture::read_mask(&examples.join("mask.png"))?)
        .seed(42);
    ace.edit(&edit, &mut |event| {
        if let Event::Step { done, of, .. } = event {
            eprintln!("step {done} of {of}");
        }
        ControlFlow::Continue(())
    })
}

#[allow(dead_code)] // the tests call `edit`
fn main() -> Result<()> {
    let out = std::env::args().nth(1).unwrap_or_else(|| "out.png".to_owned());
    picture::write_png(Path::new(&out), &edit()?)
}
