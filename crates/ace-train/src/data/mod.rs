//! What there is to learn from, up to the tensors of a batch.
//!
//! ```text
//! line or files on disk | world index ─▶ Example ─ Supply ─▶ Encoded (on the host) ─▶ Batch (on the device)
//!                                                  └ cache, or the encoders
//! ```

pub mod example;
pub mod files;
pub mod shapes;
pub mod encode;
pub mod plain;
pub mod cache;
pub mod notices;
pub mod supply;
pub(crate) mod examples;
pub mod skipping;
pub mod check;
pub mod packing;
pub mod batch;
mod random;

pub use batch::Batch;
pub use cache::{Cache, Digests};
pub use check::{Checked, check};
pub use encode::{Encoded, Encoders, TextEncoders};
pub use example::{Dataset, Example, ExampleError, Place};
pub use files::Manifest;
pub use notices::{Notice, Notices};
pub use supply::{OnBadExample, Supply};
