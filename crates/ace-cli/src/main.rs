//! The program `ace`: words on a command line to calls on the libraries.
//!
//! Modules in reading order: what can be said, what answers go wrong, where things are, and one module per verb.

// The one crate that speaks to the user: the libraries return values, errors and observer calls. Answers go to stdout
// through `report::print`, everything on the way to stderr.
#![allow(clippy::print_stderr)]

mod annotate;
mod args;
mod calibrate;
mod chart;
mod clock;
mod device;
mod files;
mod memory;
mod miniature;
mod model;
mod pace;
mod panics;
mod plot;
mod processor;
mod progress;
mod ranks;
mod record;
mod report;
mod sheet;
mod watch;

mod bench;
mod convert;
mod data;
mod doctor;
mod eval;
mod fetch;
mod hold;
mod inspect;
mod mask;
mod page;
mod plan;
mod sample;
mod serve;
mod session;
mod shard;
mod train;
mod verify;
mod worker;

use args::{Cli, PlanVerb, Verb, VerifyArgs};
use clap::Parser;
use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

/// Exit code of a program that was interrupted twice, as shells know it: 128 + SIGINT.
const INTERRUPTED_TWICE: i32 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    panics::listen(!panics::wants_backtrace());
    let verb = Cli::parse().verb;
    let result = panics::caught(|| match verb {
        Verb::Sample(args) => sample::run(&args),
        Verb::Train(args) => train::run(&args),
        Verb::Data(verb) => data::run(&verb),
        Verb::Report(args) => page::run(&args),
        Verb::Plan { what: PlanVerb::Train(args) } => plan::run(&args),
        Verb::Plan { what: PlanVerb::Sample(args) } => hold::run(&args),
        Verb::Bench { backend, what } => bench::run(&what, backend.as_deref()),
        Verb::Eval(args) => eval::run(&args),
        Verb::Calibrate(args) => calibrate::run(&args),
        Verb::Mask(args) => mask::run(&args),
        Verb::Verify(args) => verify(&args),
        Verb::Serve(args) => serve::run(&args),
        Verb::Worker(args) => worker::run(&args),
        Verb::Session(args) => session::run(&args),
        Verb::Fetch(args) => fetch::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Convert(args) => convert::run(&args),
        Verb::Annotate(args) => annotate::run(&args),
    });
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", report::message(&error));
        if let Some(hint) = report::hint(&error) {
            eprintln!("hint: {hint}");
        }
        report::exit_code(&error)
    })
}

/// From now on Ctrl-C asks the work to stop, `what` it then does, or silently; a second one ends the program at once.
fn listen_to_interrupts(what: &'static str) {
    let set = ctrlc::set_handler(move || {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED_TWICE);
        }
        if !what.is_empty() {
            eprintln!("\n{what}; Ctrl-C again ends at once");
        }
    });
    // Without a handler Ctrl-C ends the program, which is no reason not to work.
    drop(set);
}

/// Asks the work to stop, as Ctrl-C does.
#[cfg(feature = "mpi")]
fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether the user wants the work to stop.
fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Every network against its recording: `ace verify`.
fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let device = device::open(args.backend.as_deref())?;
    let name = device::name(&device);
    let cases = match args.published_size {
        true => verify::published_size(&device, args.tokens as usize)?,
        false => verify::run(&device, args.recordings.as_deref())?,
    };
    let failed = cases.iter().filter(|case| !case.passed()).count();
    if args.json {
        let rows: Vec<_> = cases
            .iter()
            .map(|case| {
                serde_json::json!({
                    "name": case.name,
                    "what": case.what,
                    "error": case.error,
                    "bound": case.bound,
                    "passed": case.passed(),
                })
            })
            .collect();
        report::print(&serde_json::to_string_pretty(&rows)?);
    } else {
        report::print(&format!("{name}\n"));
        let widest = |text: fn(&verify::Case) -> usize| cases.iter().map(text).max().unwrap_or(0);
        let (names, whats) = (widest(|case| case.name.len()), widest(|case| case.what.len()));
        for case in &cases {
            let verdict = if case.passed() { "ok" } else { "FAILED" };
            let (error, bound) = (case.error, case.bound);
            let what = format!("{:names$}  {:whats$}", case.name, case.what);
            report::print(&format!("{what}  {error:9.2e}  bound {bound:7.0e}  {verdict}"));
        }
        report::print(&format!("\n{} of {} cases passed", cases.len() - failed, cases.len()));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
