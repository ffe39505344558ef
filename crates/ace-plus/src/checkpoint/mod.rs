//! The only reader and writer of weight files.
//!
//! ```text
//! safetensors, GGUF ─ header ─▶ WeightFile ─ dialect ─▶ names ─ load ─▶ parameters of a module
//!                                    └────── sizes ───▶ a network's configuration
//! ```
//!
//! Files are memory-mapped and read tensor by tensor into the module's own parameters: no second copy of the network,
//! the file's dtype kept unless another is asked for. Numbers of fewer than 16 bits are widened. Loading is strict: a
//! missing, extra or misshapen weight is an error that names it. What a network's weights are called in a file,
//! [`WeightFile::flux`] and its siblings find out.

mod dialect;
mod file;
mod header;
mod load;
mod sizes;
mod stored;
#[cfg(test)]
mod tests;
mod write;

pub use dialect::{Found, Names, Network};
pub use file::WeightFile;
pub use sizes::Sizes;
pub use stored::Stored;
pub use write::{collect, write, write_atomically};

pub(crate) use file::INDEX;
pub(crate) use load::Source;
pub(crate) use stored::restore;
pub(crate) use write::{Planned, stream};
