//! The tasks: each turns random scenes into an instruction, its pictures, and the exact answer.

use image::RgbImage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    draw,
    scene::{Color, Object, Place, Scene, Texture, pick},
    words,
};
use crate::data::example::Example;

/// What an instruction asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorldTask {
    /// A picture from words alone.
    TextToImage,
    /// An object into a hole.
    Fill,
    /// Another colour for an object; texture and size stay.
    Recolor,
    /// One object more, at a place given in words.
    Add,
    /// One object less.
    Remove,
    /// An object to another place.
    Move,
    /// The colour back into a grey place.
    Colorize,
    /// The object behind a mosaic.
    Detail,
    /// The object that fits an outline.
    Contour,
    /// The object of a reference in a new picture.
    Subject,
    /// The object of a reference into a hole.
    LocalReference,
    /// The objects of two references in a new picture.
    Compose,
    /// Another texture for an object; colour and size stay.
    Texture,
    /// The colour of a reference's object for an object of the picture.
    Match,
    /// The place behind its negative.
    Negative,
}

impl WorldTask {
    /// The tasks that the miniature is taught.
    pub const ALL: &'static [Self] = &[
        Self::TextToImage,
        Self::Fill,
        Self::Recolor,
        Self::Add,
        Self::Remove,
        Self::Move,
        Self::Colorize,
        Self::Detail,
        Self::Contour,
        Self::Subject,
        Self::LocalReference,
        Self::Compose,
    ];

    /// Tasks that the miniature has never seen, one for each of its adapters.
    pub const APART: &'static [Self] = &[Self::Texture, Self::Match, Self::Negative];

    /// Its name in recipes and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextToImage => "text_to_image",
            Self::Fill => "fill",
            Self::Recolor => "recolor",
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Move => "move",
            Self::Colorize => "colorize",
            Self::Detail => "detail",
            Self::Contour => "contour",
            Self::Subject => "subject",
            Self::LocalReference => "local_reference",
            Self::Compose => "compose",
            Self::Texture => "texture",
            Self::Match => "match",
            Self::Negative => "negative",
        }
    }

    /// The task of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().chain(Self::APART).copied().find(|task| task.name() == name)
    }

    /// Whether its examples come with reference pictures.
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Subject | Self::LocalReference | Self::Compose | Self::Match)
    }

    /// An example on a grid of `grid`×`grid` places, everything about it drawn from `rng`.
    pub(super) fn example(self, grid: u32, rng: &mut ChaCha8Rng) -> Example {
        match self {
            Self::TextToImage => text_to_image(grid, rng),
            Self::Fill => fill(grid, rng),
            Self::Recolor => recolor(grid, rng),
            Self::Add => add(grid, rng),
            Self::Remove => remove(grid, rng),
            Self::Move => move_to(grid, rng),
            Self::Colorize => colorize(grid, rng),
            Self::Detail => detail(grid, rng),
            Self::Contour => contour(grid, rng),
            Self::Subject => subject(grid, rng),
            Self::LocalReference => local_reference(grid, rng),
            Self::Compose => compose(grid, rng),
            Self::Texture => texture(grid, rng),
            Self::Match => match_color(grid, rng),
            Self::Negative => negative(grid, rng),
        }
    }

    /// An example that gives nothing but words and the answer; the tasks add what else they give.
    fn answer(self, rng: &mut ChaCha8Rng, slots: &[(&str, &str)], target: &Scene) -> Example {
        Example {
            task: self.name().to_owned(),
            instruction: words::instruction(rng, self, slots),
            image: None,
            mask: None,
            references: Vec::new(),
            target: draw::scene(target),
            repainting_scale: 1.0,
        }
    }
}

impl Example {
    /// Edits `image`, its content visible to the network.
    fn editing(self, image: RgbImage) -> Self {
        Self { image: Some(image), repainting_scale: 0.0, ..self }
    }

    /// Edits one place only.
    fn within(self, place: Place, grid: u32) -> Self {
        Self { mask: Some(draw::mask(place, grid)), ..self }
    }

