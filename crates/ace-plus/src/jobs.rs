//! The pictures of one request for several: which words and seed each has, and what its files are called.

use crate::{Error, Result};

/// One picture to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its words, if they are not those of the edit.
    pub instruction: Option<String>,
    /// What its noise follows from.
    pub seed: u64,
    /// What stands behind the names of files that belong to it; empty if it is alone.
    pub suffix: String,
}

/// Every picture, in the order in which they are made: for each instruction (or the edit's own, if there are none) each
/// seed. `count` pictures go on from a single seed.
///
/// # Errors
/// If a seed is given twice, or several seeds and a count.
pub fn jobs(instructions: Option<&[String]>, seeds: &[u64], count: u64) -> Result<Vec<Job>> {
    let words: Vec<Option<String>> = match instructions {
        Some(lines) => lines.iter().cloned().map(Some).collect(),
        None => vec![None],
    };
    let seeds = expand(seeds, count)?;
    let mut jobs = Vec::with_capacity(words.len() * seeds.len());
    for (line, words) in words.iter().enumerate() {
        for seed in &seeds {
            let mut suffix = String::new();
            if instructions.is_some() {
                suffix += &format!("-{}", line + 1);
            }
            if seeds.len() > 1 {
                suffix += &format!("-seed{seed}");
            }
            jobs.push(Job { instruction: words.clone(), seed: *seed, suffix });
        }
    }
    Ok(jobs)
}

fn expand(seeds: &[u64], count: u64) -> Result<Vec<u64>> {
    match (if seeds.is_empty() { &[0][..] } else { seeds }, count) {
        (seeds, 1) => {
            let mut seen = seeds.to_vec();
            seen.sort_unstable();
            seen.dedup();
            if seen.len() < seeds.len() {
                return Err(Error::input("a seed is given twice", "the same seed makes the same picture"));
            }
            Ok(seeds.to_vec())
        }
        ([first], count) => match first.checked_add(count - 1) {
            Some(last) => Ok((*first..=last).collect()),
            None => Err(Error::input("there are no such seeds", "choose a smaller seed or fewer pictures")),
        },
        _ => Err(Error::input("a count goes on from one seed", "name all seeds, or one and the count")),
    }
}

/// The instructions of a text: one on each line; empty lines and those that begin with `#` are none.
pub fn instructions(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_keeps_its_name_and_several_say_their_seed() {
        let named = |seeds: &[u64], count| -> Result<Vec<(u64, String)>> {
            Ok(jobs(None, seeds, count)?.into_iter().map(|job| (job.seed, job.suffix)).collect())
        };
        let pairs = |pairs: &[(u64, &str)]| -> Vec<(u64, String)> {
            pairs.iter().map(|(seed, suffix)| (*seed, (*suffix).to_owned())).collect()
        };
        assert_eq!(named(&[], 1).unwrap(), pairs(&[(0, "")]));
        assert_eq!(named(&[7], 1).unwrap(), pairs(&[(7, "")]));
        assert_eq!(named(&[7, 3], 1).unwrap(), pairs(&[(7, "-seed7"), (3, "-seed3")]));
        assert_eq!(named(&[7], 2).unwrap(), pairs(&[(7, "-seed7"), (8, "-seed8")]));
        for (seeds, count) in [(&[1, 2][..], 2), (&[1, 1], 1), (&[u64::MAX], 2)] {
            assert!(named(seeds, count).is_err(), "{seeds:?} {count}");
        }
    }

    #[test]
    fn lines_make_a_picture_each() {
        let lines = instructions("# shapes\n\n a red circle \na blue star\n");
        assert_eq!(lines, ["a red circle", "a blue star"]);
        let suffixes: Vec<_> = jobs(Some(&lines), &[], 2).unwrap().into_iter().map(|job| job.suffix).collect();
        assert_eq!(suffixes, ["-1-seed0", "-1-seed1", "-2-seed0", "-2-seed1"]);
    }
}
