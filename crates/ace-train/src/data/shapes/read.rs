//! From a picture back to the scene that it shows best: what a model drew, in the words of the world.

use image::RgbImage;

use super::{
    draw,
    scene::{Background, CELL, Color, Object, Place, Scene, Shape, Size, Texture},
};

/// What a place may hold, and a picture with just that at every place.
type Candidate = (Option<Object>, RgbImage);

/// Reads pictures of one grid, by comparing every place with everything that could be there.
pub struct Reader {
    grid: u32,
    /// Per background, every object (and none, first) at every place.
    candidates: Vec<(Background, Vec<Candidate>)>,
}

impl Reader {
    /// Draws all there is to compare with, for pictures of `size` pixels a side.
    pub fn new(size: u32) -> Self {
        let grid = size / CELL;
        let candidates = Background::ALL.iter().map(|background| {
            let all = std::iter::once(None).chain(objects().map(Some));
            let drawn = all.map(|object| {
                let places = (0..grid * grid).map(Place);
                let objects = object.map(|object| places.map(|place| (place, object)).collect()).unwrap_or_default();
                (object, draw::scene(&Scene { grid, background: *background, objects }))
            });
            (*background, drawn.collect())
        });
        Self { grid, candidates: candidates.collect() }
    }

    /// The scene whose drawing is nearest, background first, then place by place.
    ///
    /// # Panics
    /// If the picture is not of the reader's size.
    pub fn read(&self, picture: &RgbImage) -> Scene {
        assert_eq!(picture.dimensions(), (self.grid * CELL, self.grid * CELL), "read: another size");
        let places = || (0..self.grid * self.grid).map(Place);
        let read = |drawn: &[Candidate]| {
            let mut sum = 0;
            let mut objects = Vec::new();
            for place in places() {
                let distance =
                    |(object, other): &Candidate| (squares(picture, other, place.corner(self.grid)), *object);
                let Some((least, object)) = drawn.iter().map(distance).min_by_key(|(squares, _)| *squares) else {
                    continue;
                };
                sum += least;
                objects.extend(object.map(|object| (place, object)));
            }
            (sum, objects)
        };
        let scenes = self.candidates.iter().map(|(background, drawn)| (*background, read(drawn)));
        let best = scenes.min_by_key(|(_, (sum, _))| *sum);
        let (background, objects) = best.map_or((Background::Gray, Vec::new()), |(of, (_, objects))| (of, objects));
        Scene { grid: self.grid, background, objects }
    }
}

/// Every object there is.
fn objects() -> impl Iterator<Item = Object> {
    Shape::ALL.iter().flat_map(|shape| {
        Color::ALL.iter().flat_map(move |color| {
            Texture::ALL.iter().flat_map(move |texture| {
                let object = |size: &Size| Object { shape: *shape, color: *color, texture: *texture, size: *size };
                Size::ALL.iter().map(object)
            })
        })
    })
}

/// Sum of squared differences over the place whose left upper corner is given.
fn squares(a: &RgbImage, b: &RgbImage, (left, top): (u32, u32)) -> u64 {
    let width = a.width() as usize;
    let mut sum = 0;
    for row in top..top + CELL {
        let start = (row as usize * width + left as usize) * 3;
        let range = start..start + CELL as usize * 3;
        let pairs = a.as_raw()[range.clone()].iter().zip(&b.as_raw()[range]);
        sum += pairs.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn what_was_drawn_is_read_again() {
        let reader = Reader::new(64);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for count in 0..3 {
            let mut scene = Scene::random(&mut rng, 2, count);
            scene.objects.sort_by_key(|(place, _)| place.0);
            assert_eq!(reader.read(&draw::scene(&scene)), scene);
        }
    }
}
