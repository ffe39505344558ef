//! Where a result goes: nothing is overwritten unasked, nothing is left half-written.

use crate::{
    Error, Result,
    store::{INDEX, WeightFile},
};
use std::{fs, path::Path};

/// Refuses a place that is taken, or that the input is in.
pub(super) fn check(input: &Path, file: &WeightFile, output: &Path, force: bool) -> Result<()> {
    if output.file_name().is_none() {
        return Err(Error::input(
            format!("{} cannot be written", output.display()),
            "name the file or folder to write",
        ));
    }
    let Ok(place) = output.canonicalize() else { return Ok(()) };
    let is_same = |path: &Path| path.canonicalize().is_ok_and(|path| path == place);
    // The whole folder would be replaced.
    let is_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&place));
    if is_same(input) || is_same(file.path()) || file.files().any(is_inside) {
        let what = format!("{} is what is to be converted", output.display());
        return Err(Error::input(what, "write to another place, then move it"));
    }
    if !force {
        return Err(Error::Exists { path: output.to_owned() });
    }
    if place.is_dir() {
        only_weights(output)?;
    }
    Ok(())
}

/// Refuses a folder with more in it than a network.
fn only_weights(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        if name != "config.json" && !name.ends_with(".safetensors") && !name.ends_with(INDEX) {
            let what = format!("{} has {name} in it, which is not of a network alone", folder.display());
            return Err(Error::input(what, "name a folder that does not exist yet"));
        }
    }
    Ok(())
}
