//! The language of the world: a few templates for each task, filled with the words of a scene.
//!
//! In a template `{slot}` is filled by the task and `make|paint|turn` is any one of its words.
//! Instructions are lowercase words between single spaces, without punctuation: a word is a token.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;

use super::{
    scene::{Background, Color, Object, Shape, Size, Texture, pick, place_words},
    task::WorldTask,
};

/// What a task says; at least three ways each.
fn templates(task: WorldTask) -> &'static [&'static str] {
    match task {
        WorldTask::TextToImage => &[
            "{objects} on a {background} background",
            "draw|show|paint {objects} on a {background} background",
            "a {background} background with {objects}",
        ],
        WorldTask::Fill => &["a {object}", "draw|paint a {object} here", "fill the box|hole with a {object}"],
        WorldTask::Recolor => &[
            "make|paint|turn the {object} {color}",
            "change the {object} to {color}",
            "change the color of the {object} to {color}",
            "the {object} should be {color}",
        ],
        WorldTask::Add => &[
            "add|draw|paint a {object} at the {place}",
            "at the {place} add|draw|paint a {object}",
            "there should be a {object} at the {place}",
        ],
        WorldTask::Remove => &[
            "remove|erase|delete the {object}",
            "take away the {object}",
            "get rid of the {object}",
            "the same picture|image without the {object}",
        ],
        WorldTask::Move => &[
            "move|shift|bring the {object} to the {place}",
            "put|place|set the {object} at the {place}",
            "the {object} should be at the {place}",
        ],
        WorldTask::Colorize => &[
            "color|paint the {shape} {color}",
            "color|paint the gray {shape} {color}",
            "give the {shape} a {color} color",
            "the {shape} is {color}",
        ],
        WorldTask::Detail => &[
            "restore|sharpen|repair the {object}",
            "bring back the {object}",
            "show the {object} in full detail",
            "this is a {object}",
        ],
        WorldTask::Contour => &[
            "fill the outline|contour with a {object}",
            "turn|make the outline|contour into a {object}",
            "a {object} drawn from the outline|contour",
        ],
        WorldTask::Subject => &[
            "put|place|set the item at the {place} on a {background} background",
            "show|draw the item at the {place} on a {background} background",
            "a {background} picture|image with the item at the {place}",
        ],
        WorldTask::LocalReference => &[
            "put|place|set the item in the box",
            "fill the box|hole with the item",
            "show|draw the item here",
            "add the item in the box",
        ],
        WorldTask::Compose => &[
            "put|place|set the first item at the {first} and the second item at the {second} on a {background} background",
            "show|draw the first item at the {first} and the second item at the {second} on a {background} background",
            "a {background} picture|image with the first item at the {first} and the second item at the {second}",
        ],
        WorldTask::Texture => &[
            "make|paint|turn the {object} {texture}",
            "change the {object} to {texture}",
            "the {object} should be {texture}",
        ],
        WorldTask::Match => &[
            "give the {object} the color of the item",
            "make|paint|turn the {object} the color of the item",
            "the {object} should be the color of the item",
        ],
        WorldTask::Negative => &[
            "show the {shape} in full color",
            "bring back the color of the {shape}",
            "restore|repair the color of the {shape}",
        ],
    }
}

/// An instruction for `task`, its slots filled.
///
/// # Panics
/// When a template of the task has a slot that is not given.
pub fn instruction(rng: &mut ChaCha8Rng, task: WorldTask, slots: &[(&str, &str)]) -> String {
    let template = pick(rng, templates(task));
    let mut words = Vec::new();
    for word in template.split(' ') {
        match slot(word) {
            Some(name) => {
                // Templates are constants of this file; a test says every one of every task.
                let (_, value) = slots.iter().find(|(slot, _)| *slot == name).expect("a task fills its own slots");
                words.extend(value.split(' '));
            }
            None => words.push(pick(rng, &word.split('|').collect::<Vec<_>>())),
        }
    }
    // "a orange ring" only comes up here, once the words are in place.
    for index in 1..words.len() {
        if words[index - 1] == "a" && words[index].starts_with(['a', 'e', 'i', 'o', 'u']) {
            words[index - 1] = "an";
        }
    }
    words.join(" ")
}

/// Everything there is to say about an object, without article: "big red striped circle".
pub fn full(object: &Object) -> String {
    join([object.size.word(), object.color.word(), object.texture.word(), object.shape.word()])
}

/// What an outline does not show, without article: "red striped circle".
pub fn without_size(object: &Object) -> String {
    join(["", object.color.word(), object.texture.word(), object.shape.word()])
}

/// The name that is unique in its scene: "red circle".
pub fn name(object: &Object) -> String {
    join(["", object.color.word(), "", object.shape.word()])
}

/// Every word an instruction can contain, sorted.
pub fn vocabulary() -> Vec<String> {
    let spoken = WorldTask::ALL
        .iter()
        .chain(WorldTask::APART)
        .flat_map(|task| templates(*task))
        .flat_map(|template| template.split([' ', '|']));
    let places = [2, 3].into_iter().flat_map(place_words).flat_map(|place| place.split(' '));
    let properties = [
        all(Shape::ALL, Shape::word),
        all(Color::ALL, Color::word),
        all(Texture::ALL, Texture::word),
        all(Size::ALL, Size::word),
        all(Background::ALL, Background::word),
    ];
    // "an" and "and" come from filling the slots.
    let glue = ["an", "and", "at", "the"];
    let words: BTreeSet<&str> = spoken
        .chain(places)
        .chain(properties.into_iter().flatten())
        .chain(glue)
        .filter(|word| !word.is_empty())
        .collect();
    words.into_iter().filter(|word| slot(word).is_none()).map(str::to_owned).collect()
}

/// The name inside the braces.
fn slot(word: &str) -> Option<&str> {
    word.strip_prefix('{')?.strip_suffix('}')
}

fn all<T: Copy>(values: &[T], word: fn(T) -> &'static str) -> Vec<&'static str> {
    values.iter().map(|value| word(*value)).collect()
}

fn join(words: [&str; 4]) -> String {
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_task_can_be_said_in_three_ways() {
        for task in WorldTask::ALL.iter().chain(WorldTask::APART) {
            assert!(templates(*task).len() >= 3, "{task:?}");
        }
    }

    #[test]
    fn the_article_fits_the_word_after_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..50 {
            let said = instruction(&mut rng, WorldTask::Fill, &[("object", "orange ring")]);
            assert!(said.contains("an orange ring"), "{said}");
        }
    }

    #[test]
    fn a_plain_object_has_no_word_for_its_texture() {
        let object = Object { shape: Shape::Ring, color: Color::Cyan, texture: Texture::Plain, size: Size::Small };
        assert_eq!(full(&object), "small cyan ring");
        assert_eq!(name(&object), "cyan ring");
    }

    #[test]
    fn the_vocabulary_holds_words_only() {
        for word in vocabulary() {
            assert!(!word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
        }
    }
}
