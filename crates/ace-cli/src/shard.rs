//! A share of many pictures for each of several machines, and what of it is there already.

use crate::report::Failure;
use ace_plus::{Request, picture, provenance::Provenance};
use std::{env, path::Path};

/// How many shares there are, where Kubernetes says only which one this is.
const SHARES: &str = "ACE_SHARDS";

/// What is said on a command line of the share to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// This one.
    Is(Shard),
    /// The one that the launcher's variables say, of so many if they do not say it.
    Auto(Option<usize>),
}

/// One of several shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1.
    pub nth: usize,
    /// Of so many.
    pub of: usize,
}

impl Sharding {
    /// `I/N`, `auto` or `auto/N`.
    ///
    /// # Errors
    /// With what can be said instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (nth, of) = match text.split_once('/') {
            Some((nth, of)) => (nth, Some(of.parse().map_err(|_| format!("{of} is no number of shares"))?)),
            None => (text, None),
        };
        match (nth, of) {
            (_, Some(0)) => Err("there must be one share at least".to_owned()),
            ("auto", of) => Ok(Self::Auto(of)),
            (_, None) => Err("say I/N, auto or auto/N".to_owned()),
            (nth, Some(of)) => match nth.parse() {
                Ok(nth) if (1..=of).contains(&nth) => Ok(Self::Is(Shard { nth, of })),
                _ => Err(format!("choose a share from 1/{of} to {of}/{of}")),
            },
        }
    }

    /// The share, with the words of the environment.
    ///
    /// # Errors
    /// If they do not say it.
    pub fn shard(self) -> anyhow::Result<Shard> {
        self.among(&|name| env::var(name).ok())
    }

    fn among(self, said: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Shard> {
        let asked = match self {
            Self::Is(shard) => return Ok(shard),
            Self::Auto(of) => of,
        };
        let number = |name: &str| -> anyhow::Result<Option<usize>> {
            let refused = |text: &str| Failure::misuse(format!("{name} is {text:?}"), "it must be a number");
            said(name).map(|text| text.trim().parse().map_err(|_| refused(&text).into())).transpose()
        };
        let (nth, of) = match (number("SLURM_ARRAY_TASK_ID")?, number("JOB_COMPLETION_INDEX")?) {
            (Some(id), _) => {
                let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(1);
                let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
                let of = number("SLURM_ARRAY_TASK_COUNT")?;
                if let (Some(asked), Some(of)) = (asked, of)
                    && asked != of
                {
                    let what = format!("the array has {of} tasks, and {asked} shares are asked for");
                    return Err(Failure::misuse(what, "submit the whole array: what is there is not made again").into());
                }
                (id.checked_sub(first).map(|past| past / step + 1), of.or(asked))
            }
            (None, Some(index)) => (index.checked_add(1), asked.or(number(SHARES)?)),
            (None, None) => {
                let what = "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set";
                return Err(Failure::misuse(what, "say which share it is: --shard I/N").into());
            }
        };
        let Some(of) = of.filter(|of| *of > 0) else {
            return Err(Failure::misuse("nothing says how many shares there are", HOW_MANY).into());
        };
        match nth {
            Some(nth) if (1..=of).contains(&nth) => Ok(Shard { nth, of }),
            _ => {
                let what = format!("the launcher's numbers do not go from first to last in {of} equal steps");
                Err(Failure::misuse(what, "submit an array without gaps, or say --shard I/N").into())
            }
        }
    }
}

const HOW_MANY: &str = "say --shard auto/N, or set ACE_SHARDS (Kubernetes tells a Job's pods their number only)";

impl Shard {
    /// Every so many-th of all, so that long and short ones are spread.
    pub fn of_all<T>(self, all: Vec<T>) -> Vec<T> {
        all.into_iter().enumerate().filter(|(at, _)| at % self.of == self.nth - 1).map(|(_, one)| one).collect()
    }
}

/// What is found in the place of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The picture, whole.
    Made,
    /// Something else: one line on it.
    Other(&'static str),
}

/// Whether a picture is there that was made as this one would be, of weights with these fingerprints.
pub fn look(path: &Path, request: &Request, files: &[(String, String)]) -> Found {
    if !path.exists() {
        return Found::Nothing;
    }
    // The words stand before the pixels: a file that was cut may still have them.
    if picture::read_rgb(path).is_err() {
        return Found::Other("is no whole picture");
    }
    match Provenance::read(path) {
        Err(_) => Found::Other("does not say what made it"),
        Ok(then) if then.request != *request => Found::Other("was made by another request"),
        Ok(then) if then.files != files => Found::Other("was made by other weights"),
        Ok(_) => Found::Made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(text: &str, said: &[(&str, &str)]) -> Result<Shard, String> {
        let said = |name: &str| said.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        Sharding::parse(text)?.among(&said).map_err(|error| error.to_string())
    }

    #[test]
    fn shares_are_all_there_is_and_nothing_twice() {
        let shares = (1..=3).map(|nth| Shard { nth, of: 3 }.of_all((0..8).collect()));
        assert_eq!(shares.collect::<Vec<Vec<i32>>>(), [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
        for wrong in ["0/3", "4/3", "3", "1/0", "auto/0", "a/b", "1/"] {
            assert!(Sharding::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn slurm_says_which_and_how_many() {
        let array = |id, first, count, step| {
            let said = [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", first),
                ("SLURM_ARRAY_TASK_COUNT", count),
                ("SLURM_ARRAY_TASK_STEP", step),
            ];
            auto("auto", &said)
        };
        assert_eq!(array("0", "0", "4", "1"), Ok(Shard { nth: 1, of: 4 }));
        assert_eq!(array("4", "1", "4", "1"), Ok(Shard { nth: 4, of: 4 }));
        assert_eq!(array("20", "10", "3", "5"), Ok(Shard { nth: 3, of: 3 }));
        assert!(array("7", "1", "3", "1").unwrap_err().contains("3 equal steps"));
        assert!(array("x", "1", "3", "1").unwrap_err().contains("SLURM_ARRAY_TASK_ID"));
        // One task of an array that is submitted again alone is not all of it.
        let again = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_MIN", "3"), ("SLURM_ARRAY_TASK_COUNT", "1")];
        assert!(auto("auto/8", &again).unwrap_err().contains("the array has 1 tasks"));
    }

    #[test]
    fn kubernetes_says_which_and_somebody_how_many() {
        let index = ("JOB_COMPLETION_INDEX", "2");
        assert_eq!(auto("auto/5", &[index]), Ok(Shard { nth: 3, of: 5 }));
        assert_eq!(auto("auto", &[index, (SHARES, "4")]), Ok(Shard { nth: 3, of: 4 }));
        assert!(auto("auto", &[index]).unwrap_err().contains("how many"));
        assert!(auto("auto/2", &[index]).is_err());
        assert!(auto("auto", &[]).unwrap_err().contains("neither"));
    }
}
