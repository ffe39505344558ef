//! What there is to learn from, up to the tensors of a batch.
//!
//! ```text
//! line or files on disk | world index ─▶ Example ─ Encoders ─▶ Encoded (on the host) ─▶ Batch (on the device)
//! ```

pub mod example;
pub mod files;
pub mod shapes;
pub mod encode;
pub mod batch;

pub use batch::Batch;
pub use encode::{Encoded, Encoders, TextEncoders};
pub use example::{Dataset, Example, ExampleError, Place};
pub use files::Manifest;
