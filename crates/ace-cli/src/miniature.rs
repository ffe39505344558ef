//! The shipped miniature: the program carries it, so that it edits a first picture, and can be verified, anywhere.

/// Files of `models/tiny` that an edit needs, by the names that its card has for them.
const FILES: [(&str, &[u8]); 7] = [
    ("flux.safetensors", include_bytes!("../../../models/tiny/flux.safetensors")),
    ("autoencoder.safetensors", include_bytes!("../../../models/tiny/autoencoder.safetensors")),
    ("t5.safetensors", include_bytes!("../../../models/tiny/t5.safetensors")),
    ("clip.safetensors", include_bytes!("../../../models/tiny/clip.safetensors")),
    ("tokenizers/t5/tokenizer.json", include_bytes!("../../../models/tiny/tokenizers/t5/tokenizer.json")),
    ("tokenizers/clip/vocab.json", include_bytes!("../../../models/tiny/tokenizers/clip/vocab.json")),
    ("tokenizers/clip/merges.txt", include_bytes!("../../../models/tiny/tokenizers/clip/merges.txt")),
];

/// The shipped example, as PNG: a picture, and what to repaint of it.
pub const EXAMPLE: [(&str, &[u8]); 2] = [
    ("image.png", include_bytes!("../../../models/tiny/examples/image.png")),
    ("mask.png", include_bytes!("../../../models/tiny/examples/mask.png")),
];
/// What to make of it.
pub const INSTRUCTION: &str = include_str!("../../../models/tiny/examples/instruction.txt");
/// What kind of edit that is.
pub const TASK: &str = "recolor";

/// A recipe for an adapter of it, to watch a model learn.
pub const RECIPE: &str = include_str!("../../../models/tiny/lora-restoration.toml");

/// Its files with their names.
pub fn files() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    FILES.into_iter()
}
