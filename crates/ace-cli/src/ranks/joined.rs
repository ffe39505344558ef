//! The processes that an MPI launcher started.

use super::Place;
use crate::{
    panics,
    report::{self, Failure},
};
use ace_train::{
    Error, Group,
    learn::group::{self, Mpi},
};
use std::process::ExitCode;

/// All processes, joined.
pub struct Joined {
    mpi: Mpi,
    place: Place,
}

impl Joined {
    /// Joins the `started` processes and shares the machine with those that are on it.
    ///
    /// # Errors
    /// If MPI does not start, or does not know of all of them.
    pub fn with(started: usize) -> anyhow::Result<Self> {
        let mpi = Mpi::join()?;
        if mpi.size() == 1 {
            return Err(Failure::new(
                format!("a launcher started {started} processes, but each is alone to this build's MPI"),
                "use the mpirun of the MPI that it was built with, or srun --mpi=pmix; docs/mpi.md tells more",
            )
            .into());
        }
        let words = mpi.gather(format!("{}\n{}", mpi.machine(), allowed_threads()).as_bytes());
        let place = place(&words, mpi.rank());
        // Where the user said how many threads, that many are right.
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            let threads = crate::device::threads(place.sharers);
            // Nothing has computed yet: there is no pool to be in the way.
            drop(rayon::ThreadPoolBuilder::new().num_threads(threads).build_global());
        }
        Ok(Self { mpi, place })
    }

    pub fn group(&self) -> &dyn Group {
        &self.mpi
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// As [`Ranks::agree`](super::Ranks::agree).
    pub fn agree<T>(&self, mine: anyhow::Result<T>) -> anyhow::Result<T> {
        let failure =
            |error: &anyhow::Error| group::Failure { message: report::message(error), hint: report::hint(error) };
        group::exchange(&self.mpi, &mine.as_ref().map(|_| ()).map_err(failure))?;
        mine
    }

    /// As [`Ranks::run`](super::Ranks::run).
    pub fn run(&self, work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        match panics::caught(work) {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Rank { .. })) => match self.mpi.rank() {
                0 => Err(error),
                _ => Ok(ExitCode::FAILURE),
            },
            Err(error) => {
                // The others wait for this one, and would for ever.
                eprintln!("error: rank {}: {}", self.mpi.rank(), report::message(&error));
                if let Some(hint) = report::hint(&error) {
                    eprintln!("hint: {hint}");
                }
                self.mpi.abort(1)
            }
            done => done,
        }
    }
}

/// What rank `rank` has of its machine; every rank's word is its machine and the threads that it may use.
fn place(words: &[Vec<u8>], rank: usize) -> Place {
    let machine = |word: &[u8]| word.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec);
    let mine = &words[rank];
    let here = |words: &[Vec<u8>]| words.iter().filter(|word| machine(word) == machine(mine)).count();
    Place {
        processes: words.len(),
        here: here(words),
        index: here(&words[..rank]),
        sharers: words.iter().filter(|word| *word == mine).count(),
    }
}

/// The processor's threads that this process may use, as Linux lists them; launchers like to give each process its own.
fn allowed_threads() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_shared_by_those_that_are_on_it() {
        let words = ["a\n0-3", "b\n0-1", "a\n0-3", "b\n2-3", "b\n2-3"].map(|word| word.as_bytes().to_vec());
        let seen: Vec<_> = (0..5).map(|rank| place(&words, rank)).map(|p| (p.here, p.index, p.sharers)).collect();
        assert_eq!(seen, [(2, 0, 2), (3, 0, 1), (2, 1, 2), (3, 1, 2), (3, 2, 2)]);
        assert_eq!(place(&words, 0).processes, 5);
    }
}
