//! What launchers send: SIGTERM when another process is gone or the time is up, SIGUSR1 when asked to pass it on.

use ace_train::learn::state::Checkpoint;
use signal_hook::{
    consts::{SIGTERM, SIGUSR1},
    iterator::Signals,
    low_level,
};
use std::path::{Path, PathBuf};

/// Listens on a thread of its own: SIGUSR1 asks all ranks to stop after this step and save, SIGTERM ends this process.
///
/// A rank that waits for one that is gone waits inside MPI, where nothing else reaches it.
pub fn listen(rank: usize, out: PathBuf, way_on: String) {
    // Without it a launcher ends the process as well, only without a word.
    let Ok(mut signals) = Signals::new([SIGTERM, SIGUSR1]) else { return };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                crate::interrupt();
                continue;
            }
            // The first two speak: one of them may be the one that is gone.
            if rank < 2 {
                eprintln!("error: rank {rank}: the launcher ended this process; {}", saved(&out, &way_on));
            }
            // Not a usual exit: that would wait for MPI, which waits for the others.
            low_level::exit(1);
        }
    });
}

/// What can be gone on from.
fn saved(out: &Path, way_on: &str) -> String {
    match Checkpoint::newest(out) {
        Ok((Some(checkpoint), _)) => format!("step {} is saved whole; go on with: {way_on}", checkpoint.step),
        _ => "no step is saved whole".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_cannot_be_resumed() {
        let out = std::env::temp_dir().join(format!("ace-last-word-{}", std::process::id()));
        assert_eq!(saved(&out, "ace train --resume"), "no step is saved whole");
        std::fs::create_dir_all(out.join("checkpoint-40")).unwrap();
        assert_eq!(saved(&out, "ace train --resume"), "no step is saved whole");
        std::fs::remove_dir_all(&out).unwrap();
    }
}
