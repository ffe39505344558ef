//! Lines over steps with named axes: laid out once, drawn as SVG for a page or as pixels for a PNG.

mod layout;
mod png;
mod svg;
mod ticks;

pub use png::png;
pub use svg::{escaped, svg};

/// A chart of one or more lines.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is along the horizontal axis.
    pub across: &'static str,
    /// What is along the vertical axis.
    pub up: &'static str,
    /// How values become heights.
    pub scale: Scale,
    /// The lines; later ones lie on top.
    pub lines: Vec<Line>,
}

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As they are.
    Linear,
    /// By their logarithm; what has none is left out.
    Logarithmic,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Steps and values, in order of steps.
    pub points: Vec<(f64, f64)>,
    /// How it looks.
    pub look: Look,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// In the background: single values that jump.
    Faint,
    /// What is to be read.
    Strong,
    /// A few values, each with a dot.
    Dotted,
}

impl Look {
    /// Red, green and blue.
    fn color(self) -> [u8; 3] {
        match self {
            Self::Faint => [166, 200, 236],
            Self::Strong => [16, 78, 139],
            Self::Dotted => [200, 80, 20],
        }
    }

    /// Width of the line in pixels.
    fn width(self) -> u32 {
        match self {
            Self::Faint => 1,
            Self::Strong | Self::Dotted => 2,
        }
    }
}

impl Chart {
    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.iter().all(|point| !self.has_place(point)))
    }

    /// Whether a point can be drawn.
    fn has_place(&self, (step, value): &(f64, f64)) -> bool {
        step.is_finite() && value.is_finite() && (self.scale == Scale::Linear || *value > 0.0)
    }
}

/// Mean of each value and up to `window` − 1 before it.
pub fn moving_average(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let mean = |values: &[(f64, f64)]| values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64;
    let upto = |at: usize| &points[(at + 1).saturating_sub(window)..=at];
    points.iter().enumerate().map(|(at, (step, _))| (*step, mean(upto(at)))).collect()
}

#[cfg(test)]
pub(crate) fn example() -> Chart {
    let line = |name: &str, look, points: &[(f64, f64)]| Line { name: name.to_owned(), points: points.to_vec(), look };
    Chart {
        across: "step",
        up: "loss",
        scale: Scale::Logarithmic,
        lines: vec![
            line("a step", Look::Faint, &[(1.0, 1.0), (2.0, 0.5), (3.0, 0.7), (4.0, 0.25)]),
            line("average", Look::Strong, &[(1.0, 1.0), (2.0, 0.75), (3.0, 0.7), (4.0, 0.5)]),
            line("validation", Look::Dotted, &[(2.0, 0.9), (4.0, 0.6)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_looks_back() {
        let losses = [(1.0, 4.0), (2.0, 2.0), (3.0, 0.0)];
        assert_eq!(moving_average(&losses, 2), [(1.0, 4.0), (2.0, 3.0), (3.0, 1.0)]);
    }

    #[test]
    fn a_chart_of_what_has_no_logarithm_is_empty() {
        let points = vec![(1.0, 0.0), (2.0, f64::NAN)];
        let line = Line { name: "x".to_owned(), points, look: Look::Strong };
        let chart = |scale| Chart { across: "step", up: "loss", scale, lines: vec![line.clone()] };
        assert!(chart(Scale::Logarithmic).is_empty());
        assert!(!chart(Scale::Linear).is_empty());
    }
}
