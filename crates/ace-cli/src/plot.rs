//! The loss plot of a run: every logged loss (light) and its moving average, over steps, on a logarithmic scale.
//!
//! Numbers on the axes are drawn from a small table of pixels, because a font would be a file or a system's matter.

use crate::files;
use ace_plus::Error;
use image::RgbImage;
use plotters::prelude::*;
use std::{collections::BTreeMap, fs, path::Path};

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 540);
/// The average is over one part in this many of the run.
const AVERAGED_SHARE: usize = 20;
const LIGHT: RGBColor = RGBColor(166, 200, 236);
const DARK: RGBColor = RGBColor(16, 78, 139);
const GRID: RGBColor = RGBColor(225, 225, 225);
const INK: RGBColor = RGBColor(90, 90, 90);
/// Size of one pixel of a glyph.
const DOT: i32 = 2;

/// Draws the losses of `log`, JSON lines with `step` and `loss`, into `path`. Says what is to be seen, or nothing when
/// there is nothing yet.
///
/// # Errors
/// If the log cannot be read or the plot not be written.
pub fn draw(log: &Path, path: &Path) -> anyhow::Result<Option<String>> {
    let losses = losses(&fs::read_to_string(log).map_err(Error::io(log))?);
    let (Some((first, _)), Some((last, _))) = (losses.first(), losses.last()) else { return Ok(None) };
    let average = moving_average(&losses, (losses.len() / AVERAGED_SHARE).max(1));
    let said = format!("loss over steps {first} to {last}, now {:.3e} on average", average[average.len() - 1].1);
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    plot(&mut pixels, &losses, &average).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
    if let Some(picture) = RgbImage::from_raw(SIZE.0, SIZE.1, pixels) {
        files::write_png(path, &picture)?;
    }
    Ok(Some(said))
}

/// Step and loss of each line, in order. A step that was logged twice, before and after a resume, counts as it was last;
/// a line that is cut short does not count.
fn losses(log: &str) -> Vec<(u64, f64)> {
    let parse = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let (step, loss) = (line.get("step")?.as_u64()?, line.get("loss")?.as_f64()?);
        // Only what has a logarithm can be drawn.
        (loss.is_finite() && loss > 0.0).then_some((step, loss))
    };
    log.lines().filter_map(parse).collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Mean of each value and up to `window` − 1 before it.
fn moving_average(losses: &[(u64, f64)], window: usize) -> Vec<(u64, f64)> {
    let mean = |values: &[(u64, f64)]| values.iter().map(|(_, loss)| loss).sum::<f64>() / values.len() as f64;
    let upto = |at: usize| &losses[(at + 1).saturating_sub(window)..=at];
    losses.iter().enumerate().map(|(at, (step, _))| (*step, mean(upto(at)))).collect()
}

fn plot(pixels: &mut [u8], losses: &[(u64, f64)], average: &[(u64, f64)]) -> Result<(), String> {
    let fail = |problem: &dyn std::fmt::Display| problem.to_string();
    let root = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|e| fail(&e))?;

    let (first, last) = (losses[0].0 as f64, losses[losses.len() - 1].0 as f64);
    let (low, high) = losses.iter().fold((f64::MAX, f64::MIN), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let (low, high) = (low / 1.1, high * 1.1);
    let last = last.max(first + 1.0);
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .margin_right(40)
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(first..last, (low..high).log_scale())
        .map_err(|e| fail(&e))?;

    let (rows, columns) = (loss_ticks(low, high), step_ticks(first, last));
    let grid = rows.iter().map(|y| vec![(first, *y), (last, *y)]);
    let grid: Vec<_> = grid.chain(columns.iter().map(|x| vec![(*x, low), (*x, high)])).collect();
    chart.draw_series(grid.into_iter().map(|line| PathElement::new(line, GRID))).map_err(|e| fail(&e))?;
    let frame = vec![(first, high), (first, low), (last, low)];
    chart.draw_series([PathElement::new(frame, INK)]).map_err(|e| fail(&e))?;

    let line = |points: &[(u64, f64)]| points.iter().map(|(x, y)| (*x as f64, *y)).collect::<Vec<_>>();
    chart.draw_series(LineSeries::new(line(losses), LIGHT)).map_err(|e| fail(&e))?;
    chart.draw_series(LineSeries::new(line(average), DARK.stroke_width(2))).map_err(|e| fail(&e))?;

    let write = |text: &str, (x, y): (i32, i32)| {
        dots(text).into_iter().try_for_each(|(column, row)| {
            let (left, top) = (x + column * DOT, y + row * DOT);
            // The far corner of a filled rectangle is not drawn.
            root.draw(&Rectangle::new([(left, top), (left + DOT, top + DOT)], INK.filled()))
        })
    };
    for y in rows {
        let (text, (left, middle)) = (number(y), chart.backend_coord(&(first, y)));
        write(&text, (left - 10 - text_width(&text), middle - 5 * DOT / 2)).map_err(|e| fail(&e))?;
    }
    for x in columns {
        let (text, (middle, bottom)) = (number(x), chart.backend_coord(&(x, low)));
        write(&text, (middle - text_width(&text) / 2, bottom + 10)).map_err(|e| fail(&e))?;
    }
    drop(chart);
    root.present().map_err(|e| fail(&e))
}

