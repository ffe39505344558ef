//! A panic, ours or a dependency's, ends as every other error does: one line, a hint, exit code 1.
//!
//! The hook writes down what panicked instead of printing it; [`caught`] makes an error of it once everything on the way
//! is put away. A thread's panic reaches the main thread where the thread is waited for.

use crate::report::{self, Failure};
use std::{
    any::Any,
    env,
    panic::{self, AssertUnwindSafe, Location, PanicHookInfo},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// What std says in the thread that waited for others, of which one had panicked. What that one said matters.
const ECHO: &str = "a scoped thread panicked";

/// What panicked last, in whichever thread, and where.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Whether the user wants to see where panics come from.
pub fn wants_backtrace() -> bool {
    env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0")
}

/// From now on panics are written down; std's own lines are printed too unless `quiet`.
pub fn listen(quiet: bool) {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info: &PanicHookInfo| {
        if !quiet {
            usual(info);
        }
        let said = said(info.payload());
        if said != ECHO {
            let at = info.location().map_or(String::new(), |location| format!(" ({})", place(location)));
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{said}{at}"));
        }
    }));
}

/// Runs a verb; a panic in it is an error.
///
/// # Errors
/// The verb's own, or one that asks to report the panic.
pub fn caught(verb: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    // What the verb had in its hands is gone with it: nobody sees it half-changed.
    match panic::catch_unwind(AssertUnwindSafe(verb)) {
        Ok(Err(error)) => {
            // A thread of which only the silence was noticed.
            if let Some(panicked) = last() {
                report::note(&format!("on the way there was a panic: {panicked}"));
            }
            Err(error)
        }
        Ok(done) => done,
        Err(payload) => {
            let panicked = last().unwrap_or_else(|| said(payload.as_ref()).to_owned());
            let hint = "please report this line and what you asked for; RUST_BACKTRACE=1 shows the way there";
            Err(Failure::new(format!("the program has a bug: {panicked}"), hint).into())
        }
    }
}

/// The words of a panic.
fn said(payload: &dyn Any) -> &str {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

/// File and line; of a dependency's file what follows the place where cargo keeps it.
fn place(location: &Location) -> String {
    let file = location.file();
    let kept = file.split_once("registry/src/").and_then(|(_, file)| file.split_once('/'));
    format!("{}:{}", kept.map_or(file, |(_, file)| file), location.line())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    // One test, because the hook and its memory are the process's.
    #[test]
    fn a_panic_in_any_thread_is_an_error_that_says_what_and_where() {
        listen(false);
        let told = |verb: fn()| {
            let result = caught(|| {
                verb();
                Ok(ExitCode::SUCCESS)
            });
            let error = result.unwrap_err();
            assert_eq!(format!("{:?}", report::exit_code(&error)), format!("{:?}", ExitCode::FAILURE));
            assert!(report::hint(&error).unwrap().starts_with("please report this line"));
            report::message(&error)
        };
        let here = format!("({}:", file!());
        for verb in [
            (|| panic!("no {}", "way")) as fn(),
            || thread::scope(|scope| drop(scope.spawn(|| panic!("no way")))),
            || {
                thread::scope(|scope| {
                    scope.spawn(|| panic!("no\n way")).join().unwrap_or_else(|e| panic::resume_unwind(e))
                })
            },
        ] {
            let message = told(verb);
            assert!(message.starts_with(&format!("the program has a bug: no way {here}")), "{message}");
        }
        let past = told(|| {
            let bytes = [0u8; 2];
            std::hint::black_box(bytes[std::hint::black_box(2)]);
        });
        assert!(past.contains("index out of bounds: the len is 2 but the index is 2"), "{past}");

        let own = caught(|| Err(Failure::misuse("no", "yes").into())).unwrap_err();
        assert_eq!(report::message(&own), "no");
        assert!(caught(|| Ok(ExitCode::SUCCESS)).is_ok());
    }
}
