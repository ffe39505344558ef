//! How errors reach the user: one line that names the thing, a hint where there is something to do, an exit code.

use ace_train::StateProblem;
use anyhow::Error;
use std::{fmt, io::Write, process::ExitCode};

/// Exit code for a request that cannot be met as it stands.
const MISUSED: u8 = 2;

/// An error of the program itself.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: String,
    misused: bool,
}

impl Failure {
    /// The request cannot be met as it stands: ask differently.
    pub fn misuse(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), misused: true }
    }

    /// The request is sound, but it cannot be met here and now.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), misused: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// `512 B`, `23.8 GB`: decimal units, as disks and the Hub count.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in UNITS {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit == "B" || value >= 99.5 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// A line of the program's answer. A reader that went away (`ace eval | head`) is no reason to panic.
pub fn print(line: &str) {
    // Nobody is left to be told.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on what was understood otherwise than one might think; the work goes on.
pub fn note(line: &str) {
    eprintln!("note: {line}");
}

/// The error and what caused it, in one line; a cause that its effect already quotes is not said twice.
pub fn message(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the user can do about it.
pub fn hint(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return Some(failure.hint.clone());
        }
        if let Some(error) = cause.downcast_ref::<ace_train::Error>() {
            return with_options(error).or(error.hint()).map(ToOwned::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ace_weights::Error>() {
            return file_hint(error);
        }
        match cause.downcast_ref::<ace_plus::Error>()? {
            ace_plus::Error::File(error) => file_hint(error),
            ace_plus::Error::Incomplete { model, is_published: true, .. } => {
                Some(format!("ace fetch {model} gets what is missing; or name a folder with --weights DIR"))
            }
            ace_plus::Error::Incomplete { .. } => {
                Some("put the files there, or name their folder with --weights DIR".to_owned())
            }
            ace_plus::Error::Uncalibrated { .. } => {
                Some("measure them with ace calibrate, or choose a threshold such as 0.08, which needs none".to_owned())
            }
            error => error.hint().map(ToOwned::to_owned),
        }
    })
}

/// A hint in this program's words where the library's knows no options.
fn file_hint(error: &ace_weights::Error) -> Option<String> {
    match error {
        ace_weights::Error::Exists { .. } => Some("replace it with --force".to_owned()),
        error => error.hint().map(ToOwned::to_owned),
    }
}

/// The hint of an error of training, where there is an option to name.
fn with_options(error: &ace_train::Error) -> Option<&'static str> {
    let ace_train::Error::State { problem, .. } = error else { return None };
    match problem {
        StateProblem::RunExists => Some("add --resume to go on with it, or choose another --out"),
        StateProblem::OtherRecipe { .. } => Some("give the --recipe it was made by, or choose another --out"),
        _ => None,
    }
}

/// 2 if other words or pictures would do, 1 if what was asked for failed.
pub fn exit_code(error: &Error) -> ExitCode {
    if is_misuse(error) { ExitCode::from(MISUSED) } else { ExitCode::FAILURE }
}

fn is_misuse(error: &Error) -> bool {
    use ace_weights::Error::{Exists, Input};
    let is_file_input = |error: &ace_weights::Error| matches!(error, Input { .. } | Exists { .. });
    let is_input = |error: &ace_plus::Error| match error {
        ace_plus::Error::File(error) => is_file_input(error),
        error => {
            use ace_plus::Error::{Incomplete, Input, NotFound, Uncalibrated};
            matches!(error, Input { .. } | NotFound { .. } | Incomplete { .. } | Uncalibrated { .. })
        }
    };
    error.chain().any(|cause| {
        cause.downcast_ref::<Failure>().is_some_and(|failure| failure.misused)
            || cause.downcast_ref::<ace_weights::Error>().is_some_and(is_file_input)
            || cause.downcast_ref::<ace_plus::Error>().is_some_and(is_input)
            || matches!(cause.downcast_ref(), Some(ace_train::Error::Plus(error)) if is_input(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, path::Path};

    #[test]
    fn a_cause_is_not_said_twice() {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = Error::from(ace_plus::Error::io(Path::new("a.png"))(missing())).context("reading");
        assert_eq!(message(&error), "reading: a.png: no such file");
        assert_eq!(hint(&error).unwrap(), "check the path; relative paths start at the current folder");
        assert!(!is_misuse(&error));
    }

    #[test]
    fn a_wrong_request_is_a_misuse_wherever_it_is_noticed() {
        let input = || ace_plus::Error::input("the mask is all black", "paint");
        assert!(is_misuse(&Error::from(input())));
        assert!(is_misuse(&Error::from(ace_train::Error::Plus(input()))));
        assert!(is_misuse(&Error::from(Failure::misuse("no", "yes"))));
        assert!(!is_misuse(&Error::from(Failure::new("no", "yes"))));
        assert!(!is_misuse(&Error::from(ace_plus::Error::Cancelled)));
    }

    #[test]
    fn hints_for_training_name_the_options() {
        let hint_for = |problem| hint(&Error::from(ace_train::Error::State { path: "checkpoint-3".into(), problem }));
        assert!(hint_for(StateProblem::RunExists).unwrap().contains("--resume"));
        let other = StateProblem::OtherRecipe { field: "seed".into(), ours: "1".into(), theirs: "2".into() };
        assert!(hint_for(other).unwrap().contains("--recipe"));
        assert_eq!(
            hint_for(StateProblem::Damaged { reason: "x".into() }).unwrap(),
            "remove the checkpoint and start over"
        );
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(message(&anyhow::anyhow!("first\n  second")), "first second");
    }
}
