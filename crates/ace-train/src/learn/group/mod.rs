//! The processes that share a run: one alone, or several that a launcher started, on one machine or on many.
//!
//! Every process, a *rank*, holds the whole model and the optimizer's whole state. Of a step each measures its own share of
//! the micro-batches; the gradients go round, and all take the same step. Rank 0 alone writes.
//!
//! ```text
//! micro-batches   0  1  2  3  4        rank of micro-batch i: i mod ranks
//! rank 0          ▇     ▇     ▇   ─┐
//! rank 1             ▇     ▇      ─┴▶ the same sum on both ─▶ the same step on both
//! ```

mod reduce;
#[cfg(feature = "mpi")]
mod mpi;

#[cfg(feature = "mpi")]
pub use mpi::{Mpi, MpiProblem};
pub use reduce::{Sum, sum};

use crate::Error;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The ranks of a run. Every rank calls every method the same number of times and in the same order, on one thread.
///
/// An exchange that breaks down, because a rank is gone, ends the process: there is no way on.
pub trait Group {
    /// This process, counted from 0.
    fn rank(&self) -> usize;

    /// How many there are, at least one.
    fn size(&self) -> usize;

    /// What every rank says, in the order of the ranks.
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>>;

    /// Fills `numbers` with those of rank `from`; the length is the same everywhere.
    fn broadcast(&self, from: usize, numbers: &mut [f32]);

    /// Fills `numbers` with their sum over all ranks, added in whatever order is fastest.
    fn sum(&self, numbers: &mut [f32]);
}

/// The only process of its run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        vec![mine.to_vec()]
    }

    fn broadcast(&self, _from: usize, _numbers: &mut [f32]) {}

    fn sum(&self, _numbers: &mut [f32]) {}
}

/// Which of a list belong to one rank: every `size`-th, from `rank` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The rank.
    pub rank: usize,
    /// How many ranks there are.
    pub size: usize,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self { rank: 0, size: 1 };

    /// The share of this process.
    pub fn of(group: &dyn Group) -> Self {
        Self { rank: group.rank(), size: group.size() }
    }

    /// Whether the entry at `index` belongs to it.
    pub fn has(self, index: usize) -> bool {
        index % self.size == self.rank
    }

    /// How many of `count` entries belong to it.
    pub fn count(self, count: usize) -> usize {
        (count + self.size - 1 - self.rank) / self.size
    }
}

/// What went wrong on one rank, for all to hear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors quote their cause.
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self { message, hint: error.hint().map(ToOwned::to_owned) }
    }
}

/// What every rank has, in the order of the ranks, or the failure of the first that has none: all ranks get the same answer.
///
/// # Errors
/// [`Error::Rank`], if a rank failed.
pub fn exchange<T: Serialize + DeserializeOwned>(
    group: &dyn Group,
    mine: &Result<T, Failure>,
) -> Result<Vec<T>, Error> {
    let failed = |rank, failure: Failure| Error::Rank { rank, message: failure.message, hint: failure.hint };
    let unreadable =
        |error: serde_json::Error| Failure { message: format!("it cannot be understood: {error}"), hint: None };
    // Plain values always serialize; an empty word would not be understood.
    let word = serde_json::to_vec(mine).unwrap_or_default();
    let said = |(rank, word): (usize, Vec<u8>)| {
        let word: Result<T, Failure> = serde_json::from_slice(&word).map_err(unreadable).and_then(|word| word);
        word.map_err(|failure| failed(rank, failure))
    };
    group.gather(&word).into_iter().enumerate().map(said).collect()
}

/// Waits for all ranks: `mine`, if it went well on all of them.
///
/// # Errors
/// The error itself if this is the only rank; otherwise [`Error::Rank`] on all of them, of the first that failed.
pub fn agree<T>(group: &dyn Group, mine: Result<T, Error>) -> Result<T, Error> {
    if group.size() == 1 {
        return mine;
    }
    exchange(group, &mine.as_ref().map(|_| ()).map_err(Failure::of))?;
    mine
}

/// Rank 0 does `work`; the others wait and get `None`.
///
/// # Errors
/// As [`agree`].
pub fn lead<T>(group: &dyn Group, work: impl FnOnce() -> Result<T, Error>) -> Result<Option<T>, Error> {
    agree(group, (group.rank() == 0).then(work).transpose())
}

/// Whether it is so on every rank.
///
/// # Errors
/// As [`agree`].
pub fn all(group: &dyn Group, mine: Result<bool, Error>) -> Result<bool, Error> {
    if group.size() == 1 {
        return mine;
    }
    let everybody = exchange(group, &mine.map_err(|error| Failure::of(&error)))?;
    Ok(everybody.into_iter().all(|one| one))
}

/// Makes sure that all ranks have the same of `what`.
///
/// # Errors
/// [`Error::Rank`] on all of them, of the first that differs from rank 0.
pub fn same(group: &dyn Group, what: &str, mine: impl FnOnce() -> Vec<u8>) -> Result<(), Error> {
    if group.size() == 1 {
        return Ok(());
    }
    let words = group.gather(&mine());
    match words.iter().position(|word| *word != words[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Rank {
            rank,
            message: format!("{what} differs from that of rank 0"),
            hint: Some("all processes need the same program, files and folders, and processors of one kind".to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_a_list_once() {
        for (size, count) in [(1, 5), (2, 5), (4, 3), (3, 6), (3, 0)] {
            let shares = (0..size).map(|rank| Share { rank, size });
            let counts = shares.clone().map(|share| (0..count).filter(|index| share.has(*index)).count());
            assert_eq!(counts.clone().sum::<usize>(), count);
            assert!(shares.zip(counts).all(|(share, counted)| share.count(count) == counted), "{count} over {size}");
        }
    }

    #[test]
    fn alone_an_error_stays_what_it_is() {
        let error = || Error::Diverged { step: 3, what: "loss", value: f32::NAN };
        assert!(matches!(agree::<()>(&Alone, Err(error())), Err(Error::Diverged { step: 3, .. })));
        assert_eq!(lead(&Alone, || Ok(7)).unwrap(), Some(7));
        assert!(all(&Alone, Ok(true)).unwrap() && !all(&Alone, Ok(false)).unwrap());
        let failure = Failure::of(&error());
        assert_eq!(failure.message, "the loss of step 3 is NaN");
        assert!(failure.hint.unwrap().contains("learning_rate"));
    }
}
