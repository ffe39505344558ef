//! `ace report`: one HTML page on a training, with everything in it. It needs no network and no other file.

use crate::{
    args::ReportArgs,
    chart::{self, Chart, Line, Look, Scale, escaped},
    files, pace, plot,
    record::Record,
    report,
};
use ace_plus::Error;
use ace_train::learn::board;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:2em auto;padding:0 1em}\
h1{font-size:1.6em}h2{font-size:1.2em;margin:2em 0 .5em}svg,img{max-width:100%;height:auto}\
figure{margin:1em 0}figcaption{color:#555}table{border-collapse:collapse}\
td,th{text-align:left;padding:.15em 1.5em .15em 0;border-bottom:1px solid #e2e2e2;vertical-align:top}\
td{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9em}";

/// Writes the page of a run.
///
/// # Errors
/// If the folder holds no run, a file of it cannot be read, or the page cannot be written.
pub fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let log = args.run.join("log.jsonl");
    if !log.is_file() {
        let what = format!("{} holds no training: it has no log.jsonl", args.run.display());
        return Err(report::Failure::misuse(what, "name the folder that ace train wrote to, as out/train/lora").into());
    }
    let path = args.out.clone().unwrap_or_else(|| args.run.join("report.html"));
    files::check_writable(&path)?;
    let run = Run::read(&args.run)?;
    files::write(&path, run.html()?.as_bytes())?;
    report::print(&path.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// What a run left behind.
struct Run {
    record: Record,
    /// Numbers that are no function of the recipe, and therefore not in the log.
    told: Vec<board::Scalar>,
    /// The recipe of the newest checkpoint.
    recipe: Option<Value>,
    /// Steps and files, in order.
    previews: Vec<(u64, PathBuf)>,
    folder: PathBuf,
}

impl Run {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            record: Record::read(&folder.join("log.jsonl"))?,
            told: board::scalars(folder)?,
            recipe: recipe(folder)?,
            previews: numbered(folder, "preview-", ".png")?,
            folder: folder.to_owned(),
        })
    }

    fn html(&self) -> anyhow::Result<String> {
        let name = self.recipe.as_ref().and_then(|recipe| recipe.get("name")?.as_str());
        let folder = self.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let title = escaped(&name.map(ToOwned::to_owned).or(folder).unwrap_or_default());
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <h1>{title}</h1>\n{}",
            table(&self.facts())
        );
        for (heading, chart) in self.charts() {
            if !chart.is_empty() {
                html += &format!("<h2>{heading}</h2>\n<figure>{}</figure>\n", chart::svg(&chart));
            }
        }
        let shown = first_middle_last(&self.previews);
        if !shown.is_empty() {
            html += "<h2>Previews</h2>\n";
        }
        for (step, path) in shown {
            let bytes = fs::read(path).map_err(Error::io(path))?;
            let source = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes));
            let picture = format!("<img src=\"{source}\" alt=\"preview after {step} steps\">");
            html += &format!("<figure>{picture}<figcaption>after {step} steps</figcaption></figure>\n");
        }
        if let Some(recipe) = &self.recipe {
            let mut rows = Vec::new();
            settings("", recipe, &mut rows);
            html += &format!("<h2>Settings</h2>\n{}", table(&rows));
        }
        Ok(html + "</html>\n")
    }

    /// The figures that one asks for first.
    fn facts(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut say = |what: &str, value: Option<String>| rows.extend(value.map(|value| (what.to_owned(), value)));
        let steps = self.recipe.as_ref().and_then(|recipe| recipe.get("optimizer")?.get("steps")?.as_u64());
        say(
            "steps",
            self.record.last_step().map(|last| match steps {
                Some(steps) => format!("{last} of {steps}"),
                None => last.to_string(),
            }),
        );
        let last = |points: Vec<(f64, f64)>| points.last().map(|(step, value)| format!("{value:.4} at step {step}"));
        let average = plot::losses(&self.record).lines.into_iter().find(|line| line.look == Look::Strong);
        say("loss, on average", last(average.map(|line| line.points).unwrap_or_default()));
        let validation = self.record.points("validation");
        say("validation", last(validation.clone()));
        let best = validation.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        say("best validation", best.map(|(step, value)| format!("{value:.4} at step {step}")));
        let speed = self.of("samples_per_second");
        let mean = speed.iter().map(|(_, speed)| speed).sum::<f64>() / speed.len().max(1) as f64;
        say("speed", (!speed.is_empty()).then(|| pace::rate(mean)));
        let peak = self.of("peak_memory_gb").into_iter().map(|(_, peak)| peak).reduce(f64::max);
        say("peak memory", peak.map(|peak| report::bytes((peak * 1e9) as u64)));
        rows
    }

    fn charts(&self) -> Vec<(&'static str, Chart)> {
        let line = |name: &str, points, look| Line { name: name.to_owned(), points, look };
        let logged = |up, name: &str, scale| {
            let points = self.record.points(name);
            Chart { across: "step", up, scale, lines: vec![line(name, points, Look::Strong)] }
        };
        let told = |up, lines| Chart { across: "step", up, scale: Scale::Linear, lines };
        let memory = vec![
            line("allocated", self.of("memory_gb"), Look::Strong),
            line("most so far", self.of("peak_memory_gb"), Look::Faint),
        ];
        vec![
            ("Loss", plot::losses(&self.record)),
            ("Learning rate", logged("learning rate", "learning_rate", Scale::Linear)),
            ("Gradient norm, before clipping", logged("L2 norm", "grad_norm", Scale::Logarithmic)),
            ("Speed", told("samples per second", vec![line("speed", self.of("samples_per_second"), Look::Strong)])),
            ("Memory of the program", told("GB", memory)),
        ]
    }

    /// Steps and values that TensorBoard was told under a name.
    fn of(&self, tag: &str) -> Vec<(f64, f64)> {
        let told = self.told.iter().filter(|scalar| scalar.tag == tag);
        told.map(|scalar| (scalar.step as f64, f64::from(scalar.value))).collect()
    }
}

