//! Weight files: names, shapes and bytes of every network, in every common format, and back.
//!
//! ```text
//! safetensors, GGUF ─ store ─▶ WeightFile ─ network ─▶ names and sizes ─ load ─▶ parameters of a module
//!                                  │                         └─ convert ─▶ another format, another precision
//!                                  └─ adapter ─▶ branches on a transformer's layers
//! ```
//!
//! Files are memory-mapped and read tensor by tensor into the module's own parameters: no second copy of the network,
//! the file's dtype kept unless another is asked for. Loading is strict: a missing, extra or misshapen weight is an
//! error that names it.

mod error;

pub mod replace;
pub mod source;
pub mod store;

mod footprint;
mod load;
pub mod names;
mod quantize;
pub mod network;

mod placement;
pub mod streamed;

pub mod adapter;
pub mod convert;

pub mod digest;
pub mod hub;

pub use error::{Error, Result};
pub use footprint::Footprint;
pub use network::{Network, Sizes};
pub use placement::Placement;
pub use source::Source;
pub use store::{Stored, WeightFile, collect, write};
pub use streamed::{ModulationSource, Streamed, StreamedT5};
