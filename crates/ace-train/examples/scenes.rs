//! Writes a held-out example of the procedural world as files: what `ace sample` takes, and the exact answer.
//!
//! `cargo run -p ace-train --example scenes -- recolor 0 out/scene`

use ace_plus::picture::write_png;
use ace_train::data::shapes::{Split, World, WorldTask};
use std::{error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "give a task, an index and a folder";
    let task = WorldTask::from_name(&arguments.next().ok_or(usage)?).ok_or("the world has no such task")?;
    let index: u64 = arguments.next().ok_or(usage)?.parse()?;
    let folder = PathBuf::from(arguments.next().ok_or(usage)?);

    let example = World::new(64, &[task], Split::HeldOut)?.example_of(task, index);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("instruction.txt"), format!("{}\n", example.instruction))?;
    write_png(&folder.join("target.png"), &example.target)?;
    if let Some(image) = &example.image {
        write_png(&folder.join("image.png"), image)?;
    }
    if let Some(mask) = &example.mask {
        mask.save(folder.join("mask.png"))?;
    }
    for (number, reference) in example.references.iter().enumerate() {
        write_png(&folder.join(format!("reference-{}.png", number + 1)), reference)?;
    }
    Ok(())
}
