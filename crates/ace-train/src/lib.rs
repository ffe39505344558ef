//! ACE++ training: turn examples into better weights, and judge them.
//!
//! Modules in the order in which a run passes them.

mod error;

pub mod autoencoder;
pub mod batch;
pub mod eval;
pub mod example;
pub mod flow;
pub mod judge;
pub mod networks;
pub mod params;
pub mod recipe;
pub mod preview;
pub mod run;
pub mod shapes;
pub mod state;
pub mod trainer;

pub use error::Error;
