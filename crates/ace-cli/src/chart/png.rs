//! A chart as pixels.

use super::{
    Chart,
    layout::{self, Anchor, Mark, SIZE},
};
use ace_train::judge::letters;
use image::RgbImage;
use plotters::prelude::*;

/// The chart as a picture.
///
/// # Errors
/// If it cannot be drawn.
pub fn png(chart: &Chart) -> anyhow::Result<RgbImage> {
    let (width, height) = SIZE;
    let mut pixels = vec![255; (width * height * 3) as usize];
    let marks = layout::marks(chart);
    strokes(&mut pixels, &marks).map_err(|problem| anyhow::anyhow!("drawing a chart: {problem}"))?;
    let picture = RgbImage::from_raw(width, height, pixels);
    let mut picture = picture.ok_or_else(|| anyhow::anyhow!("drawing a chart: its pixels are gone"))?;
    for mark in &marks {
        if let Mark::Word { at, anchor, color, text } = mark {
            write(&mut picture, *at, *anchor, *color, text);
        }
    }
    Ok(picture)
}

fn strokes(pixels: &mut [u8], marks: &[Mark]) -> Result<(), String> {
    let root = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    let ink = |[red, green, blue]: [u8; 3]| RGBColor(red, green, blue);
    let place = |(x, y): &(f64, f64)| (x.round() as i32, y.round() as i32);
    for mark in marks {
        let drawn = match mark {
            Mark::Stroke { points, color, width } => {
                let points: Vec<_> = points.iter().map(place).collect();
                root.draw(&PathElement::new(points, ink(*color).stroke_width(*width)))
            }
            Mark::Dot { at, color } => root.draw(&Circle::new(place(at), 4, ink(*color).filled())),
            Mark::Word { .. } => Ok(()),
        };
        drawn.map_err(|problem| problem.to_string())?;
    }
    root.present().map_err(|problem| problem.to_string())
}

/// Writes a word; what is outside the picture is left out.
fn write(picture: &mut RgbImage, (x, y): (f64, f64), anchor: Anchor, color: [u8; 3], text: &str) {
    let width = i64::from(letters::width(text.chars().count()));
    let before = match anchor {
        Anchor::Start => 0,
        Anchor::Middle => width / 2,
        Anchor::End => width,
    };
    let place = (x.round() as i64 - before, y.round() as i64 - i64::from(letters::HEIGHT) / 2);
    letters::write(picture, place, color, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{Line, Look, Scale, example};

    /// Pixels of exactly this color.
    fn count(picture: &RgbImage, color: [u8; 3]) -> usize {
        picture.pixels().filter(|pixel| pixel.0 == color).count()
    }

    #[test]
    fn lines_and_words_are_seen() {
        let picture = png(&example()).unwrap();
        assert_eq!(picture.dimensions(), SIZE);
        for look in [Look::Faint, Look::Strong, Look::Dotted] {
            // A flat line: the edges of a slanted one are blended with the paper.
            let line = Line { name: String::new(), points: vec![(1.0, 0.5), (9.0, 0.5)], look };
            let flat = Chart { across: "step", up: "loss", scale: Scale::Linear, lines: vec![line] };
            assert!(count(&png(&flat).unwrap(), look.color()) > 500, "{look:?}");
        }
        // The name of the vertical axis is in the corner, where nothing else is.
        let corner = (8..160).flat_map(|x| (8..28).map(move |y| (x, y)));
        assert!(corner.filter(|(x, y)| picture.get_pixel(*x, *y).0 != [255; 3]).count() > 200);
    }

    #[test]
    fn any_losses_can_be_plotted() {
        for points in [vec![(1.0, 0.5)], vec![(10.0, 1e-9), (20.0, 1e9)], vec![(0.0, 1.0), (1.0, 1.0)]] {
            let line = Line { name: "loss".to_owned(), points: points.clone(), look: Look::Strong };
            let chart = Chart { across: "step", up: "loss", scale: Scale::Logarithmic, lines: vec![line] };
            assert!(count(&png(&chart).unwrap(), Look::Strong.color()) > 30, "{points:?}");
        }
    }
}
