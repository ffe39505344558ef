//! `ace doctor`: what is missing or broken of a model, and the one command that mends it.

use crate::{
    annotate,
    args::DoctorArgs,
    model::{self, ModelArgs},
    progress::Progress,
    report,
};
use ace_plus::{
    Model,
    model::{Finding, Problem, Reading, checkup},
};
use ace_weights::Source;
use burn::tensor::Device;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Bytes in a unit that people read.
const MEGABYTE: u64 = 1_000_000;

/// Looks at everything that a model needs.
///
/// # Errors
/// If there is no such card, or the cache cannot be read. A model that is not whole is no error: the exit code is 1.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    if let Some((annotator, card)) = annotate::card(&args.card) {
        return annotate::examine(annotator, &card);
    }
    let named =
        ModelArgs { model: Some(args.card.clone()), weights: args.weights.clone(), overrides: args.overrides.clone() };
    let model = model::find(&named.request(), Path::new(""))?;
    let mut bar: Option<(String, Progress)> = None;
    let mut show = |file: &Path, done: u64, total: u64| {
        let name = file.display().to_string();
        if bar.as_ref().is_none_or(|(known, _)| *known != name) {
            bar = Some((name, Progress::new("checking MB", 0, total / MEGABYTE)));
        }
        if let Some((_, bar)) = &mut bar {
            bar.at(done / MEGABYTE, "");
        }
    };
    let reading: Option<Reading<'_>> = if args.quick { None } else { Some(&mut show) };
    let findings = checkup(&model, &Device::default(), reading)?;
    drop(bar);
    report::print(&format!("{}: {}", model.card().name, model.card().description));
    for Finding { component, path, bytes, problem } in &findings {
        let verdict = if problem.is_some() { "BAD" } else { "ok" };
        let place = path.as_ref().map_or("nowhere".to_owned(), place);
        let size = path.as_ref().map_or(String::new(), |_| report::bytes(*bytes));
        report::print(&format!("  {verdict:<4}{:<16}{size:>8}  {place}", component.to_string()));
        if let Some(problem) = problem.as_ref().filter(|problem| !matches!(problem, Problem::Missing)) {
            report::print(&format!("      {}", problem.message()));
        }
    }
    let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.problem.is_some()).collect();
    if bad.is_empty() {
        let whole: u64 = findings.iter().map(|finding| finding.bytes).sum();
        report::print(&format!("everything is there: {}", report::bytes(whole)));
        return Ok(ExitCode::SUCCESS);
    }
    for line in mends(&model, &args.card, &bad) {
        report::print(&line);
    }
    Ok(ExitCode::FAILURE)
}

/// Where something is.
fn place(source: &Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        Source::Bytes { .. } | Source::Folder { .. } => "part of this program".to_owned(),
    }
}

/// What the user does about it.
fn mends(model: &Model, card: &str, bad: &[&Finding]) -> Vec<String> {
    let is_published =
        |finding: &Finding| model.cache().is_some() && !model.card().hub_files(finding.component).is_empty();
    // What stands in the user's own folder is not ours to remove.
    let own = |finding: &Finding| {
        let is_cached = |path: &PathBuf| model.cache().is_some_and(|hub| path.starts_with(hub.cache()));
        match &finding.path {
            Some(Source::File(path)) if !is_cached(path) => Some(path.clone()),
            _ => None,
        }
    };
    let mut lines = Vec::new();
    for finding in bad {
        let component = finding.component;
        if let Some(path) = own(finding) {
            let other = if is_published(finding) { ", or take it away and fetch" } else { "" };
            lines.push(format!("mend: put another {component} in the place of {}{other}", path.display()));
        } else if !is_published(finding) {
            let wanted = model.folder().join(model.card().paths(component).first());
            lines.push(format!("mend: put the {component} at {}", wanted.display()));
        }
    }
    let fetched = || bad.iter().filter(|finding| is_published(finding) && own(finding).is_none());
    if fetched().next().is_some() {
        let verify = if fetched().any(|finding| finding.path.is_some()) { " --verify" } else { "" };
        lines.push(format!("mend: ace fetch {card}{verify}"));
    }
    lines
}
