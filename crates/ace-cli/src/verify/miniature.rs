//! The shipped miniature's recorded edit: all four networks, tokenizers, canvas, schedule and loop at once.
//!
//! The recording is our own, from the CPU; what it proves is that another device, or a later version, still makes the
//! same picture from the same noise.

use super::recording::Recording;
use ace_plus::{Ace, Card, Edit, canvas::Plane, unit};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf};

/// Files of `models/tiny` that an edit needs: the program carries them, so that it can be verified where no clone is.
const FILES: &[(&str, &[u8])] = &[
    ("card.toml", include_bytes!("../../../../models/tiny/card.toml")),
    ("flux.safetensors", include_bytes!("../../../../models/tiny/flux.safetensors")),
    ("autoencoder.safetensors", include_bytes!("../../../../models/tiny/autoencoder.safetensors")),
    ("t5.safetensors", include_bytes!("../../../../models/tiny/t5.safetensors")),
    ("clip.safetensors", include_bytes!("../../../../models/tiny/clip.safetensors")),
    ("tokenizers/t5/tokenizer.json", include_bytes!("../../../../models/tiny/tokenizers/t5/tokenizer.json")),
    ("tokenizers/clip/vocab.json", include_bytes!("../../../../models/tiny/tokenizers/clip/vocab.json")),
    ("tokenizers/clip/merges.txt", include_bytes!("../../../../models/tiny/tokenizers/clip/merges.txt")),
    ("examples/image.png", include_bytes!("../../../../models/tiny/examples/image.png")),
    ("examples/mask.png", include_bytes!("../../../../models/tiny/examples/mask.png")),
];
const INSTRUCTION: &str = include_str!("../../../../models/tiny/examples/instruction.txt");

/// Runs the recorded edit from the recorded noise.
pub fn edit(recording: &Recording) -> Result<super::Findings> {
    let folder = Unpacked::new()?;
    let card = Card::load(&folder.0)?;
    let ace = Ace::load(&card, &folder.0, recording.device())?;
    let mut edit = Edit::new(INSTRUCTION.trim())
        .image(ace_plus::picture::read_rgb(&folder.0.join("examples/image.png"))?)
        .mask(ace_plus::picture::read_mask(&folder.0.join("examples/mask.png"))?)
        .task(&card, "recolor")?;
    edit.noise = Some(recording.tensor::<4>("input.noise")?.into_data());
    let edited = ace.run(&edit, &mut |_| true)?;
    let picture = unit::upload(&Plane::from_rgb(&edited.image), recording.device()).squeeze_dim::<3>(0);
    Ok(vec![
        ("latents".to_owned(), recording.error("output.tokens", edited.tokens)?),
        ("picture".to_owned(), recording.error("output.picture", picture)?),
    ])
}

/// The carried files in a folder of their own, removed when done.
struct Unpacked(PathBuf);

impl Unpacked {
    fn new() -> Result<Self> {
        let folder = Self(std::env::temp_dir().join(format!("ace-verify-{}", std::process::id())));
        for (name, bytes) in FILES {
            let path = folder.0.join(name);
            let write = || -> std::io::Result<()> {
                fs::create_dir_all(path.parent().unwrap_or(&folder.0))?;
                fs::write(&path, bytes)
            };
            write().with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(folder)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // A folder left in the temporary place harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