/// Losses 1, 2 and 5 of each decade in range; in a range too narrow for them, four at equal distances.
fn loss_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
    let ticks: Vec<f64> = ticks.filter(|tick| (low..=high).contains(tick)).collect();
    if ticks.len() >= 3 {
        return ticks;
    }
    (1..=4).map(|part| low + (high - low) * f64::from(part) / 5.0).collect()
}

/// Steps 1, 2 or 5 of a decade apart, at most eight.
fn step_ticks(first: f64, last: f64) -> Vec<f64> {
    let fits = |apart: &f64| (last - first) / apart <= 8.0;
    let steps = (0..18).flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
    let apart = steps.into_iter().find(fits).unwrap_or(last - first);
    let (from, to) = ((first / apart).ceil() as u64, (last / apart).floor() as u64);
    (from..=to).map(|tick| tick as f64 * apart).collect()
}

/// Steps in full, losses with two significant figures.
fn number(value: f64) -> String {
    if value == value.round() && value < 1e7 {
        return format!("{value}");
    }
    if !(1e-3..1e4).contains(&value) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let decimals = (1 - value.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn text_width(text: &str) -> i32 {
    text.chars().count() as i32 * 4 * DOT
}

/// The pixels of a text, as columns and rows of dots: three columns and five rows for each glyph, one column between.
fn dots(text: &str) -> Vec<(i32, i32)> {
    let glyph = |(at, letter): (usize, char)| {
        let rows = rows_of(letter).into_iter().zip(0..);
        rows.flat_map(move |(bits, row)| {
            (0..3).filter(move |column| bits >> (2 - column) & 1 == 1).map(move |column| (at as i32 * 4 + column, row))
        })
    };
    text.chars().enumerate().flat_map(glyph).collect()
}

/// Five rows of three bits. Only what [`number`] writes has a shape.
fn rows_of(letter: char) -> [u8; 5] {
    match letter {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '2' => [0b111, 0b001, 0b111, 0b100, 0b111],
        '3' => [0b111, 0b001, 0b111, 0b001, 0b111],
        '4' => [0b101, 0b101, 0b111, 0b001, 0b001],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '6' => [0b111, 0b100, 0b111, 0b101, 0b111],
        '7' => [0b111, 0b001, 0b010, 0b010, 0b010],
        '8' => [0b111, 0b101, 0b111, 0b101, 0b111],
        '9' => [0b111, 0b101, 0b111, 0b001, 0b111],
        '.' => [0b000, 0b000, 0b000, 0b000, 0b010],
        '-' => [0b000, 0b000, 0b111, 0b000, 0b000],
        'e' => [0b000, 0b111, 0b111, 0b100, 0b111],
        _ => [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_once_and_a_broken_line_not_at_all() {
        let log =
            "{\"step\":10,\"loss\":2.0}\n{\"step\":20,\"loss\":1.0}\n{\"step\":20,\"loss\":0.5}\n{\"step\":30,\"lo";
        assert_eq!(losses(log), [(10, 2.0), (20, 0.5)]);
        assert_eq!(losses("{\"step\":1,\"loss\":null}\n{\"step\":2,\"loss\":0}\n"), []);
    }

    #[test]
    fn an_average_looks_back() {
        let losses = [(1, 4.0), (2, 2.0), (3, 0.0)];
        assert_eq!(moving_average(&losses, 2), [(1, 4.0), (2, 3.0), (3, 1.0)]);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(loss_ticks(0.04, 1.1), [0.05, 0.1, 0.2, 0.5, 1.0]);
        assert_eq!(loss_ticks(1.0, 1.5).len(), 4);
        assert_eq!(step_ticks(10.0, 2000.0), [500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(step_ticks(1.0, 2.0), [1.0, 2.0]);
    }

    #[test]
    fn numbers_are_short() {
        let said = [0.05, 0.123, 1.0, 12345.0, 2e-5, 2.34e-7].map(number);
        assert_eq!(said, ["0.05", "0.12", "1", "12345", "2e-5", "2.3e-7"]);
        let shaped = |text: &String| text.chars().all(|letter| rows_of(letter) != [0; 5]);
        assert!(said.iter().all(shaped));
    }

    #[test]
    fn any_losses_can_be_plotted() {
        for losses in [vec![(1, 0.5)], vec![(10, 1e-9), (20, 1e9)], vec![(0, 1.0), (1, 1.0)]] {
            let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
            plot(&mut pixels, &losses, &moving_average(&losses, 1)).unwrap();
            let dark = pixels.chunks(3).filter(|pixel| pixel[..] == [DARK.0, DARK.1, DARK.2]).count();
            assert!(losses.len() == 1 || dark > 100, "{losses:?} drew {dark} pixels");
        }
    }
}
