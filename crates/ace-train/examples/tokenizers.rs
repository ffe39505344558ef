//! Writes the miniature's tokenizers: every word of the procedural world is one token.
//!
//! `cargo run -p ace-train --example tokenizers -- models/tiny/tokenizers`

use ace_train::data::shapes::{self, tokenizers};
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| "models/tiny/tokenizers".into(), PathBuf::from);
    tokenizers::write(&shapes::vocabulary(), &folder)
}
