//! Whether what was learned is any good.

pub mod verdict;
pub mod evaluate;
pub mod letters;
pub mod sheet;
pub mod preview;

pub use evaluate::{TaskScore, evaluate};
pub use verdict::{Score, Verdict, judge};
