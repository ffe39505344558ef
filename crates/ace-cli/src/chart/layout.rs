//! A chart as strokes, dots and words at places in pixels, whoever draws them.

use super::{Chart, Look, Scale, ticks};

/// Width and height in pixels.
pub const SIZE: (u32, u32) = (960, 440);
const LEFT: f64 = 84.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 52.0;
/// Width of a letter: both hands write in letters of equal width.
const LETTER: f64 = 8.0;
/// A line has no more points than this: a long run has more than pixels to show them.
const POINTS: usize = 2000;
pub const INK: [u8; 3] = [70, 70, 70];
const GRID: [u8; 3] = [226, 226, 226];

/// One thing to draw, at places from the top left corner.
#[derive(Debug, Clone, PartialEq)]
pub enum Mark {
    /// A line through points.
    Stroke { points: Vec<(f64, f64)>, color: [u8; 3], width: u32 },
    /// A filled circle.
    Dot { at: (f64, f64), color: [u8; 3] },
    /// A word; `at` is half way up its side or middle.
    Word { at: (f64, f64), anchor: Anchor, color: [u8; 3], text: String },
}

/// Which point of a word has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Everything that a chart shows, from back to front.
pub fn marks(chart: &Chart) -> Vec<Mark> {
    let points = || chart.lines.iter().flat_map(|line| &line.points).filter(|point| chart.has_place(point));
    if points().next().is_none() {
        return Vec::new();
    }
    let (first, last) = {
        let steps = points().map(|(step, _)| *step);
        (steps.clone().fold(f64::INFINITY, f64::min), steps.fold(f64::NEG_INFINITY, f64::max))
    };
    let last = last.max(first + 1.0);
    let (low, high) = ticks::range(points().map(|(_, value)| *value), chart.scale);

    let (width, height) = (f64::from(SIZE.0), f64::from(SIZE.1));
    let (right, bottom) = (width - RIGHT, height - BOTTOM);
    let height_of = |value: f64| match chart.scale {
        Scale::Linear => (value - low) / (high - low),
        Scale::Logarithmic => (value / low).ln() / (high / low).ln(),
    };
    let x = |step: f64| LEFT + (step - first) / (last - first) * (right - LEFT);
    let y = |value: f64| bottom - height_of(value) * (bottom - TOP);

    let mut marks = Vec::new();
    let stroke = |points: Vec<(f64, f64)>, color| Mark::Stroke { points, color, width: 1 };
    let word = |at, anchor, text: &str| Mark::Word { at, anchor, color: INK, text: text.to_owned() };
    for value in ticks::up(low, high, chart.scale) {
        marks.push(stroke(vec![(LEFT, y(value)), (right, y(value))], GRID));
        marks.push(word((LEFT - 10.0, y(value)), Anchor::End, &ticks::number(value)));
    }
    for step in ticks::steps(first, last) {
        marks.push(stroke(vec![(x(step), TOP), (x(step), bottom)], GRID));
        marks.push(word((x(step), bottom + 16.0), Anchor::Middle, &ticks::number(step)));
    }
    marks.push(stroke(vec![(LEFT, TOP), (LEFT, bottom), (right, bottom)], INK));
    let up = match chart.scale {
        Scale::Linear => chart.up.to_owned(),
        Scale::Logarithmic => format!("{} (logarithmic)", chart.up),
    };
    marks.push(word((12.0, 18.0), Anchor::Start, &up));
    marks.push(word((right, bottom + 38.0), Anchor::End, chart.across));

    let mut legend = right;
    for line in chart.lines.iter().rev().filter(|_| chart.lines.len() > 1) {
        let color = line.look.color();
        marks.push(Mark::Word { at: (legend, 18.0), anchor: Anchor::End, color, text: line.name.clone() });
        legend -= (line.name.chars().count() as f64 + 3.0) * LETTER;
    }
    for line in &chart.lines {
        let points: Vec<_> = line.points.iter().filter(|point| chart.has_place(point)).copied().collect();
        let points: Vec<_> = thinned(&points, POINTS).into_iter().map(|(step, value)| (x(step), y(value))).collect();
        let (color, is_dotted) = (line.look.color(), line.look == Look::Dotted || points.len() == 1);
        marks.extend(points.iter().filter(|_| is_dotted).map(|at| Mark::Dot { at: *at, color }));
        marks.push(Mark::Stroke { points, color, width: line.look.width() });
    }
    marks
}

/// At most about so many of the points: of each of equal parts the lowest and the highest, so that no peak is lost.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let part = |part: &[(f64, f64)]| -> Vec<(f64, f64)> {
        let ends = part.iter().min_by(by_value).zip(part.iter().max_by(by_value));
        let mut ends: Vec<_> = ends.into_iter().flat_map(|(low, high)| [*low, *high]).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        ends
    };
    points.chunks(points.len().div_ceil(most / 2)).flat_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::example;

    #[test]
    fn everything_has_its_place_inside_and_its_name() {
        let marks = marks(&example());
        let words: Vec<&str> = marks
            .iter()
            .filter_map(|mark| if let Mark::Word { text, .. } = mark { Some(text.as_str()) } else { None })
            .collect();
        for word in ["step", "loss (logarithmic)", "0.5", "a step", "average", "validation", "4"] {
            assert!(words.contains(&word), "{word} is not in {words:?}");
        }
        for mark in &marks {
            let places = match mark {
                Mark::Stroke { points, .. } => points.clone(),
                Mark::Dot { at, .. } | Mark::Word { at, .. } => vec![*at],
            };
            let is_inside = |(x, y): &(f64, f64)| (0.0..960.0).contains(x) && (0.0..440.0).contains(y);
            assert!(places.iter().all(is_inside), "{mark:?}");
        }
    }

    #[test]
    fn no_peak_is_lost_in_a_long_run() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[54_321].1 = 9.0;
        let thin = thinned(&points, POINTS);
        assert!(thin.len() <= POINTS && thin.contains(&(54_321.0, 9.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
    }
}
