//! The pictures of one `ace sample`: which words and seed each has, and where it goes.

use crate::{args::SampleArgs, files, report::Failure};
use ace_plus::Error;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One picture to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its words, if they are not those of the edit.
    pub words: Option<String>,
    /// What its noise follows from.
    pub seed: u64,
    /// Where it goes.
    pub out: PathBuf,
    /// What stands behind the names of files that belong to it; empty if it is alone.
    pub suffix: String,
}

/// Every picture that is asked for, in the order in which they are made.
///
/// # Errors
/// If the file of words cannot be read or has none, or seeds are asked for in two ways.
pub fn jobs(args: &SampleArgs) -> anyhow::Result<Vec<Job>> {
    let words = match &args.prompts {
        Some(path) => lines(path)?.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let seeds = seeds(args)?;
    let mut jobs = Vec::with_capacity(words.len() * seeds.len());
    for (line, words) in words.iter().enumerate() {
        for seed in &seeds {
            let mut suffix = String::new();
            if args.prompts.is_some() {
                suffix += &format!("-{}", line + 1);
            }
            if seeds.len() > 1 {
                suffix += &format!("-seed{seed}");
            }
            let out = files::behind(&args.out, &suffix);
            jobs.push(Job { words: words.clone(), seed: *seed, out, suffix });
        }
    }
    Ok(jobs)
}

fn seeds(args: &SampleArgs) -> anyhow::Result<Vec<u64>> {
    let given = if args.seed.is_empty() { &[0][..] } else { &args.seed };
    match (given, args.count) {
        (seeds, 1) => {
            let mut seen = seeds.to_vec();
            seen.sort_unstable();
            seen.dedup();
            if seen.len() < seeds.len() {
                return Err(Failure::misuse("a seed is given twice", "the same seed makes the same picture").into());
            }
            Ok(seeds.to_vec())
        }
        ([first], count) => match first.checked_add(count - 1) {
            Some(last) => Ok((*first..=last).collect()),
            None => Err(Failure::misuse("there are no such seeds", "choose a smaller --seed or --count").into()),
        },
        _ => Err(Failure::misuse("--count goes on from one seed", "name all seeds, or one and --count").into()),
    }
}

/// The instructions of a file.
fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        return Err(Error::format(path, "no instruction is in it", "write one on each line").into());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;

    fn asked(words: &[&str]) -> anyhow::Result<Vec<(u64, String)>> {
        let Verb::Sample(args) = Cli::try_parse_from([&["ace", "sample", "--out", "o.png"], words].concat())?.verb
        else {
            panic!("another verb");
        };
        Ok(jobs(&args)?.into_iter().map(|job| (job.seed, job.out.display().to_string())).collect())
    }

    #[test]
    fn one_picture_keeps_its_name_and_several_say_their_seed() {
        let pairs =
            |pairs: &[(u64, &str)]| pairs.iter().map(|(seed, out)| (*seed, (*out).to_owned())).collect::<Vec<_>>();
        assert_eq!(asked(&[]).unwrap(), pairs(&[(0, "o.png")]));
        assert_eq!(asked(&["--seed", "7"]).unwrap(), pairs(&[(7, "o.png")]));
        assert_eq!(asked(&["--seed", "7,3"]).unwrap(), pairs(&[(7, "o-seed7.png"), (3, "o-seed3.png")]));
        assert_eq!(asked(&["--seed", "7", "--count", "2"]).unwrap(), pairs(&[(7, "o-seed7.png"), (8, "o-seed8.png")]));
        for wrong in [
            &["--seed", "1,2", "--count", "2"][..],
            &["--seed", "1,1"],
            &["--seed", "18446744073709551615", "--count", "2"],
        ] {
            assert!(asked(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_of_words_makes_a_picture_for_each_line() {
        let path = std::env::temp_dir().join(format!("ace-words-{}.txt", std::process::id()));
        fs::write(&path, "# shapes\n\n a red circle \na blue star\n").unwrap();
        let file = path.to_str().unwrap();
        let outs: Vec<_> =
            asked(&["--prompts", file, "--count", "2"]).unwrap().into_iter().map(|(_, out)| out).collect();
        assert_eq!(outs, ["o-1-seed0.png", "o-1-seed1.png", "o-2-seed0.png", "o-2-seed1.png"]);
        fs::write(&path, "# nothing\n").unwrap();
        assert!(asked(&["--prompts", file]).unwrap_err().to_string().contains("no instruction is in it"));
        fs::remove_file(&path).unwrap();
    }
}
