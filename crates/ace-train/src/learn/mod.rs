//! From examples to better weights.
//!
//! ```text
//! Recipe ─▶ Start (networks) ─▶ Objective (loss of a step) ─▶ Trainer (gradients, AdamW, average) ─▶ state (checkpoints)
//! └───────────────────────────────────────── run: all of it, with log and previews ──────────────────────────────────┘
//! ```

pub mod recipe;
pub mod start;
pub mod results;
pub mod encoding;
pub mod params;
pub mod group;
pub mod stages;
pub mod adamw8;
pub mod trainer;
pub mod autoencoder;
pub mod reading;
pub mod times;
pub mod emphasis;
pub mod recompute;
pub mod flow;
pub mod validation;
pub mod state;
mod log;
pub mod board;
mod source;
pub mod events;
pub mod run;

pub use events::{Outcome, RunEvent, RunObserver, RunOptions};
pub use group::{Alone, Group};
pub use recipe::Recipe;
pub use run::{train, train_from, train_in};
pub use stages::Stages;
pub use start::Start;
pub use trainer::StepReport;
pub use validation::ValidationReport;
