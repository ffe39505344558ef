//! `ace eval`: a table per task on examples that no training saw.

use crate::{
    args::EvalArgs,
    device, files, interrupted,
    model::{self, Lora},
    progress::{Progress, duration},
    report::{self, Failure},
};
use ace_plus::{Edit, Request, request::ModelRequest};
use ace_train::{
    data::shapes::WorldTask,
    judge::{Score, TaskScore, evaluate},
};
use std::{path::Path, process::ExitCode, time::Instant};

/// Heads of the table. `unchanged` and `ceiling` are success rates too.
const HEADS: [&str; 6] = ["task", "success", "changed dB", "outside dB", "unchanged", "ceiling"];

/// Judges a model.
///
/// # Errors
/// If the model or the tasks are unusable, or Ctrl-C stops it.
pub fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let tasks = tasks(&args.tasks)?;
    if let Some(path) = &args.json {
        files::check_writable(path)?;
    }
    let asked = ModelRequest { loras: args.lora.iter().map(Lora::request).collect(), ..args.model.request() };
    let model = model::find(&asked, Path::new(""))?;
    let device = device::open(args.backend.as_deref())?;
    let ace = model.load(&device)?;
    crate::listen_to_interrupts("stopping; nothing will be written");

    let begin = Instant::now();
    let mut progress = Progress::new("eval", 0, args.per_task * tasks.len() as u64);
    let asked = Request { num_steps: args.steps, ..args.course.request() };
    asked.over_course(Edit::new("an example")).check_course(ace.card())?;
    let rows = evaluate(&ace, args.size, &tasks, args.per_task, &|edit| asked.over_course(edit), &mut |done, _of| {
        progress.at(done, "");
        !interrupted()
    })?;
    drop(progress);

    report::print(&format!(
        "{}, {} held-out examples of {} px per task, {:.1} blocks an edit, {} on {}\n",
        model.card().name,
        args.per_task,
        args.size,
        rows.iter().map(|row| row.blocks).sum::<f64>() / rows.len().max(1) as f64,
        duration(begin.elapsed()),
        device::name(&device)
    ));
    report::print(&table(&rows));
    if let Some(path) = &args.json {
        let mut json = serde_json::to_vec_pretty(&rows)?;
        json.push(b'\n');
        files::write(path, &json)?;
        report::print(&format!("\nall figures: {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The tasks of these names; all of them if there are none.
fn tasks(names: &[String]) -> anyhow::Result<Vec<WorldTask>> {
    if names.is_empty() {
        return Ok(WorldTask::ALL.to_vec());
    }
    let find = |name: &String| {
        WorldTask::from_name(name.trim()).ok_or_else(|| {
            let known: Vec<_> = WorldTask::ALL.iter().map(|task| task.name()).collect();
            Failure::misuse(format!("there is no task {name:?}"), format!("tasks are: {}", known.join(", "))).into()
        })
    };
    names.iter().map(find).collect()
}

/// The share of edits that succeeded, as the judge has it.
fn success(score: &Score) -> f32 {
    score.success_rate
}

/// One line per task, then the means over the tasks without and with references.
fn table(rows: &[TaskScore]) -> String {
    let line = |row: &TaskScore| figures(&row.task, &[row]);
    let mean = |name: &str, has_reference: bool| {
        let rows: Vec<_> = rows.iter().filter(|row| row.has_reference == has_reference).collect();
        (!rows.is_empty()).then(|| figures(name, &rows))
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    let means = [mean("mean without reference", false), mean("mean with reference", true)];
    let means: Vec<_> = means.into_iter().flatten().collect();

    let heads = HEADS.map(str::to_owned);
    let width = |column: usize| {
        let cells = [&heads].into_iter().chain(&lines).chain(&means).map(|cells| cells[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let rule = widths.map(|width| "-".repeat(width));
    lines.insert(0, rule.clone());
    lines.insert(0, heads);
    lines.push(rule);
    lines.extend(means);
    let padded = |cells: &[String; 6]| {
        let (name, numbers) = (&cells[0], cells[1..].iter().zip(&widths[1..]));
        let numbers: String = numbers.map(|(cell, width)| format!("  {cell:>width$}")).collect();
        format!("{name:<0$}{numbers}", widths[0])
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

/// The cells of one line: means over `rows`, of those that have the figure.
fn figures(name: &str, rows: &[&TaskScore]) -> [String; 6] {
    let mean = |of: &dyn Fn(&TaskScore) -> Option<f32>| {
        let values: Vec<f32> = rows.iter().filter_map(|row| of(row)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
    };
    let percent = |value: Option<f32>| value.map_or("-".to_owned(), |value| format!("{:.1} %", 100.0 * value));
    let decibel = |value: Option<f32>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    [
        name.to_owned(),
        percent(mean(&|row| Some(success(&row.model)))),
        decibel(mean(&|row| row.model.psnr_changed)),
        decibel(mean(&|row| row.model.psnr_outside_mask)),
        percent(mean(&|row| row.unchanged.as_ref().map(success))),
        percent(mean(&|row| Some(success(&row.ceiling)))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(success: f32, decibel: Option<f32>) -> Score {
        Score { success_rate: success, psnr_changed: decibel, psnr_outside_mask: decibel, ..Score::of(&[]) }
    }

    fn row(task: &str, has_reference: bool, success: f32) -> TaskScore {
        let unchanged = (!has_reference).then(|| score(0.0, None));
        TaskScore {
            task: task.into(),
            has_reference,
            model: score(success, Some(20.0)),
            blocks: 72.0,
            unchanged,
            ceiling: score(1.0, None),
        }
    }

    #[test]
    fn the_table_ends_with_means_of_both_kinds_of_tasks() {
        let table = table(&[row("fill", false, 0.75), row("add", false, 0.25), row("subject", true, 0.625)]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "task                    success  changed dB  outside dB  unchanged  ceiling");
        assert_eq!(lines[2], "fill                     75.0 %        20.0        20.0      0.0 %  100.0 %");
        assert_eq!(lines[6], "mean without reference   50.0 %        20.0        20.0      0.0 %  100.0 %");
        assert_eq!(lines[7], "mean with reference      62.5 %        20.0        20.0          -  100.0 %");
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn tasks_are_found_by_name_and_all_of_them_by_none() {
        assert_eq!(tasks(&[]).unwrap().len(), WorldTask::ALL.len());
        assert_eq!(tasks(&["fill".into(), " add".into()]).unwrap(), [WorldTask::Fill, WorldTask::Add]);
        assert_eq!(tasks(&["paint".into()]).unwrap_err().to_string(), "there is no task \"paint\"");
    }
}
