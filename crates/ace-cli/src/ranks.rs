//! Processes that train together: found, given their share of the machine, and ended together.
//!
//! A launcher (`mpirun`, `srun`, Kubeflow's MPIJob) starts the same command several times. With the feature `mpi` the processes
//! join; without it they would all write the same folder, so they say so and stop.

#[cfg(not(feature = "mpi"))]
use crate::report::Failure;
use ace_train::{Alone, Group};
use std::process::ExitCode;

#[cfg(feature = "mpi")]
mod joined;
#[cfg(feature = "mpi")]
mod signals;

#[cfg(feature = "mpi")]
use joined::Joined;

/// Where launchers say how many processes they started: Open MPI, MPICH and its like, Slurm.
const COUNTS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The processes of this run.
pub struct Ranks {
    #[cfg(feature = "mpi")]
    joined: Option<Joined>,
}

/// What this process has of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// How many processes there are.
    pub processes: usize,
    /// How many of them are on this machine.
    pub here: usize,
    /// Which of those this one is, counted from 0.
    pub index: usize,
    /// How many share the processor's threads that this one may use.
    pub sharers: usize,
}

impl Place {
    /// A machine to itself.
    const ALONE: Self = Self { processes: 1, here: 1, index: 0, sharers: 1 };
}

impl Ranks {
    /// Joins the processes that were started with this one, if there are any.
    ///
    /// # Errors
    /// If there are and they cannot be joined.
    pub fn find() -> anyhow::Result<Self> {
        let started = started(|name| std::env::var(name).ok());
        #[cfg(feature = "mpi")]
        return Ok(Self { joined: if started > 1 { Some(Joined::with(started)?) } else { None } });
        #[cfg(not(feature = "mpi"))]
        match started {
            0 | 1 => Ok(Self {}),
            _ => Err(Failure::misuse(
                format!("a launcher started {started} processes, and this build trains in one"),
                "build with --features mpi, or start it without the launcher; docs/mpi.md tells how",
            )
            .into()),
        }
    }

    /// Whom training exchanges its gradients with.
    pub fn group(&self) -> &dyn Group {
        #[cfg(feature = "mpi")]
        if let Some(joined) = &self.joined {
            return joined.group();
        }
        &Alone
    }

    /// What this process has of its machine.
    pub fn place(&self) -> Place {
        #[cfg(feature = "mpi")]
        if let Some(joined) = &self.joined {
            return joined.place();
        }
        Place::ALONE
    }

    /// Whether this process speaks for all.
    pub fn leads(&self) -> bool {
        self.group().rank() == 0
    }

    /// `mine`, if it went well in all processes.
    ///
    /// # Errors
    /// That of the first process in which it did not.
    pub fn agree<T>(&self, mine: anyhow::Result<T>) -> anyhow::Result<T> {
        #[cfg(feature = "mpi")]
        if let Some(joined) = &self.joined {
            return joined.agree(mine);
        }
        mine
    }

    /// From now on a launcher that ends this process is answered with a last line; `out` is the run's folder, `way_on` the
    /// command that resumes it.
    pub fn expect_the_end(&self, out: &std::path::Path, way_on: &str) {
        #[cfg(feature = "mpi")]
        if self.joined.is_some() {
            signals::listen(self.group().rank(), out.to_owned(), way_on.to_owned());
        }
        #[cfg(not(feature = "mpi"))]
        let _ = (out, way_on); // a process of its own just ends
    }

    /// Does `work`. If it fails in one process alone, no process goes on.
    ///
    /// # Errors
    /// Those of `work`; where all processes have the same, only in the first.
    pub fn run(&self, work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        #[cfg(feature = "mpi")]
        if let Some(joined) = &self.joined {
            return joined.run(work);
        }
        work()
    }
}

/// How many processes a launcher started, as it says in the environment; 0 if there is none.
fn started(variable: impl Fn(&str) -> Option<String>) -> usize {
    COUNTS.iter().find_map(|name| variable(name)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_launcher_says_how_many_it_started() {
        let of =
            |known: &'static str, value: &'static str| started(move |name| (name == known).then(|| value.to_owned()));
        assert_eq!(of("OMPI_COMM_WORLD_SIZE", "4"), 4);
        assert_eq!(of("PMI_SIZE", "2"), 2);
        assert_eq!(of("SLURM_STEP_NUM_TASKS", "8"), 8);
        assert_eq!(of("PMI_SIZE", "many"), 0);
        assert_eq!(started(|_| None), 0);
    }
}
