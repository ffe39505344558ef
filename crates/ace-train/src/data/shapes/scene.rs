//! What a picture of the world shows: a background and a few objects, each in its own place of a grid.
//!
//! A place is a cell of 32×32 pixels. That is two 16-pixel tokens and four 8-pixel latents each way, on purpose: no token
//! is shared between two places, so a small network can learn a task without first learning to split tokens.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Edge of a place, in pixels.
pub const CELL: u32 = 32;

/// Places of a 2×2 picture in reading order.
const PLACES_2: [&str; 4] = ["top left", "top right", "bottom left", "bottom right"];

/// Places of a 3×3 picture in reading order.
const PLACES_3: [&str; 9] =
    ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"];

/// Declares a property of an object or scene: its values, all of them in order, and the word for each.
macro_rules! property {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each variant is the word beside it")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its word in an instruction; empty when it goes without saying.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

property! {
    /// Silhouette of an object.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle", Diamond = "diamond", Cross = "cross", Ring = "ring" }
}

property! {
    /// Main colour of an object.
    Color {
        Red = "red", Green = "green", Blue = "blue", Yellow = "yellow",
        Purple = "purple", Orange = "orange", Cyan = "cyan", White = "white",
    }
}

property! {
    /// How the colour and its darker shade share the silhouette.
    Texture { Plain = "", Striped = "striped", Checked = "checked" }
}

property! {
    /// How much of its place an object takes.
    Size { Big = "big", Small = "small" }
}

property! {
    /// Colour behind the objects.
    Background { Gray = "gray", Black = "black", Navy = "navy", Brown = "brown", Olive = "olive", Teal = "teal" }
}

/// Something to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// Silhouette.
    pub shape: Shape,
    /// Main colour.
    pub color: Color,
    /// Pattern.
    pub texture: Texture,
    /// Extent.
    pub size: Size,
}

impl Object {
    /// Any object, all equally likely.
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        Self {
            shape: pick(rng, Shape::ALL),
            color: pick(rng, Color::ALL),
            texture: pick(rng, Texture::ALL),
            size: pick(rng, Size::ALL),
        }
    }

    /// Whether "the red circle" would mean either of the two.
    pub fn same_name(&self, other: &Self) -> bool {
        (self.shape, self.color) == (other.shape, other.color)
    }
}

/// A cell of the grid, counted in reading order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u32);

impl Place {
    /// Its words on a grid of `grid`×`grid` places.
    pub fn words(self, grid: u32) -> &'static str {
        place_words(grid)[self.0 as usize]
    }

    /// Its left and top pixel on a grid of `grid`×`grid` places.
    pub fn corner(self, grid: u32) -> (u32, u32) {
        (self.0 % grid * CELL, self.0 / grid * CELL)
    }
}

/// Words of all places of a grid, in reading order.
pub fn place_words(grid: u32) -> &'static [&'static str] {
    match grid {
        2 => &PLACES_2,
        _ => &PLACES_3,
    }
}

/// A picture before it is drawn. No two objects share a place or a name (shape and colour), so words identify them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Places each way.
    pub grid: u32,
    /// What is behind the objects.
    pub background: Background,
    /// The objects and where they are.
    pub objects: Vec<(Place, Object)>,
}

impl Scene {
    /// Only a background, any of them.
    pub fn empty(rng: &mut ChaCha8Rng, grid: u32) -> Self {
        Self { grid, background: pick(rng, Background::ALL), objects: Vec::new() }
    }

    /// A background and `count` objects in places of their own.
    pub fn random(rng: &mut ChaCha8Rng, grid: u32, count: usize) -> Self {
        (0..count).fold(Self::empty(rng, grid), |scene, _| {
            let place = scene.free_place(rng);
            let object = scene.newcomer(rng);
            scene.with(place, object)
        })
    }

    /// A place without an object. A scene holds at most three, so there is one even on the 2×2 grid.
    pub fn free_place(&self, rng: &mut ChaCha8Rng) -> Place {
        let free: Vec<Place> =
            (0..self.grid * self.grid).map(Place).filter(|place| self.at(*place).is_none()).collect();
        pick(rng, &free)
    }

    /// An object whose name no other object here has.
    pub fn newcomer(&self, rng: &mut ChaCha8Rng) -> Object {
        loop {
            let object = Object::random(rng);
            if !self.objects.iter().any(|(_, other)| other.same_name(&object)) {
                return object;
            }
        }
    }

    /// One of the objects and where it is.
    pub fn pick(&self, rng: &mut ChaCha8Rng) -> (Place, Object) {
        pick(rng, &self.objects)
    }

    /// The object at `place`.
    pub fn at(&self, place: Place) -> Option<Object> {
        self.objects.iter().find(|(other, _)| *other == place).map(|(_, object)| *object)
    }

    /// The same scene with `object` at `place`, instead of whatever was there.
    pub fn with(&self, place: Place, object: Object) -> Self {
        let mut scene = self.without(place);
        scene.objects.push((place, object));
        scene
    }

    /// The same scene with nothing at `place`.
    pub fn without(&self, place: Place) -> Self {
        let mut scene = self.clone();
        scene.objects.retain(|(other, _)| *other != place);
        scene
    }

    /// Whether the shape alone says which object is meant.
    pub fn only_one(&self, shape: Shape) -> bool {
        self.objects.iter().filter(|(_, object)| object.shape == shape).count() == 1
    }
}

/// One of `choices`, all equally likely.
///
/// # Panics
/// When there are none.
pub fn pick<T: Copy>(rng: &mut ChaCha8Rng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn words_identify_every_object_of_a_scene() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let scene = Scene::random(&mut rng, 2, 3);
            for (index, (place, object)) in scene.objects.iter().enumerate() {
                for (other_place, other) in &scene.objects[..index] {
                    assert!(place != other_place && !object.same_name(other), "{scene:?}");
                }
            }
        }
    }

    #[test]
    fn with_replaces_what_was_there() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let scene = Scene::random(&mut rng, 3, 3);
        let (place, _) = scene.pick(&mut rng);
        let object = scene.newcomer(&mut rng);
        assert_eq!(scene.with(place, object).objects.len(), 3);
        assert_eq!(scene.with(place, object).at(place), Some(object));
        assert_eq!(scene.without(place).at(place), None);
    }

    #[test]
    fn places_read_from_left_to_right_and_down() {
        assert_eq!(Place(1).corner(2), (32, 0));
        assert_eq!(Place(1).words(2), "top right");
        assert_eq!(Place(7).corner(3), (32, 64));
        assert_eq!(Place(7).words(3), "bottom");
    }
}
