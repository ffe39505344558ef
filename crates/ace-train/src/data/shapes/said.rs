//! What an instruction says, read back from its words: which things it names, in which order, where, and before which ground.

use super::scene::{Background, Color, Shape, Size, Texture, place_words};

/// What is not a shape, but named like one.
const ITEMS: [&str; 3] = ["item", "first item", "second item"];

/// One thing of a sentence: what it is, its colour, texture, size and ground. 0 is what is not said; other numbers count
/// from 1 in the order of the world's words.
pub type Facts = [usize; Said::CHOICES.len()];

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What is at each place, in reading order; then the first and the second thing that is named, wherever it is; then the
    /// ground.
    pub slots: Vec<Facts>,
}

impl Said {
    /// Different answers to each of [`Facts`], "not said" included.
    pub const CHOICES: [usize; 5] = [
        1 + ITEMS.len() + Shape::ALL.len(),
        1 + Color::ALL.len(),
        Texture::ALL.len(),
        1 + Size::ALL.len(),
        1 + Background::ALL.len(),
    ];

    /// Slots of a world of `grid`×`grid` places.
    pub const fn slots(grid: u32) -> usize {
        (grid * grid) as usize + 3
    }

    /// Reads an instruction of the world. Its templates name things and their places in the same order.
    pub fn of(instruction: &str, grid: u32) -> Self {
        let words: Vec<&str> = instruction.split(' ').collect();
        let (mut things, mut places, mut ground) = (Vec::<Facts>::new(), Vec::new(), 0);
        let (mut thing, mut at): (Facts, _) = (Facts::default(), 0);
        while at < words.len() {
            let rest = &words[at..];
            // "first" alone says nothing yet, and "top left" is no "top".
            let (known, taken) = match (place(rest, grid), number(rest, ITEMS)) {
                (Some((place, taken)), _) => {
                    places.push(place);
                    (None, taken)
                }
                (None, Some((item, taken))) => (Some((0, item)), taken),
                (None, None) => (property(rest[0]), 1),
            };
            if let Some((fact, value)) = known {
                thing[fact] = value;
            }
            // What it is comes last; a colour of its own ("make the circle green") ends with the sentence or the next word.
            let ends = known.is_none() || thing[0] > 0;
            if ends && thing != Facts::default() {
                things.push(std::mem::take(&mut thing));
            }
            if let [word, "background" | "picture" | "image", ..] = rest {
                ground = position(Background::ALL, |one| one.word() == *word);
            }
            at += taken;
        }
        if thing != Facts::default() {
            things.push(thing);
        }
        let mut slots = vec![Facts::default(); Self::slots(grid)];
        let count = (grid * grid) as usize;
        for (place, thing) in places.iter().zip(&things) {
            slots[*place] = *thing;
        }
        for (slot, thing) in slots[count..count + 2].iter_mut().zip(&things) {
            *slot = *thing;
        }
        slots[count + 2][4] = ground;
        Self { slots }
    }
}

/// The place that words begin with, and how many words it takes: the longest that fits.
fn place(words: &[&str], grid: u32) -> Option<(usize, usize)> {
    let fits = |(index, name): (usize, &&str)| begins(words, name).map(|taken| (index, taken));
    place_words(grid).iter().enumerate().filter_map(fits).max_by_key(|(_, taken)| *taken)
}

/// Which of `names` words begin with, from 1, and how many words it takes.
fn number<const N: usize>(words: &[&str], names: [&str; N]) -> Option<(usize, usize)> {
    names.iter().enumerate().find_map(|(index, name)| begins(words, name).map(|taken| (index + 1, taken)))
}

/// How many words `name` has, if `words` begin with them.
fn begins(words: &[&str], name: &str) -> Option<usize> {
    let count = name.split(' ').count();
    (words.len() >= count && name.split(' ').eq(words[..count].iter().copied())).then_some(count)
}

/// Which of [`Facts`] a word is, and its value.
fn property(word: &str) -> Option<(usize, usize)> {
    let shape = position(Shape::ALL, |one| one.word() == word);
    let values = [
        if shape > 0 { shape + ITEMS.len() } else { 0 },
        position(Color::ALL, |one| one.word() == word),
        // The first texture has no word.
        position(Texture::ALL, |one| one.word() == word).saturating_sub(1),
        position(Size::ALL, |one| one.word() == word),
    ];
    values.into_iter().enumerate().find(|(_, value)| *value > 0)
}

/// Which of `all` it is, from 1; 0 if none.
fn position<T: Copy>(all: &[T], is: impl Fn(T) -> bool) -> usize {
    all.iter().position(|one| is(*one)).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Object, Place, Reader, Split, World, WorldTask},
        *,
    };

    fn facts(object: &Object) -> Facts {
        [
            ITEMS.len() + 1 + object.shape as usize,
            1 + object.color as usize,
            object.texture as usize,
            1 + object.size as usize,
            0,
        ]
    }

    #[test]
    fn a_sentence_says_what_its_picture_shows() {
        let world = World::new(64, &[WorldTask::TextToImage], Split::Train).unwrap();
        let reader = Reader::new(64);
        for index in 0..24 {
            let example = world.example_of(WorldTask::TextToImage, index);
            let scene = reader.read(&example.target);
            let said = Said::of(&example.instruction, 2);
            for place in 0..4 {
                let wanted = scene.at(Place(place)).map_or_else(Facts::default, |object| facts(&object));
                assert_eq!(said.slots[place as usize], wanted, "{}", example.instruction);
            }
            assert_eq!(said.slots[6], [0, 0, 0, 0, 1 + scene.background as usize], "{}", example.instruction);
        }
    }

    #[test]
    fn things_stand_at_their_places_and_in_their_order() {
        let said = Said::of(
            "set the first item at the bottom right and the second item at the top left on a navy background",
            2,
        );
        let (first, second) = ([2, 0, 0, 0, 0], [3, 0, 0, 0, 0]);
        assert_eq!(said.slots, [second, [0; 5], [0; 5], first, first, second, [0, 0, 0, 0, 3]]);
        let said = Said::of("at the top left add a big red striped circle", 2);
        let circle = [4, 1, 1, 1, 0];
        assert_eq!(said.slots, [circle, [0; 5], [0; 5], [0; 5], circle, [0; 5], [0; 5]]);
        let said = Said::of("change the color of the orange ring to white", 2);
        assert_eq!(said.slots[4..6], [[9, 6, 0, 0, 0], [0, 8, 0, 0, 0]]);
        let said = Said::of("make the circle green", 2);
        assert_eq!(said.slots[4..6], [[4, 0, 0, 0, 0], [0, 2, 0, 0, 0]]);
    }

    #[test]
    fn the_longest_place_is_meant() {
        let said = Said::of("add a small blue cross at the top right", 3);
        assert_eq!(said.slots.iter().position(|slot| *slot != Facts::default()), Some(2));
        let said = Said::of("add a small blue cross at the top", 3);
        assert_eq!(said.slots.iter().position(|slot| *slot != Facts::default()), Some(1));
    }
}
