//! A world of simple shapes in which every instruction has one exact answer.
//!
//! Every index gives an example of one of twelve tasks, so a small network can be trained and judged anywhere: there is
//! nothing to download, and no doubt about the right answer.

mod draw;
mod read;
mod said;
mod scene;
mod task;
pub mod tokenizers;
mod words;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use self::{
    read::Reader,
    said::{Facts, Said},
    scene::{CELL, Object, Place, Scene},
    task::WorldTask,
    words::vocabulary,
};
use crate::data::example::{Dataset, Example, ExampleError};

/// Which examples a world draws. The two share no example: what the pictures show decides where one belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To be judged on.
    HeldOut,
}

/// FNV-1a, one byte further: the same in every build, unlike the standard library's hash.
fn fnv(hash: u64, byte: &u8) -> u64 {
    (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
}

/// One example in this many is held out.
const HELD_OUT: u64 = 16;

impl Split {
    /// Where an example belongs, by its task and its pictures; words and seeds do not matter.
    fn of(example: &Example) -> Self {
        let pictures = example.references.iter().chain(&example.image).chain([&example.target]);
        let bytes = pictures.flat_map(|picture| picture.as_raw());
        let hash = example.task.as_bytes().iter().chain(bytes).fold(0xcbf2_9ce4_8422_2325, fnv);
        if (hash >> 32).is_multiple_of(HELD_OUT) { Self::HeldOut } else { Self::Train }
    }
}

/// An endless set of examples, each a function of its index, task and split.
#[derive(Debug, Clone)]
pub struct World {
    size: u32,
    tasks: Vec<WorldTask>,
    split: Split,
}

impl World {
    /// A world of pictures of `size`×`size` pixels: 64 (four places) or 96 (nine places).
    ///
    /// # Errors
    /// When the size is another, or there are no tasks.
    pub fn new(size: u32, tasks: &[WorldTask], split: Split) -> Result<Self, ExampleError> {
        if !matches!(size / scene::CELL, 2 | 3) || !size.is_multiple_of(scene::CELL) {
            return Err(ExampleError::World {
                reason: format!("pictures of the world are 64 or 96 pixels, not {size}"),
            });
        }
        if tasks.is_empty() {
            return Err(ExampleError::World { reason: "the world needs at least one task".to_owned() });
        }
        Ok(Self { size, tasks: tasks.to_vec(), split })
    }

    /// Edge of its pictures, in pixels.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The example of `task` at `index`; the task need not be one of the world's own.
    pub fn example_of(&self, task: WorldTask, index: u64) -> Example {
        let mut rng = self.rng(task, index);
        loop {
            let example = task.example(self.size / scene::CELL, &mut rng);
            if Split::of(&example) == self.split {
                return example;
            }
        }
    }

    /// Index, task and split each have bytes of their own in the seed, so no two examples share one.
    fn rng(&self, task: WorldTask, index: u64) -> ChaCha8Rng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&index.to_le_bytes());
        seed[8] = task as u8;
        seed[9] = match self.split {
            Split::Train => 0,
            Split::HeldOut => 1,
        };
        ChaCha8Rng::from_seed(seed)
    }
}

impl Dataset for World {
    fn len(&self) -> Option<usize> {
        None
    }

    /// Tasks take turns, so any run of consecutive indices is balanced.
    fn example(&self, index: u64) -> Result<Example, ExampleError> {
        let task = self.tasks[(index % self.tasks.len() as u64) as usize];
        Ok(self.example_of(task, index))
    }

