//! Ranks as threads of one process, which talk over channels.

use ace_train::Group;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What goes from one rank to another.
enum Letter {
    Word(Vec<u8>),
    Numbers(Vec<f32>),
}

/// One of several ranks. If another one panics, its channels close and this one panics too: nothing hangs.
pub struct Thread {
    rank: usize,
    to: Vec<Sender<Letter>>,
    from: Vec<Receiver<Letter>>,
}

/// As many ranks as asked for, connected.
fn ranks(size: usize) -> Vec<Thread> {
    let mut to: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
    let mut from: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
    for sender in &mut to {
        for receiver in &mut from {
            let (send, receive) = channel();
            sender.push(send);
            receiver.push(receive);
        }
    }
    let rows = to.into_iter().zip(from).enumerate();
    rows.map(|(rank, (to, from))| Thread { rank, to, from }).collect()
}

/// Does `work` on every rank of a group of `size` at the same time; the answers are in the order of the ranks.
pub fn on_all<T: Send>(size: usize, work: impl Fn(&Thread) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks(size).into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank panicked")).collect()
    })
}

impl Thread {
    fn send(&self, rank: usize, letter: Letter) {
        self.to[rank].send(letter).expect("the other rank is there");
    }

    fn numbers(&self, rank: usize) -> Vec<f32> {
        match self.from[rank].recv().expect("the other rank is there") {
            Letter::Numbers(numbers) => numbers,
            Letter::Word(_) => panic!("rank {rank} is at another place"),
        }
    }
}

impl Group for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        (0..self.size()).for_each(|rank| self.send(rank, Letter::Word(mine.to_vec())));
        let receive = |rank: usize| match self.from[rank].recv().expect("the other rank is there") {
            Letter::Word(word) => word,
            Letter::Numbers(_) => panic!("rank {rank} is at another place"),
        };
        (0..self.size()).map(receive).collect()
    }

    fn broadcast(&self, from: usize, numbers: &mut [f32]) {
        if self.rank == from {
            (0..self.size()).for_each(|rank| self.send(rank, Letter::Numbers(numbers.to_vec())));
        }
        numbers.copy_from_slice(&self.numbers(from));
    }

    fn sum(&self, numbers: &mut [f32]) {
        (0..self.size()).for_each(|rank| self.send(rank, Letter::Numbers(numbers.to_vec())));
        numbers.fill(0.0);
        // From the last on: a sum whose order is not that of the micro-batches.
        for rank in (0..self.size()).rev() {
            numbers.iter_mut().zip(self.numbers(rank)).for_each(|(sum, one)| *sum += one);
        }
    }
}
