//! The only reader and writer of weight files: safetensors, GGUF and what `torch.save` wrote, one file, several with an index, or a folder.

mod file;
pub mod float8;
pub mod gguf;
mod header;
mod pickle;
mod stored;
#[cfg(test)]
mod tests;
mod torch;
mod write;

pub use file::WeightFile;
pub use stored::Stored;
pub use write::{collect, write};

pub(crate) use file::{FLOATS, INDEX, Raw, place};
pub(crate) use stored::{Values, restore};
pub(crate) use write::{Planned, stream};
