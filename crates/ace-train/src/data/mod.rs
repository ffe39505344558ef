//! What there is to learn from, up to the tensors of a batch.
//!
//! ```text
//! manifest line | world index ─▶ Example ─ Encoders ─▶ Encoded (on the host) ─▶ Batch (on the device)
//! ```

pub mod example;
pub mod shapes;
pub mod encode;
pub mod batch;
mod random;

pub use batch::Batch;
pub use encode::{Encoded, Encoders, TextEncoders};
pub use example::{Dataset, Example, ExampleError, Manifest};