    /// Hides what the mask covers: it is to be invented, not altered.
    fn blanked(self) -> Self {
        Self { repainting_scale: 1.0, ..self }
    }

    /// Shows another picture beside the answer.
    fn seeing(mut self, reference: &Scene) -> Self {
        self.references.push(draw::scene(reference));
        self
    }
}

fn text_to_image(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    // Three objects would take more than the two dozen words an instruction may have.
    let count = rng.random_range(1..=2);
    let scene = Scene::random(rng, grid, count);
    let describe =
        |(place, object): &(Place, Object)| format!("a {} at the {}", words::full(object), place.words(grid));
    let objects = scene.objects.iter().map(describe).collect::<Vec<_>>().join(" and ");
    WorldTask::TextToImage.answer(rng, &[("objects", &objects), ("background", scene.background.word())], &scene)
}

fn fill(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let around = some(grid, rng, 0, 2);
    let place = around.free_place(rng);
    let object = around.newcomer(rng);
    let target = around.with(place, object);
    // Whatever is under the mask is blanked, so anything may be there except the answer.
    let input = if rng.random() { around.with(place, target.newcomer(rng)) } else { around };
    WorldTask::Fill
        .answer(rng, &[("object", &words::full(&object))], &target)
        .editing(draw::scene(&input))
        .within(place, grid)
        .blanked()
}

fn recolor(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 1, 3);
    let (place, object) = input.pick(rng);
    let taken = |color: Color| input.objects.iter().any(|(_, other)| other.same_name(&Object { color, ..object }));
    let free: Vec<Color> = Color::ALL.iter().copied().filter(|color| !taken(*color)).collect();
    let color = pick(rng, &free);
    let target = input.with(place, Object { color, ..object });
    let name = mention(&input, &object, rng);
    WorldTask::Recolor
        .answer(rng, &[("object", &name), ("color", color.word())], &target)
        .editing(draw::scene(&input))
        .within(place, grid)
}

fn add(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 0, 2);
    let place = input.free_place(rng);
    let object = input.newcomer(rng);
    let description = words::full(&object);
    let slots = [("object", description.as_str()), ("place", place.words(grid))];
    WorldTask::Add.answer(rng, &slots, &input.with(place, object)).editing(draw::scene(&input))
}

fn remove(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 1, 3);
    let (place, object) = input.pick(rng);
    let name = mention(&input, &object, rng);
    WorldTask::Remove
        .answer(rng, &[("object", &name)], &input.without(place))
        .editing(draw::scene(&input))
        .within(place, grid)
}

fn move_to(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 1, 3);
    let (from, object) = input.pick(rng);
    let to = input.free_place(rng);
    let name = mention(&input, &object, rng);
    let target = input.without(from).with(to, object);
    WorldTask::Move.answer(rng, &[("object", &name), ("place", to.words(grid))], &target).editing(draw::scene(&input))
}

fn colorize(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let scene = some(grid, rng, 1, 3);
    let (place, _) = scene.pick(rng);
    let object = colorful(&scene.without(place), rng);
    let target = scene.with(place, object);
    let example =
        WorldTask::Colorize.answer(rng, &[("shape", object.shape.word()), ("color", object.color.word())], &target);
    let mut image = example.target.clone();
    draw::gray(&mut image, place, grid);
    example.editing(image).within(place, grid)
}

fn detail(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let target = some(grid, rng, 1, 3);
    let (place, object) = target.pick(rng);
    let example = WorldTask::Detail.answer(rng, &[("object", &words::full(&object))], &target);
    let mut image = example.target.clone();
    draw::mosaic(&mut image, place, grid);
    example.editing(image).within(place, grid)
}

fn contour(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let target = some(grid, rng, 1, 3);
    let (place, object) = target.pick(rng);
    let example = WorldTask::Contour.answer(rng, &[("object", &words::without_size(&object))], &target);
    let mut image = example.target.clone();
    draw::outline(&mut image, place, &object, grid);
    example.editing(image).within(place, grid)
}

