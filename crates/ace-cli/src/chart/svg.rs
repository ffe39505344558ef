//! A chart inside a page.

use super::{
    Chart,
    layout::{self, Anchor, Mark, SIZE},
};
use std::fmt::Write;

/// The chart as an SVG element.
pub fn svg(chart: &Chart) -> String {
    let (width, height) = SIZE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"{} over {}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"13\">\n",
        chart.up, chart.across
    );
    for mark in layout::marks(chart) {
        svg += &element(&mark);
        svg.push('\n');
    }
    svg + "</svg>"
}

fn element(mark: &Mark) -> String {
    let color = |[red, green, blue]: [u8; 3]| format!("#{red:02x}{green:02x}{blue:02x}");
    match mark {
        Mark::Stroke { points, color: ink, width } => {
            let mut path = String::new();
            for (x, y) in points {
                // Writing to a string cannot fail.
                let _ = write!(path, "{x:.1},{y:.1} ");
            }
            let path = path.trim_end();
            let ink = color(*ink);
            format!("<polyline points=\"{path}\" fill=\"none\" stroke=\"{ink}\" stroke-width=\"{width}\"/>")
        }
        Mark::Dot { at: (x, y), color: ink } => {
            format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"/>", color(*ink))
        }
        Mark::Word { at: (x, y), anchor, color: ink, text } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let place = format!("x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\"", y + 4.5);
            format!("<text {place} fill=\"{}\">{}</text>", color(*ink), escaped(text))
        }
    }
}

/// Text that is no markup.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{Line, Look, example};

    #[test]
    fn every_line_is_drawn_and_every_word_is_text() {
        let mut chart = example();
        chart.lines.push(Line { name: "a<b".to_owned(), points: vec![(1.0, 0.3)], look: Look::Strong });
        let svg = svg(&chart);
        assert!(svg.contains(">a&lt;b</text>") && !svg.contains("a<b"));
        assert_eq!(svg.matches("stroke=\"#104e8b\"").count(), 2);
        // Two of the validation, one of a line that is a point.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
