//! Draws scenes, and turns single places of a picture into what the repair tasks start from (grey, mosaic, outline).
//!
//! An edge pixel is `coverage · object + (1 − coverage) · background`, its coverage counted on 4×4 samples.

use image::{GrayImage, Luma, Rgb, RgbImage};

use super::scene::{Background, CELL, Color, Object, Place, Scene, Shape, Size, Texture};

/// Samples each way inside a pixel.
const SAMPLES: u32 = 4;
/// Height of a stripe and edge of a check: one latent pixel.
const PATTERN: u32 = 8;
/// Brightness of the second shade of a textured object.
const SHADE: f32 = 0.55;
/// Levels by which the bottom of a background is lighter than its top.
const GRADIENT: f32 = 12.0;
/// Edge of a mosaic block: one token.
const BLOCK: u32 = 16;
/// Width of an outline in pixels.
const OUTLINE: i32 = 2;

impl Color {
    fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [235.0, 45.0, 50.0],
            Self::Green => [50.0, 190.0, 70.0],
            Self::Blue => [60.0, 100.0, 240.0],
            Self::Yellow => [240.0, 220.0, 50.0],
            Self::Purple => [165.0, 70.0, 210.0],
            Self::Orange => [245.0, 135.0, 30.0],
            Self::Cyan => [80.0, 220.0, 235.0],
            Self::White => [245.0, 245.0, 245.0],
        }
    }
}

impl Background {
    fn rgb(self) -> [f32; 3] {
        match self {
            Self::Gray => [82.0, 82.0, 82.0],
            Self::Black => [10.0, 10.0, 10.0],
            Self::Navy => [14.0, 20.0, 66.0],
            Self::Brown => [72.0, 44.0, 26.0],
            Self::Olive => [66.0, 74.0, 22.0],
            Self::Teal => [10.0, 68.0, 76.0],
        }
    }
}

impl Size {
    /// Extent in pixels: both leave background on every side of the place.
    fn pixels(self) -> f32 {
        match self {
            Self::Big => 28.0,
            Self::Small => 18.0,
        }
    }
}

impl Shape {
    /// Whether the point is inside, the silhouette spanning −1..1 both ways, `v` downwards.
    fn contains(self, u: f32, v: f32) -> bool {
        let inside = u.abs() <= 1.0 && v.abs() <= 1.0;
        let radius = (u * u + v * v).sqrt();
        match self {
            Self::Circle => radius <= 1.0,
            Self::Square => inside,
            Self::Triangle => inside && u.abs() <= (v + 1.0) / 2.0,
            Self::Diamond => u.abs() + v.abs() <= 1.0,
            Self::Cross => inside && u.abs().min(v.abs()) <= 0.36,
            Self::Ring => (0.5..=1.0).contains(&radius),
        }
    }
}

impl Object {
    /// How much of a pixel of its place the object covers, in 0..1.
    fn coverage(&self, x: u32, y: u32) -> f32 {
        let at = |pixel: u32, sample: u32| {
            let position = pixel as f32 + (sample as f32 + 0.5) / SAMPLES as f32;
            (position - CELL as f32 / 2.0) / (self.size.pixels() / 2.0)
        };
        let beside = |pixel: u32| at(pixel, SAMPLES - 1) < -1.0 || at(pixel, 0) > 1.0;
        if beside(x) || beside(y) {
            return 0.0;
        }
        let mut hits = 0;
        for j in 0..SAMPLES {
            for i in 0..SAMPLES {
                hits += u32::from(self.shape.contains(at(x, i), at(y, j)));
            }
        }
        hits as f32 / (SAMPLES * SAMPLES) as f32
    }

    /// Its colour at a pixel. Places are whole periods apart, so a pattern looks the same in all of them.
    fn rgb(&self, x: u32, y: u32) -> [f32; 3] {
        let dark = match self.texture {
            Texture::Plain => false,
            Texture::Striped => (y / PATTERN) % 2 == 1,
            Texture::Checked => (x / PATTERN + y / PATTERN) % 2 == 1,
        };
        let color = self.color.rgb();
        if dark { color.map(|level| level * SHADE) } else { color }
    }
}

/// The picture of a scene.
pub fn scene(scene: &Scene) -> RgbImage {
    let size = scene.grid * CELL;
    let top = scene.background.rgb();
    let behind = |y: u32| top.map(|level| level + GRADIENT * y as f32 / (size - 1) as f32);

    let mut picture = RgbImage::new(size, size);
    for y in 0..size {
        let row = to_rgb(behind(y));
        (0..size).for_each(|x| picture.put_pixel(x, y, row));
    }
    for (place, object) in &scene.objects {
        for (x, y, i, j) in pixels(*place, scene.grid) {
            let coverage = object.coverage(i, j);
            if coverage > 0.0 {
                let (front, back) = (object.rgb(x, y), behind(y));
                let blend = |c: usize| coverage * front[c] + (1.0 - coverage) * back[c];
                picture.put_pixel(x, y, to_rgb([blend(0), blend(1), blend(2)]));
            }
        }
    }
    picture
}

/// A mask that repaints exactly one place.
pub fn mask(place: Place, grid: u32) -> GrayImage {
    let mut mask = GrayImage::new(grid * CELL, grid * CELL);
    pixels(place, grid).for_each(|(x, y, ..)| mask.put_pixel(x, y, Luma([255])));
    mask
}

/// Takes the colour out of one place.
pub fn gray(picture: &mut RgbImage, place: Place, grid: u32) {
    for (x, y, ..) in pixels(place, grid) {
        let pixel = picture.get_pixel_mut(x, y);
        // Rec. 601, the luma that photographs are usually turned grey with.
        let [r, g, b] = pixel.0.map(f32::from);
        *pixel = to_rgb([0.299 * r + 0.587 * g + 0.114 * b; 3]);
    }
}