/// The recipe of the newest checkpoint that can be read: whatever its version, it is only shown.
fn recipe(folder: &Path) -> anyhow::Result<Option<Value>> {
    let state = |(_, path): &(u64, PathBuf)| {
        let state = fs::read(path.join("state.json")).ok()?;
        Some(serde_json::from_slice::<Value>(&state).ok()?.get_mut("recipe")?.take())
    };
    Ok(numbered(folder, "checkpoint-", "")?.iter().rev().find_map(state))
}

/// `preview-000100.png`, `checkpoint-100` and their like with their numbers, in order.
fn numbered(folder: &Path, before: &str, behind: &str) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(before)?.strip_suffix(behind)?.parse().ok();
    let mut numbered: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((number(&path)?, path))
        })
        .collect();
    numbered.sort();
    Ok(numbered)
}

/// Three of many: enough to see what was learned.
fn first_middle_last<T>(all: &[T]) -> Vec<&T> {
    match all {
        [] | [_] | [_, _] => all.iter().collect(),
        [first, .., last] => vec![first, &all[all.len() / 2], last],
    }
}

/// Every value of a recipe with its path: `optimizer.steps`.
fn settings(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                settings(&path, value, rows);
            }
        }
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        value => rows.push((path.to_owned(), value.to_string())),
    }
}

fn table(rows: &[(String, String)]) -> String {
    let row =
        |(name, value): &(String, String)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(value));
    format!("<table>\n{}</table>\n", rows.iter().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_previews_stand_for_all() {
        assert_eq!(first_middle_last(&[1, 2, 3, 4, 5]), [&1, &3, &5]);
        assert_eq!(first_middle_last(&[1, 2]), [&1, &2]);
        assert!(first_middle_last::<u8>(&[]).is_empty());
    }

    #[test]
    fn settings_are_named_by_their_place_in_the_recipe() {
        let recipe = serde_json::json!({"name": "a", "lora": {"rank": 16}, "train": ["flux"], "ema": null});
        let mut rows = Vec::new();
        settings("", &recipe, &mut rows);
        let row = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(rows, [row("lora.rank", "16"), row("name", "a"), row("train", "[\"flux\"]")]);
        assert_eq!(table(&[row("a<b", "1&2")]), "<table>\n<tr><th>a&lt;b</th><td>1&amp;2</td></tr>\n</table>\n");
    }

    #[test]
    fn a_page_has_everything_in_it() {
        let folder = std::env::temp_dir().join(format!("ace-page-{}", std::process::id()));
        fs::create_dir_all(folder.join("checkpoint-2")).unwrap();
        let log = "{\"step\":1,\"loss\":2.0,\"grad_norm\":0.5,\"learning_rate\":0.001,\"figures\":{}}\n\
                   {\"step\":2,\"loss\":1.0,\"grad_norm\":0.4,\"learning_rate\":0.001,\"figures\":{}}\n\
                   {\"step\":2,\"validation\":1.5}\n";
        fs::write(folder.join("log.jsonl"), log).unwrap();
        let state = "{\"step\":2,\"recipe\":{\"name\":\"mine\",\"optimizer\":{\"steps\":4}}}";
        fs::write(folder.join("checkpoint-2/state.json"), state).unwrap();
        fs::write(folder.join("preview-000002.png"), b"\x89PNG").unwrap();
        let mut board = board::Board::open(&folder, 0, 1.0).unwrap();
        board.scalars(1, 2.0, &[("samples_per_second", 3.0), ("peak_memory_gb", 1.25)]).unwrap();

        let html = Run::read(&folder).unwrap().html().unwrap();
        for part in [
            "<title>mine</title>",
            "2 of 4",
            "1.5000 at step 2",
            "3.0 samples/s",
            "1.2 GB",
            "validation</text>",
            "Gradient norm",
            "Learning rate",
            "data:image/png;base64,iVBORw==",
            "optimizer.steps",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        // Nothing is loaded from anywhere.
        let outside = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http") && !outside.contains("<script") && !outside.contains("<link"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
