//! ACE++: one edit, from pixels and words to pixels.
//!
//! ```no_run
//! use ace_plus::{Edit, Model};
//! use std::ops::ControlFlow;
//! # fn main() -> ace_plus::Result<()> {
//! # let face = image::RgbImage::new(64, 64);
//! let device = burn::tensor::Device::default(); // the app chose burn's backend feature
//! let ace = Model::find("ace-plus-portrait")?.load(&device)?;
//! let edit = Edit::new("she wears a police uniform").reference(face).seed(42).steps(28);
//! let image = ace.edit(&edit, &mut |_event| ControlFlow::Continue(()))?;
//! # Ok(())
//! # }
//! ```
//!
//! An edit passes these modules in this order: [`edit`] (what is asked), `prepare` and [`canvas`] (pixels), [`text`] and
//! [`mod@unit`] (what the transformer is given), [`sample`] (the loop), [`pixels`] (back); [`Ace`] composes them. What is asked
//! can be stored as a [`Request`], and sent as a [`Message`].

mod error;

pub mod card;
pub mod model;

pub mod annotate;
pub mod canvas;
pub mod domain;
pub mod edit;
pub mod picture;
mod prepare;
pub mod prompt;
pub mod segment;

pub mod flow;
pub mod latents;
pub mod pixels;
pub mod text;
pub mod text_cache;
pub mod tokenizer;
pub mod unit;

mod ace;
pub mod sample;

pub mod bench;
pub mod cost;
pub mod plan;

pub mod describe;
pub mod jobs;
pub mod message;
pub mod provenance;
pub mod request;
pub mod session;

pub use ace::{Ace, Edited, Networks, Shape};
pub use card::Card;
pub use edit::{Compat, Edit};
pub use error::{Error, ErrorKind, Result};
pub use message::Message;
pub use model::Model;
pub use prepare::Prepared;
pub use prompt::PicturePrompt;
pub use request::Request;
pub use sample::{Event, SeedNoise, Stage};
pub use segment::Segmenter;

pub use ace_weights::{Placement, hub::Hub};
pub use {burn, image};
