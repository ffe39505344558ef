//! ACE++: one edit, from pixels and words to pixels.
//!
//! ```no_run
//! use ace_plus::{Ace, Card, Edit};
//! # fn main() -> ace_plus::Result<()> {
//! # let device = burn::tensor::Device::default();
//! # let face = image::RgbImage::new(64, 64);
//! let card = Card::builtin("tiny")?;
//! let ace = Ace::load(&card, "models/tiny".as_ref(), &device)?;
//! let edit = Edit::new("put the item at the top left on a teal background").reference(face).seed(42);
//! let image = ace.edit(&edit, &mut |_event| true)?;
//! # Ok(())
//! # }
//! ```
//!
//! Modules in the order in which an edit passes them.

mod error;

pub mod annotate;
pub mod canvas;
pub mod card;
pub mod denoise;
pub mod domain;
pub mod edit;
pub mod flow;
pub mod latents;
pub mod pipeline;
pub mod text;
pub mod tokenizer;
pub mod unit;

pub mod adapter;
pub mod checkpoint;
pub mod checkup;
pub mod convert;
pub mod digest;
pub mod fetch;
pub mod float8;
pub mod gguf;
pub mod lean;
pub mod picture;
pub mod tiling;
pub mod torch_noise;

pub use card::Card;
pub use edit::{Compat, Edit, SeedNoise};
pub use error::{Error, Result};
pub use pipeline::Ace;