    fn tasks(&self) -> Vec<String> {
        self.tasks.iter().map(|task| task.name().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn world(size: u32, split: Split) -> World {
        World::new(size, &[WorldTask::ALL, WorldTask::APART].concat(), split).unwrap()
    }

    fn examples() -> impl Iterator<Item = Example> {
        [64, 96].into_iter().flat_map(|size| (0..240).map(move |i| world(size, Split::Train).example(i).unwrap()))
    }

    #[test]
    fn an_example_depends_on_index_task_and_split_only() {
        let (train, held_out) = (world(64, Split::Train), world(64, Split::HeldOut));
        assert_eq!(train.example(7).unwrap(), train.example(7).unwrap());
        assert_ne!(train.example_of(WorldTask::Fill, 7), train.example_of(WorldTask::Fill, 8));
        assert_ne!(train.example_of(WorldTask::Fill, 7), held_out.example_of(WorldTask::Fill, 7));
        let alone = World::new(64, &[WorldTask::Fill], Split::Train).unwrap();
        assert_eq!(train.example_of(WorldTask::Fill, 7), alone.example(7).unwrap());
    }

    #[test]
    fn no_held_out_example_has_the_pictures_of_a_training_one() {
        let (train, held_out) = (world(64, Split::Train), world(64, Split::HeldOut));
        // Half of these show one object of 6912: drawn freely, some of them would meet.
        let target = |world: &World, index| world.example_of(WorldTask::TextToImage, index).target.into_raw();
        let known: HashSet<_> = (0..2000).map(|index| target(&train, index)).collect();
        assert!((0..100).all(|index| !known.contains(&target(&held_out, index))));
    }

    #[test]
    fn every_word_is_in_the_vocabulary_and_instructions_are_short() {
        let known: HashSet<String> = vocabulary().into_iter().collect();
        for example in examples() {
            let words: Vec<&str> = example.instruction.split(' ').collect();
            assert!(words.len() <= 24, "{}", example.instruction);
            for word in words {
                assert!(known.contains(word), "{word:?} in {:?}", example.instruction);
            }
        }
    }

    #[test]
    fn nothing_changes_outside_the_mask() {
        for example in examples() {
            let (Some(image), Some(mask)) = (&example.image, &example.mask) else { continue };
            let kept = |x, y| image.get_pixel(x, y) == example.target.get_pixel(x, y);
            assert!(mask.enumerate_pixels().all(|(x, y, m)| m[0] == 255 || kept(x, y)), "{}", example.instruction);
            assert_eq!(mask.pixels().filter(|m| m[0] == 255).count(), 32 * 32);
        }
    }

    #[test]
    fn every_edit_changes_something() {
        for example in examples() {
            let same = example.image.is_some_and(|image| image == example.target);
            assert!(!same, "{}: {}", example.task, example.instruction);
        }
    }

    #[test]
    fn no_picture_of_the_world_is_foreign_to_the_miniature() {
        let domain = ace_plus::Card::builtin("tiny").unwrap().domain.unwrap();
        for example in examples() {
            let pictures = example.image.iter().chain(&example.references).chain([&example.target]);
            for picture in pictures {
                assert_eq!(domain.outside(picture), None, "{}", example.instruction);
            }
        }
    }

    #[test]
    fn tasks_give_what_they_promise() {
        let world = world(96, Split::HeldOut);
        for task in WorldTask::ALL.iter().chain(WorldTask::APART) {
            assert_eq!(WorldTask::from_name(task.name()), Some(*task));
            let example = world.example_of(*task, 3);
            assert_eq!(example.references.is_empty(), !task.has_reference(), "{task:?}");
            let invents = matches!(task, WorldTask::TextToImage | WorldTask::Subject | WorldTask::Compose);
            assert_eq!(example.image.is_none(), invents, "{task:?}");
            let blank = invents || matches!(task, WorldTask::Fill | WorldTask::LocalReference);
            assert_eq!(example.repainting_scale, if blank { 1.0 } else { 0.0 }, "{task:?}");
        }
    }

    #[test]
    fn a_task_sits_where_its_seed_says() {
        for (position, task) in WorldTask::ALL.iter().chain(WorldTask::APART).enumerate() {
            assert_eq!(*task as usize, position);
        }
    }

    #[test]
    fn other_sizes_and_empty_task_lists_are_refused() {
        assert!(World::new(80, WorldTask::ALL, Split::Train).is_err());
        assert!(World::new(128, WorldTask::ALL, Split::Train).is_err());
        assert!(World::new(64, &[], Split::Train).is_err());
    }
}
