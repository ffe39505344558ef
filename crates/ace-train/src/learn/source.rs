//! What a recipe learns from: the world, or examples on disk.

use super::recipe::Recipe;
use crate::{
    Error,
    data::{
        OnBadExample,
        example::Dataset,
        files::Manifest,
        shapes::{Split, World, WorldTask},
    },
    error::RecipeProblem,
};
use std::path::Path;

/// The folder that a recipe's paths start from.
pub(super) fn beside(recipe: &Path) -> &Path {
    recipe.parent().unwrap_or(Path::new(""))
}

/// The world or the manifest that the recipe at `path` names.
pub(super) fn open_data(recipe: &Recipe, path: &Path) -> Result<Box<dyn Dataset>, Error> {
    match &recipe.data.manifest {
        Some(manifest) => open_manifest(recipe, &beside(path).join(manifest)),
        None => Ok(Box::new(open_world(recipe, path, Split::Train)?)),
    }
}

/// Examples on disk.
pub(super) fn open_manifest(recipe: &Recipe, place: &Path) -> Result<Box<dyn Dataset>, Error> {
    Ok(Box::new(match recipe.data.on_bad_example {
        OnBadExample::Stop => Manifest::open(place)?,
        OnBadExample::Skip => Manifest::open_with_bad(place)?,
    }))
}

/// The world that the recipe at `path` names.
pub(super) fn open_world(recipe: &Recipe, path: &Path, split: Split) -> Result<World, Error> {
    let tasks = match recipe.data.tasks.is_empty() {
        true => WorldTask::ALL.to_vec(),
        false => {
            let find = |name: &String| {
                WorldTask::from_name(name).ok_or_else(|| {
                    let known = WorldTask::ALL.iter().map(|task| task.name()).collect();
                    Error::recipe(path, RecipeProblem::UnknownTask { name: name.clone(), known })
                })
            };
            recipe.data.tasks.iter().map(find).collect::<Result<Vec<_>, _>>()?
        }
    };
    Ok(World::new(recipe.data.world.unwrap_or_default(), &tasks, split)?)
}
