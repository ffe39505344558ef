//! Ranks that an MPI launcher started: `mpirun`, `srun`, Kubeflow's MPIJob.

use super::Group;
use ::mpi::{
    Threading,
    collective::SystemOperation,
    datatype::PartitionMut,
    environment::{self, Universe},
    topology::SimpleCommunicator,
    traits::{Communicator, CommunicatorCollectives, Root},
};

/// MPI counts in 32 bits, and buffers of its own take memory: longer rows go in pieces of so many numbers, 64 MiB.
const PIECE: usize = 1 << 24;

/// All processes that the launcher started. While it lives, MPI is initialized; where one ends, all others must.
pub struct Mpi {
    // Dropped in this order: the world before what it is part of.
    world: SimpleCommunicator,
    _universe: Universe,
}

/// Why MPI cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MpiProblem {
    /// It was initialized before, and can be only once.
    #[error("MPI was initialized before")]
    Twice,
    /// It cannot live beside threads.
    #[error("this MPI does not work in programs with threads")]
    NoThreads,
}

impl Mpi {
    /// Joins the other processes. The thread that calls this is the only one that may use it.
    ///
    /// # Errors
    /// If MPI was initialized before, or does not work beside threads.
    pub fn join() -> Result<Self, MpiProblem> {
        let (universe, threading) = ::mpi::initialize_with_threading(Threading::Funneled).ok_or(MpiProblem::Twice)?;
        if threading < Threading::Funneled {
            return Err(MpiProblem::NoThreads);
        }
        Ok(Self { world: universe.world(), _universe: universe })
    }

    /// The machine that this process runs on, by its name.
    pub fn machine(&self) -> String {
        environment::processor_name().unwrap_or_default()
    }

    /// Ends all processes of the run at once, this one included.
    pub fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        // Never negative.
        self.world.rank().unsigned_abs() as usize
    }

    fn size(&self) -> usize {
        self.world.size().unsigned_abs() as usize
    }

    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        let count = i32::try_from(mine.len()).unwrap_or_else(|_| panic!("a word of {} bytes", mine.len()));
        let mut counts = vec![0i32; self.size()];
        self.world.all_gather_into(&count, &mut counts[..]);
        let starts: Vec<i32> = counts.iter().scan(0, |at, count| Some(std::mem::replace(at, *at + count))).collect();
        let lengths: Vec<usize> = counts.iter().map(|count| count.unsigned_abs() as usize).collect();
        let mut words = vec![0u8; lengths.iter().sum()];
        self.world.all_gather_varcount_into(mine, &mut PartitionMut::new(&mut words[..], &counts[..], &starts[..]));
        let mut rest = words.as_slice();
        let mut next = |length: usize| {
            let (word, more) = rest.split_at(length);
            rest = more;
            word.to_vec()
        };
        lengths.into_iter().map(&mut next).collect()
    }

    fn broadcast(&self, from: usize, numbers: &mut [f32]) {
        // A rank, which MPI counts in 32 bits.
        let root = self.world.process_at_rank(from as i32);
        numbers.chunks_mut(PIECE).for_each(|piece| root.broadcast_into(piece));
    }

    fn sum(&self, numbers: &mut [f32]) {
        for piece in numbers.chunks_mut(PIECE) {
            let own = piece.to_vec();
            self.world.all_reduce_into(&own[..], piece, SystemOperation::sum());
        }
    }
}