/// Turns one place into its negative.
pub fn negative(picture: &mut RgbImage, place: Place, grid: u32) {
    for (x, y, ..) in pixels(place, grid) {
        let pixel = picture.get_pixel_mut(x, y);
        *pixel = Rgb(pixel.0.map(|level| 255 - level));
    }
}

/// Replaces one place by the means of its blocks.
pub fn mosaic(picture: &mut RgbImage, place: Place, grid: u32) {
    let mut sums = [[[0.0f32; 3]; (CELL / BLOCK) as usize]; (CELL / BLOCK) as usize];
    let block = |i: u32, j: u32| ((j / BLOCK) as usize, (i / BLOCK) as usize);
    for (x, y, i, j) in pixels(place, grid) {
        let (row, column) = block(i, j);
        let pixel = picture.get_pixel(x, y);
        (0..3).for_each(|c| sums[row][column][c] += f32::from(pixel[c]));
    }
    for (x, y, i, j) in pixels(place, grid) {
        let (row, column) = block(i, j);
        picture.put_pixel(x, y, to_rgb(sums[row][column].map(|sum| sum / (BLOCK * BLOCK) as f32)));
    }
}

/// Replaces one place by the object's outline, white on black.
pub fn outline(picture: &mut RgbImage, place: Place, object: &Object, grid: u32) {
    let mut inside = [[false; CELL as usize]; CELL as usize];
    pixels(place, grid).for_each(|(.., i, j)| inside[j as usize][i as usize] = object.coverage(i, j) >= 0.5);
    // Both sizes leave a margin of two pixels or more, so neighbours of an inner pixel never leave the place.
    let inside = |i: u32, j: u32| inside[j as usize][i as usize];
    let on_edge = |i: u32, j: u32| {
        let mut near = (-OUTLINE..=OUTLINE).flat_map(|dj| (-OUTLINE..=OUTLINE).map(move |di| (di, dj)));
        inside(i, j)
            && near.any(|(di, dj)| {
                di * di + dj * dj <= OUTLINE * OUTLINE
                    && !inside(i.saturating_add_signed(di), j.saturating_add_signed(dj))
            })
    };
    for (x, y, i, j) in pixels(place, grid) {
        let level = if on_edge(i, j) { 255 } else { 0 };
        picture.put_pixel(x, y, Rgb([level; 3]));
    }
}

/// The pixels of a place: their position in the picture, then in the place.
fn pixels(place: Place, grid: u32) -> impl Iterator<Item = (u32, u32, u32, u32)> {
    let (left, top) = place.corner(grid);
    (0..CELL).flat_map(move |j| (0..CELL).map(move |i| (left + i, top + j, i, j)))
}

fn to_rgb(levels: [f32; 3]) -> Rgb<u8> {
    Rgb(levels.map(|level| level.round().clamp(0.0, 255.0) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
        (0..3).map(|c| (a[c] - b[c]).abs()).sum::<f32>() / 3.0
    }

    fn object(shape: Shape, size: Size) -> Object {
        Object { shape, size, color: Color::Red, texture: Texture::Striped }
    }

    #[test]
    fn both_shades_of_every_color_stand_out_from_every_background() {
        for color in Color::ALL {
            for background in Background::ALL {
                for (shade, lift) in [(1.0, 0.0), (SHADE, 0.0), (1.0, GRADIENT), (SHADE, GRADIENT)] {
                    let front = color.rgb().map(|level| level * shade);
                    let back = background.rgb().map(|level| level + lift);
                    assert!(distance(front, back) > 20.0, "{color:?} × {shade} on {background:?} + {lift}");
                }
            }
        }
    }

    #[test]
    fn every_object_stays_inside_its_place() {
        for shape in Shape::ALL {
            for size in Size::ALL {
                let object = object(*shape, *size);
                for k in 0..CELL {
                    for (x, y) in [(k, 0), (k, 1), (0, k), (1, k), (k, CELL - 1), (CELL - 1, k)] {
                        assert_eq!(object.coverage(x, y), 0.0, "{object:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_pattern_looks_the_same_in_every_place() {
        let at = |place| Scene {
            grid: 3,
            background: Background::Black,
            objects: vec![(place, object(Shape::Square, Size::Big))],
        };
        let (first, last) = (scene(&at(Place(0))), scene(&at(Place(8))));
        // Square pixels are covered completely, so no background shows through.
        assert_eq!(first.get_pixel(10, 10), last.get_pixel(74, 74));
        assert_eq!(first.get_pixel(10, 17), last.get_pixel(74, 81));
        assert_ne!(first.get_pixel(10, 10), first.get_pixel(10, 17));
    }

    #[test]
    fn changing_a_place_leaves_the_others_alone() {
        let object = object(Shape::Ring, Size::Small);
        let clean = scene(&Scene { grid: 2, background: Background::Teal, objects: vec![(Place(3), object)] });
        let spoilers: [&dyn Fn(&mut RgbImage); 4] = [
            &|picture| gray(picture, Place(3), 2),
            &|picture| negative(picture, Place(3), 2),
            &|picture| mosaic(picture, Place(3), 2),
            &|picture| outline(picture, Place(3), &object, 2),
        ];
        for spoil in spoilers {
            let mut spoilt = clean.clone();
            spoil(&mut spoilt);
            let mask = mask(Place(3), 2);
            assert_ne!(spoilt, clean);
            assert!(
                mask.enumerate_pixels().all(|(x, y, m)| m[0] == 255 || spoilt.get_pixel(x, y) == clean.get_pixel(x, y))
            );
        }
    }
}
