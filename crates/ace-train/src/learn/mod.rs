//! From examples to better weights.
//!
//! ```text
//! Recipe ─▶ Start (networks) ─▶ Objective (loss of a step) ─▶ Trainer (gradients, AdamW, average) ─▶ state (checkpoints)
//! └───────────────────────────────────────── run: all of it, with log and previews ──────────────────────────────────┘
//! ```

pub mod recipe;
pub mod start;
pub mod encoding;
pub mod params;
pub mod group;
pub mod stages;
pub mod adamw8;
pub mod trainer;
pub mod autoencoder;
pub mod times;
pub mod emphasis;
pub mod recompute;
pub mod flow;
pub mod validation;
pub mod state;
pub mod board;
pub mod run;

pub use group::{Alone, Group};
pub use recipe::Recipe;
pub use run::{Outcome, RunEvent, RunObserver, RunOptions, train, train_from, train_in};
pub use stages::Stages;
pub use start::Start;
pub use trainer::StepReport;
pub use validation::ValidationReport;