fn subject(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let item = Object::random(rng);
    let reference = alone(grid, rng, item);
    let empty = Scene::empty(rng, grid);
    let place = empty.free_place(rng);
    let slots = [("place", place.words(grid)), ("background", empty.background.word())];
    WorldTask::Subject.answer(rng, &slots, &empty.with(place, item)).seeing(&reference)
}

fn local_reference(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 1, 2);
    let item = input.newcomer(rng);
    let place = if rng.random() { input.free_place(rng) } else { input.pick(rng).0 };
    let reference = alone(grid, rng, item);
    WorldTask::LocalReference
        .answer(rng, &[], &input.with(place, item))
        .editing(draw::scene(&input))
        .within(place, grid)
        .blanked()
        .seeing(&reference)
}

fn compose(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    // The two items are those of one scene, each seen alone on another background.
    let target = Scene::random(rng, grid, 2);
    let [first, second] = [target.objects[0], target.objects[1]];
    let references = [alone(grid, rng, first.1), alone(grid, rng, second.1)];
    let slots =
        [("first", first.0.words(grid)), ("second", second.0.words(grid)), ("background", target.background.word())];
    WorldTask::Compose.answer(rng, &slots, &target).seeing(&references[0]).seeing(&references[1])
}

fn texture(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 1, 3);
    let (place, object) = input.pick(rng);
    // A plain object goes without a word for its texture, so there is no way to ask for one.
    let others: Vec<Texture> = Texture::ALL
        .iter()
        .copied()
        .filter(|other| !matches!(other, Texture::Plain) && *other != object.texture)
        .collect();
    let texture = pick(rng, &others);
    let name = mention(&input, &object, rng);
    WorldTask::Texture
        .answer(
            rng,
            &[("object", &name), ("texture", texture.word())],
            &input.with(place, Object { texture, ..object }),
        )
        .editing(draw::scene(&input))
        .within(place, grid)
}

fn match_color(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let input = some(grid, rng, 1, 3);
    let (place, object) = input.pick(rng);
    let item = loop {
        let item = Object::random(rng);
        let matched = Object { color: item.color, ..object };
        if !input.objects.iter().any(|(_, other)| other.same_name(&matched)) {
            break item;
        }
    };
    let reference = alone(grid, rng, item);
    let name = mention(&input, &object, rng);
    WorldTask::Match
        .answer(rng, &[("object", &name)], &input.with(place, Object { color: item.color, ..object }))
        .editing(draw::scene(&input))
        .within(place, grid)
        .seeing(&reference)
}

fn negative(grid: u32, rng: &mut ChaCha8Rng) -> Example {
    let target = some(grid, rng, 1, 3);
    let (place, object) = target.pick(rng);
    let example = WorldTask::Negative.answer(rng, &[("shape", object.shape.word())], &target);
    let mut image = example.target.clone();
    draw::negative(&mut image, place, grid);
    example.editing(image).within(place, grid)
}

/// A scene with any number of objects from `least` to `most`.
fn some(grid: u32, rng: &mut ChaCha8Rng, least: usize, most: usize) -> Scene {
    let count = rng.random_range(least..=most);
    Scene::random(rng, grid, count)
}

/// A reference: one item, anywhere, on any background.
fn alone(grid: u32, rng: &mut ChaCha8Rng, item: Object) -> Scene {
    let empty = Scene::empty(rng, grid);
    let place = empty.free_place(rng);
    empty.with(place, item)
}

/// A newcomer with a colour to bring back: a white one looks the same in grey.
fn colorful(scene: &Scene, rng: &mut ChaCha8Rng) -> Object {
    loop {
        let object = scene.newcomer(rng);
        if object.color != Color::White {
            return object;
        }
    }
}

/// How to speak of an object: by its shape now and then where that is enough, else by colour and shape.
fn mention(scene: &Scene, object: &Object, rng: &mut ChaCha8Rng) -> String {
    let short = rng.random();
    if short && scene.only_one(object.shape) { object.shape.word().to_owned() } else { words::name(object) }
}
