//! ACE++ training: turn examples into better weights, and judge them.
//!
//! | room | what is in it |
//! |---|---|
//! | [`data`] | examples from files or from the world of shapes; what the frozen networks make of them; batches |
//! | [`learn`] | a recipe, where a run starts, the two objectives, one step, its checkpoints, a whole run |
//! | [`judge`] | whether an output is right, a table of scores, previews |
//! | [`plan`] | what memory a recipe takes, and which settings fit |
//! | [`mod@bench`] | how fast the trainer is on a device |
//!
//! `data` knows neither of the others, and `judge` does not know `learn`.

pub mod data;
pub mod learn;
pub mod judge;
pub mod plan;
pub mod bench;

mod error;

pub use data::{Dataset, Example, ExampleError, Manifest, Place};
pub use error::{Error, RecipeProblem, StateProblem};
pub use learn::{
    Alone, Group, Outcome, Recipe, RunEvent, RunObserver, RunOptions, Stages, Start, StepReport, train, train_from,
    train_in,
};
