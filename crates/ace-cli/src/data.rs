//! `ace data`: what there is to learn from, before anything learns.

use crate::{
    args::{DataCheckArgs, DataVerb},
    interrupted,
    progress::Progress,
    report,
};
use ace_train::data::{Checked, check};
use std::process::ExitCode;

/// Sizes that are listed, the most frequent first.
const SIZES: usize = 8;

/// What `ace data` is asked for.
///
/// # Errors
/// If the examples cannot be read at all.
pub fn run(verb: &DataVerb) -> anyhow::Result<ExitCode> {
    match verb {
        DataVerb::Check(args) => run_check(args),
    }
}

fn run_check(args: &DataCheckArgs) -> anyhow::Result<ExitCode> {
    crate::listen_to_interrupts("stopping");
    let mut bar: Option<Progress> = None;
    let checked = check(&args.path, &mut |done, of| {
        bar.get_or_insert_with(|| Progress::new("check", 0, of)).at(done, "");
        !interrupted()
    });
    drop(bar);
    let checked = checked.map_err(ace_train::Error::from)?;
    if args.json {
        report::print(&serde_json::to_string_pretty(&json(&checked))?);
    } else {
        for note in &checked.notes {
            report::note(note);
        }
        for (place, faults) in &checked.bad {
            for fault in faults {
                report::print(&format!("{place}: {fault}"));
            }
        }
        for line in summary(&checked) {
            report::print(&line);
        }
    }
    Ok(if checked.bad.is_empty() && !interrupted() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json(checked: &Checked) -> serde_json::Value {
    let bad =
        checked.bad.iter().map(|(place, faults)| serde_json::json!({"place": place.to_string(), "faults": faults}));
    let sizes = checked.sizes.iter().map(|((width, height), count)| (format!("{width}x{height}"), *count));
    serde_json::json!({
        "good": checked.good,
        "bad": bad.collect::<Vec<_>>(),
        "with_image": checked.with_image,
        "with_mask": checked.with_mask,
        "with_references": checked.with_references,
        "instructions": checked.instructions,
        "tasks": checked.tasks,
        "sizes": sizes.collect::<std::collections::BTreeMap<_, _>>(),
        "notes": checked.notes,
    })
}

fn summary(checked: &Checked) -> Vec<String> {
    let mut lines = vec![format!("{} examples can be used, {} cannot", checked.good, checked.bad.len())];
    if checked.good == 0 {
        return lines;
    }
    let tasks = checked.tasks.iter().map(|(task, count)| format!("{task} {count}")).collect::<Vec<_>>();
    lines.push(format!("tasks: {}", tasks.join(", ")));
    lines.push(format!(
        "with an image {}, a mask {}, references {}; {} different instructions",
        checked.with_image, checked.with_mask, checked.with_references, checked.instructions
    ));
    let mut sizes: Vec<_> = checked.sizes.iter().collect();
    sizes.sort_by_key(|(size, count)| (std::cmp::Reverse(**count), **size));
    let listed = sizes.iter().take(SIZES).map(|((width, height), count)| format!("{width}x{height} {count}"));
    let listed = listed.collect::<Vec<_>>().join(", ");
    let more = sizes.len().saturating_sub(SIZES);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    lines.push(format!("sizes: {listed}{more}"));
    let aspects = checked.sizes.keys().map(|(width, height)| f64::from(*width) / f64::from((*height).max(1)));
    let (least, most) = aspects.fold((f64::INFINITY, 0.0f64), |(least, most), one| (least.min(one), most.max(one)));
    lines.push(format!("width by height: {least:.2} to {most:.2}"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_what_can_be_used() {
        let checked = Checked {
            good: 3,
            with_mask: 1,
            tasks: [("edit".to_owned(), 3)].into(),
            sizes: [((512, 512), 1), ((768, 512), 2)].into(),
            instructions: 2,
            ..Checked::default()
        };
        let lines = summary(&checked);
        assert_eq!(lines[0], "3 examples can be used, 0 cannot");
        assert!(lines.contains(&"sizes: 768x512 2, 512x512 1".to_owned()), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "width by height: 1.00 to 1.50");
    }
}
