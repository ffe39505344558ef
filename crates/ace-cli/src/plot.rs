//! The loss of a run as a picture: every logged step (light), their moving average, and validation where there is some.

use crate::{
    chart::{self, Chart, Line, Look, Scale},
    files,
    record::Record,
};
use std::path::Path;

/// The average is over one part in this many of the run.
const AVERAGED_SHARE: usize = 20;

/// Draws the losses of `log` into `path`. Says what is to be seen, or nothing when there is nothing yet.
///
/// # Errors
/// If the log cannot be read or the plot not be written.
pub fn draw(log: &Path, path: &Path) -> anyhow::Result<Option<String>> {
    let chart = losses(&Record::read(log)?);
    let average = chart.lines.iter().find(|line| line.look == Look::Strong).map_or(&[][..], |line| &line.points);
    let (Some((first, _)), Some((last, loss))) = (average.first(), average.last()) else { return Ok(None) };
    files::write_png(path, &chart::png(&chart)?)?;
    Ok(Some(format!("loss over steps {first} to {last}, now {loss:.3e} on average")))
}

/// Losses over steps, on a logarithmic scale.
pub fn losses(record: &Record) -> Chart {
    // Only what has a logarithm can be drawn.
    let of = |name: &str| -> Vec<(f64, f64)> {
        record.points(name).into_iter().filter(|(_, value)| value.is_finite() && *value > 0.0).collect()
    };
    let loss = of("loss");
    let average = chart::moving_average(&loss, (loss.len() / AVERAGED_SHARE).max(1));
    let lines = [
        ("a step", loss, Look::Faint),
        ("average", average, Look::Strong),
        ("validation", of("validation"), Look::Dotted),
    ];
    let lines = lines.into_iter().filter(|(_, points, _)| !points.is_empty());
    let lines = lines.map(|(name, points, look)| Line { name: name.to_owned(), points, look });
    Chart { across: "step", up: "loss", scale: Scale::Logarithmic, lines: lines.collect() }
}
